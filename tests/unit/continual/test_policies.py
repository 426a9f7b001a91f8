"""Which rows of a stream are held: statistics over many seeds, and what holds for any stream."""

import itertools
import json
import time
from collections import Counter
from random import Random
from typing import get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from sage.libs.finetune.agent import AgentSFTConfig
from sage.libs.finetune.agent.continual.policies import POLICIES, ReservoirPolicy

LEVEL = 0.001  # seeds are fixed: a test passes always or never


def held(policy, tasks, losses=None, cuts=()):
    """Row numbers by slot, the stream offered in pieces."""
    slots = {}
    for start, stop in itertools.pairwise([0, *sorted(cuts), len(tasks)]):
        for row, slot in policy.offer(tasks[start:stop], None if losses is None else losses[start:stop]):
            slots[slot] = start + row
    assert sorted(slots) == list(range(policy.filled))
    return [slots[slot] for slot in range(policy.filled)]


def p_of_equal_inclusion(counts, samples, held_of_each, rows):
    """Chi-square p value of the inclusion counts of `rows` rows, each sample drawn without replacement."""
    chance = held_of_each / rows
    squares = sum((counts[row] - samples * chance) ** 2 for row in range(rows))
    return chi2.sf(squares / (samples * chance * (1 - chance)) * (rows - 1) / rows, rows - 1)


@pytest.mark.parametrize("piece", [1, 7, 80])
def test_a_reservoir_holds_each_row_of_the_stream_with_the_same_chance(piece):
    samples, rows, capacity = 3000, 80, 8
    counts = Counter()
    for seed in range(samples):
        policy = ReservoirPolicy(capacity, Random(f"{piece} {seed}"))
        counts.update(held(policy, [""] * rows, cuts=range(piece, rows, piece)))
    assert p_of_equal_inclusion(counts, samples, capacity, rows) > LEVEL


def test_a_reservoir_holds_each_set_of_rows_with_the_same_chance():
    samples, rows, capacity = 6000, 7, 3
    counts = Counter(
        tuple(sorted(held(ReservoirPolicy(capacity, Random(seed)), [""] * rows))) for seed in range(samples)
    )
    expected = samples / 35  # subsets of 3 out of 7
    assert len(counts) == 35
    assert chi2.sf(sum((count - expected) ** 2 / expected for count in counts.values()), 34) > LEVEL


@pytest.mark.parametrize("capacity", [1, 2, 500])
def test_a_reservoir_of_any_size_takes_as_many_rows_as_algorithm_r(capacity):
    # Algorithm R takes row i with probability k / i, so k (1 + H(n) - H(k)) of n rows in all.
    rows, samples = 20_000, 40
    expected = capacity * (1 + sum(1 / i for i in range(capacity + 1, rows + 1)))
    mean = sum(len(ReservoirPolicy(capacity, Random(seed)).offer([""] * rows)) for seed in range(samples)) / samples
    assert abs(mean - expected) < 4 * (expected / samples) ** 0.5


def test_a_million_rows_are_decided_quickly():
    policy, tasks = ReservoirPolicy(2048, Random(0)), [""] * 1_000_000
    began = time.perf_counter()
    placed = policy.offer(tasks)
    print(f"a million rows: {time.perf_counter() - began:.3f} s, {len(placed)} placed")
    assert policy.seen == 1_000_000
    assert 2048 * 6 < len(placed) < 2048 * 8.5  # 2048 x (1 + log(1e6 / 2048)) = 14,700


def test_rows_given_up_leave_a_reservoir_uniform():
    samples, rows, capacity = 3000, 60, 6
    counts = Counter()
    for seed in range(samples):
        policy = ReservoirPolicy(capacity, Random(seed))
        first = held(policy, [""] * 30)
        keep = [slot for slot, row in enumerate(first) if row % 2]
        policy.keep(keep)
        slots = dict(enumerate(first[slot] for slot in keep))
        slots.update((slot, 30 + row) for row, slot in policy.offer([""] * 30))
        counts.update(slots.values())
    kept = [row for row in range(rows) if row % 2 or row >= 30]
    assert set(counts) == set(kept)
    variance = samples * (capacity / rows) * (1 - capacity / rows)
    assert all(abs(counts[row] - samples * capacity / rows) < 4 * variance**0.5 for row in kept)


def test_balanced_keeps_the_rows_of_a_task_that_comes_seldom():
    tasks = (["often"] * 10 + ["seldom"]) * 50
    for seed in range(20):
        rows = held(POLICIES["balanced"](100, Random(seed)), tasks)
        assert sum(tasks[row] == "seldom" for row in rows) == 50


def test_balanced_halves_the_buffer_for_two_tasks_that_come_one_after_the_other():
    tasks = ["first"] * 200 + ["second"] * 20 + ["third"] * 500
    assert Counter(tasks[row] for row in held(POLICIES["balanced"](60, Random(0)), tasks[:300])) == {
        "first": 20, "second": 20, "third": 20,
    }  # fmt: skip
    counts = Counter(tasks[row] for row in held(POLICIES["balanced"](61, Random(0)), tasks))
    assert counts["second"] == 20
    assert sorted(counts.values()) == [20, 20, 21]


def test_balanced_holds_each_row_of_a_task_with_the_same_chance():
    samples, capacity = 3000, 10
    tasks = [*"aaab" * 20]
    of_task = {task: [row for row, name in enumerate(tasks) if name == task] for task in "ab"}
    counts = Counter()
    for seed in range(samples):
        rows = held(POLICIES["balanced"](capacity, Random(seed)), tasks)
        assert Counter(tasks[row] for row in rows) == {"a": 5, "b": 5}
        counts.update(rows)
    for rows in of_task.values():
        inclusions = {number: counts[row] for number, row in enumerate(rows)}
        assert p_of_equal_inclusion(inclusions, samples, 5, len(rows)) > LEVEL


def test_a_task_that_came_first_and_seldom_can_still_grow_in_a_balanced_buffer():
    tasks = ["seldom"] + ["often"] * 50 + ["seldom"] * 30
    rows = held(POLICIES["balanced"](10, Random(0)), tasks)
    assert Counter(tasks[row] for row in rows) == {"seldom": 5, "often": 5}


def test_without_tasks_balanced_is_a_reservoir_and_ring_the_newest_rows():
    samples, rows, capacity = 3000, 40, 5
    counts = Counter()
    for seed in range(samples):
        counts.update(held(POLICIES["balanced"](capacity, Random(seed)), [""] * rows))
    assert p_of_equal_inclusion(counts, samples, capacity, rows) > LEVEL
    assert sorted(held(POLICIES["ring"](capacity, Random(0)), [""] * rows)) == [35, 36, 37, 38, 39]


def test_ring_holds_the_newest_of_each_task_in_equal_shares():
    tasks = [*"a" * 20, *"b" * 20, *"c" * 3, *"a" * 1]
    assert sorted(held(POLICIES["ring"](8, Random(0)), tasks[:40])) == [16, 17, 18, 19, 36, 37, 38, 39]
    # Shares of 8 are 2, 3 and 3 now: the older tasks gave up their oldest rows, a's last row pushed out its own.
    assert sorted(held(POLICIES["ring"](8, Random(0)), tasks)) == [19, 37, 38, 39, 40, 41, 42, 43]


def test_a_ring_stays_full_while_a_new_task_has_few_rows():
    assert sorted(held(POLICIES["ring"](4, Random(0)), [*"aaaaab"])) == [2, 3, 4, 5]


def test_with_more_tasks_than_slots_the_newest_tasks_have_one_each():
    for name in ("ring", "surprise"):
        tasks = [task for task in "abcdef" for _ in range(3)]
        rows = held(POLICIES[name](4, Random(0)), [*tasks, *"ab"], [float(row) for row in range(20)])
        assert [tasks[row] for row in sorted(rows)] == [*"cdef"]


@given(
    stream=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6)), max_size=40),
    capacity=st.integers(1, 9),
)
def test_surprise_holds_the_highest_losses_of_each_task_in_equal_shares(stream, capacity):
    tasks, losses = [task for task, _ in stream], [float(loss) for _, loss in stream]
    policy = POLICIES["surprise"](capacity, Random(0))
    rows = held(policy, tasks, losses)
    assert len(rows) == min(capacity, len(stream))
    known = list(dict.fromkeys(tasks))
    for order, task in enumerate(known):
        own = [row for row in range(len(tasks)) if tasks[row] == task]
        kept = [row for row in rows if tasks[row] == task]
        assert len(kept) >= min(len(own), (capacity + order) // len(known))
        assert sorted(kept) == sorted(sorted(own, key=lambda row: (-losses[row], row))[: len(kept)])


@settings(max_examples=60)
@given(data=st.data(), name=st.sampled_from(sorted(POLICIES)), capacity=st.integers(1, 12))
def test_a_stream_in_pieces_with_saves_between_gives_the_same_buffer(data, name, capacity):
    tasks = data.draw(st.lists(st.sampled_from("abc"), max_size=60))
    losses = [float(data.draw(st.integers(0, 5))) for _ in tasks]
    cuts = data.draw(st.lists(st.integers(0, len(tasks)), max_size=4))
    at_once = POLICIES[name](capacity, Random(1))
    expected = held(at_once, tasks, losses)

    random, slots, policy = Random(1), {}, None
    for start, stop in itertools.pairwise([0, *sorted(cuts), len(tasks)]):
        state = json.loads(json.dumps(policy.state())) if policy else None
        if policy is None:
            policy = POLICIES[name](capacity, random)
        else:
            words = random.getstate()
            policy = POLICIES[name](capacity, random)  # a new one draws numbers that are not to count
            random.setstate(words)
            policy.restore(state)
        slots.update((slot, start + row) for row, slot in policy.offer(tasks[start:stop], losses[start:stop]))
    assert [slots[slot] for slot in range(policy.filled)] == expected
    assert policy.state() == at_once.state()
    assert policy.seen == len(tasks)


@pytest.mark.parametrize("name", ["balanced", "ring", "surprise"])
def test_rows_given_up_make_room_for_the_next(name):
    policy = POLICIES[name](6, Random(0))
    policy.offer([*"aaabbb"], [3.0, 1.0, 2.0, 6.0, 5.0, 4.0])
    policy.keep([5, 0])
    assert policy.filled == 2
    assert [slot for _, slot in policy.offer([*"abca"], [0.0] * 4)] == [2, 3, 4, 5]
    assert policy.filled == 6


def test_surprise_needs_losses():
    with pytest.raises(TypeError, match="losses"):
        POLICIES["surprise"](2, Random(0)).offer(["a"])


def test_the_names_are_those_of_the_setting():
    assert set(get_args(get_type_hints(AgentSFTConfig)["continual_strategy"])) == set(POLICIES)

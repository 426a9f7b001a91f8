import random
from collections import Counter

import pytest

from sage.libs.finetune.agent.models.prefix import packed_length
from sage.libs.finetune.agent.training.batching import EpochBatches, best_fit_decreasing


def make_rows(families=4, members=23, seed=0):
    """Rows of `families` prompts; row lengths differ."""
    draw = random.Random(seed)
    prompts = [[family * 1000 + n for n in range(40)] for family in range(families)]
    rows = [p + [draw.randrange(10**6) for _ in range(draw.randrange(5, 60))] for p in prompts for _ in range(members)]
    draw.shuffle(rows)
    return [{"input_ids": row} for row in rows]


CASES = [
    {"order": "shuffled"},
    {"order": "grouped"},
    {"order": "shuffled", "bin_tokens": 200},
    {"order": "shuffled", "by_prefix": False},
]


@pytest.mark.parametrize("options", CASES)
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 5, 92])
def test_every_row_once_an_epoch_on_all_processes_together(options, processes, count):
    rows = make_rows()[:count]
    all_ranks = [
        EpochBatches(rows, 4, 3, seed=7, processes=processes, rank=rank, **options) for rank in range(processes)
    ]
    for epoch in (0, 1, 5):
        for one in all_ranks:
            one.epoch = epoch
        found = [list(one) for one in all_ranks]
        assert {len(batches) for batches in found} == {len(all_ranks[0])}
        assert sorted(row for batches in found for batch in batches for row in batch) == list(range(count))
        if "bin_tokens" not in options:
            assert max(len(batch) for batches in found for batch in batches) <= 4


@pytest.mark.parametrize("options", CASES)
def test_the_seed_and_the_epoch_alone_fix_the_order(options):
    rows = make_rows()
    first, again, other = (EpochBatches(rows, 4, 3, seed=seed, **options) for seed in (7, 7, 8))
    assert list(first) == list(again) != list(other)
    again.epoch = 1
    assert list(first) != list(again)
    again.epoch = 0
    assert list(first) == list(again)


def test_a_step_draws_the_same_rows_however_they_are_split():
    """What a step trains on is a plain shuffle, whatever the grouping within it."""
    rows = make_rows()
    steps = []
    for size, accumulation, processes, by_prefix in ((12, 1, 1, True), (4, 3, 1, True), (2, 3, 2, False)):
        ranks = [
            list(EpochBatches(rows, size, accumulation, seed=1, processes=processes, rank=r, by_prefix=by_prefix))
            for r in range(processes)
        ]
        per_step = [
            {row for batches in ranks for batch in batches[at : at + accumulation] for row in batch}
            for at in range(0, len(ranks[0]), accumulation)
        ]
        steps.append(per_step)
    assert steps[0] == steps[1] == steps[2]


def test_rows_that_begin_alike_run_together():
    rows = make_rows()
    ids = [row["input_ids"] for row in rows]
    computed = {
        name: sum(packed_length([ids[row] for row in batch]) for batch in EpochBatches(rows, 4, 4, seed=0, **options))
        for name, options in {
            "apart": {"by_prefix": False}, "shuffled": {}, "grouped": {"order": "grouped"},
        }.items()
    }  # fmt: skip
    assert computed["grouped"] < computed["shuffled"] < computed["apart"] < sum(map(len, ids))


def test_grouped_batches_come_from_one_family_and_in_any_order():
    rows = make_rows()
    firsts = Counter()
    for epoch in range(200):
        batches = EpochBatches(rows, 4, 1, seed=0, order="grouped")
        batches.epoch = epoch
        found = list(batches)
        pure = [len({rows[row]["input_ids"][0] for row in batch}) == 1 for batch in found]
        assert sum(pure) >= 4 * (23 // 4)
        firsts[found[0][0]] += 1
    assert len(firsts) > 60  # of 92 rows


def test_packed_bins_hold_no_more_than_asked_and_are_well_filled():
    draw = random.Random(0)
    lengths = [draw.randrange(20, 180) for _ in range(300)]
    bins = best_fit_decreasing(lengths, 512, random.Random(1))
    loads = [sum(lengths[item] for item in one) for one in bins]
    assert max(loads) <= 512 and len(bins) <= -(-sum(lengths) // 512) + 1
    again = best_fit_decreasing(lengths, 512, random.Random(2))
    assert sorted(loads) == sorted(sum(lengths[item] for item in one) for one in again) and bins != again
    assert [sorted(one) for one in best_fit_decreasing([600, 10], 512, random.Random(0))] == [[0], [1]]

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.selection import strategies
from sage.libs.finetune.agent.selection.strategies import (
    Choose,
    difficulty_weights,
    diverse,
    highest,
    hybrid,
    ifd_scores,
    random_choice,
    round_robin,
    strata,
    within_band,
    within_quota,
)

LOSSES = np.array([0.5, 3.0, 1.0, 3.0, 2.0, 0.1])
PLACES = np.array([[1, 0], [0.99, 0.1], [0, 1], [0.1, 0.99], [-1, 0], [-0.99, 0.1]], dtype=np.float32)
"""Three pairs: right, up, left."""


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def pool(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.exponential(size=n), unit(rng.normal(size=(n, 6)))


def test_highest_first_then_the_lowest_number() -> None:
    assert highest(LOSSES, 4) == [1, 3, 4, 2]
    assert highest(LOSSES, 2, rows=[0, 2, 3, 5]) == [3, 2]
    assert highest(LOSSES, 2, chosen=[1, 4]) == [3, 2]
    assert highest(np.zeros(4), 3) == [0, 1, 2]
    assert highest(LOSSES, 0) == []


def test_random_depends_on_the_seed_and_grows() -> None:
    assert random_choice(6, 6) == [3, 2, 5, 4, 0, 1] == random_choice(6, 6)
    draws = {tuple(random_choice(6, 3, seed=seed)) for seed in range(200)}
    assert len(draws) > 60  # of 120
    counts = Counter(row for seed in range(3000) for row in random_choice(6, 2, seed=seed))
    assert all(abs(counts[row] - 1000) < 110 for row in range(6))  # standard deviation 26
    assert random_choice(50, 9) == random_choice(50, 30)[:9]
    assert set(random_choice(6, 3, rows=[1, 4, 5])) == {1, 4, 5}


def test_strata_share_the_budget_smallest_first() -> None:
    scores = np.array([0.0] * 50 + [0.5] * 3 + [1.0] * 10)
    picked = strata(scores, 12, count=3)
    assert [scores[row] for row in picked] == [0.5] * 3 + [1.0] * 4 + [0.0] * 5
    assert picked == strata(scores, 12, count=3) != strata(scores, 12, count=3, seed=1)
    assert sorted(strata(scores, 63)) == list(range(63))
    assert sorted(strata(np.ones(5), 3, rows=[0, 2, 4])) == [0, 2, 4]  # all scores equal: one stratum
    assert [scores[row] for row in strata(scores, 2, count=3)] == [1.0, 0.0]  # less than one each


def test_diverse_by_either_method() -> None:
    assert {row // 2 for row in diverse(PLACES, 3)} == {0, 1, 2}
    assert {row // 2 for row in diverse(PLACES, 3, method="kcenter")} == {0, 1, 2}
    assert {row // 2 for row in diverse(PLACES, 2, rows=[0, 1, 4, 5])} == {0, 2}


def test_diverse_goes_on_from_what_is_chosen() -> None:
    for method in ("facility_location", "kcenter"):
        assert {row // 2 for row in diverse(PLACES, 2, chosen=[0], method=method)} == {1, 2}
        assert {row // 2 for row in diverse(PLACES, 1, rows=[1, 4], chosen=[0, 3], method=method)} == {2}


def test_diverse_covers_what_weighs_most() -> None:
    assert diverse(PLACES, 1, weights=np.array([0.0, 0, 0, 0, 1, 1]))[0] in (4, 5)
    assert diverse(PLACES, 1, rows=[0, 2, 3], weights=np.array([0.1, 9, 5, 5, 9, 9]))[0] in (2, 3)
    with pytest.raises(ConfigError, match="k-center has no weights"):
        diverse(PLACES, 1, method="kcenter", weights=np.ones(6))


@pytest.mark.parametrize("method", ["facility_location", "kcenter"])
def test_very_many_rows_are_covered_cell_by_cell(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, features = pool(200)
    options: dict[str, Any] = {"method": method, "weights": weights if method == "facility_location" else None}
    together = diverse(features, 30, chosen=[3, 4], **options)
    monkeypatch.setattr(strategies, "PARTITIONED", 199)
    for chosen in ([], [3, 4]):
        picked = diverse(features, 30, chosen=chosen, **options)
        assert len(set(picked) - set(chosen)) == 30 == len(picked)
        assert picked != together


def test_hybrid_covers_given_the_hardest() -> None:
    # round(0.6 * 3) = 2 by loss; they lie up and right, so coverage adds one on the left
    losses = np.array([5.0, 0.0, 9.0, 0.0, 0.0, 0.0])
    picked = hybrid(losses, PLACES, 3)
    assert picked[:2] == [2, 0] and picked[2] in (4, 5)
    assert hybrid(losses, PLACES, 3, loss_ratio=0) == diverse(PLACES, 3)
    assert hybrid(losses, PLACES, 4, loss_ratio=1) == highest(losses, 4)
    assert hybrid(losses, PLACES, 3, rows=[0, 1, 4], loss_ratio=0.4)[0] == 0


def test_wanted_examples_take_turns() -> None:
    wanted = np.array([[0.0, 2.0], [-1.0, 0.0]], dtype=np.float32)
    assert round_robin(PLACES, wanted, 5) == [2, 4, 3, 5, 1]
    assert round_robin(PLACES, wanted, 3, rows=[0, 1, 5]) == [1, 5, 0]
    assert round_robin(PLACES, wanted, 2, chosen=[2]) == [4, 3]  # the second one's turn
    assert round_robin(PLACES * np.array([[9], [1], [1], [1], [1], [1]]), wanted[:1], 1) == [2]  # cosine, not length
    assert round_robin(np.zeros((3, 2), np.float32), wanted, 3) == [0, 1, 2]


def test_ifd_is_the_ratio_of_perplexities() -> None:
    assert ifd_scores([1.0, 2.0, 900.0], [2.0, 2.0, 0.0]).tolist()[:2] == pytest.approx([np.exp(-1.0), 1.0])
    assert ifd_scores([900.0], [0.0])[0] > 1e300


def test_weights_are_clipped_losses() -> None:
    losses = np.array([*np.linspace(1, 2, 99), 500.0, 7.0])
    weights = difficulty_weights(losses, np.arange(100))
    assert weights[100] == 0 and weights.max() == 1
    assert weights[99] == weights[98] == pytest.approx(1)  # the outlier asks for no more than its neighbour
    assert weights[0] == pytest.approx(1.05 / 1.96, abs=0.01)
    assert difficulty_weights(np.zeros(3), np.array([0, 2])).tolist() == [1, 0, 1]


def test_a_band_is_between_two_quantiles() -> None:
    scores = np.arange(100)[::-1]
    assert scores[within_band(scores, (0.05, 0.85))].tolist() == list(range(84, 4, -1))
    assert within_band(np.ones(7), (0.4, 0.6)).all()
    assert within_band(scores, (0.0, 1.0)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "ask",
    [
        lambda s: highest(s, 1),
        lambda s: strata(s, 1),
        lambda s: hybrid(s, PLACES, 1),
        lambda s: within_band(s, (0, 1)),
        lambda s: ifd_scores(LOSSES, s),
        lambda s: ifd_scores(s, LOSSES),
        lambda s: difficulty_weights(s, np.arange(6)),
    ],
)
def test_scores_that_are_no_numbers_are_refused_by_row(ask: Any, value: float) -> None:
    with pytest.raises(DataError, match=r"row 4: its (score|loss|loss without the prompt) is -?(nan|inf)"):
        ask(np.array([1.0, 1.0, 1.0, 1.0, value, np.nan]))


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="4 rows are asked for and 3 may be chosen"):
        highest(LOSSES, 4, rows=[0, 1, 2, 3], chosen=[1])


def all_strategies(n: int, seed: int) -> dict[str, Choose]:
    losses, features = pool(n, seed)
    return {
        "random": partial(random_choice, n, seed=seed),
        "highest": partial(highest, losses),
        "strata": partial(strata, losses, seed=seed),
        "facility_location": partial(diverse, features, seed=seed),
        "kcenter": partial(diverse, features, method="kcenter", seed=seed),
        "hybrid": partial(hybrid, losses, features, loss_ratio=0.5, seed=seed),
        "product": partial(diverse, features, weights=losses, seed=seed),
        "rds": partial(round_robin, features, features[:3]),
    }


@given(st.integers(1, 40), st.integers(0, 1000), st.data())
@settings(deadline=None, max_examples=60)
def test_exactly_k_different_rows_that_may_be_chosen(n: int, seed: int, data: st.DataObject) -> None:
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1))))
    chosen = data.draw(st.lists(st.sampled_from(rows.tolist()), unique=True, max_size=len(rows) - 1))
    k = data.draw(st.integers(0, len(rows) - len(chosen)))
    for name, choose in all_strategies(n, seed).items():
        picked = choose(k, rows, chosen)
        assert len(picked) == k == len(set(picked)), name
        assert set(picked) <= set(rows.tolist()) - set(chosen), name
        assert picked == choose(k, rows, chosen), name
        assert all(type(row) is int for row in picked), name


@given(st.integers(2, 30), st.integers(0, 1000), st.data())
@settings(deadline=None, max_examples=40)
def test_strategies_go_on_where_they_stopped(n: int, seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    done = data.draw(st.integers(0, k))
    for name, choose in all_strategies(n, seed).items():
        whole = choose(k, np.arange(n), [])
        if name != "strata":
            assert whole == whole[:done] + choose(k - done, np.arange(n), whole[:done]), name


def constrained_greedy(choose: Choose, k: int, n: int, tasks: list[str], limit: int) -> list[int]:
    """One row at a time, each time among the rows of tasks that are not full."""
    chosen: list[int] = []
    for left in range(k, 0, -1):
        taken = Counter(tasks[row] for row in chosen)
        rows = np.array([row for row in range(n) if row not in chosen and taken[tasks[row]] < limit])
        chosen.append(choose(left, rows, chosen)[0])
    return chosen


@given(st.integers(4, 24), st.integers(0, 1000), st.data())
@settings(deadline=None, max_examples=40)
def test_quotas_are_kept_by_every_strategy(n: int, seed: int, data: st.DataObject) -> None:
    tasks = data.draw(st.lists(st.sampled_from("abc"), min_size=n, max_size=n))
    k = data.draw(st.integers(1, n))
    share = data.draw(st.sampled_from([0.29, 0.4, 0.5, 1.0]))
    limit = max(1, int(share * k + 1e-9))
    possible = sum(min(count, limit) for count in Counter(tasks).values())
    for name, choose in all_strategies(n, seed).items():
        if possible < k:
            with pytest.raises(ConfigError, match=f"task_quota={share:g}: at most {limit} of each of"):
                within_quota(choose, k, np.arange(n), tasks, share)
            continue
        picked = within_quota(choose, k, np.arange(n), tasks, share)
        assert len(set(picked)) == k
        assert max(Counter(tasks[row] for row in picked).values()) <= limit
        if name in ("random", "highest"):
            assert picked == constrained_greedy(choose, k, n, tasks, limit), name


def test_a_quota_nobody_reaches_changes_nothing() -> None:
    for name, choose in all_strategies(20, 3).items():
        assert within_quota(choose, 8, np.arange(20), ["a"] * 20, 1.0) == choose(8, np.arange(20), []), name


def test_a_share_is_rounded_down_but_not_by_floating_point() -> None:
    losses, tasks = np.arange(100.0), ["a"] * 50 + ["b"] * 50
    picked = within_quota(partial(highest, losses), 100 * 58 // 100, np.arange(100), tasks, 0.5)
    assert Counter(tasks[row] for row in picked) == {"a": 29, "b": 29}
    assert len(within_quota(partial(highest, losses), 50, np.arange(100), list("ab" * 50), 0.58)) == 50

from __future__ import annotations

import random
from itertools import combinations

import pytest

from sage.libs.finetune.agent.evaluation.planning.plan_text import Step
from sage.libs.finetune.agent.evaluation.scorers.plan_matching import (
    best_matching,
    cycle_in,
    heaviest_consistent,
    heaviest_increasing,
    match_plans,
    similarity,
)


def steps(names: str) -> list[Step]:
    return [Step(name, name, ()) for name in names]


@pytest.mark.parametrize(
    ("plan", "gold", "precision", "recall"),
    [
        ("abc", "abc", 1.0, 1.0),
        ("abcabc", "abcabc", 1.0, 1.0),
        ("ab", "abc", 1.0, 2 / 3),
        ("abcx", "abc", 3 / 4, 1.0),
        ("acb", "abc", 2 / 3, 2 / 3),
        ("cba", "abc", 1 / 3, 1 / 3),
        ("abbc", "abc", 3 / 4, 1.0),
        ("xyz", "abc", 0.0, 0.0),
        ("", "abc", 0.0, 0.0),
    ],
)
def test_steps_in_order_are_counted(plan: str, gold: str, precision: float, recall: float) -> None:
    match = match_plans(steps(plan), steps(gold))
    assert (match.precision, match.recall) == (precision, recall)
    harmonic = 2 * precision * recall / (precision + recall) if precision else 0.0
    assert match.f1 == pytest.approx(harmonic)


def published_hits(matched: list[int | None]) -> int:
    """What T-Eval's code counts: the longest increasing subsequence, at least 1 for every step, matched or not."""
    longest = [1] * len(matched)
    for i, mine in enumerate(matched):
        for j, other in enumerate(matched[:i]):
            if mine is not None and other is not None and other < mine:
                longest[i] = max(longest[i], longest[j] + 1)
    return max(longest)


def test_a_plan_without_a_right_step_scores_nothing_where_the_published_code_counts_one() -> None:
    assert published_hits([None, None, None]) == 1
    match = match_plans(steps("xyz"), steps("abc"))
    assert (match.hits, match.f1) == (0.0, 0.0)
    assert match_plans(steps("abc"), steps("abc")).hits == published_hits([0, 1, 2]) == 3


def test_a_graph_orders_only_what_its_edges_order() -> None:
    gold, diamond = steps("abcd"), [[0, 1], [0, 2], [1, 3], [2, 3]]
    for plan, f1, edge_f1 in (("abcd", 1.0, 1.0), ("acbd", 1.0, 1.0), ("bacd", 0.75, 0.75), ("dbca", 0.5, 0.0)):
        match = match_plans(steps(plan), gold, diamond)
        assert (match.f1, match.edge_f1) == (f1, edge_f1), plan
    assert match_plans(steps("acbd"), gold).f1 == 0.75
    # An order that follows from two edges counts although the step between is missing.
    assert match_plans(steps("da"), gold, diamond).hits == 1.0
    dropped = match_plans(steps("abd"), gold, diamond)
    assert dropped.f1 == pytest.approx(6 / 7) and dropped.edge_f1 == pytest.approx(4 / 6)
    assert match_plans(steps("a"), gold, []).edge_f1 is None


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (Step("", "go", ("inn",)), Step("", "go", ("INN",)), 1.0),
        (Step("", "go", ()), Step("", "come", ()), 0.0),
        (Step("", "", ()), Step("", "", ()), 0.0),
        (Step("", "go", ("a", "b")), Step("", "go", ("b", "a")), 0.5),
        (Step("", "go", ("a",)), Step("", "go", ()), 0.0),
        (Step("", "go", {"city": "New York", "day": 5}), Step("", "go", {"day": "5", "city": "new york"}), 1.0),
        (Step("", "go", {"city": "New York"}), Step("", "go", {"city": "New Delhi"}), 0.5),
        (Step("", "go", {"city": "Bonn", "day": 5}), Step("", "go", ("5", "bonn")), 1.0),
        (Step("", "go", {"how": "+"}), Step("", "go", {"how": "-"}), 0.0),
    ],
)
def test_names_gate_and_arguments_grade(one: Step, other: Step, expected: float) -> None:
    assert similarity(one, other) == similarity(other, one) == pytest.approx(expected)


def test_the_matching_is_the_best_and_not_the_first() -> None:
    assert best_matching([[0.6, 0.5], [0.9, 0.0]]) == [(0, 1), (1, 0)]
    assert best_matching([[0.0, 0.0]]) == best_matching([]) == []
    assert best_matching([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]) == [(0, 1), (1, 0), (2, 2)]


def test_the_heaviest_consistent_set_is_the_one_that_trying_all_finds() -> None:
    rng = random.Random(0)
    for _ in range(200):
        nodes = rng.randint(1, 7)
        order = rng.sample(range(nodes), nodes)
        edges = [[a, b] for a, b in combinations(order, 2) if rng.random() < 0.4]
        values = rng.sample(range(nodes), rng.randint(1, nodes))
        weights = [rng.choice((1.0, 0.5, 0.25, 0.75)) for _ in values]
        reach = {(a, b) for a, b in edges}
        for _ in range(nodes):
            reach |= {(a, d) for a, b in reach for c, d in reach if b == c}
        consistent = (
            chosen
            for size in range(len(values) + 1)
            for chosen in combinations(range(len(values)), size)
            if all((values[later], values[first]) not in reach for first, later in combinations(chosen, 2))
        )
        best = max(sum(weights[index] for index in chosen) for chosen in consistent)
        assert heaviest_consistent(values, weights, edges, nodes) == pytest.approx(best)
        chain = [[node, node + 1] for node in range(nodes - 1)]
        assert heaviest_consistent(values, weights, chain, nodes) == pytest.approx(heaviest_increasing(values, weights))


def test_a_cycle_is_found() -> None:
    assert cycle_in([[0, 1], [1, 2]], 3) is None
    assert cycle_in([[0, 1], [1, 2], [2, 1]], 3) == 1
    assert cycle_in([[0, 0]], 1) == 0

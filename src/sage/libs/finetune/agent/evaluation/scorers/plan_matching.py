"""A plan against a reference plan, where nothing can be simulated: matched steps that stand in the right order.

After T-Eval's planning score (Chen et al., 2023, https://arxiv.org/abs/2312.14033): steps are matched one to one with
the largest total similarity, of the matched ones those count that stand in order, and precision, recall and F1 are
taken over steps. Where we deviate:

- A similarity needs no embedding model: steps of another name have none, the others as much as their arguments agree.
- What counts is the heaviest increasing subsequence of *matched* steps. The published code starts that count at 1, so
  that a plan without one right step still scores a hit; here it scores 0.
- Equal steps are matched in their order, so that a plan which repeats a step is right when it is the reference.
- Where the reference is a graph, only its edges are an order. The steps that count are the heaviest set in which none
  stands before another that it has to follow: by Dilworth's theorem, with weights, a maximum flow.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sage.libs.finetune.agent.answers import answer_text
from sage.libs.finetune.agent.evaluation.planning.plan_text import Step, name_key

_TOKEN = re.compile(r"[^\s,;:()\[\]{}\"`]+")

_UNITS = 100_000
"""Flows are whole numbers; a step that agrees fully is this many."""

_TIE = 1e-6
"""Decides between matchings that are equally good; no difference of similarities is as small."""


@dataclass(frozen=True)
class PlanMatch:
    """How well a plan agrees with its reference.

    Attributes:
        hits: Similarity of the matched steps that stand in order, summed; at most the number of steps.
        matched: How many steps have a counterpart, in order or not.
        steps: How many steps the plan has.
        wanted: How many the reference has.
        edges_kept: Edges of the reference graph whose two steps are matched and in order.
        edges_matched: Edges whose two steps are matched.
        edges_wanted: All of them.
    """

    hits: float
    matched: int
    steps: int
    wanted: int
    edges_kept: int = 0
    edges_matched: int = 0
    edges_wanted: int = 0

    @property
    def precision(self) -> float:
        """Share of the plan's steps that are right."""
        return self.hits / self.steps if self.steps else 0.0

    @property
    def recall(self) -> float:
        """Share of the reference's steps that are there."""
        return self.hits / self.wanted

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.hits / (self.steps + self.wanted)

    @property
    def edge_f1(self) -> float | None:
        """Edges kept, against those the plan decides and those there are; None where the reference has no edges."""
        if not self.edges_wanted:
            return None
        return 2 * self.edges_kept / (self.edges_matched + self.edges_wanted)


def match_plans(plan: Sequence[Step], gold: Sequence[Step], edges: Sequence[Sequence[int]] | None = None) -> PlanMatch:
    """Match the steps of a plan with those of its reference.

    Args:
        plan: The steps to judge, in order.
        gold: The reference: at least one step. Without `edges` its order is the order.
        edges: `[i, j]`: step i of the reference comes before step j; without a cycle. Steps that no path of edges
            connects may come in any order; None: the order of `gold` holds.

    Example:
        >>> a, b = Step("a", "a", ()), Step("b", "b", ())
        >>> match_plans([b, a], [a, b]).f1, match_plans([b, a], [a, b], edges=[]).f1, match_plans([b], [a]).f1
        (0.5, 1.0, 0.0)
    """
    similarities = [[similarity(step, wanted) for wanted in gold] for step in plan]
    pairs = best_matching(similarities)
    weights = [similarities[index][wanted] for index, wanted in pairs]
    matched = [wanted for _, wanted in pairs]
    if edges is None:
        return PlanMatch(heaviest_increasing(matched, weights), len(pairs), len(plan), len(gold))
    place = {wanted: position for position, wanted in enumerate(matched)}
    decided = [(place[i], place[j]) for i, j in edges if i in place and j in place]
    return PlanMatch(
        heaviest_consistent(matched, weights, edges, len(gold)),
        matched=len(pairs),
        steps=len(plan),
        wanted=len(gold),
        edges_kept=sum(before < after for before, after in decided),
        edges_matched=len(decided),
        edges_wanted=len(edges),
    )


def similarity(step: Step, wanted: Step) -> float:
    """0 to 1: nothing when the names differ, else the F1 of the arguments' words.

    Values by name are compared word by word with their names, two texts by the words they share in order (longest
    common subsequence), a text with values by name by the words they share.

    Example:
        >>> similarity(Step("", "go", ("to", "the", "inn")), Step("", "go", ("to", "inn")))
        1.0
        >>> similarity(Step("", "go", {"from": "a", "to": "b"}), Step("", "go", {"from": "b", "to": "a"}))
        0.0
    """
    if not step.name or step.name != wanted.name:
        return 0.0
    if step.arguments == wanted.arguments:
        return 1.0
    by_name = isinstance(step.arguments, dict), isinstance(wanted.arguments, dict)
    one, other = (_tokens(each.arguments, keyed=all(by_name)) for each in (step, wanted))
    if not one and not other:
        return 1.0
    shared = sum((Counter(one) & Counter(other)).values()) if any(by_name) else _common_subsequence(one, other)
    return 2 * shared / (len(one) + len(other))


def best_matching(similarities: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """The pairs (row, column) of the one-to-one matching with the largest sum, zeros left out, by row."""
    rows, columns = len(similarities), len(similarities[0]) if similarities else 0
    if all(not any(row) for row in similarities):
        return []
    if rows == columns and all(row[index] == 1.0 for index, row in enumerate(similarities)):
        return [(index, index) for index in range(rows)]
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    weights = np.array(similarities)
    # Among equal steps the squared distance is smallest when they are matched in their order.
    distance = (np.arange(rows)[:, None] - np.arange(columns)[None, :]) ** 2
    tie = _TIE / (max(rows, columns) ** 2 * min(rows, columns))
    chosen = zip(*linear_sum_assignment(weights - tie * distance * (weights > 0), maximize=True), strict=True)
    return [(int(row), int(column)) for row, column in chosen if weights[row, column] > 0]


def heaviest_increasing(values: Sequence[int], weights: Sequence[float]) -> float:
    """The largest sum of weights over a strictly increasing subsequence of values; 0 when there are none.

    Example:
        >>> heaviest_increasing([2, 0, 1], [1.0, 1.0, 1.0]), heaviest_increasing([], [])
        (2.0, 0.0)
    """
    best: list[float] = []
    for index, (value, weight) in enumerate(zip(values, weights, strict=True)):
        best.append(weight + max((best[j] for j in range(index) if values[j] < value), default=0.0))
    return max(best, default=0.0)


def heaviest_consistent(
    values: Sequence[int], weights: Sequence[float], edges: Sequence[Sequence[int]], nodes: int
) -> float:
    """The largest sum of weights over values none of which stands before another that a path of edges puts first.

    "Stands before one that should precede it" is a partial order of its own, and what is sought is its heaviest set
    without two comparable members. Its weight is that of all, less the largest flow that pairs comparable ones.

    Example:
        >>> heaviest_consistent([2, 1, 0], [1.0, 1.0, 1.0], [[0, 2]], 3)
        2.0
    """
    after = _reachable(edges, nodes)
    faults = [
        [later for later in range(first + 1, len(values)) if values[first] in after[values[later]]]
        for first in range(len(values))
    ]
    if not any(faults):
        return float(sum(weights))
    units = [round(weight * _UNITS) for weight in weights]
    return float(sum(weights) - _largest_flow(units, faults) / _UNITS)


def _largest_flow(units: Sequence[int], faults: Sequence[Sequence[int]]) -> int:
    """The most that can be sent along faults, where every place sends and every place takes no more than its units.

    Edmonds & Karp (1972): while there is a way from a place with units left to one that can take some, possibly by
    taking back what was sent before, the shortest such way is used.
    """
    left, room, total = list(units), list(units), 0
    sent: dict[tuple[int, int], int] = {}
    while True:
        sender: dict[int, int] = {}  # of each place that can be reached
        retaker: dict[int, int] = {first: -1 for first, units_left in enumerate(left) if units_left}
        queue, end = list(retaker), -1
        for first in queue:  # grows while it is walked through
            for later in faults[first]:
                if later in sender:
                    continue
                sender[later] = first
                if room[later]:
                    end = later
                    break
                for (other, there), amount in sent.items():
                    if there == later and amount and other not in retaker:
                        retaker[other] = later
                        queue.append(other)
            if end >= 0:
                break
        if end < 0:
            return total
        way = [(sender[end], end)]
        while (back := retaker[way[-1][0]]) >= 0:
            way.append((sender[back], back))
        returned = [(way[index][0], way[index + 1][1]) for index in range(len(way) - 1)]
        amount = min(room[end], left[way[-1][0]], *(sent[pair] for pair in returned))
        for pair in way:
            sent[pair] = sent.get(pair, 0) + amount
        for pair in returned:
            sent[pair] -= amount
        room[end] -= amount
        left[way[-1][0]] -= amount
        total += amount


def cycle_in(edges: Sequence[Sequence[int]], nodes: int) -> int | None:
    """A node that a path of edges leads back to, None when there is no cycle."""
    return next((node for node, after in enumerate(_reachable(edges, nodes)) if node in after), None)


def _reachable(edges: Sequence[Sequence[int]], nodes: int) -> list[set[int]]:
    """What comes after each node, at the end of any path."""
    after: list[set[int]] = [set() for _ in range(nodes)]
    for i, j in edges:
        after[i].add(j)
    for through in range(nodes):
        for node in range(nodes):
            if through in after[node]:
                after[node] |= after[through]
    return after


def _tokens(arguments: tuple[str, ...] | dict[str, Any], keyed: bool) -> list[str]:
    """The words of all arguments, without case and the word "the"; `keyed`: each with the name of its argument."""
    if isinstance(arguments, tuple):
        return [folded for word in arguments if (folded := word.casefold()) != "the"]
    tokens = []
    for key, value in arguments.items():
        words = [word.strip(".!?'") or word for word in _TOKEN.findall(answer_text(value).casefold())]
        tokens += [f"{name_key(key)}={word}" if keyed else word for word in words if word != "the"]
    return tokens


def _common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest sequence of words that both hold in this order."""
    above = [0] * (len(other) + 1)
    for word in one:
        row = [0]
        for index, candidate in enumerate(other):
            row.append(above[index] + 1 if word == candidate else max(above[index + 1], row[index]))
        above = row
    return above[-1]

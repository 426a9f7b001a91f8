"""What a scorer gives back, and what a capability is: the vocabulary of evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Item = dict[str, Any]
"""One test item: `id`, `messages` (the prompt, canonical), `tools`, `gold` (what is right) and `metadata`."""


@dataclass(frozen=True)
class Score:
    """What one reply is worth.

    Attributes:
        value: 0 to 1; None when nothing about the reply could be checked, which is counted as skipped and never as 0.
        extracted: What was compared: the calls, the plan, the answer; plain JSON types.
        reason: One phrase that says why.
        details: Partial figures; plain JSON types.
    """

    value: float | None
    extracted: Any
    reason: str
    details: dict[str, Any] = field(default_factory=dict)


Scorer = Callable[[str, Mapping[str, Any]], Score]
"""`(reply, item) -> Score`, pure; a ScoringError names id and field of an item that cannot be scored against."""


@dataclass(frozen=True)
class Capability:
    """Something a model can be good at, and how that is measured.

    Attributes:
        name: What it is called in test sets and reports.
        score: Scores one reply.
        read_gold: Reads what is right out of a row in one of the forms that the capability knows: `(row, where) ->
            gold`; a DataError names `where` and what was expected.
        summarise: Figures over all scores of a test set, besides their mean; empty when there are none.
        gold_reply: A reply to the item that scores 1.0, None where none can be made.
    """

    name: str
    score: Scorer
    read_gold: Callable[[Mapping[str, Any], str], Any]
    summarise: Callable[[Sequence[Score]], dict[str, Any]]
    gold_reply: Callable[[Mapping[str, Any]], str] | None = None

"""The strategies by the names that settings use: what each has to know, and how it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from sage.libs.finetune.agent.registry import Registry
from sage.libs.finetune.agent.selection import strategies
from sage.libs.finetune.agent.selection.strategies import Choose

if TYPE_CHECKING:
    from sage.libs.finetune.agent.selection.scoring import SampleScores


@dataclass
class Selection:
    """What was chosen, and what was known when it was.

    Attributes:
        indices: The chosen rows, in the order of choice.
        tasks: [n], the task of each row of the pool, "" where it has none.
        scores: What the model told, None when none was asked.
        features: [n, d], None when nothing needed them.
        wanted: [m, d], features of the wanted examples, None without.
        dropped: How many rows each guard dropped, in the order in which the guards were asked.
    """

    indices: list[int]
    tasks: list[str]
    scores: SampleScores | None = None
    features: np.ndarray | None = None
    wanted: np.ndarray | None = None
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def losses(self) -> np.ndarray:
        """[n] in nats; there when a model was asked."""
        assert self.scores is not None
        return self.scores.losses

    @property
    def ifd(self) -> np.ndarray:
        """[n], the instruction-following difficulty; there when responses were read alone too."""
        assert self.scores is not None and self.scores.alone is not None
        return strategies.ifd_scores(self.losses, self.scores.alone)


@dataclass(frozen=True)
class Manner:
    """How a strategy goes about it; see `CoresetSelector`."""

    seed: int
    loss_ratio: float
    product: bool
    method: strategies.Method


@dataclass(frozen=True)
class Strategy:
    """One name.

    Attributes:
        start: (what is known, how, rows that may be chosen) -> the strategy with its arrays in hand.
        losses: Whether it needs losses, and so a model.
        alone: Whether it needs the losses of responses without their prompts too.
        features: Whether it needs features.
    """

    start: Callable[[Selection, Manner, np.ndarray], Choose]
    losses: bool = False
    alone: bool = False
    features: bool = False


def _random(known: Selection, manner: Manner, _: np.ndarray) -> Choose:
    return partial(strategies.random_choice, len(known.tasks), seed=manner.seed)


def _highest_loss(known: Selection, _: Manner, __: np.ndarray) -> Choose:
    return partial(strategies.highest, known.losses)


def _highest_ifd(known: Selection, _: Manner, __: np.ndarray) -> Choose:
    return partial(strategies.highest, known.ifd)


def _strata(known: Selection, manner: Manner, _: np.ndarray) -> Choose:
    return partial(strategies.strata, known.losses, seed=manner.seed)


def _diverse(known: Selection, manner: Manner, _: np.ndarray) -> Choose:
    assert known.features is not None
    return partial(strategies.diverse, known.features, method=manner.method, seed=manner.seed)


def _hybrid(known: Selection, manner: Manner, rows: np.ndarray) -> Choose:
    assert known.features is not None
    if manner.product:
        weights = strategies.difficulty_weights(known.losses, rows)
        return partial(strategies.diverse, known.features, weights=weights, seed=manner.seed)
    how = {"loss_ratio": manner.loss_ratio, "method": manner.method, "seed": manner.seed}
    return partial(strategies.hybrid, known.losses, known.features, **how)  # type: ignore[arg-type]


def _round_robin(known: Selection, _: Manner, __: np.ndarray) -> Choose:
    assert known.features is not None and known.wanted is not None
    return partial(strategies.round_robin, known.features, known.wanted)


STRATEGIES: Registry[Strategy] = Registry("coreset strategy")
for _name, _strategy in {
    "loss_topk": Strategy(_highest_loss, losses=True),
    "diversity": Strategy(_diverse, features=True),
    "hybrid": Strategy(_hybrid, losses=True, features=True),
    "random": Strategy(_random),
    "ifd": Strategy(_highest_ifd, losses=True, alone=True),
    "ifd_diversity": Strategy(_diverse, losses=True, alone=True, features=True),
    "ccs": Strategy(_strata, losses=True),
    "facility_location": Strategy(_diverse, features=True),
    "kcenter": Strategy(_diverse, features=True),
    "rds": Strategy(_round_robin, features=True),
}.items():
    STRATEGIES.add(_name, _strategy)

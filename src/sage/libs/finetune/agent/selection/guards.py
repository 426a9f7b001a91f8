"""Rows that no strategy should take: too short a response, a score outside its band, near-duplicates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.selection.by_name import Selection
from sage.libs.finetune.agent.selection.near_duplicates import near_duplicates
from sage.libs.finetune.agent.selection.strategies import within_band

Band = tuple[float, float]


@dataclass(frozen=True)
class Guards:
    """What a row has to pass; see `CoresetSelector`."""

    min_response_tokens: int = 0
    loss_band: Band | None = None
    ifd_band: Band | None = None
    ifd_below_1: bool = False
    near_duplicates: float | None = None

    def passed(self, known: Selection, size: int, count_tokens: Callable[[], np.ndarray] | None) -> np.ndarray:
        """The rows that pass, ascending; says in `known.dropped` how many each guard dropped.

        Args:
            known: The scores and features that the guards need.
            size: How many rows have to be left.
            count_tokens: Gives the tokens of each response where no model has counted them.

        Raises:
            ConfigError: when fewer than `size` are left, or nobody can count tokens.
        """
        rows = np.arange(len(known.tasks))

        def keep(guard: str, sound: np.ndarray) -> None:
            nonlocal rows
            known.dropped[guard] = int((~sound).sum())
            rows = rows[sound]

        if self.min_response_tokens:
            keep("min_response_tokens", _tokens(known, count_tokens) >= self.min_response_tokens)
        if self.loss_band is not None:
            keep("loss_band", within_band(known.losses, self.loss_band)[rows])
        if self.ifd_band is not None:
            keep("ifd_band", within_band(known.ifd, self.ifd_band)[rows])
        if self.ifd_below_1:
            keep("ifd of at least 1", known.ifd[rows] < 1)
        if self.near_duplicates is not None:
            assert known.features is not None
            keep("near_duplicates", ~near_duplicates(known.features[rows], self.near_duplicates))
        if len(rows) < size:
            each = ", ".join(f"{guard} {dropped}" for guard, dropped in known.dropped.items())
            raise ConfigError(
                f"coreset: {size} of {len(known.tasks)} samples are asked for and the guards leave {len(rows)} "
                f"(dropped: {each}); loosen a guard or lower the target size"
            )
        return rows


def _tokens(known: Selection, count_tokens: Callable[[], np.ndarray] | None) -> np.ndarray:
    if known.scores is not None and (known.scores.tokens >= 0).all():
        return known.scores.tokens
    if count_tokens is None:
        raise ConfigError("min_response_tokens: the model tells losses and counts no tokens; give `tokenizer`")
    return count_tokens()

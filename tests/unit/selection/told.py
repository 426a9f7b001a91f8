"""Samples that say themselves what their loss is, and scorers that read it off them."""

from __future__ import annotations

from typing import Any

import numpy as np

WORDS = "tea jam ham rice milk salt plum corn lime kale".split()


def row(number: int, loss: float | None = None, family: str = "a") -> dict[str, Any]:
    """A sample whose text is its own; `loss` is what `Told` says of it."""
    text = f"Buy {number % 7 + 1} {WORDS[number % 10]} for {WORDS[number * 3 % 10]} number {number}."
    told = number % 17 / 10 if loss is None else loss
    return {"instruction": text, "input": "", "output": f"done {number}", "metadata": {"family": family, "loss": told}}


class Told:
    """A scorer that reads the loss off the sample."""

    def sample_losses(self, samples: list[Any]) -> list[float]:
        return [sample["metadata"]["loss"] for sample in samples]


class Unasked:
    """A scorer that must not be asked."""

    def sample_losses(self, samples: list[Any]) -> list[float]:
        raise AssertionError("asked for losses")


ROWS = [row(number, family="ab"[number % 3 == 0]) for number in range(40)]
BY_LOSS = sorted(range(40), key=lambda i: (-ROWS[i]["metadata"]["loss"], i))
TURNED = np.array([[np.cos(turn), np.sin(turn)] for turn in np.linspace(0, 3, 40)], dtype=np.float32)

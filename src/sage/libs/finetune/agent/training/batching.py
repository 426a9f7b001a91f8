"""Which rows make a micro-batch, and which micro-batches an optimiser step.

The loss of a step is a mean over all its trained tokens, however they are split into micro-batches (`losses`). So the
rows of a step and their split are two questions:

shuffled  Every epoch all rows are shuffled, and a step takes the next `batch_size x accumulation x processes` of
          them: a uniform draw without replacement, as in any trainer. Only within the step are rows put in an order in
          which those that begin alike, or are of like length, run in one micro-batch. Nothing is biased by it.
grouped   For data of many prompts. The rows that share a beginning form a family: the deepest node of the prefix tree
          that still holds `batch_size` rows. Each family is shuffled and cut into micro-batches; what is left over of
          all families is cut in prefix order. The micro-batches are shuffled. Each row is equally likely at any place
          of the epoch, but the rows of one micro-batch come from one family.
packed    Rows fill bins of `max_seq_length` tokens by best-fit decreasing (Johnson, 1974), ties in random order; bins
          are shuffled, and `batch_size` of them make a micro-batch.

Every row comes once an epoch. All draws come from the seed and the number of the epoch, so a resumed run finds its
place again without any state.
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from sage.libs.finetune.agent.models.kv_cache import common_prefix
from sage.libs.finetune.agent.models.prefix import MIN_SHARED


class EpochBatches:
    """The micro-batches of an epoch, as lists of row numbers; a batch sampler for torch's DataLoader.

    With several processes, each takes every `processes`-th one; an empty list stands for what the last ones lack.

    Args:
        rows: Token rows.
        batch_size: Rows in a micro-batch; bins when packed.
        accumulation: Micro-batches of a process in a step.
        order: "shuffled" or "grouped".
        bin_tokens: Tokens in a bin; None does not pack.
        seed: Of all draws.
        processes: How many train together.
        rank: Number of this one among them.
        by_prefix: Whether rows in a micro-batch should begin alike; else they should be of like length.

    Attributes:
        epoch: Which epoch the next iteration gives; set by the training loop.

    Example:
        >>> rows = [{"input_ids": [n] * n} for n in (3, 1, 2, 2)]
        >>> batches = EpochBatches(rows, batch_size=2, accumulation=1, seed=0)
        >>> sorted(number for batch in batches for number in batch), len(batches)
        ([0, 1, 2, 3], 2)
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        batch_size: int,
        accumulation: int,
        *,
        seed: int,
        order: str = "shuffled",
        bin_tokens: int | None = None,
        processes: int = 1,
        rank: int = 0,
        by_prefix: bool = True,
    ) -> None:
        self._ids: list[Sequence[int]] = [row["input_ids"] for row in rows]
        self._batch_size, self._accumulation = batch_size, accumulation
        self._processes, self._rank = processes, rank
        self._order, self._bin_tokens, self._seed = order, bin_tokens, seed
        self.epoch = 0
        ranked = sorted(range(len(rows)), key=lambda row: list(self._ids[row]) if by_prefix else [len(self._ids[row])])
        self._place = {row: place for place, row in enumerate(ranked)}
        self._families = _families(self._ids, ranked, batch_size) if order == "grouped" else []
        self._length = len(self._epoch(0))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        yield from self._epoch(self.epoch)

    def _epoch(self, epoch: int) -> list[list[int]]:
        draw = random.Random(f"{self._seed} rows {epoch}")
        if self._bin_tokens is not None:
            bins = best_fit_decreasing([len(ids) for ids in self._ids], self._bin_tokens, draw)
            draw.shuffle(bins)
            chunks = [bins[at : at + self._batch_size] for at in range(0, len(bins), self._batch_size)]
            batches = [sorted((row for one in chunk for row in one), key=self._place.__getitem__) for chunk in chunks]
        elif self._order == "grouped":
            batches = self._grouped(draw)
        else:
            batches = self._shuffled(draw)
        batches += [[] for _ in range(-len(batches) % self._processes)]
        return batches[self._rank :: self._processes]

    def _shuffled(self, draw: random.Random) -> list[list[int]]:
        rows = list(range(len(self._ids)))
        draw.shuffle(rows)
        step = self._batch_size * self._accumulation * self._processes
        batches = []
        for start in range(0, len(rows), step):
            chosen = sorted(rows[start : start + step], key=self._place.__getitem__)
            # A last step of few rows is spread over the processes rather than left to the first.
            parts = -(-len(chosen) // self._batch_size)
            parts = min(-(-parts // self._processes) * self._processes, len(chosen))
            batches += [chosen[len(chosen) * at // parts : len(chosen) * (at + 1) // parts] for at in range(parts)]
        return batches

    def _grouped(self, draw: random.Random) -> list[list[int]]:
        size, batches = self._batch_size, []
        left_over: list[int] = []
        for family in self._families:
            members = list(family)
            draw.shuffle(members)
            whole = len(members) - len(members) % size
            batches += [members[at : at + size] for at in range(0, whole, size)]
            left_over += members[whole:]
        left_over.sort(key=self._place.__getitem__)
        batches += [left_over[at : at + size] for at in range(0, len(left_over), size)]
        draw.shuffle(batches)
        return batches


def _families(ids: Sequence[Sequence[int]], ranked: Sequence[int], least: int) -> list[list[int]]:
    """Rows by the deepest node of their prefix tree that holds `least` rows; those of no such node are one family."""
    families: list[list[int]] = []
    stack = [list(ranked)]
    strays: list[int] = []
    while stack:
        rows = stack.pop()
        stop = common_prefix(ids[rows[0]], ids[rows[-1]])
        longer = [row for row in rows if len(ids[row]) > stop]
        branches = [list(same) for _, same in groupby(longer, key=lambda row: ids[row][stop])]
        large = [branch for branch in branches if len(branch) >= least] if len(rows) > 1 else []
        stack += large
        deeper = {row for branch in large for row in branch}
        rest = [row for row in rows if row not in deeper]
        if stop >= MIN_SHARED and rest:
            families.append(rest)
        else:
            strays += rest
    return [*families, strays] if strays else families


def best_fit_decreasing(lengths: Sequence[int], size: int, draw: random.Random) -> list[list[int]]:
    """Numbers of the items in bins of at most `size`; an item that is longer has a bin of its own.

    Items of one length are taken in random order; the sizes of the bins do not depend on it.

    Example:
        >>> [sorted(one) for one in best_fit_decreasing([5, 4, 3, 3], 8, random.Random(0))]
        [[0, 2], [1, 3]]
    """
    items = list(range(len(lengths)))
    draw.shuffle(items)
    items.sort(key=lambda item: -lengths[item])
    bins: list[list[int]] = []
    space: list[tuple[int, int]] = []  # (what is left, number of the bin), smallest first
    for item in items:
        at = bisect_left(space, (lengths[item], -1))
        if at == len(space):
            bins.append([item])
            left, number = size - lengths[item], len(bins) - 1
        else:
            left, number = space.pop(at)
            bins[number].append(item)
            left -= lengths[item]
        if left > 0:
            insort(space, (left, number))
    return bins

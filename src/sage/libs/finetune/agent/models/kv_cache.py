"""Keys and values of many sequences in one buffer, what to compute into it, and attention that reads it in place.

A `RowCache` holds, per layer, keys and values of shape [rows, kv_heads, capacity, head_dim]. A row is one sequence;
its token at position p lies at index p, whatever the other rows do, so rows of different lengths need no padding and
a row's prefix can be copied to another row as it is. Positions past a row's end hold anything finite: the mask lets
a token at position p see the positions up to p of its own row and no others.

Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) shares one key/value head among `group` query heads.
The usual `sdpa` path copies each key and value `group` times per step. Here the group is folded into the query
length instead, [rows, kv_heads, group * length, head_dim], which is the same sum over the same keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

_CHUNK = 64
_MIN_SHARED = 16


class RowCache:
    """Growing key/value buffers, one pair per layer; layers are allocated when they first write.

    Attributes:
        keys: One tensor per layer, [rows, kv_heads, capacity, head_dim].
        values: The same for the values.
        rows: Rows allocated.
        capacity: Positions allocated per row.
    """

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.rows = 0
        self.capacity = 0

    def reserve(self, rows: int, length: int) -> None:
        """Make room for `rows` rows of `length` tokens; what is held stays where it is."""
        if rows <= self.rows and length <= self.capacity:
            return
        old_rows, old_capacity = self.rows, self.capacity
        self.rows = max(rows, old_rows)
        if length > old_capacity:
            # Half as much again, since episodes grow turn by turn and each growth copies everything.
            self.capacity = -(-max(length, old_capacity * 3 // 2) // _CHUNK) * _CHUNK
        for buffers in (self.keys, self.values):
            for layer, old in enumerate(buffers):
                buffers[layer] = self._allocate(old)
                buffers[layer][:old_rows, :, :old_capacity] = old

    def _allocate(self, like: Tensor) -> Tensor:
        # Zeros: a masked position still enters the sum with weight 0, and 0 * nan is nan.
        return like.new_zeros(self.rows, like.shape[1], self.capacity, like.shape[3])

    def write(self, layer: int, index: tuple[Tensor, slice, Tensor], keys: Tensor, values: Tensor) -> None:
        """Store new [rows, kv_heads, length, head_dim] tensors at `index` = (row, all heads, position)."""
        if layer == len(self.keys):
            self.keys.append(self._allocate(keys))
            self.values.append(self._allocate(values))
        self.keys[layer][index] = keys.transpose(1, 2)
        self.values[layer][index] = values.transpose(1, 2)

    def copy_prefix(self, source: int, targets: Sequence[int], length: int) -> None:
        """Give the rows `targets` the first `length` positions of row `source`."""
        index = list(targets)
        for buffer in (*self.keys, *self.values):
            buffer[index, :, :length] = buffer[source, :, :length]

    def swap(self, first: Sequence[int], second: Sequence[int], length: int) -> None:
        """Exchange the first `length` positions of the rows `first` with those of the rows `second`."""
        if not first:
            return
        here, there = [*first, *second], [*second, *first]
        for buffer in (*self.keys, *self.values):
            buffer[here, :, :length] = buffer[there, :, :length]


class RowView:
    """What the model sees as `past_key_values` in one forward: some rows, writing at given positions.

    Args:
        cache: The buffers.
        rows: Which rows, [n]; with `span` they are `span.start`, `span.start + 1`, ...
        positions: Where each row's new tokens go, [n, length].
        used: Positions to attend to: one past the last position of any row.
        span: The same rows as a slice, when they are adjacent; they are then read in place.
    """

    def __init__(self, cache: RowCache, rows: Tensor, positions: Tensor, used: int, span: slice | None = None) -> None:
        self._cache = cache
        self._index = (rows[:, None], slice(None), positions)
        self._read: tuple[Any, ...] = (rows if span is None else span, slice(None), slice(used))

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Store one layer's new keys and values and return all [n, kv_heads, used, head_dim]."""
        self._cache.write(layer_idx, self._index, key_states, value_states)
        return self._cache.keys[layer_idx][self._read], self._cache.values[layer_idx][self._read]


def row_mask(positions: Tensor, used: int, group: int) -> Tensor:
    """Which positions each new token sees, folded as `grouped_attention` wants it.

    Args:
        positions: Position of each new token, [rows, length].
        used: Number of key positions.
        group: Query heads per key/value head.

    Returns:
        Booleans [rows, 1, group * length, used]; [rows, 1, 1, used] for length 1, where they are the same.
    """
    visible = torch.arange(used, device=positions.device) <= positions[:, None, :, None]
    return visible if positions.shape[1] == 1 else visible.repeat(1, 1, group, 1)


def grouped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention in the form transformers' AttentionInterface calls it; dropout is not applied.

    Args:
        module: The attention layer (unused).
        query: [rows, heads, length, head_dim].
        key: [rows, kv_heads, used, head_dim].
        value: Like `key`.
        attention_mask: A mask from `row_mask`.
        scaling: Factor on the scores; default 1 / sqrt(head_dim).

    Returns:
        [rows, length, heads, head_dim], and None for the attention weights.
    """
    rows, heads, length, size = query.shape
    folded = query.reshape(rows, key.shape[1], -1, size)
    out = functional.scaled_dot_product_attention(folded, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(rows, heads, length, size).transpose(1, 2), None


@contextmanager
def grouped_attention_in(model: Any) -> Iterator[None]:
    """Let a transformers model attend with `grouped_attention` inside the `with` block."""
    AttentionInterface.register("sage_grouped", grouped_attention)
    before = model.config._attn_implementation
    model.set_attn_implementation("sage_grouped")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


class Piece(NamedTuple):
    """Tokens [start, stop) of one row, to be computed."""

    row: int
    start: int
    stop: int


class Share(NamedTuple):
    """Compute `piece`, then copy its row's first `piece.stop` positions to `followers`."""

    piece: Piece
    followers: list[int]


def plan_shared_prefixes(prompts: Sequence[list[int]], cached: Sequence[int]) -> list[list[Share]]:
    """Which prefixes to compute once and copy, as a radix tree over the prompts, level by level.

    Args:
        prompts: Token ids per row.
        cached: How many tokens of each row are in the cache already; less than its length.

    Returns:
        Levels to carry out in order; the shares of one level are independent. Each follower gains at least 16 tokens
        and keeps at least its last token to compute.

    Example:
        >>> plan_shared_prefixes([[7] * 20 + [1, 2], [7] * 20 + [3]], [0, 0])
        [[Share(piece=Piece(row=0, start=0, stop=20), followers=[1])]]
    """
    have = list(cached)
    levels: list[list[Share]] = []
    stack = [(sorted(range(len(prompts)), key=lambda row: prompts[row]), 0)]
    while stack:
        rows, depth = stack.pop()
        if len(rows) < 2:
            continue
        # In sorted order the first and the last row differ earliest.
        stop = common_prefix(prompts[rows[0]], prompts[rows[-1]])
        stop = min(stop, min(len(prompts[row]) for row in rows) - 1)
        leader = max(rows, key=have.__getitem__)
        followers = [row for row in rows if row != leader and stop - have[row] >= _MIN_SHARED]
        if followers:
            if depth == len(levels):
                levels.append([])
            levels[depth].append(Share(Piece(leader, min(have[leader], stop), stop), followers))
            depth += 1
            for row in (leader, *followers):
                have[row] = max(have[row], stop)
        longer = [row for row in rows if len(prompts[row]) - 1 > stop]
        stack += [(list(same), depth) for _, same in groupby(longer, key=lambda row: prompts[row][stop])]
    return levels


def prefill_batches(pieces: Sequence[Piece], budget: int) -> Iterator[list[Piece]]:
    """Batches of pieces of similar length, at most `budget` tokens each with padding; longer pieces are cut.

    Example:
        >>> [len(batch) for batch in prefill_batches([Piece(0, 0, 10), Piece(1, 0, 3), Piece(2, 5, 9)], 8)]
        [1, 2, 1]
    """
    rest = []
    for row, start, stop in pieces:
        while stop - start > budget:
            yield [Piece(row, start, start + budget)]
            start += budget
        if start < stop:
            rest.append(Piece(row, start, stop))
    batch: list[Piece] = []
    for piece in sorted(rest, key=lambda piece: piece.stop - piece.start):
        if (len(batch) + 1) * (piece.stop - piece.start) > budget:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of leading tokens two sequences share."""
    for at, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return at
    return min(len(first), len(second))

"""Rows of a batch as one sequence without padding, in which what rows have in common at their beginning stands once.

Rows of one environment share system prompt and tool schemas, often most of their tokens. Attention is causal, so what
a layer computes for these tokens is the same in every row, whatever follows. A batch is therefore a forest: a radix
tree (Morrison, 1968) over the token rows, each node a *segment* of tokens that follow its parent's. All segments lie
one after the other in a single sequence [1, T]:

    rows                a b c d e | a b c x y z | a b q         (| separates rows)
    segments            [a b] [c] [d e] [x y z] [q]             parents: -, 0, 1, 1, 0

Everything in a transformer but attention works on tokens alone, so it needs no change; position ids say where in its
row a token stands. `segment_attention` lets a token see the earlier tokens of its segment and all of its ancestors',
which is exactly what it would see in its own row. Loss and gradient are therefore those of the rows run one by one,
up to rounding: the keys and values of a shared segment are part of the graph, and autograd sums over its readers.

Since one forward of the model computes everything, gradient checkpointing, DDP and FSDP see an ordinary step. With
sharing turned off every row is a segment of its own: packing without cross-attention, as in Krell et al. (2021,
arXiv:2107.02027). The idea of reading a prefix once is known from inference (Hydragen, Juravsky et al. 2024;
RadixAttention, Zheng et al. 2024); what is added here is the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface

from sage.libs.finetune.agent.models.kv_cache import common_prefix
from sage.libs.finetune.agent.tokenization.render import IGNORED

MIN_SHARED = 16
"""Shorter common beginnings are computed once a row: another segment costs more than they do."""

_ATTENTION = "sage_segments"
_BLOCK = 128
_LARGEST_BLOCKED = 1024


class Segment(NamedTuple):
    """A stretch of the packed sequence that belongs to the same rows.

    Attributes:
        start: Its first index in the packed sequence.
        stop: One past its last.
        position: Position of its first token in the rows.
        ancestors: Numbers of the segments before it in its rows, first to last.
    """

    start: int
    stop: int
    position: int
    ancestors: tuple[int, ...]


class Layout:
    """Which segments a packed sequence consists of.

    Args:
        segments: In the order in which they lie, without gaps.

    Attributes:
        segments: The same.
        lengths: Tokens of each.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = list(segments)
        self.lengths = [stop - start for start, stop, _, _ in segments]
        self._biases: dict[tuple[int, int, int, torch.dtype, torch.device], Tensor] = {}

    def bias(self, queries: int, keys: int, group: int, like: Tensor) -> Tensor:
        """What is added to the scores of the last `queries` of `keys` positions: [group * queries, keys].

        Kept for the other layers, which ask for the same.
        """
        name = (queries, keys, group, like.dtype, like.device)
        if name not in self._biases:
            hidden = torch.ones(queries, keys, dtype=torch.bool, device=like.device).triu(keys - queries + 1)
            bias = torch.zeros(queries, keys, dtype=like.dtype, device=like.device).masked_fill_(hidden, -torch.inf)
            self._biases[name] = bias.repeat(group, 1)
        return self._biases[name]


def pack(rows: Sequence[Mapping[str, Any]], share: bool = True) -> dict[str, Any]:
    """Rows as one packed batch.

    Args:
        rows: Each has `input_ids` and `labels` of one length (labels not shifted, -100 where nothing is trained), and
            optionally `weights`; a row without weights counts 1 on each trained token.
        share: Whether rows that begin alike share segments.

    Returns:
        `input_ids` and `position_ids` [1, T]; for each of the N trained tokens `index` [N], the place in the packed
        sequence of the token before it, `targets` [N], its id, `weights` [N], and `owners` [N], the row it belongs
        to; the `layout`; `logical_tokens`, the length of all rows together; and `trained_tokens`, N.

    Example:
        >>> rows = [{"input_ids": [7] * 20 + [n], "labels": [-100] * 20 + [n]} for n in (1, 2, 3)]
        >>> batch = pack(rows)
        >>> batch["input_ids"].shape[1], batch["logical_tokens"], batch["targets"].tolist(), batch["index"].tolist()
        (23, 63, [1, 2, 3], [19, 19, 19])
    """
    ids: list[Sequence[int]] = [row["input_ids"] for row in rows]
    segments, tokens, places = _forest(ids) if share else _side_by_side(ids)
    index, targets, weights, owners = [], [], [], []
    for number, row in enumerate(rows):
        given = row.get("weights")
        for at, label in enumerate(row["labels"]):
            if at and label != IGNORED:
                index.append(places[number][at - 1])
                targets.append(label)
                weights.append(1.0 if given is None else given[at])
                owners.append(number)
    positions = [place for start, stop, first, _ in segments for place in range(first, first + stop - start)]
    return {
        "input_ids": torch.tensor([tokens]),
        "position_ids": torch.tensor([positions]),
        "index": torch.tensor(index, dtype=torch.int64),
        "targets": torch.tensor(targets, dtype=torch.int64),
        "weights": torch.tensor(weights, dtype=torch.float32),
        "owners": torch.tensor(owners, dtype=torch.int64),
        "layout": Layout(segments),
        "logical_tokens": sum(map(len, ids)),
        "trained_tokens": len(targets),
    }


def packed_length(ids: Sequence[Sequence[int]], share: bool = True) -> int:
    """Tokens that `pack` would compute for these rows."""
    return len(_forest(ids)[1]) if share else sum(map(len, ids))


_Packed = tuple[list[Segment], list[int], list[list[int]]]


def _side_by_side(ids: Sequence[Sequence[int]]) -> _Packed:
    segments: list[Segment] = []
    tokens: list[int] = []
    places = []
    for row in ids:
        start = len(tokens)
        tokens += row
        segments.append(Segment(start, len(tokens), 0, ()))
        places.append(list(range(start, len(tokens))))
    return segments, tokens, places


def _forest(ids: Sequence[Sequence[int]]) -> _Packed:
    """Segments in depth-first order, their tokens, and for each row the places of its tokens."""
    segments: list[Segment] = []
    tokens: list[int] = []
    places: list[list[int]] = [[] for _ in ids]

    def add(rows: Sequence[int], stop: int, ancestors: tuple[int, ...]) -> tuple[int, ...]:
        done = len(places[rows[0]])
        start = len(tokens)
        tokens.extend(ids[rows[0]][done:stop])
        for row in rows:
            places[row].extend(range(start, len(tokens)))
        segments.append(Segment(start, len(tokens), done, ancestors))
        return (*ancestors, len(segments) - 1)

    # In sorted order the first and the last row of a stretch differ earliest.
    stack: list[tuple[list[int], tuple[int, ...]]] = [(sorted(range(len(ids)), key=lambda row: list(ids[row])), ())]
    while stack:
        rows, ancestors = stack.pop()
        done = len(places[rows[0]])
        if len(rows) == 1:
            if len(ids[rows[0]]) > done:
                add(rows, len(ids[rows[0]]), ancestors)
            continue
        stop = common_prefix(ids[rows[0]], ids[rows[-1]])
        if stop - done >= MIN_SHARED:
            ancestors = add(rows, stop, ancestors)
        ended = [row for row in rows if len(ids[row]) == stop]
        longer = [row for row in rows if len(ids[row]) > stop]
        branches = [list(same) for _, same in groupby(longer, key=lambda row: ids[row][stop])]
        # Pushed last to first, so that they come off in order.
        stack += [(branch, ancestors) for branch in reversed([*([row] for row in ended), *branches])]
    return segments, tokens, places


def segment_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: Layout | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within the rows of a packed sequence, in the form transformers' AttentionInterface calls it.

    Args:
        module: The attention layer (unused).
        query: [1, heads, T, head_dim].
        key: [1, kv_heads, T, head_dim].
        value: Like `key`.
        attention_mask: Must be None: the layout says what is seen.
        scaling: Factor on the scores; default 1 / sqrt(head_dim).
        layout: The batch's; it comes through the model's keyword arguments.

    Returns:
        [1, T, heads, head_dim], and None for the attention weights.

    Raises:
        ValueError: without a layout, or with a mask: the batch was not made by `pack`.
    """
    if layout is None or attention_mask is not None:
        raise ValueError("this model attends over packed batches at present; give it a batch of models.prefix.pack")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # One split instead of a slice a segment: its backward joins the parts, a slice's fills a tensor of length T.
    queries, keys, values = (torch.split(tensor, layout.lengths, dim=2) for tensor in (query, key, value))
    outputs = []
    for number, segment in enumerate(layout.segments):
        seen = (*segment.ancestors, number)
        k = keys[number] if len(seen) == 1 else torch.cat([keys[one] for one in seen], dim=2)
        v = values[number] if len(seen) == 1 else torch.cat([values[one] for one in seen], dim=2)
        blocked = query.device.type == "cpu" and k.shape[2] <= _LARGEST_BLOCKED
        attend = _blocked_attention if blocked else _fused_attention
        outputs.append(attend(queries[number], k, v, scale, layout).transpose(1, 2))
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)), None


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, layout: Layout) -> Tensor:
    """The library's kernel; its memory does not grow with queries times keys."""
    queries, keys = query.shape[2], key.shape[2]
    shared = query.shape[1] != key.shape[1]
    if queries == keys:
        return functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=shared
        )
    mask: Any = causal_lower_right(queries, keys) if query.is_cuda else layout.bias(queries, keys, 1, query)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=shared)


def _blocked_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, layout: Layout) -> Tensor:
    """Plain products over blocks of queries, each with the keys it may see: on CPUs faster than the fused kernel.

    In bfloat16 the scores are rounded to it, as in transformers' eager attention. The query heads that share a
    key/value head are folded into the query length (see `kv_cache`).
    """
    _, heads, length, size = query.shape
    kv_heads, total = key.shape[1], key.shape[2]
    group = heads // kv_heads
    grouped = query.reshape(kv_heads, group, length, size)
    k, v = key[0].transpose(1, 2), value[0]
    outputs = []
    for start in range(0, length, _BLOCK):
        stop = min(start + _BLOCK, length)
        used = total - length + stop
        q = grouped[:, :, start:stop].reshape(kv_heads, -1, size)
        bias = layout.bias(stop - start, used, group, query)
        scores = torch.baddbmm(bias, q, k[:, :, :used], alpha=scale)
        mixed = torch.bmm(torch.softmax(scores, dim=-1), v[:, :used])
        outputs.append(mixed.view(1, heads, stop - start, size))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)


@contextmanager
def segment_attention_in(model: Any) -> Iterator[None]:
    """Let a transformers model (or a PeftModel around one) attend over packed batches inside the `with` block.

    It has to reach around the backward pass as well, where gradient checkpointing computes layers again.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    AttentionInterface.register(_ATTENTION, segment_attention)
    before = base.config._attn_implementation
    base.set_attn_implementation(_ATTENTION)
    try:
        yield
    finally:
        base.set_attn_implementation(before)

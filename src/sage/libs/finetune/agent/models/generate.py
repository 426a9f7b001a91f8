"""Exact decoding of many prompts at once, with keys and values kept from call to call.

Agent episodes in lockstep ask for one reply each, turn after turn, and every prompt is the last prompt plus the reply
plus an observation. The cached engine therefore computes a token once:

1. a row whose key was in the last call keeps its keys and values up to the first token that changed;
2. rows that begin alike are run once up to where they part, and copied (a radix tree over the prompts, as in
   RadixAttention, Zheng et al. 2024, arXiv:2312.07104, but rebuilt for each call);
3. what remains of each prompt runs in batches of similar length;
4. decoding runs all rows together, and when at most half are unfinished these move to the front and go on alone.

The model's own forward does the work, so LoRA adapters count; only the attention function and the cache are ours
(see `kv_cache`). Architectures for which that is not known to be exact go through `model.generate`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from sage.libs.finetune.agent.errors import ConfigError, DataError, ModelError
from sage.libs.finetune.agent.models.exactness import base_model, inexact_because
from sage.libs.finetune.agent.models.kv_cache import (
    Piece,
    RowCache,
    RowView,
    common_prefix,
    grouped_attention_in,
    plan_shared_prefixes,
    prefill_batches,
    row_mask,
)
from sage.libs.finetune.agent.models.load import LoadedModel
from sage.libs.finetune.agent.models.sampling import AsLogits, Choose, greedy
from sage.libs.finetune.agent.tokenization.template import stop_ids

logger = logging.getLogger(__name__)

_PREFILL_TOKENS = {"cpu": 1024}  # larger batches fall out of the CPU's caches
_PREFILL_TOKENS_ELSEWHERE = 4096


@dataclass
class GenerationStats:
    """What a `Generator` did since it was built.

    Attributes:
        prompt_tokens: Tokens of all prompts given.
        computed_tokens: Those that went through the model; the rest came from the cache or a shared prefix.
        new_tokens: Tokens generated.
        seconds: Wall-clock time inside `generate`.
    """

    prompt_tokens: int = 0
    computed_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0


@dataclass
class _Row:
    """One sequence: prompt and reply in `tokens`, of which the first `cached` are in the cache."""

    key: Hashable
    number: int
    tokens: list[int]
    prompt_length: int
    cached: int = 0
    finished: bool = False


class Generator:
    """Decoding of token prompts, greedy or sampled.

    Args:
        model: A causal language model of transformers, or a PeftModel around one.
        stop_ids: Tokens that end a reply.
        pad_id: Any valid token, used to fill up batches.
        max_batch: Rows decoded together; more prompts run one group after the other.
        fast: None takes the cached engine where it is exact, True demands it, False takes `model.generate`.

    Attributes:
        engine: "cached" or "plain".
        reason: Why "plain" was taken; empty for "cached".
        stats: A `GenerationStats`, summed over all calls.

    Raises:
        ModelError: `fast=True` on a model the cached engine does not cover, or an encoder-decoder model.

    Example:
        >>> generator = Generator(model, stop_ids=[tokenizer.eos_token_id], pad_id=0)  # doctest: +SKIP
        >>> generator.generate([[5, 6, 7]], max_new_tokens=8, keys=["episode 1"])  # doctest: +SKIP
        [[11, 12, 2]]
    """

    def __init__(
        self, model: Any, *, stop_ids: Sequence[int], pad_id: int, max_batch: int = 64, fast: bool | None = None
    ) -> None:
        self._model = model
        self._base = base_model(model)
        self._stop_ids = frozenset(stop_ids)
        self._pad_id = pad_id
        self._max_batch = max_batch
        self._cache = RowCache()
        self._rows: list[_Row] = []
        self.stats = GenerationStats()
        if self._base.config.is_encoder_decoder:
            raise ModelError(
                f"model type '{self._base.config.model_type}' is an encoder-decoder; give a causal language model"
            )
        self.reason = "fast=False was asked for" if fast is False else inexact_because(model)
        self.engine = "plain" if self.reason else "cached"
        if self.reason:
            logger.info("replies come from model.generate: %s", self.reason)
        if fast and self.reason:
            raise ModelError(f"fast=True, but {self.reason}; leave fast at None to use model.generate")

    @classmethod
    def of(cls, loaded: LoadedModel, max_batch: int = 64) -> Generator:
        """The generator of a loaded model, with the stop tokens of its template."""
        tokenizer, settings = loaded.tokenizer, loaded.model.generation_config
        pad_id = tokenizer.pad_token_id or 0
        return cls(loaded.model, stop_ids=stop_ids(tokenizer, settings), pad_id=pad_id, max_batch=max_batch)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        keys: Sequence[Hashable] | None = None,
        choose: Choose = greedy,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[int]]:
        """Continue each prompt, token by token, until a stop token or `max_new_tokens`.

        Args:
            prompts: Token ids; none may be empty.
            max_new_tokens: Longest reply, in tokens.
            keys: A name per prompt, the same for the same episode in each call. The keys and values of every row are
                kept until the next call, where the row with the same name goes on from the first token that changed;
                rows not named in that call are dropped, all of them if it has no `keys`. Call `forget` when the
                weights or the active adapter changed. The plain engine ignores them.
            choose: Picks the next tokens: the most probable ones, or a `Sampler` with one seed a prompt.
            on_progress: Called with the number of finished replies whenever it grew.

        Returns:
            The replies without their prompts, in order, each with its stop token if it reached one.

        Raises:
            ConfigError: `max_new_tokens` is below 1.
            DataError: an empty prompt, or `keys` that are not one distinct name per prompt.
            ModelError: the model computes NaN.
        """
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
        for index, prompt in enumerate(prompts):
            if not prompt:
                raise DataError(f"prompts[{index}] is empty; a prompt needs at least one token")
        if keys is not None and (len(keys) != len(prompts) or len(set(keys)) != len(keys)):
            raise DataError(
                f"keys: expected {len(prompts)} distinct names, one per prompt, found {len(set(keys))} in {len(keys)}"
            )
        begin = time.perf_counter()
        report = on_progress or (lambda _: None)
        with torch.inference_mode(), _eval_mode(self._model):
            if self.engine == "plain":
                replies = self._plain(prompts, max_new_tokens, choose, report)
            else:
                with grouped_attention_in(self._base):
                    replies = self._cached(prompts, max_new_tokens, keys, choose, report)
        self.stats.prompt_tokens += sum(map(len, prompts))
        self.stats.new_tokens += sum(map(len, replies))
        self.stats.seconds += time.perf_counter() - begin
        return replies

    def forget(self, keys: Sequence[Hashable] | None = None) -> None:
        """Drop the cached rows of `keys`; without `keys` drop all and free the memory."""
        if keys is None:
            self._rows, self._cache = [], RowCache()
        else:
            for row in self._rows:
                if row.key in set(keys):
                    row.cached = 0

    def _plain(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, choose: Choose, report: Callable[[int], None]
    ) -> list[list[int]]:
        # `generate` fills unset options from the model's own generation config, which may hold penalties or sampling.
        neutral = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=sorted(self._stop_ids) or None,
            pad_token_id=self._pad_id,
        )  # fmt: skip
        own, self._base.generation_config = self._base.generation_config, neutral
        replies: list[list[int]] = []
        try:
            for lo, hi in _groups(len(prompts), self._max_batch):
                width = max(map(len, prompts[lo:hi]))
                ids = [[self._pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts[lo:hi]]
                mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts[lo:hi]]
                out = self._model.generate(
                    input_ids=self._tensor(ids), attention_mask=self._tensor(mask), generation_config=neutral,
                    logits_processor=[AsLogits(choose, lo)],
                )  # fmt: skip
                replies += [self._until_stop(reply) for reply in out[:, width:].tolist()]
                report(hi)
        finally:
            self._base.generation_config = own
        self.stats.computed_tokens += sum(map(len, prompts))
        return replies

    def _until_stop(self, reply: list[int]) -> list[int]:
        return reply[: next((at + 1 for at, token in enumerate(reply) if token in self._stop_ids), len(reply))]

    def _cached(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        keys: Sequence[Hashable] | None,
        choose: Choose,
        report: Callable[[int], None],
    ) -> list[list[int]]:
        # Taken away for the length of the call: if it breaks off, nothing half-written is reused.
        held, self._rows = self._rows, []
        named = [_Row(i if keys is None else keys[i], i, [*p], len(p)) for i, p in enumerate(prompts)]
        rows = [*named] if keys is None else self._place(named, held)
        # Unnamed rows are not read again, so each group may overwrite the one before.
        allocated = min(len(rows), self._max_batch) if keys is None else len(rows)
        self._cache.reserve(allocated, max(map(len, prompts), default=0) + max_new_tokens)
        for lo, hi in _groups(len(rows), self._max_batch):
            group, offset = rows[lo:hi], 0 if keys is None else lo
            hidden = self._prefill(group, offset)
            self._decode(group, offset, hidden, max_new_tokens, choose, lambda count, lo=lo: report(lo + count))  # type: ignore[misc]
            rows[lo:hi] = group
        if keys is None:
            self.forget()
        else:
            self._rows = rows
        return [row.tokens[row.prompt_length :] for row in named]

    def _place(self, rows: list[_Row], held: list[_Row]) -> list[_Row]:
        """Order `rows` so that row i can use cache row i: first those `held` from the last call, then new ones."""
        wanted = {row.key: row for row in rows}
        staying = sum(row.key in wanted for row in held)
        holes = [at for at, row in enumerate(held[:staying]) if row.key not in wanted]
        movers = [at for at, row in enumerate(held) if at >= staying and row.key in wanted]
        self._cache.swap(holes, movers, max((held[at].cached for at in movers), default=0))
        for hole, mover in zip(holes, movers, strict=True):
            held[hole] = held[mover]
        placed = [wanted.pop(old.key) for old in held[:staying]]
        for row, old in zip(placed, held, strict=False):
            row.cached = min(common_prefix(row.tokens, old.tokens), old.cached, len(row.tokens) - 1)
        return [*placed, *wanted.values()]

    def _prefill(self, rows: list[_Row], offset: int) -> Tensor:
        """Compute what the cache lacks of each prompt; returns the hidden state of its last token, [rows, hidden]."""
        for level in plan_shared_prefixes([row.tokens for row in rows], [row.cached for row in rows]):
            self._compute(rows, [share.piece for share in level], offset)
            for (leader, _, stop), followers in level:
                self._cache.copy_prefix(offset + leader, [offset + row for row in followers], stop)
                for follower in followers:
                    rows[follower].cached = stop
        last = self._compute(rows, [Piece(at, row.cached, len(row.tokens)) for at, row in enumerate(rows)], offset)
        return torch.stack([last[at] for at in range(len(rows))])

    def _compute(self, rows: list[_Row], pieces: list[Piece], offset: int) -> dict[int, Tensor]:
        """Run `pieces` through the model; returns the hidden state of each row's last computed token."""
        last: dict[int, Tensor] = {}
        budget = _PREFILL_TOKENS.get(self._base.device.type, _PREFILL_TOKENS_ELSEWHERE)
        for batch in prefill_batches(pieces, budget):
            length = max(stop - start for _, start, stop in batch)
            tokens = [rows[at].tokens[start:stop] for at, start, stop in batch]
            ids = self._tensor([part + [self._pad_id] * (length - len(part)) for part in tokens])
            # Padding is written to the first free position, where the next token will overwrite it.
            starts = self._tensor([[start] for _, start, _ in batch])
            stops = self._tensor([[stop] for _, _, stop in batch])
            positions = torch.minimum(starts + torch.arange(length, device=ids.device), stops)
            index = self._tensor([offset + at for at, _, _ in batch])
            hidden = self._forward(ids, positions, index, max(stop for _, _, stop in batch))
            for at, (row, start, stop) in enumerate(batch):
                last[row] = hidden[at, stop - start - 1]
                rows[row].cached = stop
                self.stats.computed_tokens += stop - start
        return last

    def _forward(self, ids: Tensor, positions: Tensor, rows: Tensor, used: int, span: slice | None = None) -> Tensor:
        config = self._base.config
        group = config.num_attention_heads // config.num_key_value_heads
        output = self._base.base_model(
            input_ids=ids,
            attention_mask=row_mask(positions, used, group),
            position_ids=positions,
            past_key_values=RowView(self._cache, rows, positions, used, span),
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _decode(
        self, rows: list[_Row], offset: int, hidden: Tensor, max_new_tokens: int, choose: Choose,
        report: Callable[[int], None],
    ) -> None:  # fmt: skip
        """Append to each row its reply; `rows` is reordered as the cache rows are."""
        head = self._base.get_output_embeddings()
        active, unfinished = len(rows), len(rows)
        while True:
            # argmax over bfloat16 is several times slower on CPU; the widening changes no value.
            chosen = choose(head(hidden).float(), [row.number for row in rows[:active]])
            for row, token in zip(rows[:active], chosen, strict=True):
                if not row.finished:
                    row.tokens.append(token)
                    full = len(row.tokens) - row.prompt_length == max_new_tokens
                    row.finished = full or token in self._stop_ids
                    row.cached = len(row.tokens) - 1
            running = [at for at in range(active) if not rows[at].finished]
            if len(running) < unfinished:
                unfinished = len(running)
                report(len(rows) - unfinished)
            if not running:
                return
            if unfinished * 2 <= active:
                active = unfinished
                self._bring_forward(rows, running, offset)
            # A finished row that is still in the batch repeats its last token in place, which changes nothing.
            ids = self._tensor([row.tokens[-1:] for row in rows[:active]])
            positions = self._tensor([[len(row.tokens) - 1] for row in rows[:active]])
            span = slice(offset, offset + active)
            index = torch.arange(span.start, span.stop, device=ids.device)
            used = max(len(row.tokens) for row in rows[:active])
            hidden = self._forward(ids, positions, index, used, span)[:, -1]

    def _bring_forward(self, rows: list[_Row], running: list[int], offset: int) -> None:
        """Exchange finished rows at the front with the `running` rows behind them."""
        holes = [at for at in range(len(running)) if rows[at].finished]
        movers = [at for at in running if at >= len(running)]
        length = max((rows[at].cached for at in (*holes, *movers)), default=0)
        self._cache.swap([offset + at for at in holes], [offset + at for at in movers], length)
        for hole, mover in zip(holes, movers, strict=True):
            rows[hole], rows[mover] = rows[mover], rows[hole]

    def _tensor(self, values: list[Any]) -> Tensor:
        return torch.tensor(values, device=self._base.device)


def _groups(total: int, largest: int) -> Iterator[tuple[int, int]]:
    """Ranges of nearly equal size, none over `largest`."""
    count = math.ceil(total / largest)
    for at in range(count):
        yield total * at // count, total * (at + 1) // count


@contextmanager
def _eval_mode(model: torch.nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True

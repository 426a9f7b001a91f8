"""Replies of a model on this machine: greedy, in batches, and what prompts have in common computed once.

Prompts are sorted by their tokens, so that those which begin alike (the same system message and tools) come into one
batch, where the generator runs what they share a single time.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sage.libs.finetune.agent.capabilities.repliers import Reply, in_words
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.evaluation.score import Item
from sage.libs.finetune.agent.models.generate import Generator
from sage.libs.finetune.agent.models.load import SMALL_MODEL, LoadedModel, load_model, load_tokenizer
from sage.libs.finetune.agent.tokenization.render import render_prompt
from sage.libs.finetune.agent.tokenization.template import prepare_template, stop_ids


class LocalReplier:
    """Replies of a loaded model.

    Args:
        loaded: Model and tokenizer.
        name: What it is called in reports.
        batch_size: Prompts continued together.
        max_new_tokens: Longest reply.
    """

    def __init__(self, loaded: LoadedModel, *, name: str, batch_size: int = 32, max_new_tokens: int = 256) -> None:
        self.loaded = loaded
        self.name = name
        self.so_far: dict[int, Reply] = {}
        self._batch_size = batch_size
        self._max_new_tokens = max_new_tokens
        self._stop_ids = frozenset(stop_ids(loaded.tokenizer, loaded.model.generation_config))

    def replies(self, items: Sequence[Item], told: Callable[[int], None] = lambda _: None) -> list[Reply]:
        """One reply an item, in their order; a prompt that the model cannot be given is an error of its item."""
        found = self.so_far = {}
        prompts: dict[int, list[int]] = {}
        for at, item in enumerate(items):
            try:
                prompts[at] = self._prompt(item)
            except DataError as error:
                found[at] = Reply("", in_words(error))
        order = sorted(prompts, key=prompts.__getitem__)
        generator = Generator.of(self.loaded, self._batch_size)
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            replies = self._generate(generator, [prompts[at] for at in batch], partial(_told_so_far, told, len(found)))
            found.update(zip(batch, replies, strict=True))
            told(len(found))
        return [found[at] for at in range(len(items))]

    def _prompt(self, item: Item) -> list[int]:
        prompt = render_prompt(item["messages"], item.get("tools") or None, self.loaded.tokenizer)
        window = getattr(self.loaded.model.config.get_text_config(), "max_position_embeddings", None)
        if window and len(prompt) + self._max_new_tokens > window:
            raise DataError(
                f"the prompt has {len(prompt)} tokens, which with max_new_tokens={self._max_new_tokens} is more than "
                f"the model's {window}"
            )
        return prompt

    def _generate(self, generator: Generator, prompts: list[list[int]], told: Callable[[int], None]) -> list[Reply]:
        begin = time.perf_counter()
        try:
            found = generator.generate(prompts, max_new_tokens=self._max_new_tokens, on_progress=told)
        except Exception as error:  # the model is foreign code: these items have no reply, others may
            return [Reply("", in_words(error), (time.perf_counter() - begin) / len(prompts))] * len(prompts)
        seconds = (time.perf_counter() - begin) / len(prompts)
        return [self._read(tokens, seconds) for tokens in found]

    def _read(self, tokens: list[int], seconds: float) -> Reply:
        ended = bool(tokens) and tokens[-1] in self._stop_ids
        text = self.loaded.tokenizer.decode(tokens[:-1] if ended else tokens, clean_up_tokenization_spaces=False)
        return Reply(str(text), None, seconds, cut=not ended)


def _told_so_far(told: Callable[[int], None], before: int, count: int) -> None:
    told(before + count)


def as_loaded(model: Any, tokenizer: Any = None, dtype: str = "auto", tool_format: str = "auto") -> LoadedModel:
    """A model with its tokenizer and a chat template that can show tools.

    Args:
        model: A name or folder, a trainer, a LoadedModel, or a model of transformers or PEFT.
        tokenizer: Of the latter; it is not changed. None for the one saved with the model.
        dtype: Of a model that is loaded.
        tool_format: See `prepare_template`; a trainer and a LoadedModel have theirs.

    Raises:
        ConfigError: when there is no tokenizer.
        ModelError: when the model cannot be loaded, or has no usable chat template.
    """
    if isinstance(model, str | Path):
        return load_model(str(model), dtype=dtype, tool_format=tool_format)
    if isinstance(model, LoadedModel):
        return model
    if hasattr(type(model), "loaded"):
        loaded: LoadedModel = model.loaded
        return loaded
    location = str(getattr(model, "name_or_path", "") or "")
    if tokenizer is None and not location:
        raise ConfigError(f"model: {type(model).__name__} was saved nowhere, so give its tokenizer")
    if tokenizer is None:
        tokenizer, template = load_tokenizer(location, tool_format=tool_format)
    else:
        tokenizer = copy.deepcopy(tokenizer)
        template = prepare_template(tokenizer, tool_format, small_model=model.num_parameters() < SMALL_MODEL)
    return LoadedModel(model, tokenizer, template, location or type(model).__name__)

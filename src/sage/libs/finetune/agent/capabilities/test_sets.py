"""Test sets that come with the package, by capability, and training rows for the same capabilities.

Everything is made on the spot from the desk environment and from generators, seeded. What an item says decides by its
hash which of train, dev and test may use it, so a test set shares no prompt with training rows, whatever their seeds.
The data set `agent_capabilities:train|dev|test` is these rows with the right reply as the assistant's turn.

Episodes of the desk are no planning items: which ids its later calls need is not known when a plan is made, and names
of tools alone would be a poor gold plan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sage.libs.finetune.agent.capabilities.desk_items import tool_use_items
from sage.libs.finetune.agent.capabilities.timing_items import timing_items
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.evaluation.instruction_items import instruction_items
from sage.libs.finetune.agent.evaluation.known import CAPABILITIES
from sage.libs.finetune.agent.evaluation.planning.items import planning_items
from sage.libs.finetune.agent.evaluation.reasoning_items import reasoning_items
from sage.libs.finetune.agent.evaluation.score import Item
from sage.libs.finetune.agent.registry import suggestion
from sage.libs.finetune.agent.types import Message, Sample

Generate = Callable[[str, int, int], list[Item]]
"""`(split, n, seed) -> items`, the longer list beginning with the shorter."""

_GENERATORS: dict[str, Generate] = {
    "tool_use": tool_use_items,
    "planning": planning_items,
    "reasoning": reasoning_items,
    "instruction_following": instruction_items,
    "timing": timing_items,
}
BUILT_IN = tuple(_GENERATORS)
"""The capabilities that have a built-in test set, in the order of reports."""
ROWS = {"train": 1000, "dev": 100, "test": 320}
"""Rows of `agent_capabilities:SPLIT`, all capabilities together."""


def test_set(capability: str, n: int = 64, split: str = "test", seed: int = 0) -> list[Item]:
    """Items of a built-in test set; a longer list begins with a shorter one.

    Args:
        capability: One of `BUILT_IN`.
        n: How many.
        split: test, dev or train; no prompt is in two of them.
        seed: Fixes what is drawn.

    Raises:
        ConfigError: for an unknown capability or split, fewer than one item, or more than there are.

    Example:
        >>> items = test_set("timing", 2)
        >>> [item["gold"]["call"] for item in items]
        [True, False]
    """
    if capability not in _GENERATORS:
        near = suggestion(capability, BUILT_IN)
        raise ConfigError(f"no built-in test set of '{capability}'; {near}there are: {', '.join(BUILT_IN)}")
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ConfigError(f"test set '{capability}': n={n!r}: expected a whole number of at least 1")
    return _GENERATORS[capability](split, n, seed)


test_set.__test__ = False  # type: ignore[attr-defined]  # pytest takes what is called so for a test


def training_rows(n: int, seed: int = 0, split: str = "train") -> list[Sample]:
    """Training rows for all capabilities in turn: the prompt of an item, and the right reply as the assistant's turn.

    Args:
        n: How many in all; every capability has equally many, to within one row.
        seed: Fixes what is drawn.
        split: As for `test_set`.

    Returns:
        Canonical rows; `metadata.task_type` is the capability, and `metadata.task_id` the item's id.

    Example:
        >>> [row["metadata"]["task_type"] for row in training_rows(2)]
        ['tool_use', 'planning']
    """
    counts = [n // len(BUILT_IN) + (place < n % len(BUILT_IN)) for place in range(len(BUILT_IN))]
    sets = [
        [_row(capability, item) for item in test_set(capability, count, split, seed)] if count else []
        for capability, count in zip(BUILT_IN, counts, strict=True)
    ]
    return [sets[index % len(BUILT_IN)][index // len(BUILT_IN)] for index in range(n)]


def capability_samples(split: str) -> list[Sample]:
    """The rows of `agent_capabilities:SPLIT`.

    Args:
        split: train (1000 rows), dev (100) or test (320: the first 64 items of each built-in test set, answered).

    Raises:
        DataError: for another split.
    """
    if split not in ROWS:
        raise DataError(f"agent_capabilities has no split '{split}'; it has {', '.join(ROWS)}")
    return training_rows(ROWS[split], split=split)


def _row(capability: str, item: Item) -> Sample:
    meta = item["metadata"]
    facts: dict[str, Any] = {name: meta[name] for name in ("category", "kind", "level") if name in meta}
    turn: Message = meta["turn"] if "turn" in meta else {"role": "assistant", "content": _gold_reply(capability, item)}
    return {
        "messages": [*item["messages"], turn],
        "tools": item["tools"],
        "metadata": {"task_type": capability, "task_id": item["id"], **facts},
    }


def _gold_reply(capability: str, item: Item) -> str:
    write = CAPABILITIES[capability].gold_reply
    assert write is not None, "each of the built-in capabilities can write one"
    return write(item)

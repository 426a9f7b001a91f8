"""Data sets with weights, written as text: `tools.jsonl:0.35, plans=old/rows.jsonl:0.3, agent_sft:train:0.2`.

What stands after the last colon is a weight when it is a number, so `agent_sft:train` has none. A text that is the name
of an existing file, as a whole or as an item of a list, is that file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.mixing.strategies import STRATEGIES

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_SUFFIX = re.compile(r"(\.(jsonl|ndjson|json|parquet))?(\.gz)?$", re.IGNORECASE)


@dataclass(frozen=True)
class WeightedData:
    """One data set of a mix.

    Attributes:
        name: Of its task: as given, else the file's name without its ending, or that of the known data set.
        reference: File, folder, or `name:split`.
        weight: None when none was given.
    """

    name: str
    reference: str
    weight: float | None


def read_reference(text: str) -> WeightedData:
    """One item: `[NAME=]REFERENCE[:WEIGHT]`.

    Example:
        >>> read_reference("data/tools.jsonl:0.35")
        WeightedData(name='tools', reference='data/tools.jsonl', weight=0.35)
        >>> read_reference("desk=agent_sft:train")
        WeightedData(name='desk', reference='agent_sft:train', weight=None)
    """
    name, weight, reference = "", None, text.strip()
    named = _NAMED.fullmatch(reference)
    if named and not os.path.exists(reference) and not os.path.exists(_weighted(reference)[0]):
        name, reference = named[1], named[2].strip()
    if not os.path.exists(reference):
        reference, weight = _weighted(reference)
    return WeightedData(name or _task_name(reference), reference, weight)


def read_references(text: str) -> list[WeightedData]:
    """All items of a text, separated by commas.

    Raises:
        ConfigError: for an item without a reference.

    Example:
        >>> [item.weight for item in read_references("a.jsonl:0.35, agent_sft:train:0.2")]
        [0.35, 0.2]
    """
    if os.path.exists(text):
        return [read_reference(text)]
    items = [read_reference(item) for item in text.split(",")]
    if not all(item.reference for item in items):
        raise ConfigError(
            f"'{text:.100}': an item of the list is empty; expected REFERENCE:WEIGHT, separated by commas"
        )
    return items


def names_a_mix(text: str) -> bool:
    """Whether a text names several data sets, or one with a weight.

    Example:
        >>> names_a_mix("agent_sft:train"), names_a_mix("a.jsonl:0.5, b.jsonl:0.5")
        (False, True)
    """
    items = read_references(text)
    return len(items) > 1 or items[0].weight is not None


def task_weights(items: Sequence[WeightedData], strategy: str) -> dict[str, float]:
    """The weights by name; 1 for each without one where the strategy does not read weights.

    Raises:
        ConfigError: when two have the same name, or a weight is missing.

    Example:
        >>> task_weights(read_references("a.jsonl, b.jsonl"), "balanced")
        {'a': 1.0, 'b': 1.0}
    """
    for item in items:
        if twice := [other for other in items if other.name == item.name and other is not item]:
            raise ConfigError(
                f"{item.reference} and {twice[0].reference} are both called '{item.name}'; name one of them: "
                f"OTHER={twice[0].reference}"
            )
    missing = [item.reference for item in items if item.weight is None]
    if missing and STRATEGIES[strategy].reads_weights:
        free = ", ".join(name for name in STRATEGIES if not STRATEGIES[name].reads_weights)
        raise ConfigError(
            f"{', '.join(missing)}: a weight is missing (REFERENCE:WEIGHT); give one to every data set, or take a "
            f"strategy without: {free}"
        )
    return {item.name: 1.0 if item.weight is None else item.weight for item in items}


def _weighted(text: str) -> tuple[str, float | None]:
    """A reference without its weight, and the weight."""
    before, _, last = text.rpartition(":")
    return (before.strip(), float(last)) if before and _NUMBER.fullmatch(last.strip()) else (text, None)


def _task_name(reference: str) -> str:
    """The file's name without its ending; for `name:split` the name."""
    if ":" in reference and not os.path.exists(reference):
        return reference.partition(":")[0]
    return _SUFFIX.sub("", Path(reference).name) or reference

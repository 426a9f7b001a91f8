"""The published single-turn test sets of the Berkeley function-calling leaderboard (BFCL v4) as items of `tool_use`.

The data are read from the package `bfcl-eval` where it is installed, without importing it: it asks for the libraries of
every model provider. Therefore `pip install --no-deps bfcl-eval`, or its wheel or folder named in `SAGE_BFCL`.

Functions are shown to the model as JSON schema (BFCL's dict is object, float number, tuple array, any no type) under
their own names, dots included; the item's gold keeps the functions in BFCL's words, by which arguments are checked.
A prompt here is the model's own chat template and a reply is scored once, so the figures are no entries of the
leaderboard, and say so. Categories of several turns, of other programming languages, and those that need the internet
or a database are left to the leaderboard's own program.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.evaluation.score import Item
from sage.libs.finetune.agent.evaluation.scorers.tool_gold import read_gold
from sage.libs.finetune.agent.registry import suggestion

BFCL_LABEL = "not a leaderboard score"
"""What every result on these items is labelled with."""

CATEGORIES = (
    "simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance",
    "live_simple", "live_multiple", "live_parallel", "live_parallel_multiple", "live_relevance", "live_irrelevance",
)  # fmt: skip
PLACE = "SAGE_BFCL"
"""The environment variable that names the wheel or folder of `bfcl-eval` when it is not installed."""

_WITHOUT_GOLD: dict[str, dict[str, Any]] = {
    "irrelevance": {"calls": []},
    "live_irrelevance": {"calls": []},
    "live_relevance": {"any_call": True},
}
_JSON_TYPES = {"dict": "object", "float": "number", "tuple": "array"}


def bfcl_items(category: str) -> list[Item]:
    """The test items of a category.

    Args:
        category: One of `CATEGORIES`; `irrelevance` means that no call is right, `live_relevance` that any is.

    Returns:
        Items with `gold` as `tool_use` reads it and the published id; `metadata` names the category and carries the
        label.

    Raises:
        ConfigError: when the category is none of these, or the data are nowhere to be found.
        DataError: naming file and line of a row that is not as published.

    Example:
        >>> bfcl_items("multi_turn_base")
        Traceback (most recent call last):
        sage.libs.finetune.agent.errors.ConfigError: bfcl:multi_turn_base: only categories of one turn and in Python \
can be scored here; known: simple_python, multiple, parallel, parallel_multiple, irrelevance, live_simple, \
live_multiple, live_parallel, live_parallel_multiple, live_relevance, live_irrelevance
    """
    _require_known(category)
    name = f"BFCL_v4_{category}.json"
    rows = _rows(name)
    truths = {} if category in _WITHOUT_GOLD else {row["id"]: row for _, row in _rows(f"possible_answer/{name}")}
    items = []
    for where, row in rows:
        if not truths:
            gold = {**_WITHOUT_GOLD[category], "functions": row["function"]}
        elif row["id"] in truths:
            gold = read_gold({**row, "ground_truth": truths[row["id"]]["ground_truth"]}, where)
        else:
            raise DataError(f"{where}: possible_answer/{name} has no row '{row['id']}'")
        items.append(
            {
                "id": row["id"],
                "messages": row["question"][0],
                "tools": [_tool(function) for function in row["function"]],
                "gold": gold,
                "metadata": {"category": category, "label": BFCL_LABEL},
            }
        )
    return items


def _require_known(category: str) -> None:
    if category in CATEGORIES:
        return
    known = f"known: {', '.join(CATEGORIES)}"
    if not category:
        raise ConfigError(f"bfcl: name a category, as in bfcl:simple_python; {known}")
    if category.startswith(("multi_turn", "simple_java", "memory", "web_search")):
        raise ConfigError(f"bfcl:{category}: only categories of one turn and in Python can be scored here; {known}")
    raise ConfigError(f"bfcl:{category}: unknown category; {suggestion(category, CATEGORIES)}{known}")


def _rows(name: str) -> list[tuple[str, dict[str, Any]]]:
    """Each row of a published file with its place."""
    rows = []
    for number, line in enumerate(_text(name).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: is not valid JSON: {error}") from None
        needed = ("id", "ground_truth") if "/" in name else ("id", "question", "function")
        if not isinstance(row, dict) or any(key not in row for key in needed):
            raise DataError(f"{where}: expected an object with {', '.join(needed)}")
        rows.append((where, row))
    return rows


def _text(name: str) -> str:
    """The text of a published file, out of the folder or the wheel."""
    place = _place()
    try:
        if place.is_dir():
            folder = next((f for f in (place / "bfcl_eval" / "data", place / "data") if f.is_dir()), place)
            return (folder / name).read_text(encoding="utf-8")
        with zipfile.ZipFile(place) as wheel:
            return wheel.read(f"bfcl_eval/data/{name}").decode("utf-8")
    except (OSError, KeyError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise ConfigError(f"bfcl: {place} does not hold {name} of bfcl-eval (BFCL v4): {error}") from None


def _place() -> Path:
    if named := os.environ.get(PLACE):
        return Path(named).expanduser()
    spec = find_spec("bfcl_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"bfcl: the published data are not installed; run: pip install --no-deps bfcl-eval (or set {PLACE} to its "
            "wheel or folder)"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {**function, "parameters": _json_schema(function["parameters"])}}


def _json_schema(schema: Any) -> Any:
    """The schema with JSON schema's names of types, also of what it holds."""
    if not isinstance(schema, dict):
        return schema
    plain = dict(schema)
    if plain.get("type") == "any":
        del plain["type"]
    elif isinstance(plain.get("type"), str):
        plain["type"] = _JSON_TYPES.get(plain["type"], plain["type"])
    if isinstance(properties := plain.get("properties"), dict):
        plain["properties"] = {name: _json_schema(value) for name, value in properties.items()}
    for key in ("items", "additionalProperties"):
        if key in plain:
            plain[key] = _json_schema(plain[key])
    return plain

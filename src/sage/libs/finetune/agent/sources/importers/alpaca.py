"""Alpaca's form: `{"instruction", "input", "output"}`, with `system` and `history` where there are more turns.

`input` follows the instruction after a line end. `history` is a list of pairs, what was asked and answered before;
LLaMA-Factory trains on those answers too, and so do we.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.sources.importers.base import Importer, read_metadata, read_tools
from sage.libs.finetune.agent.sources.importers.weights import refuse_row_switches


def _matches(row: Mapping[str, Any]) -> bool:
    return (
        isinstance(row.get("instruction"), str)
        and isinstance(row.get("output"), str)
        and not any(key in row for key in ("messages", "conversations", "steps"))
    )


def _read(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    refuse_row_switches(row, where)
    fields = ("instruction", "output", "input", "system")
    for name in fields:
        value = row.get(name)
        if not isinstance(value, str) and (value is not None or name in fields[:2]):
            raise DataError(f"{where}: field '{name}': expected text, found {type(value).__name__}")
    history = row.get("history") or []
    if not isinstance(history, list):
        raise DataError(f"{where}: field 'history': expected a list of [asked, answered], found {history!r:.80}")
    turns = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for index, pair in enumerate(history):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise DataError(f"{where}: history[{index}]: expected [asked, answered], two texts, found {pair!r:.80}")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    asked = "\n".join(filter(None, (row["instruction"], row.get("input"))))
    turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]
    return {
        "messages": turns,
        "tools": read_tools(row.get("tools"), f"{where}: tools"),
        "metadata": read_metadata(row, (*fields, "history", "tools")),
    }


ALPACA = Importer(
    name="alpaca",
    matches=_matches,
    read=_read,
    needs="{'instruction': ..., 'input': ..., 'output': ...}",
)

"""The switches that say whether a turn is trained on, by four names; `weight` alone comes out.

    weight      number: how much the turn counts (OpenAI)
    train       true or false (axolotl)
    loss        true, false, a number, or null for the default (ms-swift, AgentInstruct, AgentGym)
    loss_mask   1, 0, true or false (verl)

A switch that is passed over trains on turns the author left out, so none is, and what cannot be followed is refused:
switches that contradict each other, lists of them, one for a whole row or for a part of a turn (axolotl's
`train_detail`), and any that would train on another's turn.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from sage.libs.finetune.agent.errors import DataError

SWITCHES = ("weight", "train", "loss", "loss_mask")
UNSUPPORTED = ("training", "train_detail")
_SUPPORTED = "give each assistant message 'weight' (a number), 'train', 'loss' or 'loss_mask' (true or false)"


def read_weight(message: dict[str, Any], where: str) -> dict[str, Any]:
    """The message with its switches as one `weight`, without one if it has none; `where` names file, line, message.

    Raises:
        DataError: for a switch that is no number from 0 up, no boolean and not null; for two that disagree (true
            agrees with every weight above 0); for one that wants a turn trained on that is not the assistant's.

    Example:
        >>> read_weight({"role": "assistant", "content": "Hi", "loss": False}, "a.jsonl:1: messages[1]")
        {'role': 'assistant', 'content': 'Hi', 'weight': 0.0}
    """
    found: dict[str, float] = {}
    for name in UNSUPPORTED:
        if message.get(name) not in (None, []):
            raise DataError(f"{where}.{name}: this switch is not supported; {_SUPPORTED}")
    for name in SWITCHES:
        if message.get(name) is not None:
            found[name] = _weight(name, message[name], where)
    kept = {name: value for name, value in message.items() if name not in SWITCHES}
    if not found:
        return kept
    if message["role"] != "assistant":
        wanted = next((name for name, weight in found.items() if weight > 0), None)
        if wanted:
            raise DataError(
                f"{where}.{wanted}: only assistant turns are trained on; take it off the {message['role']} turn"
            )
        return kept
    # true says that a turn counts, a number how much
    numbers = {name: weight for name, weight in found.items() if message[name] is not True}
    if len(set(numbers.values())) > 1 or (len(numbers) < len(found) and 0 in numbers.values()):
        shown = ", ".join(f"{name} {message[name]!r:.40}" for name in found)
        raise DataError(f"{where}: the switches disagree ({shown}); keep one of them")
    kept["weight"] = next(iter((numbers or found).values()))
    return kept


def refuse_row_switches(row: Mapping[str, Any], where: str) -> None:
    """Refuse a switch for a whole row, which nothing here follows.

    Raises:
        DataError: for `loss_mask` in any form, and the other switches as a list or a boolean; a number (a loss that
            was measured, a weight among rows) is metadata. Also for `kto_tag` (LLaMA-Factory), since half of such
            answers are there to be unlearned.
    """
    if row.get("kto_tag") is not None:
        raise DataError(f"{where}: kto_tag: a row for preference training, not a conversation to learn from")
    for name in (*SWITCHES, "loss_masks", "weights"):
        value = row.get(name)
        if isinstance(value, list | bool) or (name in ("loss_mask", "loss_masks") and value is not None):
            raise DataError(f"{where}: {name}: a switch for a whole row is not supported; {_SUPPORTED}")


def _weight(name: str, value: Any, where: str) -> float:
    if isinstance(value, bool) and name != "weight":
        return float(value)
    if isinstance(value, list):
        raise DataError(f"{where}.{name}: a list of switches within a message is not supported; {_SUPPORTED}")
    number = not isinstance(value, bool) and isinstance(value, int | float)
    if number and name == "weight" and 0 <= value <= sys.float_info.max:
        return value  # type: ignore[no-any-return]  # 1 stays 1
    if number and name in ("loss", "loss_mask", "train") and value in (0, 1):
        return float(value)
    if number and name == "loss" and 0 <= value <= sys.float_info.max:
        return float(value)
    expected = {"weight": "a finite number from 0 up", "loss": "true, false, a number from 0 up or null"}
    raise DataError(f"{where}.{name}: expected {expected.get(name, 'true, false, 1, 0 or null')}, found {value!r:.80}")

"""Timing: does the reply call a tool when one is due, and answer in words when none is?

Only the decision counts, and the tool's name where the item gives one; whether the call is right is what `tool_use`
asks. A call that cannot be read is an attempt: the model decided to call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sage.libs.finetune.agent.errors import DataError, ScoringError
from sage.libs.finetune.agent.evaluation.score import Capability, Score
from sage.libs.finetune.agent.evaluation.scorers.calls import calls_of_row, read_calls


def score_timing(reply: str, item: Mapping[str, Any]) -> Score:
    """Whether the reply calls exactly when it should.

    Args:
        reply: The model's text.
        item: A test item; its `gold` is `{"call": bool}`, with `name` where only a call of that tool is right.

    Returns:
        1.0 or 0.0. `details`: due, called, unreadable, names, when (`at once`, `after words`, `never`).

    Raises:
        ScoringError: naming the item and the field that cannot be scored against.

    Example:
        >>> item = {"id": "row-1", "messages": [], "tools": [], "gold": {"call": True}}
        >>> score_timing("Let me look it up.", item).reason
        'no call where one was due'
        >>> score_timing('{"name": "find", "arguments": {}}', item).value
        1.0
    """
    gold = item.get("gold")
    if fault := _fault(gold):
        raise ScoringError(f"item '{item.get('id')}', gold{fault}")
    assert isinstance(gold, Mapping)  # what _fault has looked at
    try:
        read = read_calls(reply, item.get("tools") or [])
    except (KeyError, TypeError) as error:
        raise ScoringError(f"item '{item.get('id')}', tools: no function schemas ({error!r:.80})") from None
    names = [call.name for call in read.calls]
    name = gold.get("name")
    if gold["call"] != read.attempted:
        reason = "no call where one was due" if gold["call"] else "a call where none was due"
    elif gold["call"] and name is not None and name not in names:
        reason = f"a call of another tool than '{name}'" if names else f"unreadable call: {read.error}"
    else:
        reason = ""
    details = {
        "due": gold["call"],
        "called": read.attempted,
        "unreadable": read.error is not None,
        "names": names,
        "when": "never" if not read.attempted else "after words" if read.after_words else "at once",
    }
    decision = "call" if read.attempted else "answer"
    right = "a call, as is right" if read.attempted else "no call, as is right"
    return Score(0.0 if reason else 1.0, decision, reason or right, details)


def read_gold(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Whether a call is due by a row: `gold`, `expected` or `call`, else what the chat's last assistant turn does.

    Args:
        row: A test row; `expected` and `call` are true or false, or `{"call": ..., "name": ...}`.
        where: File and line, for the error.

    Raises:
        DataError: naming `where` and what was expected.

    Example:
        >>> read_gold({"prompt": "What is the weather?", "call": True}, "a.jsonl:1")
        {'call': True}
    """
    for field in ("gold", "expected", "call"):
        if row.get(field) is not None:
            gold = {"call": row[field]} if isinstance(row[field], bool) else row[field]
            if fault := _fault(gold):
                raise DataError(f"{where}: {field}{fault}")
            return {key: gold[key] for key in ("call", "name") if gold.get(key) is not None}
    calls = calls_of_row(row, where)
    if calls is None:
        raise DataError(
            f"{where}: does not say whether a call is due; expected 'call' or 'expected' (true or false), or messages "
            "that end in the assistant's turn"
        )
    return {"call": bool(calls)}


def summarise(scores: Sequence[Score]) -> dict[str, Any]:
    """Figures over all replies; None where nothing was there to measure.

    Returns:
        accuracy, balanced_accuracy (mean of the shares right where a call was due and where none was), call_precision,
        call_recall and call_f1 of the decision to call, false_calls, missed_calls, unreadable_calls, after_words.
    """
    details = [score.details for score in scores if score.value is not None]
    due = [d["called"] for d in details if d["due"]]
    idle = [not d["called"] for d in details if not d["due"]]
    called, false = sum(due), len(idle) - sum(idle)
    shares = [share for share in (_share(called, len(due)), _share(sum(idle), len(idle))) if share is not None]
    return {
        "accuracy": _share(sum(score.value or 0.0 for score in scores), len(details)),
        "balanced_accuracy": _share(sum(shares), len(shares)),
        "call_precision": _share(called, called + false),
        "call_recall": _share(called, len(due)),
        "call_f1": _share(2 * called, called + false + len(due)),
        "false_calls": false,
        "missed_calls": len(due) - called,
        "unreadable_calls": sum(d["unreadable"] for d in details),
        "after_words": sum(d["when"] == "after words" for d in details),
    }


def gold_reply(item: Mapping[str, Any]) -> str:
    """A reply that decides rightly: a call without arguments, or words.

    Example:
        >>> gold_reply({"gold": {"call": True, "name": "find"}})
        '{"name": "find", "arguments": {}}'
    """
    gold, tools = item["gold"], item.get("tools") or [{"function": {"name": "tool"}}]
    if not gold["call"]:
        return "No tool is needed for this."
    return json.dumps({"name": gold.get("name") or tools[0]["function"]["name"], "arguments": {}}, ensure_ascii=False)


def _fault(gold: Any) -> str | None:
    """What is wrong with a gold, as it follows the field's name; None when nothing."""
    if not isinstance(gold, Mapping) or not isinstance(gold.get("call"), bool):
        return f": expected true, false or {{'call': true or false}}, found {gold!r:.80}"
    if not isinstance(gold.get("name", ""), str | None):
        return f".name: expected the tool's name, found {gold['name']!r:.80}"
    return None


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


CAPABILITY = Capability("timing", score_timing, read_gold, summarise, gold_reply)

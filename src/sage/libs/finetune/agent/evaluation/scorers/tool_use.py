"""Tool use: are the calls of a reply the right ones? BFCL's rules, with partial credit beside them.

A reply scores 1 when it makes as many calls as are due and each of them is right, else 0; where no call is due, 1 when
it makes none (irrelevance). What a right argument is stands in `tool_values`, which call belongs to which in
`call_matching`. A reply whose call cannot be read is wrong, also where none was due; `strict` follows the published
checker instead, which takes it for no call there, and matches parallel calls by first fit.

What is right: `{"calls": [{"name": ..., "arguments": {parameter: [allowed values]}}]}`, further

    ordered     the calls must come in this order (default: any)
    defaults    an argument left out says its schema's default (default: yes; BFCL knows no such rule)
    functions   the functions in BFCL's own words, where the tools shown say less (float, tuple)
    any_call    any call is right (BFCL's relevance); there are no `calls` then
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sage.libs.finetune.agent.errors import DataError, ScoringError
from sage.libs.finetune.agent.evaluation.score import Capability, Score
from sage.libs.finetune.agent.evaluation.scorers.call_matching import (
    Comparisons,
    Matching,
    match_first_fit,
    match_in_order,
    match_most,
)
from sage.libs.finetune.agent.evaluation.scorers.calls import ReadCalls, read_calls
from sage.libs.finetune.agent.evaluation.scorers.tool_gold import gold_reply, read_gold, right_calls
from sage.libs.finetune.agent.tokenization.parse import ParsedCall


def score_tool_use(reply: str, item: Mapping[str, Any], strict: bool = False) -> Score:
    """Compare the calls of a reply with the right ones.

    Args:
        reply: The model's text.
        item: A test item; its `gold` as the module says.
        strict: As the published checker does, also where it errs.

    Returns:
        1.0 or 0.0. `details`: attempted, parsed, names_right, calls_right / calls_extra / calls_missing,
        arguments_right of arguments (those of calls of the same name that belong together; of a call that is missing
        what must be given, of one too many all), faults (kinds), due (call, none, any) and the item's category.

    Raises:
        ScoringError: naming the item and the field that cannot be scored against.

    Example:
        >>> tool = {"function": {"name": "area", "parameters": {"properties": {"base": {"type": "integer"}}}}}
        >>> gold = {"calls": [{"name": "area", "arguments": {"base": [10]}}]}
        >>> item = {"id": "row-1", "messages": [], "tools": [tool], "gold": gold}
        >>> score_tool_use("[area(base=10)]", item).value
        1.0
        >>> score_tool_use('{"name": "area", "arguments": {"base": "10"}}', item).reason
        "argument 'base' is of another type: '10'"
    """
    gold, tools = item.get("gold"), item.get("tools") or []
    if not isinstance(gold, Mapping):
        raise ScoringError(f"item '{item.get('id')}', gold: expected {{'calls': [...]}}, found {gold!r:.80}")
    try:
        right = right_calls(gold, tools)
        read = read_calls(reply, tools)
    except (KeyError, TypeError, AttributeError) as error:
        raise ScoringError(f"item '{item.get('id')}', tools: no function schemas ({error!r:.80})") from None
    except DataError as error:
        raise ScoringError(f"item '{item.get('id')}', {error}") from None
    due = "any" if gold.get("any_call") else "call" if right else "none"
    details: dict[str, Any] = {"due": due, "attempted": read.attempted, "parsed": read.error is None}
    if category := (item.get("metadata") or {}).get("category"):
        details["category"] = category
    if due != "call":
        return _score_decision(read, due, strict, details)
    compared = Comparisons(read.calls, right, defaults=bool(gold.get("defaults", True)) and not strict)
    match = match_in_order if gold.get("ordered") else match_first_fit if strict else match_most
    return _score_calls(read, compared, match(compared), details)


def _score_decision(read: ReadCalls, due: str, strict: bool, details: dict[str, Any]) -> Score:
    """Where no particular call is right: none at all is (irrelevance), or any is (relevance)."""
    if due == "any":
        value = float(bool(read.calls))
        reason = "a call, as is right" if value else read.error or "no call where one was due"
        faults = [] if value else ["unreadable" if read.error else "no call"]
    else:
        value = float(not read.calls and (strict or read.error is None))
        reason = "no call, as is right" if value else "a call where none was due"
        faults = [] if value else ["call not due"]
        details |= {"calls_right": 0, "calls_extra": len(read.calls), "calls_missing": 0}
    if read.error is not None and not value:
        reason = f"unreadable call: {read.error}"
    return Score(value, _plain(read.calls), reason, {**details, "faults": faults})


def _score_calls(read: ReadCalls, compared: Comparisons, matching: Matching, details: dict[str, Any]) -> Score:
    right, given = len(compared.right), len(read.calls)
    names = Counter(call.name for call in read.calls)
    wanted = Counter(call.function.name for call in compared.right)
    agreeing = right - matching.pairs.count(None)
    value = float(agreeing == right == given)
    faults, reasons, arguments_right, arguments = _arguments(compared, matching)
    if read.error is not None:
        faults, reason = ["unreadable"], f"unreadable call: {read.error}"
    elif not given:
        faults, reason = ["no call"], "no call where one was due"
    elif given != right:
        faults, reason = ["count", *faults], f"{_count(given)} where {_count(right)} {_were(right)} due"
    elif names != wanted:
        faults = ["name", *faults]
        reason = f"called {_names(names - wanted)} where {_names(wanted - names)} was due"
    elif not value and not faults:
        faults, reason = ["order"], "the right calls in another order"
    else:
        reason = "the calls are right" if value else reasons[0]
    details |= {
        "names_right": names == wanted,
        "calls_right": agreeing,
        "calls_extra": given - agreeing,
        "calls_missing": right - agreeing,
        "arguments_right": arguments_right,
        "arguments": arguments,
        "faults": faults,
    }
    return Score(value, _plain(read.calls), reason, details)


def _arguments(compared: Comparisons, matching: Matching) -> tuple[list[str], list[str], int, int]:
    """Kinds of faults, their reasons, right arguments and all that count.

    A right call without a partner is held against the call of its name that is left and has most arguments right.
    """
    faults, reasons, good, total, left = [], [], 0, 0, list(matching.rest)
    for wanted, given in enumerate(matching.pairs):
        if given is None:
            fits = [(found.right, -index) for index in left if (found := compared(wanted, index)) is not None]
            if not fits:
                total += sum("" not in allowed for allowed in compared.right[wanted].arguments.values())
                continue
            given = -max(fits)[1]
            left.remove(given)
        found = compared(wanted, given)
        assert found is not None  # of the same name: either agreeing or among the fits
        good, total = good + found.right, total + found.total
        if found.fault is not None:
            faults.append(found.fault)
            reasons.append(found.reason)
    return faults, reasons, good, total + sum(len(compared.calls[index].arguments) for index in left)


def summarise(scores: Sequence[Score]) -> dict[str, Any]:
    """Figures over all replies that were scored; None where nothing was there to measure.

    Returns:
        accuracy, parse_rate (of the attempts to call, those that could be read), call_precision, call_recall, call_f1
        (over all calls), name_accuracy (replies with just the names that were due), argument_accuracy (over all
        arguments), irrelevance_accuracy (of the items where no call was due), faults (how often each kind), and
        categories where items have one.
    """
    scores = [score for score in scores if score.value is not None]
    details = [score.details for score in scores]
    attempts = [d["parsed"] for d in details if d["attempted"]]
    right, extra, missing = (_total(details, name) for name in ("calls_right", "calls_extra", "calls_missing"))
    categories: dict[str, list[float]] = {}
    for score in scores:
        if "category" in score.details:
            categories.setdefault(score.details["category"], []).append(score.value or 0.0)
    figures: dict[str, Any] = {
        "accuracy": _share(sum(score.value or 0.0 for score in scores), len(scores)),
        "parse_rate": _share(sum(attempts), len(attempts)),
        "call_precision": _share(right, right + extra),
        "call_recall": _share(right, right + missing),
        "call_f1": _share(2 * right, 2 * right + extra + missing),
        "name_accuracy": _mean([float(d["names_right"]) for d in details if d["due"] == "call"]),
        "argument_accuracy": _share(_total(details, "arguments_right"), _total(details, "arguments")),
        "irrelevance_accuracy": _mean([s.value or 0.0 for s in scores if s.details["due"] == "none"]),
        "faults": dict(Counter(fault for d in details for fault in d["faults"]).most_common()),
    }
    if categories:
        figures["categories"] = {
            name: {"accuracy": _mean(values), "n": len(values)} for name, values in sorted(categories.items())
        }
    return figures


def _total(details: Sequence[Mapping[str, Any]], name: str) -> int:
    return sum(d.get(name, 0) for d in details)


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float]) -> float | None:
    return _share(sum(values), len(values))


def _plain(calls: Sequence[ParsedCall]) -> list[dict[str, Any]]:
    return [{"name": call.name, "arguments": _without_tuples(call.arguments)} for call in calls]


def _without_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_tuples(item) for key, item in value.items()}
    return [*map(_without_tuples, value)] if isinstance(value, list | tuple) else value


def _count(calls: int) -> str:
    return f"{calls} call" if calls == 1 else f"{calls} calls"


def _were(calls: int) -> str:
    return "was" if calls == 1 else "were"


def _names(names: Counter[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


CAPABILITY = Capability("tool_use", score_tool_use, read_gold, summarise, gold_reply)

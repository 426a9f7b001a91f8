"""Which calls are right: read from a row, checked in an item, written as a reply.

A row says it in one of four ways: `gold` (our own form, see `tool_use`), `ground_truth` (BFCL's: `[{name: {parameter:
[allowed values]}}]`), `expected` or `answer` (calls with one value per argument, in the OpenAI form or bare, as objects
or JSON text; an empty list: no call is right), or as a chat that ends in the assistant's own turn. A null says nothing
where another of these does, as in tables that have a column for each; alone it says that no call is right.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sage.libs.finetune.agent.errors import DataError, ScoringError
from sage.libs.finetune.agent.evaluation.scorers.call_matching import Function, RightCall, compare, functions_of
from sage.libs.finetune.agent.evaluation.scorers.calls import calls_of_row, plain_calls
from sage.libs.finetune.agent.evaluation.scorers.tool_values import Parameter, value_fault
from sage.libs.finetune.agent.tokenization.parse import ParsedCall

_NO_CALL = "None of the tools fits this request."


def read_gold(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What is right by a row.

    Args:
        row: A test row; `ordered` true in it says that the calls must come in this order.
        where: File and line, for the error.

    Raises:
        DataError: naming `where` and what was expected.

    Example:
        >>> read_gold({"answer": [{"name": "area", "arguments": {"base": 10}}]}, "a.jsonl:1")
        {'calls': [{'name': 'area', 'arguments': {'base': [10]}}]}
        >>> read_gold({"messages": [{"role": "assistant", "content": "Hello."}]}, "a.jsonl:1")
        {'calls': []}
    """
    try:
        functions = functions_of(_tools(row))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{where}: tools: expected a list of function schemas ({error!r:.80})") from None
    gold = _own(row, where)
    if gold is None:
        gold = _published(row, where)
    if gold is None:
        gold = _single_valued(row, functions, where)
    if gold is None:
        raise DataError(
            f"{where}: says no right calls; expected 'ground_truth' (BFCL's form), 'expected' or 'answer' (calls, [] "
            "for none), or messages that end in the assistant's turn"
        )
    if row.get("ordered") is True:
        gold = {**gold, "ordered": True}
    try:
        right_calls(gold, _tools(row))
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    return gold


def right_calls(gold: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]) -> list[RightCall]:
    """The right calls, each with what it calls; none where any call is right.

    Args:
        gold: What is right, as `tool_use` says.
        tools: The tools shown; the gold's own `functions` go before them. Without any, the gold alone decides.

    Raises:
        DataError: naming the field of the gold that is wrong.
    """
    if gold.get("any_call"):
        return []
    functions = functions_of(gold.get("functions") or tools)
    calls = gold.get("calls")
    if not isinstance(calls, list):
        raise DataError(f"gold.calls: expected a list of calls, found {calls!r:.80}")
    right = []
    for index, call in enumerate(calls):
        name = call.get("name") if isinstance(call, Mapping) else None
        arguments = call.get("arguments") if isinstance(call, Mapping) else None
        if not isinstance(name, str) or not isinstance(arguments, Mapping):
            raise DataError(f"gold.calls[{index}]: expected 'name' and 'arguments', found {call!r:.80}")
        for parameter, allowed in arguments.items():
            if not isinstance(allowed, list):
                field = f"gold.calls[{index}].arguments.{parameter}"
                raise DataError(f"{field}: expected the list of allowed values, found {allowed!r:.80}")
        if functions and name not in functions:
            raise DataError(f"gold.calls[{index}].name: '{name}' is none of the tools shown")
        right.append(RightCall(functions.get(name) or Function(name), arguments))
    return right


def gold_reply(item: Mapping[str, Any]) -> str:
    """A reply that is right: of each argument the first allowed value, without those that may be left out.

    Returns:
        One call a line as JSON, or words where no call is right.

    Raises:
        ScoringError: when no call can be right, since what is allowed is of no type that is taken (four of the
            published rows are so).
        DataError: when the gold is wrong.

    Example:
        >>> gold = {"calls": [{"name": "area", "arguments": {"base": [10, 10.0], "unit": ["m", ""]}}]}
        >>> gold_reply({"id": "1", "gold": gold})
        '{"name": "area", "arguments": {"base": 10}}'
    """
    gold, tools = item["gold"], item.get("tools") or []
    if gold.get("any_call"):
        return _written(next(iter(functions_of(tools))), {})
    lines = []
    for right in right_calls(gold, tools):
        arguments = {
            name: _first_right(allowed, right.function.parameter(name))
            for name, allowed in right.arguments.items()
            if name in right.function.required or "" not in allowed
        }
        if reason := compare(arguments, right).reason:
            raise ScoringError(f"item '{item.get('id')}', gold.calls: no call can be right: {reason}")
        lines.append(_written(right.function.name, arguments))
    return "\n".join(lines) or _NO_CALL


def _own(row: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    gold = row.get("gold")
    if gold is None:
        gold = row.get("expected")
        if not (isinstance(gold, Mapping) and ("calls" in gold or "any_call" in gold)):
            return None
    if not isinstance(gold, Mapping):
        raise DataError(f"{where}: gold: expected {{'calls': [...]}}, found {gold!r:.80}")
    return dict(gold)


def _published(row: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    truth = row.get("ground_truth")
    if truth is None:
        return None
    if not isinstance(truth, list) or not all(isinstance(call, Mapping) and len(call) == 1 for call in truth):
        raise DataError(
            f"{where}: ground_truth: expected a list of {{name: {{parameter: [allowed values]}}}}, found {truth!r:.80}"
        )
    calls = [{"name": name, "arguments": arguments} for call in truth for name, arguments in call.items()]
    functions = row.get("function")
    return {"calls": calls, "defaults": False, **({"functions": functions} if functions else {})}


def _single_valued(row: Mapping[str, Any], functions: Mapping[str, Function], where: str) -> dict[str, Any] | None:
    name = next((name for name in ("expected", "answer") if row.get(name) is not None), None)
    if name is None:
        calls = calls_of_row(row, where)
        if calls is None and not row.keys() & {"expected", "answer"}:
            return None
        return _allowing(calls or [], functions)
    value = row[name]
    if isinstance(value, Mapping) and "tool_calls" in value:
        value = value["tool_calls"] or []
    return _allowing(plain_calls(value, f"{where}: {name}"), functions)


def _allowing(calls: Sequence[ParsedCall], functions: Mapping[str, Function]) -> dict[str, Any]:
    right = []
    for call in calls:
        function = functions.get(call.name) or Function(call.name)
        allowed = {name: function.parameter(name).allowing(value) for name, value in call.arguments.items()}
        right.append({"name": call.name, "arguments": allowed})
    return {"calls": right}


def _tools(row: Mapping[str, Any]) -> list[Any]:
    tools = row.get("tools") or row.get("function") or []
    tools = json.loads(tools) if isinstance(tools, str) else tools
    return tools if isinstance(tools, list) else [tools]


def _first_right(allowed: Sequence[Any], parameter: Parameter) -> Any:
    """The first allowed value that its own rules let through, "" last; the first one when there is none."""
    options = sorted(allowed, key=lambda option: option == "")
    values = [*map(_value, options), *options]
    return next((value for value in values if value_fault(value, allowed, parameter) is None), next(iter(values), None))


def _value(option: Any) -> Any:
    """One value of an allowed one: for the keys of an object, alone or in a list, their first values."""
    if isinstance(option, dict) and all(isinstance(values, list) for values in option.values()):
        return {key: next(iter(values), None) for key, values in option.items() if "" not in values}
    return [*map(_value, option)] if isinstance(option, list) else option


def _written(name: str, arguments: Mapping[str, Any]) -> str:
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)

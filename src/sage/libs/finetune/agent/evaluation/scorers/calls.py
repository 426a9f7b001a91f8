r"""The calls in a reply, and the calls that a test row says are right.

A reply may hold its calls in any notation of `tokenization.parse`, or in Python's own as the Berkeley function-calling
leaderboard (BFCL, Patil et al., 2025) asks for: `[area(base=10, height=5), geo.find(city="Bonn")]`, in a code block or
not. Python is parsed and never run: named arguments, literals only. Unlike the leaderboard's decoder, arguments without
a name are not dropped, variables are not text and sums are not worked out; such a call cannot be read.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.tokenization.parse import ParsedCall, parse_reply

_FENCE = re.compile(r"\A\s*(?:```\w*\n|`+)?\s*")
_LIST = re.compile(r"^[ \t]*\[\s*[^\W\d][\w.]*\(", re.MULTILINE)
_CALL = re.compile(r"([^\W\d][\w.]*)\(")
_AFTER = re.compile(r"(?:\s|`|<[^<>\s]*>)*")  # an end of code block, stop tokens


@dataclass(frozen=True)
class ReadCalls:
    """What a reply calls.

    Attributes:
        calls: The calls in order; empty when there are none or when `error` is set. Python's tuples stay tuples.
        error: Why a call that was attempted cannot be read, None otherwise.
        after_words: Whether words to the user come before the first call.
    """

    calls: list[ParsedCall] = field(default_factory=list)
    error: str | None = None
    after_words: bool = False

    @property
    def attempted(self) -> bool:
        """Whether the reply tried to call anything."""
        return bool(self.calls) or self.error is not None


def read_calls(reply: str, tools: Sequence[Mapping[str, Any]] = ()) -> ReadCalls:
    """The calls in a reply.

    Args:
        reply: The model's text; thoughts and stop tokens are passed over.
        tools: The tools that were shown. Python that cannot be read counts as an attempt when it begins a list of calls
            or a call of one of these; else it is words.

    Example:
        >>> read_calls('[area(base=10, height=5)]').calls
        [ParsedCall(name='area', arguments={'base': 10, 'height': 5})]
        >>> read_calls('Let me see. {"name": "area", "arguments": {}}').after_words
        True
        >>> read_calls("[area(base=x)]").error
        "the argument 'base' of 'area' is no literal"
    """
    fault = None
    if "(" in reply:
        read, fault = _python(reply, tools)
        if read is not None:
            return read
    parsed = parse_reply(reply)
    if parsed.error is not None or not parsed.calls:
        return ReadCalls(error=parsed.error or fault)
    first_words = parsed.content.strip().split("\n", 1)[0]
    visible = reply[reply.rfind("</think>") + len("</think>") :] if parsed.reasoning else reply
    return ReadCalls(parsed.calls, after_words=bool(first_words) and visible.lstrip().startswith(first_words))


def calls_of_row(row: Mapping[str, Any], where: str) -> list[ParsedCall] | None:
    """The calls of the assistant message that a chat row ends in; None when the row ends in no such message.

    Calls that stand in the message's text count as well: a row is not taken for one without a call because nobody
    parsed it.

    Raises:
        DataError: naming `where` and the message, when its calls cannot be read.
    """
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        return None
    last = messages[-1]
    if not isinstance(last, Mapping) or last.get("role") != "assistant":
        return None
    field = f"{where}: messages[{len(messages) - 1}]"
    if last.get("tool_calls"):
        return plain_calls(last["tool_calls"], f"{field}.tool_calls")
    read = read_calls(str(last.get("content") or ""))
    if read.error is not None:
        raise DataError(f"{field}.content: holds a call that cannot be read: {read.error}")
    return read.calls


def plain_calls(value: Any, field: str) -> list[ParsedCall]:
    """Calls with one value per argument: a list or one alone, in the OpenAI form or bare, as objects or JSON text.

    Raises:
        DataError: naming `field`, the call, and what was expected.

    Example:
        >>> plain_calls({"name": "area", "arguments": '{"base": 10}'}, "row 1: expected")
        [ParsedCall(name='area', arguments={'base': 10})]
    """
    value = _parsed(value, field)
    return [_plain_call(call, f"{field}[{n}]") for n, call in enumerate(value if isinstance(value, list) else [value])]


def _plain_call(call: Any, field: str) -> ParsedCall:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
        raise DataError(f"{field}: expected a call with 'name' and 'arguments', found {call!r:.80}")
    arguments = _parsed(function.get("arguments", function.get("parameters", {})), f"{field}.arguments")
    if not isinstance(arguments, Mapping):
        raise DataError(f"{field}.arguments: expected an object, found {type(arguments).__name__}")
    return ParsedCall(name, dict(arguments))


def _parsed(value: Any, field: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{field}: is not valid JSON: {error}") from None


class _NoCall(Exception):
    """Python that is no call with literal arguments; the message says why."""


def _python(reply: str, tools: Sequence[Mapping[str, Any]]) -> tuple[ReadCalls | None, str | None]:
    """The calls when the reply holds some in Python, else None and why an attempt failed, if it was one."""
    thought_end = reply.rfind("</think>")
    body = _FENCE.sub("", reply if thought_end < 0 else reply[thought_end + len("</think>") :], count=1)
    opening = _LIST.search(body) or _CALL.match(body)
    if opening is None:
        return None, None
    start, end = opening.start(), max(body.rfind(")"), body.rfind("]")) + 1
    try:
        if end <= start or not _AFTER.fullmatch(body, end):
            raise _NoCall("the Python call is not closed, or text follows it")
        return ReadCalls(_python_calls(body[start:end].strip()), after_words=start > 0), None
    except _NoCall as fault:
        shown = {tool["function"]["name"] for tool in tools}
        attempted = start == 0 and (opening.re is _LIST or opening[1] in shown)
        return None, str(fault) if attempted else None


def _python_calls(code: str) -> list[ParsedCall]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a strange escape in a model's text
            statements = ast.parse(code).body
        expressions = [statement.value for statement in statements if isinstance(statement, ast.Expr)]
        if len(expressions) != len(statements):
            raise _NoCall("the Python is no call")
        listed = [e.elts if isinstance(e, ast.List | ast.Tuple) else [e] for e in expressions]
        return [_python_call(node) for nodes in listed for node in nodes]
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        what = getattr(error, "msg", None) or "it is nested too deeply"
        raise _NoCall(f"the call is no valid Python: {what}") from None


def _python_call(node: ast.expr) -> ParsedCall:
    if not isinstance(node, ast.Call):
        raise _NoCall("the Python holds something else than calls")
    name = _dotted(node.func)
    if node.args or any(keyword.arg is None for keyword in node.keywords):
        raise _NoCall(f"the call of '{name}' has an argument without a name")
    return ParsedCall(name, {str(k.arg): _literal(k.value, f"'{k.arg}' of '{name}'") for k in node.keywords})


def _dotted(node: ast.expr) -> str:
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise _NoCall("what is called has no name")
    return ".".join([node.id, *reversed(parts)])


def _literal(node: ast.expr, which: str) -> Any:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        raise _NoCall(f"the argument {which} is no literal") from None
    if not _is_plain(value):
        raise _NoCall(f"the argument {which} is no JSON value")
    return value


def _is_plain(value: Any) -> bool:
    """Whether the value can be said in JSON, a tuple as a list."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(key) and _is_plain(item) for key, item in value.items())
    if isinstance(value, str):
        return not re.search("[\ud800-\udfff]", value)
    return value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))

"""One reply in ReAct text -> its thought and its call; a final answer is a call of `finish`.

ReAct (Yao et al., 2022, https://arxiv.org/abs/2210.03629) writes a step as lines that begin with a label:

    Thought: what the model knows and wants to know
    Action: search[tea]                       one input, or
    Action: search                            a tool, and on the next line
    Action Input: {"query": "tea", "n": 3}    its arguments as JSON
    Final Answer: 12                          or `Action: finish[12]`

A model that is not stopped goes on and invents its own `Observation:` and further steps. Only the first step is its
own, so everything from the first observation on is cut off, and of several actions the first counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from sage.libs.finetune.agent.tokenization.parse import ParsedCall, ParsedReply
from sage.libs.finetune.agent.types import FINISH, ToolSpec

OBSERVATION = "Observation:"
"""The label that ends a step: what follows is for the environment to say."""

# Labels stand at the start of a line; numbers ("Thought 1:") and Markdown's bold are common.
_LABEL = re.compile(
    r"^[ \t]*(?:\*\*)?(?P<name>thought|action input|action|final answer|observation)(?:[ \t]+\d+)?[ \t]*"
    r"(?::\*\*|\*\*:|:)[ \t]*",
    re.MULTILINE | re.IGNORECASE,
)
_BRACKETS = re.compile(r"(?P<name>[^\[\]\n]+?)\[(?P<input>.*)\]\.?", re.DOTALL)
_TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,), "number": (int, float), "boolean": (bool,), "array": (list,), "object": (dict,),
}  # fmt: skip


class _Broken(Exception):
    """The action cannot be read; the message says why."""


def read_react(text: str, tools: Sequence[ToolSpec] = ()) -> ParsedReply:
    r"""Read the first step of a ReAct reply.

    Args:
        text: The reply, without stop tokens.
        tools: What may be called. The one input of `name[input]` goes to the tool's only (or only required) parameter;
            of a tool that is not known it becomes `{"input": ...}`.

    Returns:
        The thought as `content` and one call, a final answer as `finish` with `{"answer": ...}`, and as `reasoning`
        what stands within `<think>` before all else; or `error` with the whole text when there is neither an action nor
        an answer, or it cannot be read.

    Example:
        >>> step = read_react("Thought: Look it up.\nAction: search[tea]\nObservation: invented")
        >>> step.content, step.calls
        ('Look it up.', [ParsedCall(name='search', arguments={'input': 'tea'})])
        >>> read_react("Thought: I know.\nFinal Answer: 12").calls
        [ParsedCall(name='finish', arguments={'answer': '12'})]
        >>> read_react("Well, 12.").error
        "expected a line 'Action: tool' or 'Final Answer: ...', found neither"
    """
    before, end, behind = text.partition("</think>")
    thinks = bool(end) and "<think>" not in before.strip().removeprefix("<think>")
    if thinks and not before.lstrip().startswith("<think>") and _action_at(before) is not None:
        thinks = not behind.partition("\n")[0].strip()  # else it stands in an action's input, where JSON breaks no line
    reasoning = before.strip().removeprefix("<think>").strip() if thinks else ""
    said = behind if thinks else text
    observed = next((label for label in _LABEL.finditer(said) if _is(label, "observation")), None)
    said = said if observed is None else said[: observed.start()]
    labels = list(_LABEL.finditer(said))
    at = _action_at(said)
    if at is None:
        return ParsedReply(text, error="expected a line 'Action: tool' or 'Final Answer: ...', found neither")
    thought = _without_label(said[: labels[at].start()].strip())
    try:
        if not _is(labels[at], "final answer"):
            return ParsedReply(thought, [_action(said, labels[at:], tools)], reasoning=reasoning)
        answer = said[labels[at].end() :].strip()
        if not answer:
            raise _Broken("expected the answer after 'Final Answer:', found nothing")
        return ParsedReply(thought, [ParsedCall(FINISH, {"answer": answer})], reasoning=reasoning)
    except _Broken as broken:
        return ParsedReply(text, error=str(broken))


def _action_at(text: str) -> int | None:
    """Which of the labels in a text is the first of an action or a final answer."""
    return next((i for i, label in enumerate(_LABEL.finditer(text)) if _is(label, "action", "final answer")), None)


def _action(text: str, labels: Sequence[re.Match[str]], tools: Sequence[ToolSpec]) -> ParsedCall:
    """The call that begins at the first label."""
    ends = [label.start() for label in labels[1:]] + [len(text)]
    action = text[labels[0].end() : ends[0]].strip()
    if len(labels) > 1 and _is(labels[1], "action input"):
        # Not cut at the next label: where a JSON value ends is known, and its strings may say anything.
        return _with_input(action, text[labels[1].end() :], text[labels[1].end() : ends[1]].strip(), tools)
    first_line = action.partition("\n")[0].strip()
    match = _BRACKETS.fullmatch(first_line) or _BRACKETS.fullmatch(action)
    if match:
        name, given = match["name"].strip(), match["input"].strip()
        if name.lower() == FINISH and _parameters(FINISH, tools) is None:
            return ParsedCall(FINISH, {"answer": given})
        try:
            value = _json(given)[0] if given.startswith("{") else given
        except _Broken:
            value = given  # an input in brackets is text first of all
        return ParsedCall(name, value if isinstance(value, dict) else _from_text(name, given, tools))
    if not first_line or "[" in first_line:
        raise _Broken(f"expected 'Action: tool[input]' or an 'Action Input:' line, found {_quote(action)}")
    return ParsedCall(first_line, {})


def _with_input(name: str, rest: str, given: str, tools: Sequence[ToolSpec]) -> ParsedCall:
    """The call of a tool whose arguments stand on an `Action Input:` line."""
    if not name:
        raise _Broken("expected the name of a tool after 'Action:', found nothing")
    final = name.lower() == FINISH and _parameters(FINISH, tools) is None
    if rest.lstrip().startswith("{"):
        value, _ = _json(rest)
        if final and "answer" not in value:
            return ParsedCall(FINISH, {"answer": given})
        return ParsedCall(FINISH if final else name, value)
    if given.startswith('"'):
        value, end = _json(given)
        given = value if isinstance(value, str) and end == len(given) else given
    return ParsedCall(FINISH, {"answer": given}) if final else ParsedCall(name, _from_text(name, given, tools))


def _from_text(name: str, given: str, tools: Sequence[ToolSpec]) -> dict[str, Any]:
    """One input as arguments, by the tool's schema."""
    parameters = _parameters(name, tools)
    if parameters is None:
        return {"input": given} if given else {}
    properties = parameters.get("properties") or {}
    required = parameters.get("required") or []
    wanted = list(properties) if len(properties) == 1 else [key for key in required if key in properties]
    if not given and not required:
        return {}
    if len(wanted) != 1:
        takes = f"takes {', '.join(properties)}" if properties else "takes no input"
        raise _Broken(f"'{name}' {takes}; expected a JSON object with them, found {_quote(given)}")
    schema = properties[wanted[0]]
    kinds = _TYPES.get(schema.get("type", "")) if isinstance(schema, Mapping) else None
    if kinds is None:
        return {wanted[0]: given}
    value, end = _json(given)
    if end != len(given) or not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise _Broken(f"'{wanted[0]}' of '{name}': expected {schema['type']}, found {_quote(given)}")
    return {wanted[0]: value}


def _parameters(name: str, tools: Sequence[ToolSpec]) -> Mapping[str, Any] | None:
    """The parameters of a tool, None when there is no such tool."""
    for tool in tools:
        if tool["function"]["name"] == name:
            return tool["function"].get("parameters") or {}
    return None


def _json(text: str) -> tuple[Any, int]:
    """The JSON value that `text` begins with (blanks skipped), and where it ends."""
    start = len(text) - len(text.lstrip())
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else error
        raise _Broken(f"the action input is no valid JSON: {reason}, found {_quote(text.strip())}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _is(label: re.Match[str], *names: str) -> bool:
    return " ".join(label["name"].lower().split()) in names


def _without_label(thought: str) -> str:
    match = _LABEL.match(thought)
    return thought[match.end() :].strip() if match else thought


def _quote(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")

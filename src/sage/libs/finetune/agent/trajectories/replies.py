"""A model's reply -> a decision. A reply that is no step is one all the same: `invalid`, with its text and the reason.

Three things are read: text (`read_reply`), a reply that was cut off (`read_cut_reply`), and a choice of an
OpenAI-compatible server (`read_choice`). What the model thought before its words is part of the step's thought, and
`reply` keeps everything it said, calls in Hermes' tags, so that `read_reply` finds the same step in it again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sage.libs.finetune.agent.answers import split_thought
from sage.libs.finetune.agent.tokenization.parse import ParsedReply, parse_reply
from sage.libs.finetune.agent.types import FINISH, INVALID, ToolSpec


def read_reply(text: str, tools: Sequence[ToolSpec] = ()) -> dict[str, Any]:
    r"""A model's reply as a decision.

    A reply with a tool call is that step (of several calls in one reply the first is made: the next ones were written
    without seeing its result); a reply without one is the final answer; a call that cannot be read is a step `invalid`
    with the reason, and so is an empty reply.

    Example:
        >>> read_reply('Look it up.\n{"name": "find", "arguments": {"q": "desk"}}')["action_input"]
        {'q': 'desk'}
        >>> read_reply("42")["action"]
        'finish'
    """
    return read_parsed(parse_reply(text), text, tools)


def read_cut_reply(text: str) -> dict[str, Any]:
    """A reply that reached the token limit before its end: nobody knows what it would have been.

    Example:
        >>> read_cut_reply("The total is 84, and")["error"]
        'unreadable reply: cut off at the token limit'
    """
    return unreadable(text, "cut off at the token limit")


def unreadable(text: str, why: str) -> dict[str, Any]:
    """A reply that is no step: it is recorded with its text, the model is told why, and the episode goes on."""
    return {"action": INVALID, "reply": text, "error": f"unreadable reply: {why}"}


def read_parsed(parsed: ParsedReply, reply: str, tools: Sequence[ToolSpec] = ()) -> dict[str, Any]:
    """What `parse_reply` or `read_react` found, as a decision; `reply` is the text it was found in."""
    if parsed.error is not None:
        return {"action": INVALID, "reply": parsed.content, "error": f"unreadable call: {parsed.error}"}
    if not parsed.calls:
        thought, answer = split_thought(parsed.content)
        if not answer:
            return unreadable(reply, "its answer is empty" if parsed.content.strip() else "it says nothing")
        return {
            "thought": _thought(parsed.reasoning, thought),
            "action": FINISH,
            "action_input": {"answer": answer},
            "reply": reply,
        }
    call = parsed.calls[0]
    known = any(tool["function"]["name"] == FINISH for tool in tools)
    if call.name == FINISH and not known and "answer" not in call.arguments:
        return unreadable(reply, f"'{FINISH}' needs an 'answer'")
    thought = _thought(parsed.reasoning, parsed.content)
    return {"thought": thought, "action": call.name, "action_input": call.arguments, "reply": reply}


def read_choice(
    choice: Mapping[str, Any], tools: Sequence[ToolSpec], read_text: Callable[[str, bool], dict[str, Any]]
) -> dict[str, Any]:
    """A choice of an OpenAI-compatible server as a decision.

    Of several native calls the first is made. Arguments are JSON text by the protocol; some servers send an object, and
    some nothing for a tool without parameters.

    Args:
        choice: `choices[0]` of the reply, as JSON.
        tools: What may be called.
        read_text: Reads words without native calls: `(text, was it cut off) -> decision`.
    """
    message = choice.get("message")
    message = message if isinstance(message, Mapping) else {}
    content = _text(message.get("content")) or _text(message.get("refusal"))
    thought = _text(message.get("reasoning_content")) or _text(message.get("reasoning"))
    calls = message.get("tool_calls") or list(filter(None, [message.get("function_call")]))
    functions = [_function(call) for call in calls] if isinstance(calls, list) else [_function(calls)]
    words = [f"<think>\n{thought}\n</think>\n" if thought else "", content]
    whole = "\n".join(filter(None, [*words, *(call_text(call["name"], call["arguments"]) for call in functions)]))
    cut = choice.get("finish_reason") == "length"
    if choice.get("finish_reason") == "content_filter":
        return unreadable(whole, "withheld by the server's content filter")
    if not functions:
        decision = read_text(content, cut)
    elif cut:
        decision = read_cut_reply(whole)
    else:
        # As one JSON object, so that native calls and calls in text are held to the same rules.
        parsed = parse_reply(json.dumps(functions[0]))
        beside = parse_reply(content)  # a server without a reasoning parser leaves <think> in the words
        if not (beside.calls or beside.error):
            content = _thought(beside.reasoning, beside.content)
        decision = read_parsed(ParsedReply(content, parsed.calls, parsed.error), whole, tools)
    if thought and "thought" in decision:
        decision["thought"] = _thought(thought, decision["thought"])
    return {**decision, "reply": whole}


def call_text(name: object, arguments: object) -> str:
    """A call in Hermes' tags; arguments that are text already are put in as they are."""
    given = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {given}}}\n</tool_call>'


def _thought(reasoning: str, words: str) -> str:
    """What was thought apart from the words, and the words: together the thought of a step."""
    return "\n\n".join(filter(None, (reasoning, words)))


def _function(call: object) -> dict[str, Any]:
    """Name and arguments of a native call, whatever shape it has."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    function = function if isinstance(function, Mapping) else {}
    arguments = function.get("arguments")
    return {"name": function.get("name"), "arguments": {} if arguments in (None, "") else arguments}


def _text(value: object) -> str:
    """Words of a message: text, or a list of parts with text."""
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in value if isinstance(part, Mapping))
    return value if isinstance(value, str) else ""

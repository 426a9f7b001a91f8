"""What a sample says: its prompt, its response and its task, whatever form it comes in.

Features, lengths and tables need text, a model needs a conversation, a cache needs a key. A sample is one of

- a chat row: `{"messages": [...], "tools": [...]}`,
- an Alpaca row: `{"instruction", "input", "output"}`, with `system` and `history` where there are more turns,
- `{"prompt", "completion"}`, both text or both lists of messages,
- `{"text": ...}` or a plain `str`: no prompt, all of it response,
- a `TaskSample` around one of them.

The response is what is trained on: the assistant's turns but for those of weight 0, their calls as name and canonical
JSON. All else is the prompt. Schemas of tools are in neither: they are long, rows share them, and they would make all
rows of one tool set look alike. Of the metadata nothing is read but the name of the task. Samples are never changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.types import Message, Sample, TaskSample

TASK_NAMES = ("task_type", "family", "task", "kind")
"""Where in a sample's metadata the name of its task may stand; the first that does counts."""

FORMS = "messages, instruction and output, prompt and completion, or text"
_TEXTS = ("reasoning_content", "tool_call_id", "name")


class SampleText(NamedTuple):
    """A sample as text: what was given, what was answered, and the name of its task ("" when it has none)."""

    prompt: str
    response: str
    task: str

    @property
    def text(self) -> str:
        """Prompt and response."""
        return f"{self.prompt}\n{self.response}"


def sample_text(sample: Any, where: str) -> SampleText:
    r"""The sample as text.

    Args:
        sample: One of the forms above.
        where: What to call the sample in an error, such as `sample 3`.

    Raises:
        DataError: naming `where` and the field, when it is none of these forms or holds something else than text.

    Example:
        >>> row = {"instruction": "Add.", "input": "2 and 3", "output": "5", "metadata": {"family": "sums"}}
        >>> sample_text(row, "sample 0")
        SampleText(prompt='Add.\n2 and 3', response='5', task='sums')
        >>> sample_text("Just words.", "sample 1").response
        'Just words.'
    """
    task = task_of(sample)
    found = conversation(sample, where)
    if found is None:
        return SampleText("", _plain(sample), task)
    prompt: list[str] = []
    response: list[str] = []
    for message in found["messages"]:
        said = response if message["role"] == "assistant" and message.get("weight", 1) != 0 else prompt
        said += filter(None, (message.get("reasoning_content"), message["content"]))
        for call in message.get("tool_calls") or ():
            function = call["function"]
            said.append(f"{function['name']} {_canonical(function['arguments'])}")
    return SampleText("\n".join(prompt), "\n".join(response), task)


def conversation(sample: Any, where: str) -> Sample | None:
    """The sample as `{"messages", "tools"}`, ready to be rendered; None for plain text, which has no turns.

    Content is text and arguments are dicts, also where the sample has them as null or as JSON.

    Args:
        sample: One of the forms above.
        where: What to call the sample in an error.

    Raises:
        DataError: as `sample_text`.

    Example:
        >>> conversation({"prompt": "2 + 3?", "completion": "5"}, "sample 0")["messages"]
        [{'role': 'user', 'content': '2 + 3?'}, {'role': 'assistant', 'content': '5'}]
        >>> conversation({"text": "Just words."}, "sample 1") is None
        True
    """
    row = sample.data if isinstance(sample, TaskSample) else sample
    if isinstance(row, str):
        return None
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: expected a row with {FORMS}, or a text; found {type(row).__name__}")
    if "messages" in row:
        turns = row["messages"]
    elif "instruction" in row and "output" in row:
        turns = _alpaca_turns(row, where)
    elif "prompt" in row and "completion" in row:
        turns = _completion_turns(row, where)
    elif isinstance(row.get("text"), str):
        return None
    else:
        found = ", ".join(map(str, row))[:200] or "nothing"
        raise DataError(f"{where}: expected a row with {FORMS}; it has {found}")
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise DataError(f"{where}: messages: expected a list of at least one message, found {turns!r:.80}")
    messages = [_message(message, f"{where}: messages[{index}]") for index, message in enumerate(turns)]
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError(f"{where}: messages: no assistant turn, so the sample teaches nothing; drop it")
    tools = _parsed(row.get("tools") or [], f"{where}: tools")
    if not isinstance(tools, list):
        raise DataError(f"{where}: tools: expected a list of function schemas, found {type(tools).__name__}")
    return {"messages": messages, "tools": tools}


def task_of(sample: Any) -> str:
    """The name of the sample's task: its `task_type`, else the first of `TASK_NAMES` in its metadata, else "".

    Example:
        >>> task_of({"text": "x", "metadata": {"kind": "copy", "family": "calendar"}})
        'calendar'
    """
    if isinstance(sample, TaskSample):
        return str(sample.task_type)
    metadata = sample.get("metadata") if isinstance(sample, Mapping) else None
    if not isinstance(metadata, Mapping):
        return ""
    return next((str(metadata[name]) for name in TASK_NAMES if metadata.get(name) is not None), "")


def sample_key(sample: Any) -> str:
    """SHA-256 of the sample as canonical JSON: equal for equal samples, whatever the order of their fields.

    Raises:
        DataError: when JSON has no form for it.

    Example:
        >>> sample_key({"text": "a", "tools": []}) == sample_key({"tools": [], "text": "a"})
        True
    """
    value = [sample.task_type, sample.data, sample.source] if isinstance(sample, TaskSample) else sample
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"a sample cannot be written as JSON ({error}); use text, finite numbers, booleans, null, lists and dicts"
        ) from None
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _plain(sample: Any) -> str:
    row = sample.data if isinstance(sample, TaskSample) else sample
    return row if isinstance(row, str) else str(row["text"])


def _alpaca_turns(row: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    for name in ("instruction", "output", "input", "system"):
        _require_text(row.get(name), f"{where}: {name}", optional=name in ("input", "system"))
    history = row.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in history):
        raise DataError(f"{where}: history: expected a list of [asked, answered], found {history!r:.80}")
    turns = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for asked, answered in [*history, ("\n".join(filter(None, (row["instruction"], row.get("input")))), row["output"])]:
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return turns


def _completion_turns(row: Mapping[str, Any], where: str) -> list[Any]:
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        return [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    if not (isinstance(prompt, list) and isinstance(completion, list)):
        found = f"{type(prompt).__name__} and {type(completion).__name__}"
        raise DataError(f"{where}: prompt and completion: expected two texts or two lists of messages, found {found}")
    context = [
        {**turn, "weight": 0.0} if isinstance(turn, Mapping) and turn.get("role") == "assistant" else turn
        for turn in prompt
    ]
    return [*context, *completion]


def _message(message: object, where: str) -> Message:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise DataError(f"{where}: expected an object with role and content, found {message!r:.80}")
    read = {**message, "content": message.get("content") or ""}
    _require_text(read["content"], f"{where}.content", optional=False)
    for name in _TEXTS:
        if name in read:
            _require_text(read[name], f"{where}.{name}", optional=True)
            if read[name] is None:
                del read[name]
    calls = read.pop("tool_calls", None) or []
    if not isinstance(calls, list):
        raise DataError(f"{where}.tool_calls: expected a list, found {type(calls).__name__}")
    if calls:
        read["tool_calls"] = [_call(call, f"{where}.tool_calls[{number}]") for number, call in enumerate(calls)]
    return read  # type: ignore[return-value]


def _call(call: object, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f"{where}: expected {{'function': {{'name': ..., 'arguments': {{...}}}}}}, found {call!r:.80}")
    arguments = _parsed(function.get("arguments") or {}, f"{where}.function.arguments")
    if not isinstance(arguments, Mapping):
        raise DataError(f"{where}.function.arguments: expected an object, found {type(arguments).__name__}")
    return {**call, "type": "function", "function": {**function, "arguments": dict(arguments)}}


def _parsed(value: Any, where: str) -> Any:
    """The value, read as JSON where it is text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise DataError(f"{where}: is not valid JSON: {error}") from None


def _require_text(value: object, where: str, *, optional: bool) -> None:
    if not isinstance(value, str) and not (optional and value is None):
        raise DataError(f"{where}: expected text, found {type(value).__name__}")


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)

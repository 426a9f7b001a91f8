"""Samples out, in the forms that other tools read; the form is picked by name from `EXPORTERS`.

No form but chatml holds all of a conversation. An exporter leaves out what its form has no place for; `exchange` reads
every row back and says what that was.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from sage.libs.finetune.agent.chatml import KEPT, from_chatml
from sage.libs.finetune.agent.conversion.alpaca import sample_to_alpaca
from sage.libs.finetune.agent.conversion.atif import sample_to_atif
from sage.libs.finetune.agent.conversion.sharegpt import sample_to_sharegpt
from sage.libs.finetune.agent.registry import Registry
from sage.libs.finetune.agent.types import Sample


@dataclass(frozen=True)
class Exporter:
    """How samples are written in one form.

    Attributes:
        write: A sample, and its file and line for the error, to a row of plain JSON types; the sample is not changed.
            Raises DataError for one that the form cannot say at all.
        importer: Name of the importer that reads such rows.
    """

    write: Callable[[Sample, str], dict[str, Any]]
    importer: str


def _chatml(sample: Sample, where: str) -> dict[str, Any]:
    return dict(sample)


def _trajectory(sample: Sample, where: str) -> dict[str, Any]:
    return from_chatml(sample, where).to_dict()


EXPORTERS = Registry[Exporter]("output format")
EXPORTERS.add("chatml", Exporter(_chatml, "chat"))
EXPORTERS.add("alpaca", Exporter(sample_to_alpaca, "react"))
EXPORTERS.add("sharegpt", Exporter(sample_to_sharegpt, "sharegpt"))
EXPORTERS.add("trajectory", Exporter(_trajectory, "trajectory"))
EXPORTERS.add("atif", Exporter(sample_to_atif, "atif"))


def with_json_arguments(row: Mapping[str, Any]) -> dict[str, Any]:
    """A chatml row as it goes over the wire to OpenAI's servers: the arguments of calls are JSON text.

    Example:
        >>> call = {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": {"q": "Louvre"}}}
        >>> row = with_json_arguments({"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}]})
        >>> row["messages"][0]["tool_calls"][0]["function"]["arguments"]
        '{"q": "Louvre"}'
    """
    messages = []
    for message in row["messages"]:
        calls = []
        for call in message.get("tool_calls") or ():
            arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
            calls.append({**call, "function": {**call["function"], "arguments": arguments}})
        messages.append({**message, "tool_calls": calls} if calls else message)
    return {**row, "messages": messages}


def without_observations(sample: Sample) -> Sample:
    """The sample with every turn after the assistant's first that is not the assistant's left empty, as `to_chatml`."""
    found, messages = False, []
    for message in sample["messages"]:
        found = found or message["role"] == "assistant"
        answers = found and message["role"] in ("tool", "user")
        messages.append({**message, "content": ""} if answers else message)
    changed = cast(Sample, {**sample, "messages": messages})
    return _kept(changed, lambda kept: _without(kept, "observation"))


def with_system_prompt(sample: Sample, prompt: str) -> Sample:
    """The sample with `prompt` as its system message instead of its own; "" leaves it without one."""
    messages = list(sample["messages"])
    first = next(index for index, message in enumerate(messages) if message["role"] == "assistant")
    opening = [message for message in messages[:first] if message["role"] != "system"]
    system: list[Any] = [{"role": "system", "content": prompt}] if prompt else []
    changed = cast(Sample, {**sample, "messages": [*system, *opening, *messages[first:]]})
    return _kept(changed, lambda kept: {name: value for name, value in kept.items() if name != "system_prompt"})


def _kept(sample: Sample, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Sample:
    """The sample with what `to_chatml` kept beside the messages changed as well."""
    metadata = dict(sample.get("metadata") or {})
    if not isinstance(metadata.get(KEPT), Mapping):
        return sample
    kept = change(copy.deepcopy(dict(metadata.pop(KEPT))))
    if kept:
        metadata[KEPT] = kept
    return cast(Sample, {**sample, "metadata": metadata})


def _without(kept: dict[str, Any], field: str) -> dict[str, Any]:
    """What was kept of a trajectory, without one field of its steps."""
    steps = kept.pop("steps", None)
    if isinstance(steps, list):
        return {**kept, "steps": [{name: value for name, value in step.items() if name != field} for step in steps]}
    left = {number: {k: v for k, v in step.items() if k != field} for number, step in (steps or {}).items()}
    left = {number: step for number, step in left.items() if step}
    return {**kept, "steps": left} if left else kept

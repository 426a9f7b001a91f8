"""A sample as an ATIF v1.8 trajectory (Harbor's Agent Trajectory Interchange Format, RFC 0001).

Every message but a tool's answer is a step; answers are the `observation` of the agent's step before. Metadata is the
root's `extra`. What `sources.importers.atif` kept of a trajectory that was ATIF before (`metadata["atif"]`) goes back
where it was. A message's `weight`, and fields that a step has no place for, go into the step's `extra`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.types import Message, Sample

VERSION = "ATIF-v1.8"
NAME, ENVIRONMENT, MESSAGE_FIELDS = "atif", "environment", "message_fields"
"""As in `sources.importers.atif`, which reads them."""

_SOURCES = {"system": "system", "user": "user", "assistant": "agent"}
_FIRST = ("session_id", "trajectory_id")
_LAST = ("notes", "final_metrics", "continued_trajectory_ref", "subagent_trajectories")
_AGENT = ("name", "version", "model_name", "extra")


def sample_to_atif(sample: Sample, where: str) -> dict[str, Any]:
    """The sample as one ATIF trajectory.

    Raises:
        DataError: for a tool's answer before the first step.

    Example:
        >>> messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
        >>> [step["source"] for step in sample_to_atif({"messages": messages}, "row 1")["steps"]]
        ['user', 'agent']
    """
    metadata = dict(sample.get("metadata") or {})
    kept = metadata.get(NAME)
    if isinstance(kept, Mapping) and isinstance(kept.get("agent"), Mapping):
        del metadata[NAME]
    else:
        kept = {}
    agent = {"name": "unknown", "version": "unknown", **(kept.get("agent") or {})}
    if tools := sample.get("tools"):
        agent["tool_definitions"] = tools
    steps: list[dict[str, Any]] = []
    for index, message in enumerate(sample["messages"]):
        _add(steps, message, f"{where}: messages[{index}]")
    if len(steps) == kept.get("number_of_steps"):  # else the messages are not those of that trajectory any more
        for step in steps:
            _restore(step, kept.get("steps", {}).get(str(step["step_id"]), {}))
    return {
        "schema_version": VERSION,
        **{name: kept[name] for name in _FIRST if name in kept},
        "agent": agent,
        "steps": steps,
        **{name: kept[name] for name in _LAST if name in kept},
        **({"extra": metadata} if metadata else {}),
    }


def _add(steps: list[dict[str, Any]], message: Message, where: str) -> None:
    """Append the message as a step, or to the observation of the last one."""
    role = message["role"]
    if steps and (role == "tool" or (role == "user" and message.get("name") == ENVIRONMENT)):
        calls = {call["tool_call_id"]: call["function_name"] for call in steps[-1].get("tool_calls", ())}
        result: dict[str, Any] = {"content": message["content"]}
        identity = message.get("tool_call_id")
        if role == "tool" and identity in calls:
            result = {"source_call_id": identity, **result}
        said_by_id = message.get("name") == calls.get(str(identity), ENVIRONMENT)
        extra = _fields(message, ["role", "content", "tool_call_id", "name" if said_by_id else "role"])
        steps[-1].setdefault("observation", {"results": []})["results"].append({**result, **extra})
        return
    if role == "tool":
        raise DataError(f"{where}: a tool's answer with no step before it; an ATIF trajectory cannot say that")
    step: dict[str, Any] = {"step_id": len(steps) + 1, "source": _SOURCES[role], "message": message["content"]}
    used = ["role", "content"]
    if role == "assistant":
        used += ["reasoning_content", "tool_calls", "weight"]
        if "reasoning_content" in message:
            step["reasoning_content"] = message["reasoning_content"]
        if calls_made := message.get("tool_calls"):
            step["tool_calls"] = [
                {
                    "tool_call_id": str(call.get("id") or f"call_{len(steps) + 1}_{number}"),
                    "function_name": call["function"]["name"],
                    "arguments": call["function"]["arguments"],
                }
                for number, call in enumerate(calls_made, start=1)
            ]
    extra = _fields(message, used)
    if role == "assistant" and "weight" in message:
        extra = {"extra": {**extra.get("extra", {}), "weight": message["weight"]}}
    steps.append({**step, **extra})


def _fields(message: Message, used: Sequence[str]) -> dict[str, Any]:
    others = {name: value for name, value in message.items() if name not in used}
    return {"extra": {MESSAGE_FIELDS: others}} if others else {}


def _restore(step: dict[str, Any], kept: Mapping[str, Any]) -> None:
    """Put back what the importer found on this step and a message has no place for."""
    for name, value in kept.items():
        if name == "calls":
            for call in step.get("tool_calls", ()):
                call.update(value.get(call["tool_call_id"], {}))
        elif name == "results":
            for index, result in enumerate(step.get("observation", {}).get("results", ())):
                result.update(value.get(str(index), {}))
        elif name == "extra":
            step["extra"] = {**value, **step.get("extra", {})}
        elif name not in ("step_id", "paired_by_position"):
            step[name] = value
    extra = step.get("extra", {})
    if extra.get("weight") == 0 and (step.get("is_copied_context") or step.get("llm_call_count") == 0):
        step["extra"] = {name: value for name, value in extra.items() if name != "weight"}  # these say so themselves
        if not step["extra"]:
            del step["extra"]

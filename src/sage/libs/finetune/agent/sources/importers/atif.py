"""Harbor's Agent Trajectory Interchange Format, versions 1.0 to 1.8 (RFC 0001 of harbor-framework/harbor).

A trajectory is a list of steps. A step of source `system` or `user` is a message; one of source `agent` is a message,
its calls, and in `observation.results` what came of them. A result that belongs to no call is what the environment
showed of its own accord: it becomes a user turn with the name `environment`.

Steps with `is_copied_context`, and agent steps with `llm_call_count` 0, were not written by this model in this
trajectory: they get weight 0. System prompt and tool definitions are often missing, which `metadata["atif"]["missing"]`
says. The reader is more tolerant than the format: a field it has no use for is kept in `metadata["atif"]`, those of a
step under its number, and `extra` is the metadata itself.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sage.libs.finetune.agent.chatml import KEPT
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.sources.importers.base import Importer, as_json, read_tools
from sage.libs.finetune.agent.sources.importers.chat import text_of
from sage.libs.finetune.agent.sources.importers.weights import SWITCHES, read_weight
from sage.libs.finetune.agent.types import AgentTrajectory

NAME = "atif"
"""Where in `metadata` the fields are kept that a conversation has no place for."""
ENVIRONMENT = "environment"
"""Name of a user turn that holds what the environment showed without having been called."""
MESSAGE_FIELDS = "message_fields"
"""Where in `extra` of a step or result an export keeps the fields of a message that the format has no place for."""

_ROOT = (
    "schema_version", "session_id", "trajectory_id", "notes", "final_metrics", "continued_trajectory_ref",
    "subagent_trajectories",
)  # fmt: skip
_STEP = ("step_id", "source", "message", "reasoning_content", "tool_calls", "observation")
_ROLES = {"system": "system", "user": "user", "agent": "assistant"}
_VERSION = re.compile(r"ATIF-v1(\.[0-9]+)?", re.IGNORECASE)
_TRAJECTORY = {spec.name for spec in fields(AgentTrajectory)}


def _matches(row: Mapping[str, Any]) -> bool:
    version = row.get("schema_version")
    return isinstance(version, str) and version.upper().startswith("ATIF") and isinstance(row.get("steps"), list)


def _read(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    version, steps = row.get("schema_version"), row.get("steps")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise DataError(f"{where}: schema_version: expected ATIF-v1.0 to ATIF-v1.8, found {version!r:.80}")
    if not isinstance(steps, list) or not steps:
        raise DataError(f"{where}: steps: expected a non-empty list of steps, found {steps!r:.80}")
    agent = _object(row, "agent", where)
    tools = read_tools(agent.get("tool_definitions"), f"{where}: agent.tool_definitions")
    messages: list[dict[str, Any]] = []
    kept_steps = {}
    for number, step in enumerate(steps, start=1):
        if not isinstance(step, Mapping):
            raise DataError(f"{where}: steps[{number - 1}]: expected an object, found {type(step).__name__}")
        made, kept = _read_step(step, f"{where}: steps[{number - 1}]")
        messages += made
        if "step_id" in step and step["step_id"] != number:
            kept["step_id"] = step["step_id"]
        if kept:
            kept_steps[str(number)] = kept
    missing = [] if any(message["role"] == "system" for message in messages) else ["system"]
    if not tools and any("tool_calls" in message for message in messages):
        missing.append("tools")
    kept = {name: row[name] for name in _ROOT if row.get(name) is not None}
    kept["agent"] = {name: value for name, value in agent.items() if name != "tool_definitions"}
    kept |= {"number_of_steps": len(steps)}
    kept |= {name: value for name, value in (("steps", kept_steps), ("missing", missing)) if value}
    return {"messages": messages, "tools": tools, "metadata": {**_metadata(row, where), NAME: kept}}


def _metadata(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`extra` and the root fields that no version of the format has; success and reward wherever they stand.

    A success that is no verdict and a reward that is no number are metadata like any other.
    """
    extra = _object(row, "extra", where)
    metadata: dict[str, Any] = {}
    for name, value in extra.items():
        ours = name == NAME or (name == KEPT and not (isinstance(value, Mapping) and value.keys() <= _TRAJECTORY))
        metadata[f"extra.{name}" if ours else name] = value
    for name, value in row.items():
        if name not in (*_ROOT, "agent", "steps", "extra"):
            while name in metadata or name in (NAME, KEPT):
                name = f"row.{name}"
            metadata[name] = value
    totals = row.get("final_metrics")
    others = totals.get("extra") if isinstance(totals, Mapping) else None
    found = {**(others if isinstance(others, Mapping) else {}), **metadata}
    success, reward = found.get("success"), found.get("total_reward", found.get("reward"))
    if isinstance(success, bool | int) and success in (True, False):
        metadata["success"] = bool(success)
    if isinstance(reward, int | float) and not isinstance(reward, bool):
        metadata["total_reward"] = reward
    return metadata


def _read_step(step: Mapping[str, Any], where: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The messages of a step, and what they have no place for."""
    source = step.get("source")
    if not isinstance(source, str) or source not in _ROLES:
        raise DataError(f"{where}.source: expected system, user or agent, found {source!r:.80}")
    switches = {name: step[name] for name in SWITCHES if name in step}  # no field of the format, but not to pass over
    kept = {
        name: value for name, value in step.items() if name not in _STEP and name not in switches and value is not None
    }
    message: dict[str, Any] = {"role": _ROLES[source], "content": text_of(step.get("message"), f"{where}.message")}
    message = read_weight({**message, **switches}, where)
    reasoning, calls = step.get("reasoning_content"), step.get("tool_calls") or []
    if source != "agent" and (reasoning or calls):
        raise DataError(f"{where}: a step of source {source} has reasoning_content or tool_calls; only the agent has")
    if reasoning is not None:
        if not isinstance(reasoning, str):
            raise DataError(f"{where}.reasoning_content: expected text, found {type(reasoning).__name__}")
        message["reasoning_content"] = reasoning
    if not isinstance(calls, list):
        raise DataError(f"{where}.tool_calls: expected a list, found {type(calls).__name__}")
    if calls:
        message["tool_calls"] = [_call(call, f"{where}.tool_calls[{index}]", kept) for index, call in enumerate(calls)]
    weight = _weight(_object(kept, "extra", where))
    if step.get("is_copied_context") or step.get("llm_call_count") == 0:
        weight = 0.0
    if source == "agent" and weight is not None:
        message["weight"] = weight
    message = _with_fields(message, kept, where)
    return [message, *_results(step, message, kept, where)], kept


def _call(call: object, where: str, kept: dict[str, Any]) -> dict[str, Any]:
    name = call.get("function_name") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(name, str):
        raise DataError(f"{where}: expected {{'tool_call_id', 'function_name', 'arguments'}}, found {call!r:.80}")
    arguments = as_json(call.get("arguments") or {}, f"{where}.arguments")
    if not isinstance(arguments, Mapping):
        raise DataError(f"{where}.arguments: expected an object, found {type(arguments).__name__}")
    identity = _identity(call.get("tool_call_id"), f"{where}.tool_call_id")
    if identity is None:
        raise DataError(f"{where}.tool_call_id: expected the call's id, found none")
    rest = {key: value for key, value in call.items() if key not in ("tool_call_id", "function_name", "arguments")}
    if rest := {key: value for key, value in rest.items() if value is not None}:
        kept.setdefault("calls", {})[identity] = rest
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": dict(arguments)}}


def _results(
    step: Mapping[str, Any], message: Mapping[str, Any], kept: dict[str, Any], where: str
) -> list[dict[str, Any]]:
    """The observation of a step as messages."""
    results = _object(step, "observation", where).get("results") or []
    if not isinstance(results, list) or not all(isinstance(result, Mapping) for result in results):
        raise DataError(f"{where}.observation.results: expected a list of objects")
    names = {call["id"]: call["function"]["name"] for call in message.get("tool_calls") or ()}
    ids = [_identity(result.get("source_call_id"), f"{where}.observation.results") for result in results]
    if names and len(names) == len(results) and not any(ids):  # early writers leave the ids out
        ids = list(names)
        kept["paired_by_position"] = True
    made = []
    for index, (result, identity) in enumerate(zip(results, ids, strict=True)):
        at = f"{where}.observation.results[{index}]"
        content = text_of(result.get("content"), at)
        if identity is not None and identity not in names:
            raise DataError(f"{at}.source_call_id: {identity!r:.80} is no call of this step; expected one of its ids")
        rest = {key: value for key, value in result.items() if key not in ("source_call_id", "content")}
        rest = {key: value for key, value in rest.items() if value is not None}
        answer: dict[str, Any] = {"role": "user", "name": ENVIRONMENT, "content": content}
        if identity is not None:
            answer = {"role": "tool", "tool_call_id": identity, "name": names[identity], "content": content}
        made.append(_with_fields(answer, rest, at))
        if rest:
            kept.setdefault("results", {})[str(index)] = rest
    return made


def _with_fields(message: dict[str, Any], kept: dict[str, Any], where: str) -> dict[str, Any]:
    """The message with the fields that an export put into `extra`, which are taken out of there."""
    extra = dict(_object(kept, "extra", where))
    if message["role"] == "assistant" and _weight(extra) is not None:
        del extra["weight"]
    others = extra.pop(MESSAGE_FIELDS, {})
    if "extra" in kept:
        kept["extra"] = extra
        if not extra:
            del kept["extra"]
    if not isinstance(others, Mapping) or {"role", "content", "tool_calls"} & others.keys():
        raise DataError(f"{where}.extra.{MESSAGE_FIELDS}: expected fields of a message, found {others!r:.80}")
    return {**message, **others}


def _weight(extra: Mapping[str, Any]) -> float | None:
    """The weight that an export put there; something else of that name is not ours."""
    weight = extra.get("weight")
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        return None
    return weight if 0 <= weight <= sys.float_info.max else None


def _identity(value: object, where: str) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise DataError(f"{where}: expected the id of a call, found {value!r:.80}")
    return str(value)


def _object(row: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    value = row.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: {name}: expected an object, found {type(value).__name__}")
    return value


ATIF = Importer(
    name=NAME,
    matches=_matches,
    read=_read,
    needs="{'schema_version': 'ATIF-v1.8', 'agent': {...}, 'steps': [{'source': 'user', 'message': ...}, ...]}",
)

"""A trajectory as a conversation, and back: system, user, then for each step an assistant turn and what came of it.

The form is the OpenAI/TRL one that chat templates render; only assistant turns are trained on, and of those the ones
without `weight` 0. A call that was refused, or a reply that held no readable call, stays in the conversation with
weight 0: the model sees how it recovered and does not learn the mistake.

A conversation has no place for rewards, errors or the model's raw replies. `to_chatml` reads its own result back and
keeps whatever came out different in `metadata["trajectory"]`, so that `from_chatml` gives the trajectory it was made
from, field by field, whatever was in it.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from sage.libs.finetune.agent.answers import answer_text, join_answer, split_thought
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.types import (
    FINISH,
    INVALID,
    RESPOND,
    AgentTrajectory,
    Message,
    ToolSpec,
    TrajectoryStep,
    call_id,
)

UNTRAINED = "not to be trained on (weight 0)"
"""The error of a step whose turn had weight 0 for a reason that its row does not tell."""

KEPT = "trajectory"
"""Where in `metadata` a conversation keeps what its messages cannot say."""


def to_chatml(
    trajectory: AgentTrajectory, *, include_observation: bool = True, system_prompt: str | None = None
) -> dict[str, Any]:
    """The trajectory as `{"messages", "tools", "metadata"}`; `from_chatml` is its inverse.

    Args:
        trajectory: One with at least one step.
        include_observation: Without, the turns of role `tool` stay (templates and servers refuse a call that nobody
            answers) but are empty, and the way back gives empty observations.
        system_prompt: Takes the place of the trajectory's own, on the way back too.

    Raises:
        DataError: naming task and step, for steps after `finish`, a `finish` without an answer, or an `invalid`
            step without a reply.
    """
    sample: dict[str, Any] = {
        "messages": to_messages(trajectory, include_observation=include_observation, system_prompt=system_prompt),
        "tools": list(trajectory.tools),
        "metadata": {
            **{name: value for name, value in trajectory.metadata.items() if name != KEPT},
            "task_id": trajectory.task_id,
            "success": trajectory.success,
            "total_reward": trajectory.total_reward,
        },
    }
    true = trajectory.to_dict()
    if system_prompt is not None:
        true["system_prompt"] = system_prompt or None
    if not include_observation:
        for step in true["steps"]:
            step["observation"] = ""
    kept = _differences(true, from_chatml(sample, f"task '{trajectory.task_id}'").to_dict())
    if kept:
        sample["metadata"][KEPT] = kept
    return sample


def to_messages(
    trajectory: AgentTrajectory, *, include_observation: bool = True, system_prompt: str | None = None
) -> list[Message]:
    """The conversation alone, as a model sees it while it works.

    A step is an assistant turn (`content` the thought, `tool_calls` one call) and a turn of role `tool` with the
    observation. The step `finish` is an assistant turn that ends in the answer (`answers.split_answer` reads it
    back); where `finish` is one of the trajectory's tools it is a call like the others. The step `respond` is words to
    the user and the user's answer. A step with action `invalid` is the model's own reply, untrained, and what it was
    told in a user turn: servers refuse a tool's answer to a call that was not made.

    Raises:
        DataError: as `to_chatml`.
    """
    messages: list[dict[str, Any]] = []
    system = system_prompt if system_prompt is not None else trajectory.system_prompt
    if system:
        messages.append({"role": "system", "content": system})
    messages.append({"role": "user", "content": user_text(trajectory)})
    names = _names(trajectory.tools)
    for number, step in enumerate(trajectory.steps, start=1):
        where = f"task '{trajectory.task_id}', step {number}"
        last = number == len(trajectory.steps)
        if step.action == FINISH and step.error is None and not last:
            raise DataError(f"{where}: '{FINISH}' ends an episode but steps follow; cut the trajectory here")
        turn = _assistant_turn(step, call_id(number), where, names)
        if step.error is not None:
            turn["weight"] = 0.0
        messages.append(turn)
        answer = {"content": step.observation if include_observation else ""}
        if "tool_calls" in turn and (step.action != FINISH or not last):
            messages.append({"role": "tool", "tool_call_id": call_id(number), "name": step.action, **answer})
        elif not last or (step.action == RESPOND and step.observation):
            messages.append({"role": "user", **answer})
    return messages  # type: ignore[return-value]


def from_chatml(sample: Mapping[str, Any], where: str = "row") -> AgentTrajectory:
    """The conversation as a trajectory: the first user turn is the instruction, each assistant turn a step or more.

    Calls made in one turn become steps one after another, the thought with the first. Words without a call are the
    final answer when they end the conversation, else a step `respond`. A turn of weight 0 becomes a step with an
    error, so that it is not trained on later either. Where nothing tells whether the episode
    succeeded, it did not, and `metadata["judged"]` says so. A row without `metadata.task_id` gets one made from its
    system message, tools and task, so that rows of one task share it.

    Args:
        sample: A conversation in canonical form (see `sources.rows.read_sample`).
        where: File and line, for the error.

    Raises:
        DataError: when there is no user turn before the assistant's first, or what `to_chatml` kept was tampered with.
    """
    messages, tools = sample["messages"], list(sample.get("tools") or [])
    first = next((i for i, message in enumerate(messages) if message["role"] == "assistant"), len(messages))
    system = [message["content"] for message in messages[:first] if message["role"] == "system"]
    task = [message["content"] for message in messages[:first] if message["role"] == "user"]
    if not task:
        raise DataError(f"{where}: messages: no user turn before the assistant's first, so there is no task")
    metadata = dict(sample.get("metadata") or {})
    kept = metadata.pop(KEPT, {})
    system_prompt, instruction = "\n\n".join(system) or None, "\n\n".join(task)
    if opening := metadata.get("opening"):
        instruction = instruction.removesuffix(f"\n\n{opening}")
    task_id = metadata.pop("task_id", None) or task_key(instruction, system_prompt, shown_tools(tools, metadata))
    success, reward = metadata.pop("success", None), metadata.pop("total_reward", None)
    if success not in (True, False):  # 1 and 0 are verdicts too; a word is none
        success = None
        metadata.setdefault("judged", False)
    record = {
        "task_id": str(task_id),
        "instruction": instruction,
        "steps": [vars(step) for step in _steps(messages[first:], _names(tools))],
        "success": bool(success),
        "total_reward": reward if isinstance(reward, int | float) and not isinstance(reward, bool) else 0.0,
        "tools": tools,
        "system_prompt": system_prompt,
        "metadata": metadata,
    }
    return AgentTrajectory.from_dict(_restored(record, kept, where), where)


def task_key(instruction: str, system_prompt: str | None, tools: Sequence[ToolSpec]) -> str:
    """An identifier for a task that came without one: equal tasks get equal ones."""
    text = json.dumps([instruction, system_prompt, list(tools)], sort_keys=True, ensure_ascii=False)
    return f"task-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def shown_tools(tools: Sequence[ToolSpec], metadata: Mapping[str, Any]) -> list[ToolSpec]:
    """The tools that tell a task from another: none where they were inferred from what the agent did with them."""
    return [] if metadata.get("tools_inferred") else list(tools)


def user_text(trajectory: AgentTrajectory) -> str:
    """The instruction, and after a blank line what the environment said first (`metadata["opening"]`), if anything."""
    opening = trajectory.metadata.get("opening")
    return f"{trajectory.instruction}\n\n{opening}" if opening else trajectory.instruction


def final_answer(step: TrajectoryStep, where: str) -> str | None:
    """The answer of a `finish` step, None when it was given no input at all.

    Raises:
        DataError: when the input says something, but no `answer`.
    """
    if "answer" in step.action_input:
        return answer_text(step.action_input["answer"])
    if step.action_input:
        found = ", ".join(step.action_input)
        raise DataError(f"{where}: the input of '{FINISH}' has {found} but no 'answer'; name the answer so")
    return None


def _assistant_turn(step: TrajectoryStep, call_id: str, where: str, tools: set[str]) -> dict[str, Any]:
    if step.action == INVALID and step.error is not None:
        if step.reply is None:
            raise DataError(f"{where}: an '{INVALID}' step needs 'reply', the text that could not be read as a call")
        return {"role": "assistant", "content": step.reply}
    if step.action == FINISH and FINISH not in tools:
        answer = final_answer(step, where)
        return {"role": "assistant", "content": step.thought if answer is None else join_answer(step.thought, answer)}
    if step.action == RESPOND and RESPOND not in tools and isinstance(step.action_input.get("content"), str):
        words = filter(None, (step.thought, step.action_input["content"]))
        return {"role": "assistant", "content": "\n\n".join(words)}
    call = {"name": step.action, "arguments": copy.deepcopy(step.action_input)}
    return {
        "role": "assistant",
        "content": step.thought,
        "tool_calls": [{"id": call_id, "type": "function", "function": call}],
    }


def _steps(messages: Sequence[Mapping[str, Any]], tools: set[str]) -> list[TrajectoryStep]:
    """The turns from the assistant's first on, as steps; what follows a turn is its observation."""
    steps: list[TrajectoryStep] = []
    waiting: dict[str, TrajectoryStep] = {}  # calls without an answer so far
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            step = waiting.pop(str(message.get("tool_call_id")), None) if message["role"] == "tool" else None
            step = step or next(iter(waiting.values()), steps[-1])
            step.observation = "\n".join(filter(None, (step.observation, message["content"])))
            waiting = {key: other for key, other in waiting.items() if other is not step}
            continue
        thought = "\n\n".join(filter(None, (message.get("reasoning_content"), message["content"])))
        error = UNTRAINED if message.get("weight", 1) == 0 else None
        waiting = {}
        for call in message.get("tool_calls") or ():
            function = call["function"]
            step = TrajectoryStep(thought, function["name"], copy.deepcopy(function["arguments"]), error=error)
            waiting[str(call.get("id", len(waiting)))] = step
            steps.append(step)
            thought = ""
        if waiting:
            continue
        if index == len(messages) - 1 and FINISH not in tools:
            thought, answer = split_thought(thought)
            steps.append(TrajectoryStep(thought, FINISH, {"answer": answer}, error=error))
        else:
            steps.append(TrajectoryStep("", RESPOND, {"content": thought}, error=error))
    return steps


def _names(tools: Sequence[ToolSpec]) -> set[str]:
    return {str(tool.get("function", {}).get("name")) for tool in tools}


def _differences(true: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    """The fields of a trajectory that its conversation gave back otherwise, with their true values; steps by number."""
    kept = {name: value for name, value in true.items() if name != "steps" and not _same(value, read[name])}
    if len(true["steps"]) != len(read["steps"]):
        return {**kept, "steps": true["steps"]}
    steps = {}
    for number, (step, other) in enumerate(zip(true["steps"], read["steps"], strict=True), start=1):
        if faults := {name: value for name, value in step.items() if not _same(value, other[name])}:
            steps[str(number)] = faults
    return {**kept, "steps": steps} if steps else kept


def _restored(record: dict[str, Any], kept: object, where: str) -> dict[str, Any]:
    """The inverse of `_differences`: the record with the true values put back."""
    kept = dict(kept) if isinstance(kept, Mapping) else kept
    known = {spec.name for spec in fields(AgentTrajectory)}
    if not isinstance(kept, dict) or not kept.keys() <= known:
        raise DataError(f"{where}: metadata.{KEPT}: expected fields of a trajectory, found {kept!r:.80}")
    changed = kept.pop("steps", {})
    if isinstance(changed, list):
        return {**record, **kept, "steps": changed}
    steps = [dict(step) for step in record["steps"]]
    for number, faults in changed.items() if isinstance(changed, Mapping) else [("", None)]:
        if not (number.isdecimal() and 1 <= int(number) <= len(steps) and isinstance(faults, Mapping)):
            raise DataError(f"{where}: metadata.{KEPT}.steps: expected step numbers with fields, found {number!r}")
        steps[int(number) - 1].update(faults)
    return {**record, **kept, "steps": steps}


def _same(one: object, other: object) -> bool:
    """Whether two values are the same JSON; 1, 1.0 and True are three."""
    return json.dumps(one, sort_keys=True, default=str) == json.dumps(other, sort_keys=True, default=str)

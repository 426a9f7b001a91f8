"""A trajectory as a conversation: system, user, then for each step an assistant turn and what came of it.

The form is the OpenAI/TRL one that chat templates render; only assistant turns are trained on, and of those the ones
without `weight` 0. A call that was refused, or a reply that held no readable call, stays in the conversation with
weight 0: the model sees how it recovered and does not learn the mistake.
"""

from __future__ import annotations

import copy
from typing import Any

from sage.libs.finetune.agent.answers import answer_text, join_answer
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.types import FINISH, INVALID, AgentTrajectory, TrajectoryStep


def to_chatml(
    trajectory: AgentTrajectory, *, include_observation: bool = True, system_prompt: str | None = None
) -> dict[str, Any]:
    """The trajectory as `{"messages", "tools", "metadata"}`.

    A step is an assistant turn (`content` the thought, `tool_calls` one call) and a turn of role `tool` with the
    observation. The step `finish` is an assistant turn that ends in the answer (`answers.split_answer` reads it
    back); where `finish` is one of the trajectory's tools it is a call like the others. A step with action `invalid`
    is the model's own reply, untrained, and its observation.

    Args:
        trajectory: One with at least one step.
        include_observation: Without, the turns of role `tool` stay (templates and servers refuse a call that nobody
            answers) but are empty.
        system_prompt: Takes the place of the trajectory's own.

    Raises:
        DataError: naming task and step, for steps after `finish`, a `finish` without an answer, or an `invalid`
            step without a reply.
    """
    messages: list[dict[str, Any]] = []
    system = system_prompt if system_prompt is not None else trajectory.system_prompt
    if system:
        messages.append({"role": "system", "content": system})
    messages.append({"role": "user", "content": user_text(trajectory)})
    finish_is_tool = any(tool.get("function", {}).get("name") == FINISH for tool in trajectory.tools)
    for number, step in enumerate(trajectory.steps, start=1):
        where = f"task '{trajectory.task_id}', step {number}"
        last = number == len(trajectory.steps)
        if step.action == FINISH and step.error is None and not last:
            raise DataError(f"{where}: '{FINISH}' ends an episode but steps follow; cut the trajectory here")
        turn = _assistant_turn(step, f"call_{number}", where, finish_is_tool)
        if step.error is not None:
            turn["weight"] = 0.0
        messages.append(turn)
        if step.action != FINISH or not last:
            messages.append(
                {
                    "role": "tool",
                    "tool_call_id": f"call_{number}",
                    "name": step.action,
                    "content": step.observation if include_observation else "",
                }
            )
    metadata = {name: value for name, value in trajectory.metadata.items() if name != "opening"}
    return {
        "messages": messages,
        "tools": list(trajectory.tools),
        "metadata": {
            **metadata,
            "task_id": trajectory.task_id,
            "success": trajectory.success,
            "total_reward": trajectory.total_reward,
        },
    }


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


def _assistant_turn(step: TrajectoryStep, call_id: str, where: str, finish_is_tool: bool) -> dict[str, Any]:
    if step.action == INVALID and step.error is not None:
        if step.reply is None:
            raise DataError(f"{where}: an '{INVALID}' step needs 'reply', the text that could not be read as a call")
        return {"role": "assistant", "content": step.reply}
    if step.action == FINISH and not finish_is_tool:
        answer = final_answer(step, where)
        return {
            "role": "assistant",
            "content": step.thought if answer is None else join_answer(step.thought, answer),
        }
    call = {"name": step.action, "arguments": copy.deepcopy(step.action_input)}
    return {
        "role": "assistant",
        "content": step.thought,
        "tool_calls": [{"id": call_id, "type": "function", "function": call}],
    }

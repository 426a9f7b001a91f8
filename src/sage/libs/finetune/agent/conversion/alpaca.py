"""A trajectory as one instruction and one text in the ReAct form (Yao et al. 2022, https://arxiv.org/abs/2210.03629).

An Alpaca row cannot say which part of its output the model wrote, so whoever trains on it trains on the observations
too and teaches the model to make them up; it also has no place for tools. Training here uses chatml; this form is for
tools that read nothing else.
"""

from __future__ import annotations

import json
from typing import Any

from sage.libs.finetune.agent.chatml import final_answer, from_chatml, user_text
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.types import FINISH, AgentTrajectory, Sample, TrajectoryStep


def to_alpaca(
    trajectory: AgentTrajectory, *, include_observation: bool = True, system_prompt: str | None = None
) -> dict[str, Any]:
    """The trajectory as `{"instruction", "input", "output"}`, `input` always empty.

    The output is, for each step, the lines `Thought:` (when there is one), `Action:`, `Action Input:` (JSON) and
    `Observation:`, and for `finish` a last line `Answer:`. The system prompt, when there is one, opens the
    instruction. Refused calls and unreadable replies are left out, since nothing here can keep them from being
    trained on.

    Args:
        trajectory: One with at least one step.
        include_observation: Without, the `Observation:` lines are left out.
        system_prompt: Takes the place of the trajectory's own.

    Raises:
        DataError: when every step was refused, or `finish` has no answer.
    """
    blocks = [
        _block(step, f"task '{trajectory.task_id}', step {number}", include_observation)
        for number, step in enumerate(trajectory.steps, start=1)
        if step.error is None
    ]
    if not blocks:
        raise DataError(
            f"task '{trajectory.task_id}': every step was refused, so an alpaca row would have no output; "
            "filter the trajectory out, or convert to chatml"
        )
    system = system_prompt if system_prompt is not None else trajectory.system_prompt
    instruction = user_text(trajectory)
    return {
        "instruction": f"{system}\n\n{instruction}" if system else instruction,
        "input": "",
        "output": "\n".join(blocks),
    }


def sample_to_alpaca(sample: Sample, where: str) -> dict[str, Any]:
    """A conversation as an Alpaca row; turns of weight 0 are left out as refused calls are.

    Raises:
        DataError: as `to_alpaca` and `from_chatml`.
    """
    trajectory = from_chatml(sample, where)
    untrained = [
        message.get("weight") == 0
        for message in sample["messages"]
        if message["role"] == "assistant"
        for _ in range(max(1, len(message.get("tool_calls") or ())))
    ]
    if any(untrained) and len(untrained) != len(trajectory.steps):
        raise DataError(f"{where}: turns of weight 0 that are no steps of their own, so alpaca would train on them")
    for step, is_untrained in zip(trajectory.steps, untrained, strict=False):
        if is_untrained and step.error is None:
            step.error = "weight 0"
    try:
        # Where every observation is empty they were left out on purpose (`export.without_observations`).
        return to_alpaca(trajectory, include_observation=any(step.observation for step in trajectory.steps))
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _block(step: TrajectoryStep, where: str, include_observation: bool) -> str:
    lines = [f"Thought: {step.thought}"] if step.thought else []
    if step.action == FINISH:
        answer = final_answer(step, where)
        lines.append("Answer:" if answer is None else f"Answer: {answer}")
        return "\n".join(lines)
    lines.append(f"Action: {step.action}")
    lines.append(f"Action Input: {json.dumps(step.action_input, ensure_ascii=False)}")
    if include_observation:
        lines.append(f"Observation: {step.observation}")
    return "\n".join(lines)

"""One task being worked on: it takes a decision at a time and ends as a trajectory.

An episode ends at the action `finish`, when the environment says so, after `max_steps`, after `max_errors` refused
calls in a row, when the agent gives up, or when the agent or the environment fails. Success is the environment's last
verdict; without one, the agent's own (only when there is no environment), else the task's expected answer compared
with the final one. A success by the answer alone is worth a reward of 1 when nothing was rewarded. An episode that
came to its end and that nobody could judge is not a success and says so (`metadata["judged"]` is False).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sage.libs.finetune.agent.answers import same_answer
from sage.libs.finetune.agent.errors import TrajectoryError
from sage.libs.finetune.agent.jsonl import encode
from sage.libs.finetune.agent.trajectories.protocols import (
    Decide,
    DecideBatch,
    Decision,
    read_decision,
    read_result,
)
from sage.libs.finetune.agent.types import FINISH, AgentTrajectory, Environment, StepResult, TrajectoryStep

logger = logging.getLogger(__name__)


class Episode:
    """An agent's work on one task.

    Attributes:
        task: The task as the agent sees it; `opening` is what the environment said first, if anything.
        steps: The steps so far.
        ended: Why it is over (`finish`, `done`, `max_steps`, `errors`, `gave_up`, `error`), None while it goes on.
        error: What broke it off, None otherwise.
    """

    def __init__(self, task: dict[str, Any], max_steps: int, max_errors: int | None = None) -> None:
        self.task = task
        self.steps: list[TrajectoryStep] = []
        self.ended: str | None = None
        self.error: str | None = None
        self._max_steps = max_steps
        self._max_errors = max_errors
        self._environment: Environment | None = None
        self._verdict: bool | None = None

    def begin(self, make_environment: Callable[[], object] | None, reset_agent: Callable[[Any], object] | None) -> None:
        """Make and reset the environment, then the agent."""
        side = "environment"
        try:
            if make_environment is not None:
                self._open(make_environment())
            if reset_agent is not None:
                side = "agent"
                reset_agent(self.task)
        except Exception as error:
            self._break_off(error, f"{side}, reset")

    def advance(self, decide: Decide) -> None:
        """Ask for one decision and carry it out."""
        side = "agent"
        try:
            decision = read_decision(decide(self.task, list(self.steps)))
            if decision is None:
                self.ended = "gave_up"
                return
            # Through JSON and back: a copy nobody else holds, and proof that the step can be written down.
            action_input = json.loads(encode(decision.action_input))
            encode([decision.action, decision.thought, decision.reply, decision.error, decision.observation])
            if self._environment is None or decision.error is not None:
                result = _own_result(decision, alone=self._environment is None)
            else:
                side = "environment"
                result = read_result(self._environment.step(decision.action, decision.action_input))
                encode([result.observation, result.error])
        except Exception as error:
            # The agent and the environment are the caller's code and may fail in any way. What they broke is this
            # episode alone: it is written down with its error, never counted as a result, and the others go on.
            self._break_off(error, f"{side}, step {len(self.steps) + 1}")
            return
        self._record(decision, action_input, result)

    def trajectory(self, keep_observations: bool = True) -> AgentTrajectory:
        """The episode as a record, with the verdict."""
        task = self.task
        metadata = {**task.get("metadata", {}), "ended": self.ended}
        if "opening" in task:
            metadata["opening"] = task["opening"]
        success = self._judge()
        if success and self._verdict is None and not any(step.reward for step in self.steps):
            self.steps[-1].reward = 1.0  # nobody else gave a reward, and the answer was right
        if success is None:
            metadata["judged"] = False
        steps = self.steps if keep_observations else [replace(step, observation="") for step in self.steps]
        return AgentTrajectory(
            task_id=task["task_id"],
            instruction=task["instruction"],
            steps=steps,
            success=bool(success),
            total_reward=sum((step.reward for step in steps), 0.0),
            tools=task.get("tools", []),
            system_prompt=task.get("system_prompt"),
            error=self.error,
            metadata=metadata,
        )

    def _open(self, environment: object) -> None:
        if not isinstance(environment, Environment):
            raise TrajectoryError(f"expected an object with reset and step, found {type(environment).__name__}")
        self._environment = environment
        opening = environment.reset(self.task)
        if not isinstance(opening, str | None):
            raise TrajectoryError(f"reset must give text or None, found {type(opening).__name__}")
        encode(opening)
        if opening:
            self.task = {**self.task, "opening": opening}

    def _record(self, decision: Decision, action_input: dict[str, Any], result: StepResult) -> None:
        self.steps.append(
            TrajectoryStep(
                thought=decision.thought,
                action=decision.action,
                action_input=action_input,
                observation=result.observation,
                reward=result.reward,
                error=result.error,
                reply=decision.reply,
            )
        )
        if result.success is not None:
            self._verdict = result.success
        if decision.action == FINISH and decision.error is None:
            self.ended = "finish"
        elif result.done:
            self.ended = "done"
        elif len(self.steps) >= self._max_steps:
            self.ended = "max_steps"
        elif self._stuck():
            self.ended = "errors"

    def _stuck(self) -> bool:
        """Whether the last `max_errors` calls were all refused; an agent that is stuck rarely comes free."""
        if self._max_errors is None or len(self.steps) < self._max_errors:
            return False
        return all(step.error is not None for step in self.steps[-self._max_errors :])

    def _judge(self) -> bool | None:
        """True or False, or None when the episode came to its end and nobody could tell."""
        if self.error is not None:
            return False
        if self._verdict is not None:
            return self._verdict
        expected = self.task.get("answer")
        last = self.steps[-1] if self.steps else None
        if expected is not None and last is not None and last.action == FINISH:
            return same_answer(last.action_input.get("answer", ""), expected)
        return None if expected is None and self.ended in ("finish", "done") else False

    def _break_off(self, error: Exception, where: str) -> None:
        self.ended = "error"
        message = " ".join(str(error).split())
        self.error = f"{type(error).__name__}: {message} ({where})"
        logger.debug("%s: %s", self.task["task_id"], self.error, exc_info=error)


def decide_together(episodes: list[Episode], decide: Decide, decide_batch: DecideBatch) -> list[Decide]:
    """Ask for the next decision of all episodes in one call; the results are what to advance each of them with.

    When the call fails, each episode is to be asked for alone, so that only the one at fault breaks off.
    """
    try:
        replies = decide_batch([e.task for e in episodes], [list(e.steps) for e in episodes])
    except Exception as error:
        logger.warning("act_batch failed for %d episodes (%r); asking for each alone", len(episodes), error)
        return [decide] * len(episodes)
    return [_always(reply) for reply in replies]


def _always(reply: object) -> Decide:
    return lambda task, history: reply


def _own_result(decision: Decision, *, alone: bool) -> StepResult:
    """What the decision itself says came of it; a call that could not be made answers with its error."""
    observation = decision.observation
    if observation is None and decision.error is not None:
        observation = decision.error
    if observation is None and decision.action != FINISH:
        raise TrajectoryError(
            "there is no environment and the decision has no observation; give the collector an environment, "
            "or let the agent return a mapping with 'observation'"
        )
    return StepResult(
        observation or "",
        decision.reward,
        alone and decision.done,
        decision.success if alone else None,
        decision.error,
    )

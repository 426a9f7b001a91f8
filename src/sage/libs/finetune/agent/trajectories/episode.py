"""One task being worked on: it takes a decision at a time and ends as a trajectory.

An episode ends at the action `finish`, when the environment says so, after `max_steps`, after `max_errors` refused
calls in a row, when the agent gives up, or when the agent or the environment fails. Success is the environment's last
verdict; without one, the agent's own (only when there is no environment), else the task's expected answer compared
with the final one. A success by the answer alone is worth a reward of 1 when nothing was rewarded. An episode that
came to its end and that nobody could judge is not a success and says so (`metadata["judged"]` is False).

What broke an episode off is `kind: message (side, step n)`, the kind being the exception's class, `timeout` or
`cancelled`. An episode runs in one thread from beginning to end; another one may only give it up.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import inspect
import json
import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from sage.libs.finetune.agent.answers import same_answer
from sage.libs.finetune.agent.errors import TrajectoryError
from sage.libs.finetune.agent.jsonl import encode
from sage.libs.finetune.agent.trajectories.execution import event_loop
from sage.libs.finetune.agent.trajectories.protocols import (
    DEEPEST,
    Cast,
    Decide,
    DecideBatch,
    Decision,
    decider,
    is_deep,
    read_decision,
    read_result,
)
from sage.libs.finetune.agent.types import FINISH, AgentTrajectory, Environment, StepResult, TrajectoryStep

logger = logging.getLogger(__name__)

_FAULTS = (Exception, SystemExit)
"""What the caller's code may raise without taking the collection along: `sys.exit` ends an episode, not the program."""
_OURS = ("ended", "judged", "opening")
"""What the metadata says of this episode; the same from an earlier one, in the task's metadata, is not carried on."""


class Episode:
    """An agent's work on one task.

    Attributes:
        task: The task as agent and environment see it, a copy of their own; `opening` is what the environment said
            first, if anything.
        steps: The steps so far.
        ended: Why it is over (`finish`, `done`, `max_steps`, `errors`, `gave_up`, `error`), None while it goes on.
        error: What broke it off, None otherwise.
    """

    def __init__(self, task: dict[str, Any], max_steps: int, max_errors: int | None = None) -> None:
        self.task = _own(task)
        self._task = task  # as it was given, for the record
        self.steps: list[TrajectoryStep] = []
        self.ended: str | None = None
        self.error: str | None = None
        self._max_steps = max_steps
        self._max_errors = max_errors
        self._decide: Decide | None = None
        self._environment: Environment | None = None
        self._close: Callable[[], object] | None = None
        self._opening: str | None = task.get("opening")
        self._verdict: bool | None = None
        self._place = "not begun"
        self._given_up = False
        self._pending: Future[Any] | None = None  # what the event loop is doing for this episode

    def play(self, cast: Cast) -> None:
        """From the beginning to the end, or to where it is given up."""
        try:
            self.begin(cast)
            while self.ended is None and not self._given_up:
                self.advance()
        finally:
            self.leave()

    def begin(self, cast: Cast) -> None:
        """Make and reset the environment, then the agent."""
        try:
            self._place = "environment, reset"
            if cast.make_environment is not None:
                self._open(self._settled(cast.make_environment()), cast.own_environments)
            self._place = "agent, reset"
            agent = cast.make_agent()
            self._decide = decider(agent)
            reset = getattr(agent, "reset", None)
            if callable(reset):
                self._settled(reset(self.task))
        except _FAULTS as error:
            self.break_off(error)

    def advance(self, decide: Decide | None = None) -> None:
        """Ask for one decision and carry it out; `decide` answers in the agent's place."""
        decide = decide or self._decide
        assert decide is not None, "begin comes first"
        self._place = f"agent, step {len(self.steps) + 1}"
        try:
            decision = read_decision(self._settled(decide(self.task, self.history())))
            if self._given_up:
                return
            if decision is None:
                self._end("gave_up")
                return
            # Through JSON and back: copies nobody else holds, and proof that the step can be written down.
            written = encode(decision.action_input)
            action_input = json.loads(written)
            if is_deep(action_input):
                raise TrajectoryError(f"'action_input' has more than {DEEPEST} lists and objects inside each other")
            encode([decision.action, decision.thought, decision.reply, decision.error, decision.observation])
            if self._environment is None or decision.error is not None:
                result = _own_result(decision, alone=self._environment is None)
            else:
                self._place = f"environment, step {len(self.steps) + 1}"
                answer = self._environment.step(decision.action, json.loads(written))
                result = read_result(self._settled(answer))
                encode([result.observation, result.error])
        except _FAULTS as error:
            # The agent and the environment are the caller's code and may fail in any way. What they broke is this
            # episode alone: it is written down with its error, never counted as a result, and the others go on.
            self.break_off(error)
            return
        self._record(decision, action_input, result)

    def history(self) -> list[TrajectoryStep]:
        """The steps so far, for the agent; one that shortens what it reads does not change what is recorded."""
        return [replace(step, action_input={**step.action_input}) for step in self.steps]

    def break_off(self, error: BaseException) -> None:
        """End it here because of `error`."""
        if isinstance(error, concurrent.futures.CancelledError | asyncio.CancelledError):
            self.error = _error_text("cancelled", "what it was waiting for was cancelled", self._place)
        else:
            self.error = _error_text(type(error).__name__, _message(error), self._place)
        self._end("error")
        logger.debug("%s: %s", self.task["task_id"], self.error, exc_info=error)

    def give_up(self) -> None:
        """From another thread: whatever it is doing comes to nothing."""
        self._given_up = True
        if self._pending is not None:
            self._pending.cancel()

    def leave(self) -> None:
        """Close the environment if it was made for this episode; in the thread that made it."""
        close, self._close, self._environment, self._decide = self._close, None, None, None
        if callable(close):
            try:
                event_loop.settled(close())
            except _FAULTS as error:  # what the episode came to stands
                logger.warning("task '%s': the environment could not be closed (%r)", self.task["task_id"], error)

    def cut_off(self, kind: str, message: str, place: str | None = None) -> AgentTrajectory:
        """Give it up and return what there is of it so far, with the error."""
        left = copy.copy(self)
        left.steps, left.ended = list(self.steps), "error"
        left.error = _error_text(kind, message, place or self._place)
        self.give_up()
        return left.trajectory()

    def trajectory(self) -> AgentTrajectory:
        """The episode as a record, with the verdict."""
        task = self._task
        given = {name: value for name, value in task.get("metadata", {}).items() if name not in _OURS}
        metadata = {**given, "ended": self.ended}
        if self._opening is not None:
            metadata["opening"] = self._opening
        success = self._judge()
        if success and self._verdict is None and not any(step.reward for step in self.steps):
            self.steps[-1].reward = 1.0  # nobody else gave a reward, and the answer was right
        if success is None:
            metadata["judged"] = False
        return AgentTrajectory(
            task_id=task["task_id"],
            instruction=task["instruction"],
            steps=self.steps,
            success=bool(success),
            total_reward=sum((step.reward for step in self.steps), 0.0),
            tools=task.get("tools", []),
            system_prompt=task.get("system_prompt"),
            error=self.error,
            metadata=metadata,
        )

    def _open(self, environment: object, own: bool) -> None:
        if not isinstance(environment, Environment):
            raise TrajectoryError(f"expected an object with reset and step, found {type(environment).__name__}")
        self._environment = environment
        self._close = getattr(environment, "close", None) if own else None
        opening: object = self._settled(environment.reset(self.task))
        if not isinstance(opening, str | None):
            raise TrajectoryError(f"reset must give text or None, found {type(opening).__name__}")
        encode(opening)
        if opening:
            self.task = {**self.task, "opening": opening}
            self._opening = opening

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
            self._end("finish")
        elif result.done:
            self._end("done")
        elif len(self.steps) >= self._max_steps:
            self._end("max_steps")
        elif self._stuck():
            self._end("errors")

    def _end(self, why: str) -> None:
        self.ended = why
        self.leave()

    def _settled(self, value: object) -> object:
        """The value, or what the event loop makes of it; cancelled there when the episode is given up."""
        if not inspect.isawaitable(value):
            return value
        self._pending = event_loop.submit(value)
        if self._given_up:
            self._pending.cancel()
        return event_loop.finished(self._pending)

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
        expected = self._task.get("answer")
        last = self.steps[-1] if self.steps else None
        if expected is not None and last is not None and last.action == FINISH:
            return same_answer(last.action_input.get("answer", ""), expected)
        return None if expected is None and self.ended in ("finish", "done") else False


def error_kind(error: str) -> str:
    """The kind of what broke an episode off.

    Example:
        >>> error_kind("KeyError: 'x' (agent, step 3)")
        'KeyError'
    """
    return error.partition(": ")[0]


def decide_together(episodes: list[Episode], decide_batch: DecideBatch) -> list[Decide | None]:
    """Ask for the next decision of all episodes in one call; the results are what to advance each of them with.

    When the call fails they are None: each episode asks for its own, so that only the one at fault breaks off.
    """
    try:
        replies = decide_batch([e.task for e in episodes], [e.history() for e in episodes])
    except _FAULTS as error:
        logger.warning("act_batch failed for %d episodes (%r); asking for each alone", len(episodes), error)
        return [None] * len(episodes)
    return [_always(reply) for reply in replies]


def _own(value: Any) -> Any:
    """The same with dicts and lists of its own; whatever else a task may hold is shared."""
    if type(value) is dict:
        return {name: _own(item) for name, item in value.items()}
    return [_own(item) for item in value] if type(value) is list else value


def _always(reply: object) -> Decide:
    return lambda task, history: reply


def _error_text(kind: str, message: str, place: str) -> str:
    line = f"{kind}: {' '.join(message.split())} ({place})"
    return line.encode("utf-8", "backslashreplace").decode()  # a file name may hold what UTF-8 has no form for


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as another:
        return f"its message cannot be shown, {type(another).__name__}"


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

"""One task of an environment being worked on in a chat: who carries the calls out, and who judges the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sage.libs.finetune.agent.cli.conversation import Call
from sage.libs.finetune.agent.environments.known import environment_named
from sage.libs.finetune.agent.errors import AgentFinetuneError, ConfigError, TrajectoryError
from sage.libs.finetune.agent.registry import suggestion
from sage.libs.finetune.agent.trajectories.execution.event_loop import settled
from sage.libs.finetune.agent.trajectories.protocols import read_result, read_tasks
from sage.libs.finetune.agent.trajectories.replies import read_reply
from sage.libs.finetune.agent.types import FINISH, StepResult


@dataclass(frozen=True)
class Verdict:
    """How a task ended.

    Attributes:
        success: None when the environment does not judge.
        reward: Sum over the task.
    """

    success: bool | None
    reward: float


class TaskAtHand:
    """A task and its environment.

    Args:
        environment: Its name, as `collect --environment` takes it.
        split: Which of its tasks, None for "train".
        number: The how-manieth of the split, from 1.
        seed: Fixes the tasks.

    Attributes:
        task: The task: `task_id`, `instruction`, `tools` ...
        opening: The instruction, and what the environment said first.
        verdict: Once the task is over.

    Raises:
        ConfigError: for an unknown environment or split, or a number beyond its tasks.
    """

    def __init__(self, environment: str, split: str | None, number: int, seed: int) -> None:
        named = environment_named(environment)
        split = split or "train"
        if named.splits and split not in named.splits:
            near = suggestion(split, named.splits)
            known = ", ".join(named.splits)
            raise ConfigError(f"environment '{environment}' has no split '{split}'; {near}known: {known}")
        tasks = read_tasks(named.tasks(split, number, seed))
        if len(tasks) < number:
            raise ConfigError(f"environment '{environment}' has {len(tasks)} tasks in '{split}', not {number}")
        self.task: dict[str, Any] = tasks[number - 1]
        self.task.setdefault("tools", named.tools)
        self._environment: Any = named.make_environment()
        self._reward = 0.0
        self.verdict: Verdict | None = None
        first = self._asked("reset", self.task)
        self.opening = "\n\n".join(filter(None, (str(self.task["instruction"]), first)))

    def run(self, call: Call) -> str:
        """Carry a call out; returns the observation."""
        return self._step(call.name, dict(call.arguments)).observation

    def judge(self, words: str) -> Verdict:
        """Take a reply without calls as the final answer."""
        answer = read_reply(words)
        if answer["action"] == FINISH:
            self._step(FINISH, answer["action_input"])
        self.verdict = self.verdict or Verdict(None, self._reward)
        return self.verdict

    def close(self) -> None:
        """Let the environment go."""
        if callable(close := getattr(self._environment, "close", None)):
            settled(close())

    def _step(self, action: str, action_input: dict[str, Any]) -> StepResult:
        result = read_result(self._asked("step", action, action_input))
        self._reward += result.reward
        if result.done or result.success is not None:
            self.verdict = Verdict(result.success, self._reward)
        return result

    def _asked(self, method: str, *arguments: Any) -> Any:
        """Call the environment, which is the user's code and may fail in any way."""
        try:
            return settled(getattr(self._environment, method)(*arguments))
        except AgentFinetuneError:
            raise
        except Exception as error:
            raise TrajectoryError(f"the environment's {method} raised {type(error).__name__}: {error}") from error

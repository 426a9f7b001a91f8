"""The desk as an environment: shows a task's tools, runs calls on its database, judges answer and state.

Reward: 1 in all for success, whatever the path; a failed episode keeps 0.1 for each different call that worked, at
most 0.3, so that filters see rewards between 0 and 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sage.libs.finetune.agent.environments.desk.store import Store, same_world
from sage.libs.finetune.agent.environments.desk.tools import TOOLS, ToolFault
from sage.libs.finetune.agent.types import FINISH, StepResult

_CALL_REWARD, _CALLS_REWARDED = 0.1, 3


class DeskEnvironment:
    """One desk; `reset` loads a task from `desk_tasks`, `step` runs a call or takes the final answer.

    A refused call gives an observation that begins with `error:` and names the fault in `StepResult.error`:
    `unknown_tool` (not among the task's tools), `bad_arguments` (does not fit the schema), or `failed` (well-formed,
    but the desk cannot do it).

    Example:
        >>> from sage.libs.finetune.agent.environments.desk import desk_tasks
        >>> desk, task = DeskEnvironment(), desk_tasks("train", 1)[0]
        >>> desk.reset(task)
        ''
        >>> desk.step("get_weather", {}).error
        'unknown_tool'
    """

    def __init__(self) -> None:
        self._store = Store({})
        self._task: Mapping[str, Any] = {}
        self._worked: set[str] = set()
        self._earned = 0.0

    def reset(self, task: Mapping[str, Any]) -> str:
        """Load the task's world; the instruction says it all, so the first observation is empty."""
        self._store.close()
        self._store = Store(task["world"])
        self._task = task
        self._worked, self._earned = set(), 0.0
        return ""

    def step(self, action: str, action_input: dict[str, Any]) -> StepResult:
        """Run one call, or judge the episode when `action` is `finish`."""
        if action == FINISH:
            success = self._judge(str(action_input.get("answer", "")))
            reward = 1.0 - self._earned if success else 0.0
            return StepResult("", reward, done=True, success=success)
        shown = [spec["function"]["name"] for spec in self._task["tools"]]
        if action not in shown:
            return StepResult(f"error: no tool {action}", error="unknown_tool")
        tool = TOOLS[action]
        if fault := tool.fault(action_input):
            return StepResult(f"error: {fault}", error="bad_arguments")
        whole = {name: int(value) if isinstance(value, float) else value for name, value in action_input.items()}
        try:  # JSON schema counts 2.0 as an integer, and so do we
            observation = tool.run(self._store, **whole)
        except (ToolFault, OverflowError, UnicodeEncodeError) as fault_of_call:  # the latter two: SQLite cannot hold it
            return StepResult(f"error: {fault_of_call}", error="failed")
        return StepResult(observation, self._reward(f"{action} {action_input}"))

    def _reward(self, call: str) -> float:
        if call in self._worked or len(self._worked) >= _CALLS_REWARDED:
            return 0.0
        self._worked.add(call)
        self._earned += _CALL_REWARD
        return _CALL_REWARD

    def _judge(self, answer: str) -> bool:
        """Both must be right: the answer, where one is asked for, and the state of the desk."""
        expected = self._task["expected"] or self._task["world"]
        right = self._task["answer"] is None or gives(answer, self._task["answer"])
        return right and same_world(self._store.dump(), expected)


def gives(reply: str, expected: str) -> bool:
    """Whether a reply gives the expected value: the only number in it, or the only word but for a few around it.

    Example:
        >>> gives("The total is 1,084.", "1084"), gives("84 or 85", "84"), gives("-84", "84"), gives("Mia", "mia")
        (True, False, False, True)
    """
    if expected.isdecimal():
        numbers = _NUMBER.findall(reply)
        return len(numbers) == 1 and numbers[0].replace(",", "") == expected
    words = re.findall(r"\w+", reply.lower())
    return [word for word in words if word not in _FILLERS] == [expected.lower()]


_NUMBER = re.compile(r"-?\d+(?:[,.]\d+)*")
_FILLERS = frozenset("the a an is it of order status owner answer file".split())
"""Words around a one-word answer that do not change it."""

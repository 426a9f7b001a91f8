"""What an agent, a task and an environment must look like, and how what they give is read.

An agent decides one step at a time: `(task, history) -> decision`. It is a callable, or an object with `act` or
`run_step`; with `act_batch(tasks, histories) -> decisions` it can decide for many episodes at once, and
`reset(task)`, when it has one, is called before the first step of an episode. `history` is the list of steps so far.
Given as a class (or `functools.partial` of one), it is made anew for each episode, so that it may keep what it likes
between two steps. All of these, and `reset` and `step` of an environment, may be coroutine functions; they run on one
event loop. An environment that was made for one episode is closed after it, when it has `close`.

A decision is a `TrajectoryStep`, or a mapping with `action` and, as needed, `thought`, `action_input`, `reply` (a
language model's own words) and `error` (the call could not be made, so no environment is asked). An agent that runs
its own tools also says `observation`, `reward`, `done` and `success`. None means the agent gives up.

A task is a mapping with `instruction`, or that instruction alone. Known fields: `task_id`, `answer` (the expected
final answer), `tools`, `system_prompt`, `metadata`; the agent and the environment see every other field as well.
Where a task is worked on several times, `metadata["sample"]` counts the times from 0.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from sage.libs.finetune.agent.errors import DataError, TrajectoryError
from sage.libs.finetune.agent.jsonl import encode
from sage.libs.finetune.agent.registry import suggestion
from sage.libs.finetune.agent.trajectories.execution.event_loop import settled
from sage.libs.finetune.agent.types import Environment, StepResult, TrajectoryStep, check_tools

DEEPEST = 64
"""Levels of lists and objects that arguments or metadata may have; whatever reads the file must get to the bottom."""

Task = Mapping[str, Any]
Decide = Callable[[Task, list[TrajectoryStep]], object]
DecideBatch = Callable[[list[Task], list[list[TrajectoryStep]]], Sequence[object]]


@dataclass(frozen=True)
class Decision:
    """What an agent chose; `observation` is None when it did not say one."""

    action: str
    thought: str = ""
    action_input: dict[str, Any] = field(default_factory=dict)
    reply: str | None = None
    error: str | None = None
    observation: str | None = None
    reward: float = 0.0
    done: bool = False
    success: bool | None = None


@dataclass(frozen=True)
class Cast:
    """Who plays: how an episode comes to its agent and its environment.

    Attributes:
        agent: What the user gave.
        environment: The same.
        make_agent: Gives the agent of an episode, the same one each time or a new one.
        make_environment: The same for the environment; None when there is none.
        own_agents: Whether several episodes can go on at once as far as the agent is concerned.
        own_environments: The same for the environment.
    """

    agent: object
    environment: object
    make_agent: Callable[[], object]
    make_environment: Callable[[], object] | None
    own_agents: bool
    own_environments: bool

    @classmethod
    def of(cls, agent: object, environment: object) -> Cast:
        """Who plays when the user gave these.

        Raises:
            TypeError: when one of them is none.
        """
        make_agent, own_agents = agent_maker(agent)
        make_environment, own_environments = environment_maker(environment)
        return cls(agent, environment, make_agent, make_environment, own_agents, own_environments)


_DECISION_TYPES: dict[str, tuple[type, ...]] = {
    "action": (str,), "thought": (str,), "action_input": (dict,), "reply": (str, type(None)),
    "error": (str, type(None)), "observation": (str, type(None)), "reward": (Real,), "done": (bool,),
    "success": (bool, type(None)),
}  # fmt: skip
_TASK_TYPES: dict[str, tuple[type, ...]] = {
    "instruction": (str,), "task_id": (str,), "tools": (list,), "system_prompt": (str, type(None)),
    "opening": (str, type(None)),
    "metadata": (dict,),
}  # fmt: skip


def decider(agent: object) -> Decide:
    """The agent as one function `(task, history) -> decision`.

    Raises:
        TypeError: when it is none of the accepted forms.
    """
    if not isinstance(agent, type):
        for name in ("act", "run_step"):
            method = getattr(agent, name, None)
            if callable(method):
                return method  # type: ignore[no-any-return]
        decide_batch = batch_decider(agent)
        if decide_batch is not None:
            return lambda task, history: decide_batch([task], [history])[0]
        if callable(agent):
            return agent
    found = f"the class {agent.__name__}" if isinstance(agent, type) else type(agent).__name__
    raise TypeError(
        f"agent: {found} cannot decide; give a callable (task, history), or an object with act, run_step or act_batch"
    )


def batch_decider(agent: object) -> DecideBatch | None:
    """The agent's `act_batch`, checked to give one decision per episode; None when it has none."""
    act_batch = getattr(agent, "act_batch", None)
    if not callable(act_batch):
        return None

    def decide_batch(tasks: list[Task], histories: list[list[TrajectoryStep]]) -> Sequence[object]:
        decisions = settled(act_batch(tasks, histories))
        if not isinstance(decisions, list | tuple) or len(decisions) != len(tasks):
            count = len(decisions) if isinstance(decisions, list | tuple) else type(decisions).__name__
            raise TrajectoryError(f"act_batch must give a list of {len(tasks)} decisions, it gave {count}")
        return decisions

    return decide_batch


def agent_maker(agent: object) -> tuple[Callable[[], object], bool]:
    """How to get the agent of an episode, and whether several episodes can be played at once.

    One agent that has `reset` keeps the state of one episode, unless it decides in batches.

    Raises:
        TypeError: when it is none.
    """
    made = agent.func if isinstance(agent, functools.partial) else agent
    if not isinstance(made, type):
        decider(agent)  # refuses what cannot decide
        return lambda: agent, batch_decider(agent) is not None or not callable(getattr(agent, "reset", None))
    if callable(getattr(made, "act_batch", None)):
        raise TypeError(f"agent: the class {made.__name__} decides in batches; give one agent made of it")
    if not any(name in vars(base) for base in made.__mro__ for name in ("act", "run_step", "__call__")):
        decider(made)
    return agent, True  # type: ignore[return-value]


def environment_maker(environment: object) -> tuple[Callable[[], object] | None, bool]:
    """How to get an environment for an episode, and whether several can be had at once.

    Raises:
        TypeError: when it is neither an environment nor something that makes one.
    """
    if environment is None:
        return None, True
    if not isinstance(environment, type) and isinstance(environment, Environment):
        return lambda: environment, False
    if callable(environment):
        return environment, True
    raise TypeError(
        f"environment: {type(environment).__name__} has no reset and step; give an object with both, "
        "or a callable without arguments that makes one"
    )


def read_tasks(tasks: Iterable[str | Task], places: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Check the tasks and give each a `task_id` (`task-0001` by position where it has none).

    Args:
        tasks: Mappings with an `instruction`, or instructions alone.
        places: Where each task comes from (file and line), for the error; None names it by position.

    Raises:
        DataError: naming the task, the field, and what was expected.
    """
    if isinstance(tasks, str | Mapping):
        raise DataError("tasks: expected a list of tasks, found a single one; use collect_single for one task")
    tasks = list(tasks)
    places = places or [f"tasks[{index}]" for index in range(len(tasks))]
    read = [_read_task(task, index, place) for index, (task, place) in enumerate(zip(tasks, places, strict=True), 1)]
    if not read:
        raise DataError("tasks: the list is empty; give at least one task with an 'instruction'")
    seen: dict[str, str] = {}
    for place, task in zip(places, read, strict=True):
        if task["task_id"] in seen:
            raise DataError(
                f"{place}: field 'task_id': '{task['task_id']}' is taken by {seen[task['task_id']]}; "
                "give each task its own"
            )
        seen[task["task_id"]] = place
    return read


def _read_task(task: object, position: int, where: str) -> dict[str, Any]:
    if isinstance(task, str):
        task = {"instruction": task}
    if not isinstance(task, Mapping):
        raise DataError(f"{where}: expected a mapping or an instruction, found {type(task).__name__}")
    if "instruction" not in task:
        found = ", ".join(map(str, task)) or "no field"
        raise DataError(f"{where}: field 'instruction' is missing (found: {found}); say what the agent shall do")
    for name, wanted in _TASK_TYPES.items():
        if name in task and not isinstance(task[name], wanted):
            raise DataError(f"{where}: field '{name}': expected {_names(wanted)}, found {type(task[name]).__name__}")
    if not task["instruction"].strip():
        raise DataError(f"{where}: field 'instruction' is empty; say what the agent shall do")
    read: dict[str, Any] = {"task_id": f"task-{position:04d}", **task}
    for name in (*_TASK_TYPES, "answer"):
        try:
            plain = json.loads(encode(task.get(name)))
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(f"{where}: field '{name}': cannot be written as JSON ({error})") from error
        if is_deep(plain):
            raise DataError(f"{where}: field '{name}': more than {DEEPEST} lists and objects inside each other")
        if name in ("tools", "metadata") and name in task:
            read[name] = plain  # as the file will hold it
    check_tools(read.get("tools", []), where)
    return read


def is_deep(value: object) -> bool:
    """Whether a JSON value has more than `DEEPEST` levels."""
    level = [value]
    for _ in range(DEEPEST + 1):
        holders = [node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list)]
        level = [child for holder in holders for child in holder]
        if not level:
            return False
    return True


def read_decision(value: object) -> Decision | None:
    """Read what an agent gave.

    Raises:
        TrajectoryError: when it is no decision; the message says what is expected.
    """
    if value is None:
        return None
    if isinstance(value, TrajectoryStep):
        # A step cannot tell an observation left out from an empty one, so an empty one counts as left out.
        value = {**vars(value), "observation": value.observation or None}
    if not isinstance(value, Mapping):
        raise TrajectoryError(
            f"a decision must be a TrajectoryStep, a mapping with 'action', or None; found {type(value).__name__}"
        )
    for name, item in value.items():
        if name not in _DECISION_TYPES:
            near = suggestion(str(name), _DECISION_TYPES)
            raise TrajectoryError(f"a decision has no field '{name}'; {near}known: {', '.join(_DECISION_TYPES)}")
        _check_field("decision", name, item, _DECISION_TYPES[name])
    if not value.get("action"):
        raise TrajectoryError("a decision needs 'action': the name of a tool, or 'finish'")
    values = dict(value)
    values["reward"] = _finite("decision", value.get("reward", 0.0))
    return Decision(**values)


def read_result(value: object) -> StepResult:
    """Read what an environment's `step` gave: a StepResult, or `(observation, reward, done[, success])`.

    Raises:
        TrajectoryError: when it is neither.
    """
    if not isinstance(value, StepResult):
        if not isinstance(value, tuple) or len(value) not in (3, 4):
            found = f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__
            raise TrajectoryError(
                f"step must give a StepResult or (observation, reward, done[, success]); found {found}"
            )
        value = StepResult(*value)
    for name in ("observation", "reward", "done", "success", "error"):
        wanted = (str,) if name == "observation" else _DECISION_TYPES[name]
        _check_field("step", name, getattr(value, name), wanted)
    return value._replace(reward=_finite("step", value.reward))


def _check_field(what: str, name: str, value: object, wanted: tuple[type, ...]) -> None:
    if not isinstance(value, wanted) or (wanted == (Real,) and isinstance(value, bool)):
        raise TrajectoryError(f"{what} field '{name}': expected {_names(wanted)}, found {type(value).__name__}")


def _finite(what: str, reward: float) -> float:
    if not math.isfinite(reward):
        raise TrajectoryError(f"{what} field 'reward': expected a finite number, found {reward}")
    return float(reward)


def _names(types: tuple[type, ...]) -> str:
    names = {Real: "a number", type(None): "None"}
    return " or ".join(names.get(kind, kind.__name__) for kind in types)

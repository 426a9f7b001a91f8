"""Agents that know the desk: the scripted expert, and one that errs.

Both follow the plans in `scripts.py`: they read the request and the observations, never the database.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from sage.libs.finetune.agent.environments.desk.kinds import KINDS
from sage.libs.finetune.agent.environments.desk.scripts import DONE, MadeUp, Script
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.types import FINISH, TrajectoryStep

FAULTS = ("skip", "wrong_id", "stop")


class DeskExpert:
    """Solves desk tasks by the book, with a short thought before each call.

    Example:
        >>> from sage.libs.finetune.agent.environments.desk import desk_tasks
        >>> task = desk_tasks("train", 1)[0]
        >>> DeskExpert().act(task, []).action
        'find_customer'
    """

    def act(self, task: Mapping[str, Any], history: Sequence[TrajectoryStep]) -> TrajectoryStep:
        """The next step, given what was observed so far."""
        meta = task["metadata"]
        return _replay(KINDS[meta["kind"]].script(meta["slots"]), [step.observation for step in history])


class NoisyDeskExpert(DeskExpert):
    """The expert, failing on a share of tasks the way agents do.

    On `failure_rate` of the tasks (chosen by a hash of seed and task id) it commits one real fault at its first or
    second call, and the environment judges what comes of it:

    - `skip`: it leaves the call out and goes on with made-up values in place of what it would have read;
    - `wrong_id`: it makes the call with a wrong id, number or name, and goes on with what it gets;
    - `stop`: it stops there, with a number it saw or a claim to be done.

    Args:
        failure_rate: Share of tasks it fails on, 0 to 1.
        seed: Fixes which tasks and which faults.

    Raises:
        ConfigError: when failure_rate is outside 0 to 1.
    """

    def __init__(self, failure_rate: float = 0.3, seed: int = 0) -> None:
        if not 0 <= failure_rate <= 1:
            raise ConfigError(f"failure_rate must be between 0 and 1, not {failure_rate}")
        self.failure_rate = failure_rate
        self.seed = seed

    def act(self, task: Mapping[str, Any], history: Sequence[TrajectoryStep]) -> TrajectoryStep:
        """The next step: right up to the fault, and consistent with it from there on."""
        sample = task["metadata"].get("sample", 0)
        rng = random.Random(f"noise/{self.seed}/{task['task_id']}" + (f"/{sample}" if sample else ""))
        fails, fault, at = rng.random() < self.failure_rate, rng.choice(FAULTS), rng.randint(0, 1)
        if not fails or len(history) < at:
            return super().act(task, history)
        if fault == "stop":
            return _finish(_guess(history, rng))
        observations = [step.observation for step in history]
        if fault == "skip":
            observations.insert(at, MadeUp(rng.randint(101, 999)))
        meta = task["metadata"]
        try:
            step = _replay(KINDS[meta["kind"]].script(meta["slots"]), observations)
        except KeyError:  # the plan looks for a value that its fault kept it from seeing
            return _finish(_guess(history, rng))
        if not history and step.action == FINISH:
            return _finish(_guess(history, rng))
        return _mistaken(step, rng) if fault == "wrong_id" and len(history) == at else step


def _replay(script: Script, observations: Sequence[str]) -> TrajectoryStep:
    """Run a plan up to the next step it wants, feeding it the observations."""
    try:
        thought, tool, arguments = next(script)
        for observation in observations:
            thought, tool, arguments = script.send(observation)
    except StopIteration as end:
        return _finish(end.value)
    return TrajectoryStep(thought, tool, arguments)


def _finish(answer: str) -> TrajectoryStep:
    return TrajectoryStep("", FINISH, {"answer": answer})


def _guess(history: Sequence[TrajectoryStep], rng: random.Random) -> str:
    """An answer given too early: a number seen on the way, or a claim to be done."""
    seen = [word.split("=")[1] for step in history for word in step.observation.split() if "=" in word]
    return rng.choice(seen) if seen and rng.random() < 0.5 else DONE


def _mistaken(step: TrajectoryStep, rng: random.Random) -> TrajectoryStep:
    """The same step with its first number off, or with an argument swapped when it has none."""
    arguments = dict(step.action_input)
    for name, value in arguments.items():
        if isinstance(value, int):
            return TrajectoryStep(step.thought, step.action, {**arguments, name: value + rng.randint(1, 9)})
    name = next(iter(arguments), "")
    return _finish(DONE) if not name else TrajectoryStep(step.thought, step.action, {**arguments, name: "Bob"})

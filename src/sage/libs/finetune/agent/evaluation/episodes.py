"""Counts over finished episodes: how many succeeded, in how many steps, how many calls were valid or wasted.

A call is wasted when it cannot have helped, for the first of these reasons that holds:

refused      It could not be read, did not fit the tools shown, or the environment refused it (`step.error`).
after_goal   The environment had already paid for success: the episode is one, and the last step that earned a reward
             came before. Environments that pay at `finish` alone never tell, and no call counts.
repeated     The same tool with the same arguments was called before and answered with the same words, and the step
             earned nothing. A call made again because something changed has another answer, and is not wasted.

The last is what can be seen from outside: an action that changes the world and always answers alike ("You wait.") is
counted as repeated too. Talking to the user (`respond`) and the final answer (`finish`) are steps, not calls.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from sage.libs.finetune.agent.evaluation.replies import call_fault
from sage.libs.finetune.agent.evaluation.statistics import wilson_interval
from sage.libs.finetune.agent.types import FINISH, INVALID, RESPOND, AgentTrajectory, Interval, TrajectoryStep

REFUSED, REPEATED, AFTER_GOAL = "refused", "repeated", "after_goal"
WASTES = (REFUSED, AFTER_GOAL, REPEATED)


@dataclass(frozen=True)
class EpisodeScore:
    """Success of an agent on a set of tasks.

    Attributes:
        successes: Episodes the environment judged a success.
        n: Episodes run, broken ones included.
        interval: 95% Wilson interval of the success rate.
        calls_valid: Calls that could be read, named a shown tool and fitted its schema.
        calls: Calls attempted.
        broken: Episodes that broke off with an error; they count as not successful.
        steps: Steps taken in all, final answers included.
        wasted: Calls that cannot have helped, by reason (see the module).
    """

    successes: int
    n: int
    interval: Interval
    calls_valid: int
    calls: int
    broken: int
    steps: int = 0
    wasted: dict[str, int] = field(default_factory=dict)

    @property
    def success(self) -> float:
        """Share of successes; nan for no episodes."""
        return self.successes / self.n if self.n else float("nan")

    @property
    def mean_steps(self) -> float:
        """Steps an episode; nan for no episodes."""
        return self.steps / self.n if self.n else float("nan")

    @property
    def wasted_share(self) -> float:
        """Share of the calls that were wasted, 0 to 1; nan for no calls."""
        return sum(self.wasted.values()) / self.calls if self.calls else float("nan")


def score_episodes(trajectories: Iterable[AgentTrajectory]) -> EpisodeScore:
    """Count successes, steps, and calls by what they were worth.

    Example:
        >>> score_episodes([AgentTrajectory("a", "Do it.", success=True)]).success
        1.0
    """
    episodes = list(trajectories)
    successes = sum(episode.success for episode in episodes)
    valid = [
        _fault(step, episode) is None for episode in episodes for step in episode.steps if step.action not in _NO_CALL
    ]
    wasted = Counter(waste for episode in episodes for waste in wasted_calls(episode).values())
    return EpisodeScore(
        successes=successes,
        n=len(episodes),
        interval=wilson_interval(successes, len(episodes)),
        calls_valid=valid.count(True),
        calls=len(valid),
        broken=sum(episode.error is not None for episode in episodes),
        steps=sum(len(episode.steps) for episode in episodes),
        wasted={waste: wasted[waste] for waste in WASTES},
    )


def wasted_calls(episode: AgentTrajectory) -> dict[int, str]:
    """Which calls of an episode cannot have helped, and why.

    Returns:
        Position of the step (from 0) -> refused, after_goal or repeated.

    Raises:
        ScoringError: when a tool's own schema is not valid JSON schema.

    Example:
        >>> look = TrajectoryStep("", "look", {"at": "door"}, "It is shut.")
        >>> tools = [{"type": "function", "function": {"name": "look"}}]
        >>> wasted_calls(AgentTrajectory("a", "Open it.", [look, look], tools=tools))
        {1: 'repeated'}
    """
    rewarded = [position for position, step in enumerate(episode.steps) if step.reward > 0]
    goal = rewarded[-1] if episode.success and rewarded else len(episode.steps)
    seen: set[tuple[str, str, str]] = set()
    wasted: dict[int, str] = {}
    for position, step in enumerate(episode.steps):
        if step.action in _NO_CALL:
            continue
        done = (step.action, json.dumps(step.action_input, sort_keys=True), step.observation)
        if step.error is not None or _fault(step, episode) is not None:
            wasted[position] = REFUSED
        elif position > goal:
            wasted[position] = AFTER_GOAL
        elif done in seen and step.reward <= 0:
            wasted[position] = REPEATED
        seen.add(done)
    return wasted


_NO_CALL = (FINISH, RESPOND)


def _fault(step: TrajectoryStep, episode: AgentTrajectory) -> str | None:
    """Why the call is not valid by the tools that were shown, None when it is."""
    return INVALID if step.action == INVALID else call_fault(step.action, step.action_input, episode.tools)


def by(
    trajectories: Sequence[AgentTrajectory], key: Callable[[AgentTrajectory], str]
) -> dict[str, list[AgentTrajectory]]:
    """Trajectories grouped by a name, in order of first appearance."""
    groups: dict[str, list[AgentTrajectory]] = {}
    for trajectory in trajectories:
        groups.setdefault(key(trajectory), []).append(trajectory)
    return groups

"""Counts over finished episodes: how many succeeded, how many calls were valid, how many broke off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sage.libs.finetune.agent.evaluation.replies import call_fault
from sage.libs.finetune.agent.evaluation.statistics import wilson_interval
from sage.libs.finetune.agent.types import FINISH, INVALID, AgentTrajectory, Interval


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
    """

    successes: int
    n: int
    interval: Interval
    calls_valid: int
    calls: int
    broken: int

    @property
    def success(self) -> float:
        """Share of successes; nan for no episodes."""
        return self.successes / self.n if self.n else float("nan")


def score_episodes(trajectories: Iterable[AgentTrajectory]) -> EpisodeScore:
    """Count successes and valid calls.

    Example:
        >>> score_episodes([AgentTrajectory("a", "Do it.", success=True)]).success
        1.0
    """
    episodes = list(trajectories)
    successes = sum(episode.success for episode in episodes)
    faults = [
        step.action == INVALID or call_fault(step.action, step.action_input, episode.tools) is not None
        for episode in episodes
        for step in episode.steps
        if step.action != FINISH
    ]
    return EpisodeScore(
        successes=successes,
        n=len(episodes),
        interval=wilson_interval(successes, len(episodes)),
        calls_valid=faults.count(False),
        calls=len(faults),
        broken=sum(episode.error is not None for episode in episodes),
    )


def by(
    trajectories: Sequence[AgentTrajectory], key: Callable[[AgentTrajectory], str]
) -> dict[str, list[AgentTrajectory]]:
    """Trajectories grouped by a name, in order of first appearance."""
    groups: dict[str, list[AgentTrajectory]] = {}
    for trajectory in trajectories:
        groups.setdefault(key(trajectory), []).append(trajectory)
    return groups

"""Episodes of one task that succeeded, beside ones that failed: pairs for preference training.

Contrastive trajectory pairs are from ETO (Song et al. 2024, https://arxiv.org/abs/2403.02502): what an agent explores
and fails at is paired with what solved the same task. Here both are episodes that were judged; a pair is never made of
two successes, however their rewards differ, nor of two failures.

Rows have the conversational preference form that TRL's `DPOTrainer` takes: `prompt` (messages up to the assistant's
first turn), `chosen` and `rejected` (the messages that follow), and `tools`. Observations are part of `chosen` and
`rejected`, as in every multi-turn conversation; `weight` 0 marks turns that were refused.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from sage.libs.finetune.agent.chatml import shown_tools, to_messages
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.types import AgentTrajectory, Message

Divergence = Literal["trajectory", "step"]


@dataclass
class PairStats:
    """What `preference_pairs` would make of some trajectories, and why not more.

    Attributes:
        trajectories: How many there are.
        broken: Those that broke off with an error, which is no failure of the agent; left out.
        unjudged: Those that nothing says success or failure of; left out.
        empty: Those without steps; left out.
        tasks: Different tasks among the others.
        both: Tasks with a success and a failure.
        only_successes: Tasks that nobody failed at.
        only_failures: Tasks that nobody solved.
        same: Pairs not made because both did the same: the outcome did not come of what the agent did.
        too_close: Pairs not made because the success is not worth `min_reward_gap` more than the failure.
        pairs: Pairs made.
    """

    trajectories: int = 0
    broken: int = 0
    unjudged: int = 0
    empty: int = 0
    tasks: int = 0
    both: int = 0
    only_successes: int = 0
    only_failures: int = 0
    same: int = 0
    too_close: int = 0
    pairs: int = 0

    def to_dict(self) -> dict[str, int]:
        """Plain numbers by name."""
        return asdict(self)


def preference_pairs(
    trajectories: Sequence[AgentTrajectory],
    *,
    max_pairs_per_task: int = 1,
    min_reward_gap: float = 0.0,
    divergence: Divergence = "trajectory",
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Pair successes with failures of the same task (the same `task_id`, instruction, system prompt and tools).

    Tools that were inferred from an episode's own calls are no part of its task; a row then shows those of both.

    Args:
        trajectories: Any; those that broke off, have no steps or were never judged are left out.
        max_pairs_per_task: Most pairs of one task; its successes and its failures take turns.
        min_reward_gap: Least difference of the total rewards, success minus failure; 0 refuses only a success that was
            rewarded less.
        divergence: Where the prompt ends: `trajectory`, before the first step; `step`, after the steps that both have
            in common, so that the pair is about the decision in which they part.
        seed: Fixes which episodes are paired, where there are more pairs than `max_pairs_per_task`.

    Returns:
        Rows with `prompt`, `chosen`, `rejected`, `tools` and `metadata` (task_id, both rewards, the assistant's turns
        in the prompt), in the order in which the tasks come first. The same trajectories and seed give the same rows.

    Raises:
        ConfigError: for a setting out of range.
        DataError: for a trajectory that has no form as a conversation (steps after `finish`).

    Example:
        >>> from sage.libs.finetune.agent.types import TrajectoryStep
        >>> right = AgentTrajectory("a", "2 + 2?", [TrajectoryStep("", "finish", {"answer": "4"})], success=True)
        >>> wrong = AgentTrajectory("a", "2 + 2?", [TrajectoryStep("", "finish", {"answer": "5"})])
        >>> [row] = preference_pairs([right, wrong])
        >>> row["prompt"][0]["content"], row["chosen"][0]["content"], row["rejected"][0]["content"]
        ('2 + 2?', '4', '5')
    """
    return _paired(trajectories, max_pairs_per_task, min_reward_gap, divergence, seed)[0]


def pair_stats(
    trajectories: Sequence[AgentTrajectory],
    *,
    max_pairs_per_task: int = 1,
    min_reward_gap: float = 0.0,
    divergence: Divergence = "trajectory",
    seed: int = 0,
) -> PairStats:
    """Count what `preference_pairs` does with the same arguments; the errors are its own."""
    return _paired(trajectories, max_pairs_per_task, min_reward_gap, divergence, seed)[1]


def _paired(
    trajectories: Sequence[AgentTrajectory], most: int, gap: float, divergence: Divergence, seed: int
) -> tuple[list[dict[str, Any]], PairStats]:
    _check(most, gap, divergence)
    stats = PairStats(trajectories=len(trajectories))
    tasks: dict[bytes, tuple[list[AgentTrajectory], list[AgentTrajectory]]] = defaultdict(lambda: ([], []))
    for trajectory in trajectories:
        if trajectory.error is not None:
            stats.broken += 1
        elif trajectory.metadata.get("judged") is False:
            stats.unjudged += 1
        elif not trajectory.steps:
            stats.empty += 1
        else:
            tasks[_task(trajectory)][0 if trajectory.success else 1].append(trajectory)
    rows: list[dict[str, Any]] = []
    for successes, failures in tasks.values():
        stats.tasks += 1
        if successes and failures:
            stats.both += 1
        elif successes:
            stats.only_successes += 1
        else:
            stats.only_failures += 1
        made = 0
        for chosen, rejected in _candidates(successes, failures, seed):
            if made == most:
                break
            if not chosen.total_reward - rejected.total_reward >= gap:  # this way round, since NaN compares false
                stats.too_close += 1
            elif (row := _row(chosen, rejected, divergence)) is None:
                stats.same += 1
            else:
                rows.append(row)
                made += 1
    stats.pairs = len(rows)
    return rows, stats


def _candidates(
    successes: Sequence[AgentTrajectory], failures: Sequence[AgentTrajectory], seed: int
) -> Iterator[tuple[AgentTrajectory, AgentTrajectory]]:
    """All pairs of a task, in rounds in which nobody comes twice; the seed says who meets whom."""
    if not successes or not failures:
        return
    rng = random.Random(f"preferences/{seed}/{successes[0].task_id}")
    good, bad = rng.sample(successes, len(successes)), rng.sample(failures, len(failures))
    width = max(len(good), len(bad))
    for start in range(width):  # success i meets failure i + start, counted round
        for i, chosen in enumerate(good):
            if (j := (i + start) % width) < len(bad):
                yield chosen, bad[j]


def _row(chosen: AgentTrajectory, rejected: AgentTrajectory, divergence: Divergence) -> dict[str, Any] | None:
    """One pair; None when the agent said the same in both."""
    good, bad = to_messages(chosen), to_messages(rejected)
    if _said(good) == _said(bad):
        return None
    start = next(index for index, message in enumerate(good) if message["role"] == "assistant")
    if divergence == "step":
        start = _parting(good, bad)
    others = [tool for tool in rejected.tools if tool not in chosen.tools]  # only where both were inferred
    return {
        "prompt": good[:start],
        "chosen": good[start:],
        "rejected": bad[start:],
        "tools": [*chosen.tools, *others],
        "metadata": {
            "task_id": chosen.task_id,
            "chosen_reward": chosen.total_reward,
            "rejected_reward": rejected.total_reward,
            "common_turns": sum(message["role"] == "assistant" for message in good[:start]),
        },
    }


def _parting(good: Sequence[Message], bad: Sequence[Message]) -> int:
    """The last assistant turn up to which two conversations are the same.

    It is the turn in which they part. Where the environment answered the same turn in two ways, or one conversation
    ends in the middle of the other, it is the last turn they share: a pair has something to say on both sides.
    """
    starts = []
    for index, (one, other) in enumerate(zip(good, bad, strict=False)):
        if one["role"] == other["role"] == "assistant":
            starts.append(index)
        if one != other:
            break
    return starts[-1]


def _said(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The assistant's turns; their weights are the environment's verdict on them."""
    turns = [message for message in messages if message["role"] == "assistant"]
    return [{name: value for name, value in turn.items() if name != "weight"} for turn in turns]


def _task(trajectory: AgentTrajectory) -> bytes:
    """Equal for episodes that were given the same task in the same words."""
    opening = trajectory.metadata.get("opening")
    tools = shown_tools(trajectory.tools, trajectory.metadata)
    given = [trajectory.task_id, trajectory.instruction, trajectory.system_prompt, opening, tools]
    return hashlib.sha256(json.dumps(given, sort_keys=True, default=repr).encode()).digest()


def _check(most: int, gap: float, divergence: str) -> None:
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise ConfigError(f"max_pairs_per_task={most!r}: expected a whole number of at least 1")
    if not isinstance(gap, int | float) or isinstance(gap, bool) or gap != gap:
        raise ConfigError(f"min_reward_gap={gap!r}: expected a number")
    if divergence not in get_args(Divergence):
        raise ConfigError(f"divergence={divergence!r}: expected {' or '.join(get_args(Divergence))}")

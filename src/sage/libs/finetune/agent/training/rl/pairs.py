"""What DPO prefers to what: pairs read from a file, or explored on the spot, and as tokens.

Exploring is that of ETO (Song et al. 2024, arXiv:2403.02502): the policy as it is plays each task `samples_per_task`
times at temperature 1; what failed is paired with what solved the same task. Where the policy never solved it, an
expert's episode is the chosen side. Two successes make no pair, nor do two failures. The reward has a say as well: a
success that it ranks below the failure is left out. Unlike ETO, which always prefers the expert's episode, we prefer
the policy's own success where it has one: the pair is then about what the policy can do already.

A side of a pair is the whole conversation as training renders it, with labels on what the assistant wrote after the
prompt: observations are none of its doing and carry none, nor do turns within the prompt. A turn of weight 0 (a call
that was refused, a reply that could not be read) is nothing to prefer and carries none in the chosen side; in the
rejected side it is what is to become unlikely, and counts. Every other weight counts 1.

    pairs.json                     one entry a round: what was played, found and left out
    pairs/round-1.jsonl            the pairs themselves
    pairs/round-1.reference.json   their log-probabilities before the round's first step (written by `dpo`)

What a round has written is what a resumed run goes on with.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.conversion.preferences import pair_stats, preference_pairs
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.models.load import LoadedModel
from sage.libs.finetune.agent.rl_config import RLTrainingConfig
from sage.libs.finetune.agent.sources.rows import read_sample
from sage.libs.finetune.agent.tokenization.render import IGNORED, render
from sage.libs.finetune.agent.training.rl.context import RLContext
from sage.libs.finetune.agent.training.rl.rollouts import play
from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector
from sage.libs.finetune.agent.trajectories.io import load_trajectories
from sage.libs.finetune.agent.types import AgentTrajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

SCRIPTED = "scripted"
SIDES = ("chosen", "rejected")
LEFT_OUT = {
    "too_long": "a side is longer than max_seq_length",
    "untrained": "a side has no turn to learn from (all have weight 0)",
}
"""Why a pair is left out, by the name under which it is counted."""

_COUNTS = "pairs.json"

Row = dict[str, list[int]]


@dataclass(frozen=True)
class TokenPair:
    """A pair as tokens.

    Attributes:
        chosen: `input_ids` and `labels` of the conversation that is preferred.
        rejected: The same of the other one.
        place: Where it comes from, as `FILE:NUMBER`.
    """

    chosen: Row
    rejected: Row
    place: str

    @property
    def length(self) -> int:
        """Tokens of the longer side."""
        return max(len(self.chosen["input_ids"]), len(self.rejected["input_ids"]))


def pairs_of_round(loaded: LoadedModel, config: RLTrainingConfig, context: RLContext, number: int) -> list[TokenPair]:
    """The pairs of a round: those it wrote down before, else the file's, else what exploring gives; all are counted.

    Args:
        loaded: The policy, which explores.
        config: `preferences`, or how to explore; `max_seq_length`.
        context: Tasks, environment, reward and run folder.
        number: Of the round, from 1.

    Returns:
        Those that can be learned from; none when there are none.

    Raises:
        ConfigError: when there is no such expert.
        DataError: for a file that holds something else than pairs.
        TrainingError: when all episodes break off, or a reward is no finite number.
    """
    path = round_file(context.folder, number)
    if path.exists():
        rows, found = [row for _, row in jsonl.read_jsonl(path)], None
    elif config.preferences is not None:
        rows = [row for _, row in jsonl.read_jsonl(config.preferences)]
        found = {"preferences": config.preferences, "pairs": len(rows)}
    else:
        rows, found = explored(loaded, config, context, number)
    where = config.preferences or str(path)
    pairs, left_out = token_pairs(rows, loaded.tokenizer, config.max_seq_length, where)
    if found is not None:
        counts = {"round": number, **found, "left_out": left_out, "learned_from": len(pairs)}
        path.parent.mkdir(exist_ok=True)
        jsonl.write_json(context.folder / _COUNTS, [*counts_of_rounds(context.folder)[: number - 1], counts])
        jsonl.write_jsonl(path, rows)
    for reason, count in left_out.items():
        if count:
            logger.warning("round %d: %d of %d pairs are left out: %s", number, count, len(rows), LEFT_OUT[reason])
    return pairs


def round_file(folder: Path, number: int) -> Path:
    """Where the pairs of a round are in a run folder."""
    return folder / "pairs" / f"round-{number}.jsonl"


def counts_of_rounds(folder: Path) -> list[dict[str, Any]]:
    """What was played, found and left out, round by round; empty before the first."""
    path = folder / _COUNTS
    found: list[dict[str, Any]] = jsonl.read_json(path) if path.exists() else []
    return found


def require_expert(config: RLTrainingConfig, context: RLContext) -> None:
    """Find out before anything is played whether there is the expert that was asked for.

    Raises:
        ConfigError: when the environment has none of its own.
        DataError: when the file of trajectories cannot be read.
    """
    if config.expert == SCRIPTED:
        if "expert" not in context.agents:
            raise ConfigError(
                f"'expert': {config.environment} has no scripted expert; give a file of trajectories that solve the "
                "tasks, or leave it out"
            )
    elif config.expert is not None:
        load_trajectories(config.expert)


def explored(
    loaded: LoadedModel, config: RLTrainingConfig, context: RLContext, number: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Play all tasks and pair what came of it.

    Args:
        loaded: The policy, which plays as it is.
        config: How to play; `expert`.
        context: Tasks, environment and reward.
        number: Of the round; each plays otherwise.

    Returns:
        Rows as `conversion.preferences.preference_pairs` makes them, and the counts: episodes to play, those broken off
        or without room for a turn, or without one turn that could be read (nothing can be learned from that); mean
        reward and success; tasks the policy solved; experts' episodes; and what `PairStats` counts of the rest.

    Raises:
        TrainingError: when all episodes break off, or a reward is no finite number.
    """
    tasks = [
        {**task, "metadata": {**(task.get("metadata") or {}), "sample": sample}}
        for task in context.tasks
        for sample in range(config.samples_per_task)
    ]
    played = play(
        loaded, tasks, context.make_environment, max_steps=config.max_steps, max_new_tokens=config.max_new_tokens,
        max_length=config.max_seq_length, temperature=config.temperature, seed=f"{config.seed} round {number}",
        batch_size=config.eval_batch_size, progress=context.progress,
    )  # fmt: skip
    own = _rewarded([rollout.trajectory for rollout in played.rollouts], context)
    readable = [trajectory for trajectory in own if any(step.error is None for step in trajectory.steps)]
    context.log.episodes(number, own)
    solved = {trajectory.task_id for trajectory in own if trajectory.success}
    unsolved = {trajectory.task_id for trajectory in own} - solved
    expert = _rewarded(_expert_episodes(config, context, unsolved), context)
    settings: dict[str, Any] = {"max_pairs_per_task": max(1, config.samples_per_task // 2), "seed": config.seed}
    rows = preference_pairs([*readable, *expert], **settings)
    stats = pair_stats([*readable, *expert], **settings)
    return rows, {
        "episodes": len(tasks),
        "without_room": played.too_long,
        "unreadable": len(own) - len(readable),
        "reward": fmean(trajectory.total_reward for trajectory in own),
        "success": fmean(trajectory.success for trajectory in own),
        "steps_per_episode": fmean(len(trajectory.steps) for trajectory in own),
        "tasks_solved": len(solved),
        "expert": len(expert),
        **stats.to_dict(),
        "broken": played.broken,
    }


def token_pairs(
    rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int, where: str = "pairs"
) -> tuple[list[TokenPair], dict[str, int]]:
    """Pairs as tokens, and how many were left out for what reason; nothing is ever cut.

    Args:
        rows: Each has `prompt`, `chosen`, `rejected` (messages) and perhaps `tools`.
        tokenizer: With the chat template that the model is trained with.
        max_length: Most tokens of a side.
        where: The file they come from, for places and errors.

    Raises:
        DataError: naming the row, for one that is no such pair or cannot be rendered.
    """
    pairs: list[TokenPair] = []
    left_out = dict.fromkeys(LEFT_OUT, 0)
    for number, row in enumerate(rows, start=1):
        place = f"{where}:{number}"
        chosen, rejected = (_side(row, side, tokenizer, place) for side in SIDES)
        pair = TokenPair(chosen, rejected, place)
        if pair.length > max_length:
            left_out["too_long"] += 1
        elif not all(any(label != IGNORED for label in side["labels"]) for side in (chosen, rejected)):
            left_out["untrained"] += 1
        else:
            pairs.append(pair)
    return pairs, left_out


def conversation_of(row: Mapping[str, Any], side: str, place: str) -> dict[str, Any]:
    """One side of a pair as a whole conversation, in which the prompt's own turns have weight 0, and rejected ones 1.

    Args:
        row: With `prompt`, `chosen` and `rejected` as lists of messages.
        side: "chosen" or "rejected".
        place: For errors.

    Raises:
        DataError: naming place, side and field, when it is none.
    """
    for name in ("prompt", side):
        if not isinstance(row.get(name), list) or not row[name]:
            raise DataError(f"{place}: field '{name}': expected a list of messages, found {row.get(name)!r:.60}")
    sample = read_sample({"messages": [*row["prompt"], *row[side]], "tools": row.get("tools")}, f"{place}, {side}")
    start = len(row["prompt"])
    before = [{**turn, "weight": 0.0} if turn["role"] == "assistant" else turn for turn in sample["messages"][:start]]
    after = sample["messages"][start:]
    if side == "rejected":
        after = [{**turn, "weight": 1.0} if turn["role"] == "assistant" else turn for turn in after]
    return {"messages": [*before, *after], "tools": sample["tools"]}


def _side(row: Mapping[str, Any], side: str, tokenizer: PreTrainedTokenizerBase, place: str) -> Row:
    sample: Any = conversation_of(row, side, place)
    try:
        rendered = render(sample, tokenizer)
    except DataError as error:
        raise DataError(f"{place}, {side}: {error}") from None
    return {"input_ids": rendered.input_ids, "labels": rendered.labels}


def _rewarded(trajectories: Sequence[AgentTrajectory], context: RLContext) -> list[AgentTrajectory]:
    """The trajectories with what the reward says they are worth."""
    scores = context.reward.score(trajectories)
    return [replace(one, total_reward=score) for one, score in zip(trajectories, scores, strict=True)]


def _expert_episodes(config: RLTrainingConfig, context: RLContext, unsolved: set[str]) -> list[AgentTrajectory]:
    """Episodes that solve those tasks, as far as the expert can."""
    if config.expert is None or not unsolved:
        return []
    if config.expert != SCRIPTED:
        episodes = load_trajectories(config.expert)
    else:
        agent = context.agents["expert"](seed=config.seed, failure_rate=0.0)
        settings = CollectorConfig(max_steps=config.max_steps)
        tasks = [task for task in context.tasks if task["task_id"] in unsolved]
        episodes = TrajectoryCollector(agent, settings, context.make_environment).collect(tasks)
    return [one for one in episodes if one.success and one.error is None and one.task_id in unsolved]

"""The stages before training in one call: collect, filter, convert."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sage.libs.finetune.agent.conversion.converter import SFTConversionConfig, TrajectoryToSFTConverter
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector
from sage.libs.finetune.agent.trajectories.filter import REASONS, TrajectoryFilter

logger = logging.getLogger(__name__)


def collect_and_convert(
    agent: object,
    tasks: Iterable[str | Mapping[str, Any]],
    min_reward: float = 0.5,
    require_success: bool = True,
    *,
    environment: object = None,
    max_steps: int = 10,
    format: str = "chatml",
    system_prompt: str | None = None,
    output_path: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Let an agent work through tasks and return what is worth training on as SFT rows.

    Args:
        agent: See `TrajectoryCollector`.
        tasks: Mappings with `instruction`, or instructions.
        min_reward: Least total reward of a kept trajectory; rewards come from the environment, or from the agent
            when it has none.
        require_success: Keep successful trajectories only.
        environment: See `TrajectoryCollector`.
        max_steps: Steps after which an episode is cut off.
        format: `chatml` or `alpaca`.
        system_prompt: System message of every row; None keeps the task's own.
        output_path: JSONL file that gets every trajectory as it ends, the dropped ones too; episodes it holds already
            are not run again.

    Returns:
        One row per kept trajectory. When none is kept the list is empty and a warning says for what reasons.

    Raises:
        TypeError: for an agent or environment that is none.
        ConfigError: for a setting out of range.
        DataError: for unusable tasks.
    """
    converter = TrajectoryToSFTConverter(SFTConversionConfig(format=format, system_prompt=system_prompt))
    keep = TrajectoryFilter(min_reward=min_reward, require_success=require_success)
    config = CollectorConfig(
        max_steps=max_steps,
        require_success=False,  # the filter drops them, and counts why
        output_path=None if output_path is None else Path(output_path),
    )
    trajectories = TrajectoryCollector(agent, config, environment).collect(tasks)
    stats = keep.get_stats(trajectories)
    dropped = ", ".join(f"{reason} {stats[reason]}" for reason in REASONS if stats[reason])
    logger.log(
        logging.INFO if stats["kept"] else logging.WARNING,
        "kept %d of %d trajectories (%s)",
        stats["kept"],
        stats["total"],
        f"dropped: {dropped}; min_reward {min_reward:g}" if dropped else "none dropped",
    )
    return converter.convert(keep.filter(trajectories))


def desk_samples(split: str) -> list[dict[str, Any]]:
    """The rows of `agent_sft:SPLIT`: desk trajectories, collected, filtered and converted on the spot.

    Args:
        split: train (what succeeded of 260 tasks by an expert that errs), dev (40 by the expert), test (64 by the
            expert, half with new databases, half with unseen wordings).

    Raises:
        DataError: for another split.
    """
    from sage.libs.finetune.agent.environments.desk import DeskEnvironment, DeskExpert, NoisyDeskExpert, desk_tasks

    if split == "train":
        return collect_and_convert(NoisyDeskExpert(), desk_tasks("train", 260), environment=DeskEnvironment)
    if split == "dev":
        tasks = desk_tasks("dev", 40)
    elif split == "test":
        tasks = desk_tasks("test_iid", 32) + desk_tasks("test_wording", 32)
    else:
        raise DataError(f"agent_sft has no split '{split}'; it has train, dev, test")
    return collect_and_convert(DeskExpert(), tasks, environment=DeskEnvironment)

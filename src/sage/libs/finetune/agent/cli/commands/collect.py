"""`collect`: let an agent work through tasks and keep what it did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sage.libs.finetune.agent.cli.command import Command, Report
from sage.libs.finetune.agent.config import Config, option
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.progress import Progress
from sage.libs.finetune.agent.registry import suggestion

if TYPE_CHECKING:
    from sage.libs.finetune.agent.types import AgentTrajectory

_SCRIPTED = ("expert", "noisy")
_DESK_FIELDS = ("instruction", "tools", "answer", "world", "expected")


@dataclass
class CollectConfig(Config):
    """Who works on which tasks, and where the trajectories go."""

    output: Path = option(help="JSONL file of trajectories, one a line", short="o")
    agent: str = option("expert", "expert, noisy (the expert, erring), or a model: id, folder, adapter or run folder")
    environment: Literal["desk"] = option("desk", "where it acts")
    split: Literal["train", "dev", "test_iid", "test_wording", "test_compose"] = option(
        "train", "which of the desk's tasks"
    )
    num_tasks: int = option(100, "how many of them", low=1)
    tasks: Path | None = option(None, "JSONL file of tasks in their stead, with the fields of the desk's own")
    seed: int = option(0, "fixes the tasks, and where the noisy expert errs", low=0)
    failure_rate: float = option(0.3, "share of tasks the noisy expert errs on", low=0.0, high=1.0)
    max_steps: int = option(10, "steps after which an episode is cut off", low=1)
    batch_size: int = option(32, "episodes a model works on at once", low=1)
    max_new_tokens: int = option(96, "longest reply of a model, in tokens", low=1)
    resume: bool = option(False, "go on with the output file: done tasks are skipped, those that broke off run again")


def run(config: CollectConfig, progress: Progress) -> Report:
    """Collect the episodes that are not in the output yet.

    Raises:
        ConfigError: when there is no such agent, when the output exists and is not to be gone on with or is of another
            agent or seed, or when the tasks do not fit the environment.
        DataError: when a file cannot be read or written.
        KeyboardInterrupt: with how to go on.
    """
    from sage.libs.finetune.agent.environments.desk import DeskEnvironment
    from sage.libs.finetune.agent.jsonl import check_output
    from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector

    _check_agent(config.agent)
    check_output(config.output)
    if config.output.exists() and not config.resume:
        raise ConfigError(f"{config.output} exists already; add --resume to go on with it, or give another --output")
    made_by = _made_by(config)
    tasks = [{**task, "metadata": {**task.get("metadata", {}), **made_by}} for task in _tasks(config)]
    kept = _kept_episodes(config.output, {task["task_id"] for task in tasks}, made_by)
    done = {trajectory.task_id for trajectory in kept}
    todo = [task for task in tasks if task["task_id"] not in done]
    fresh: list[AgentTrajectory] = []

    def on_episode(trajectory: AgentTrajectory) -> None:
        fresh.append(trajectory)
        progress("collect", len(fresh), len(todo), f"{sum(t.success for t in fresh)} successful")

    if todo:
        settings = CollectorConfig(
            max_steps=config.max_steps,
            require_success=False,
            output_path=config.output,
            batch_size=config.batch_size,
        )
        collector = TrajectoryCollector(_agent(config), settings, DeskEnvironment, on_episode)
        progress("collect", 0, len(todo))
        try:
            collector.collect(todo)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{len(fresh)} of {len(todo)} episodes are in {config.output}; run the same command with --resume to "
                "go on"
            ) from None
    return _report(config, kept, fresh)


def _check_agent(agent: str) -> None:
    """A name close to a scripted agent's is a slip of the hand, not a model to look for on a hub."""
    near = suggestion(agent, _SCRIPTED)
    if near and agent not in _SCRIPTED and "/" not in agent and not Path(agent).exists():
        raise ConfigError(f"unknown agent '{agent}'; {near}Give expert, noisy, or a model's id or folder")


def _made_by(config: CollectConfig) -> dict[str, Any]:
    """What trajectories say about who made them."""
    made_by = {"agent": config.agent, "seed": config.seed}
    return {**made_by, "failure_rate": config.failure_rate} if config.agent == "noisy" else made_by


def _kept_episodes(path: Path, wanted: set[str], made_by: dict[str, Any]) -> list[AgentTrajectory]:
    """The episodes in the file, less those of `wanted` that broke off: they are taken out, and run again.

    Raises:
        ConfigError: when the file holds an episode that was made in another way than `made_by` says.
    """
    from sage.libs.finetune.agent.jsonl import JsonlAppender, read_jsonl
    from sage.libs.finetune.agent.trajectories.io import save_trajectories
    from sage.libs.finetune.agent.types import AgentTrajectory

    if not path.exists():
        return []
    JsonlAppender(path).close()  # cuts off what a killed run left of a half-written last line
    rows = list(read_jsonl(path))
    trajectories = [AgentTrajectory.from_dict(row, f"{path}:{line}") for line, row in rows]
    for (line, _), trajectory in zip(rows, trajectories, strict=True):
        for name, value in made_by.items():
            before = trajectory.metadata.get(name, value)
            if before != value:
                flag = f"--{name.replace('_', '-')}"
                raise ConfigError(
                    f"{path}:{line}: was made with {flag} {before}, not {value}; give that, or another --output"
                )
    kept = [t for t in trajectories if t.error is None or t.task_id not in wanted]
    if len(kept) < len(trajectories):
        save_trajectories(path, kept)
    return kept


def _tasks(config: CollectConfig) -> list[dict[str, Any]]:
    from sage.libs.finetune.agent.environments.desk import desk_tasks
    from sage.libs.finetune.agent.environments.desk.store import Store
    from sage.libs.finetune.agent.jsonl import read_jsonl
    from sage.libs.finetune.agent.trajectories.protocols import read_tasks
    from sage.libs.finetune.agent.types import check_tools

    if config.tasks is None:
        return desk_tasks(config.split, config.num_tasks, config.seed)
    rows = list(read_jsonl(config.tasks))
    if not rows:
        raise DataError(f"{config.tasks}: the file is empty; expected one task (a JSON object) a line")
    for line, row in rows:
        missing = _missing_fields(row, config.agent)
        if missing:
            raise ConfigError(
                f"{config.tasks}:{line}: the desk with agent {config.agent} needs {', '.join(missing)}; give tasks "
                "made like the desk's own, or leave --tasks out"
            )
    places = [f"{config.tasks}:{line}" for line, _ in rows]
    tasks = read_tasks([row for _, row in rows], places)
    for place, task in zip(places, tasks, strict=True):
        check_tools(task["tools"], place)
        for field, world in (("world", task["world"]), ("expected", task["expected"] or {})):
            try:
                Store(world).close()
            except DataError as error:
                raise DataError(f"{place}: field '{field}': {error}") from None
    return tasks


def _missing_fields(task: dict[str, Any], agent: str) -> list[str]:
    missing = [f"'{name}'" for name in _DESK_FIELDS if name not in task]
    if agent in _SCRIPTED:
        metadata = task.get("metadata")
        known = metadata if isinstance(metadata, dict) else {}
        missing += [f"'metadata.{name}'" for name in ("kind", "slots") if name not in known]
    return missing


def _agent(config: CollectConfig) -> object:
    from sage.libs.finetune.agent.environments.desk import DeskExpert, NoisyDeskExpert

    if config.agent == "expert":
        return DeskExpert()
    if config.agent == "noisy":
        return NoisyDeskExpert(config.failure_rate, config.seed)
    from sage.libs.finetune.agent.cli.logs import quiet_transformers

    quiet_transformers()
    from sage.libs.finetune.agent.trajectories.agents import ModelAgent

    return ModelAgent.from_pretrained(config.agent, max_new_tokens=config.max_new_tokens, batch_size=config.batch_size)


def _report(config: CollectConfig, kept: list[AgentTrajectory], fresh: list[AgentTrajectory]) -> Report:
    from sage.libs.finetune.agent.reporting.tables import facts_table, percent

    everything = [*kept, *fresh]
    broken = [trajectory for trajectory in fresh if trajectory.error is not None]
    errors = sum(trajectory.error is not None for trajectory in everything)
    success = sum(trajectory.success for trajectory in everything)
    success_rate = success / len(everything)
    mean_reward = _mean(trajectory.total_reward for trajectory in everything)
    mean_steps = _mean(len(trajectory.steps) for trajectory in everything)
    data = {
        "output": str(config.output),
        "episodes": len(everything),
        "new": len(fresh),
        "success": success,
        "success_rate": success_rate,
        "mean_reward": mean_reward,
        "mean_steps": mean_steps,
        "errors": errors,
    }
    facts = {
        "episodes": f"{len(everything)} ({len(fresh)} new)" if kept else f"{len(everything)}",
        "success": f"{success} ({percent(success_rate)})",
        "mean reward": f"{mean_reward:.2f}",
        "mean steps": f"{mean_steps:.1f}",
        "errors": str(errors),
        "output": str(config.output),
    }
    report = Report(data, [facts_table(facts)])
    if broken:
        report.exit_code = 1
        report.problem = (
            f"{len(broken)} of {len(fresh)} episodes broke off; the first is task '{broken[0].task_id}': "
            f"{broken[0].error}; mend that and run the same command with --resume, which runs them again"
        )
    else:
        report.notes.append(f"next: sage-finetune filter {config.output} -o kept.jsonl")
    return report


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


COMMAND = Command(
    name="collect",
    help="Let an agent work through tasks and keep its trajectories.",
    example="sage-finetune collect --agent expert --num-tasks 200 -o trajectories.jsonl",
    config=CollectConfig,
    run=run,
)

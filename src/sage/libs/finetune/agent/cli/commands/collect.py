"""`collect`: let an agent work through tasks and keep what it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sage.libs.finetune.agent.cli.command import Command, Report
from sage.libs.finetune.agent.config import Config, option
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.progress import Progress

if TYPE_CHECKING:
    from sage.libs.finetune.agent.trajectories.io import EpisodeKey
    from sage.libs.finetune.agent.types import AgentTrajectory


@dataclass
class CollectConfig(Config):
    """Who works on which tasks, and where the trajectories go."""

    output: Path = option(help="JSONL file of trajectories, one a line", short="o")
    agent: str = option(
        "expert", "expert, noisy (the desk's expert, erring), endpoint, or a model: id, folder, adapter or run folder"
    )
    environment: str = option(
        "desk", "where it acts: desk, textcraft, textworld-express:GAME, or your own, python:FILE.py:NAME"
    )
    split: str | None = option(None, "which of its tasks, else train; the desk has train, dev, test_iid ...")
    tasks: Path | None = option(None, "JSONL file of tasks in their stead; for the desk, with the fields of its own")
    num_tasks: int | None = option(
        None, "how many, from the first; else 100 of the environment's, or all of a file", low=1
    )
    samples_per_task: int = option(1, "episodes of each task", low=1)
    seed: int = option(0, "fixes the tasks, where the noisy expert errs, and what a model draws", low=0)
    failure_rate: float | None = option(None, "share of tasks the noisy expert errs on; else 0.3", low=0.0, high=1.0)
    max_steps: int = option(10, "steps after which an episode is cut off", low=1)
    base_url: str | None = option(None, "endpoint: the server, up to and with /v1; else OPENAI_BASE_URL")
    endpoint_model: str | None = option(
        None, "endpoint: the model's name on the server; the key is OPENAI_API_KEY", aliases=("model_name",)
    )
    strategy: str | None = option(None, "how a model is asked: react, cot or reflexion; else the task as it is")
    calls: Literal["native", "text"] | None = option(
        None, "how a model's tool calls travel: native, or text for servers without tool support"
    )
    temperature: float | None = option(None, "draw a model's replies; 0 is the likeliest", low=0.0)
    max_new_tokens: int | None = option(
        None, "longest reply of a model, in tokens; else 96 on this machine, 1024 at an endpoint", low=1
    )
    batch_size: int | None = option(None, "episodes a model on this machine works on at once; else 32", low=1)
    concurrency: int = option(1, "episodes at once for all other agents", low=1)
    episode_timeout: float | None = option(None, "seconds an episode may take", above=0.0)
    stop_after_failures: int | None = option(
        20, "give up when so many episodes in a row fail at once in the same way; none never does", low=1
    )
    executor: Literal["local", "ray"] = option("local", "this machine, or a Ray cluster")
    ray_address: str | None = option(None, "the cluster; else RAY_ADDRESS, else one is started here")
    ray_cpus: float | None = option(
        None, "CPUs of the cluster an episode takes, else 1; a fraction suits endpoints", above=0.0
    )
    resume: bool = option(False, "go on with the output file: done tasks are skipped, those that broke off run again")


@dataclass
class _Tally:
    """What has ended so far, and the line that tells it."""

    progress: Progress
    before: int
    total: int
    fresh: list[AgentTrajectory] = field(default_factory=list)
    successful: int = 0
    errors: int = 0

    def __call__(self, trajectory: AgentTrajectory) -> None:
        self.fresh.append(trajectory)
        self.successful += trajectory.success
        self.errors += trajectory.error is not None
        detail = f"{self.successful} successful" + (f", {self.errors} errors" if self.errors else "")
        self.progress("collect", self.before + len(self.fresh), self.total, detail)


def run(config: CollectConfig, progress: Progress) -> Report:
    """Collect the episodes that are not in the output yet.

    Raises:
        ConfigError: when there is no such agent or environment, when the output exists and is not to be gone on with
            or is of another agent or seed, or when the tasks do not fit the environment.
        DataError: when a file cannot be read or written.
        TrajectoryError: when every episode fails in the same way.
        KeyboardInterrupt: with how to go on.
    """
    from sage.libs.finetune.agent.cli.agents import check_agent, made_by, make_agent
    from sage.libs.finetune.agent.cli.tasks import tasks_of
    from sage.libs.finetune.agent.environments.known import environment_named
    from sage.libs.finetune.agent.jsonl import check_output
    from sage.libs.finetune.agent.trajectories.collector import TrajectoryCollector

    named = environment_named(config.environment)
    check_agent(config, named)
    check_output(config.output)
    if not config.resume and config.output.exists() and config.output.stat().st_size > 0:
        raise ConfigError(f"{config.output} exists already; add --resume to go on with it, or give another --output")
    facts = made_by(config)
    tasks = [{**task, "metadata": {**task.get("metadata", {}), **facts}} for task in tasks_of(config, named)]
    before = _finished_before(config, {task["task_id"]: task["metadata"] for task in tasks}, facts)
    tally = _Tally(progress, before, len(tasks) * config.samples_per_task)
    agent = make_agent(config, named) if before < tally.total else _nobody  # no model is loaded to do nothing
    collector = TrajectoryCollector(agent, _settings(config), named.make_environment, tally)
    progress("collect", before, tally.total)
    try:
        everything = collector.collect(tasks)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{before + len(tally.fresh)} of {tally.total} episodes are in {config.output}; run the same command with "
            "--resume to go on"
        ) from None
    return _report(config, everything, tally.fresh, getattr(agent, "usage", None))


def _nobody(task: Any, history: Any) -> None:
    """The agent where there is nothing to do."""


def _settings(config: CollectConfig) -> Any:
    from sage.libs.finetune.agent.cli.agents import BATCH_SIZE
    from sage.libs.finetune.agent.trajectories.collector import CollectorConfig

    return CollectorConfig(
        max_steps=config.max_steps,
        require_success=False,
        output_path=config.output,
        batch_size=config.batch_size or BATCH_SIZE,
        concurrency=config.concurrency,
        samples_per_task=config.samples_per_task,
        executor=config.executor,
        episode_timeout=config.episode_timeout,
        stop_after_failures=config.stop_after_failures,
        ray_address=config.ray_address,
        ray_cpus=config.ray_cpus or 1.0,
    )


def _finished_before(config: CollectConfig, tasks: dict[str, dict[str, Any]], facts: dict[str, Any]) -> int:
    """How many of the wanted episodes the output has already.

    Args:
        config: The command's.
        tasks: The metadata of each wanted task, with the facts.
        facts: What holds for all of them.

    Raises:
        ConfigError: when it holds an episode that was made in another way.
    """
    from sage.libs.finetune.agent.cli.agents import FACTS
    from sage.libs.finetune.agent.jsonl import JsonlAppender, read_jsonl
    from sage.libs.finetune.agent.trajectories.io import episode_key, sole_writer
    from sage.libs.finetune.agent.types import AgentTrajectory

    path = config.output
    if not path.exists():
        return 0
    with sole_writer(path):
        JsonlAppender(path).close()  # cuts off what a killed run left of a half-written last line
    finished: set[EpisodeKey] = set()
    for line, row in read_jsonl(path):
        where = f"{path}:{line}"
        trajectory = AgentTrajectory.from_dict(row, where)
        if "agent" in trajectory.metadata:  # else it was not made by this command
            wanted = tasks.get(trajectory.task_id)
            _check_made(trajectory.metadata, wanted or facts, FACTS if wanted else facts, where)
        key = episode_key(trajectory.task_id, trajectory.metadata, where)
        if trajectory.error is None and key[0] in tasks and key[1] < config.samples_per_task:
            finished.add(key)
    return len(finished)


def _check_made(was: dict[str, Any], wanted: dict[str, Any], names: Iterable[str], where: str) -> None:
    """Refuse to go on with episodes made with settings that are not those of now; none is another than some."""
    for name in names:
        if was.get(name) == wanted.get(name):
            continue
        flag = "--strategy" if name == "method" else f"--{name.replace('_', '-')}"
        how = f"with {flag} {was[name]}" if name in was else f"without {flag}"
        but = f", not {wanted[name]}" if name in was and name in wanted else ""
        raise ConfigError(f"{where}: was made {how}{but}; do the same, or give another --output")


def _report(
    config: CollectConfig, everything: list[AgentTrajectory], fresh: list[AgentTrajectory], usage: Any
) -> Report:
    from dataclasses import asdict

    from sage.libs.finetune.agent.reporting.tables import facts_table, percent
    from sage.libs.finetune.agent.trajectories.episode import error_kind

    broken = [trajectory for trajectory in fresh if trajectory.error is not None]
    kinds = Counter(error_kind(trajectory.error) for trajectory in everything if trajectory.error is not None)
    errors = kinds.total()
    success = sum(trajectory.success for trajectory in everything)
    data: dict[str, Any] = {
        "output": str(config.output),
        "episodes": len(everything),
        "new": len(fresh),
        "success": success,
        "success_rate": success / len(everything),
        "mean_reward": _mean(trajectory.total_reward for trajectory in everything),
        "mean_steps": _mean(len(trajectory.steps) for trajectory in everything),
        "errors": errors,
        "errors_by_kind": dict(kinds.most_common()),
    }
    facts = {
        "episodes": str(len(everything)) + (f" ({len(fresh)} new)" if len(fresh) < len(everything) else ""),
        "success": f"{success} ({percent(data['success_rate'])})",
        "mean reward": f"{data['mean_reward']:.2f}",
        "mean steps": f"{data['mean_steps']:.1f}",
        "errors": f"{errors} ({', '.join(f'{kind} {n}' for kind, n in kinds.most_common())})" if errors else "0",
    }
    if usage is not None and usage.requests:  # none were counted here when a cluster asked
        data["usage"] = asdict(usage)
        facts["requests"] = f"{usage.requests} ({usage.retries} repeated)"
        facts["tokens"] = f"{usage.prompt_tokens} in, {usage.completion_tokens} out"
    report = Report(data, [facts_table({**facts, "output": str(config.output)})])
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

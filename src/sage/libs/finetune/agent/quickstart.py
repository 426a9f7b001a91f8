"""The main job from end to end on the embedded desk and model: collect, filter, convert, train, evaluate.

An expert that fails on some tasks works in the desk environment; what succeeded becomes training rows; the model is
scored on held-out tasks before and after, in the same environment and by the same judge: without examples, with solved
examples in the prompt (few-shot), and tuned. The few-shot line is the fair one to compare with: it shows what the
format alone is worth. Each finished stage is a file in the run folder, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.config import AgentSFTConfig, Config, option
from sage.libs.finetune.agent.conversion.converter import TrajectoryToSFTConverter
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.progress import Progress, silent
from sage.libs.finetune.agent.training.run import numbered_run
from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector
from sage.libs.finetune.agent.trajectories.filter import TrajectoryFilter
from sage.libs.finetune.agent.trajectories.io import load_trajectories, save_trajectories
from sage.libs.finetune.agent.types import AgentTrajectory

if TYPE_CHECKING:
    from sage.libs.finetune.agent.models.load import LoadedModel
    from sage.libs.finetune.agent.training.sft import AgentSFTTrainer

ZERO_SHOT, FEW_SHOT, TUNED = "base zero-shot", "base few-shot", "tuned"
HELD_OUT = ("test_iid", "test_wording")
COMPOSED = "test_compose"
EXAMPLES = 2


@dataclass
class QuickstartConfig(Config):
    """Settings of the quickstart; the defaults fit five minutes on two CPU cores."""

    base_model: str = option("smollm2-135m-instruct", "model id, folder, or the embedded model", aliases=("model",))
    output_dir: Path = option(Path(".sage/quickstart"), "a run gets a numbered folder in here")
    resume: bool = option(False, "go on with the newest run there")
    train_tasks: int = option(290, "tasks the expert works on", low=8)
    test_tasks: int = option(32, "held-out tasks per test set (new databases; unseen wordings)", low=1)
    compose_tasks: int = option(16, "held-out tasks with unseen combinations of tools", low=1)
    failure_rate: float = option(0.3, "share of training tasks on which the expert errs", low=0.0, high=0.9)
    train_steps: int = option(200, "optimiser steps", low=1)
    batch_size: int = option(1, "rows per step: at this scale steps matter more than rows", low=1)
    learning_rate: float = option(2e-3, "peak learning rate", above=0.0)
    max_steps: int = option(6, "steps after which an episode is cut off", low=2)
    max_new_tokens: int = option(64, "longest reply in tokens", low=8)
    seed: int = option(0, "fixes tasks, worlds, the expert's faults, adapter and row order", low=0, high=2**32 - 1)


@dataclass
class QuickstartResult:
    """What came out.

    Attributes:
        run_folder: Where everything is.
        rows: One per model and test set, and one per model over both held-out sets ("held-out"): model, split,
            success, low, high, successes, n, valid_calls, calls, broken.
        collected: Counts of the filter (total, kept, and why the rest was dropped).
        seconds: Wall-clock time of each stage run in this call.
        train: Result of the training run, as a dict.
    """

    run_folder: Path
    rows: list[dict[str, Any]]
    collected: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)


def run_quickstart(config: QuickstartConfig, progress: Progress = silent) -> QuickstartResult:
    """Run the main job, or the rest of it, and write the run folder.

    Raises:
        ConfigError: when there is nothing to resume, or the run there has other settings.
        ModelError: when the model cannot be loaded, before anything is collected.
        KeyboardInterrupt: on Ctrl-C; the run folder is whole and resumes.
    """
    from sage.libs.finetune.agent.training.sft import AgentSFTTrainer

    folder = _claim(config)
    seconds: dict[str, float] = {}
    trainer = AgentSFTTrainer(_sft_config(config, folder), progress)
    with _timed(seconds, "load"):
        progress("load the model", 0, 1)
        loaded = trainer.loaded
        progress("load the model", 1, 1)
    with _timed(seconds, "collect"):
        kept, collected = _collect(config, folder, progress)
    episodes: dict[str, list[AgentTrajectory]] = {}
    examples = _examples_by_tools(kept)
    for name, shown in ((ZERO_SHOT, None), (FEW_SHOT, examples)):
        with _timed(seconds, name):
            episodes[name] = _episodes(name, loaded, config, folder, progress, shown)
    with _timed(seconds, "train"):
        trained = _train(trainer, folder)
    with _timed(seconds, TUNED):
        episodes[TUNED] = _episodes(TUNED, trainer.loaded, config, folder, progress, None)
    rows = [row for name, done in episodes.items() for row in _score(name, done)]
    result = QuickstartResult(folder, rows, collected, seconds, trained)
    record = {**asdict(result), "run_folder": str(folder), "config": config.to_dict()}
    jsonl.write_json(folder / "result.json", record)
    _write_card(trainer, folder, rows, trained)
    return result


def _claim(config: QuickstartConfig) -> Path:
    """The run's folder; its settings are written first, and a resumed run must have the same."""
    settings = {**config.to_dict(), "resume": False}
    folder = numbered_run(config.output_dir, "quickstart.json", config.resume)
    mark = folder / "quickstart.json"
    if not config.resume:
        folder.mkdir(parents=True, exist_ok=True)
        jsonl.write_json(mark, settings)
        return folder
    if not mark.exists():
        raise ConfigError(f"{config.output_dir} holds no run to resume; leave out --resume")
    before = jsonl.read_json(mark)
    changed = [name for name in settings if before.get(name) != settings[name]]
    if changed:
        raise ConfigError(f"{folder} was run with another {', '.join(changed)}; leave out --resume")
    return folder


def _sft_config(config: QuickstartConfig, folder: Path) -> AgentSFTConfig:
    return AgentSFTConfig(
        base_model=config.base_model,
        train_data=str(folder / "train.jsonl"),
        output_dir=folder,
        batch_size=config.batch_size,
        gradient_accumulation_steps=1,
        learning_rate=config.learning_rate,
        adam_beta2=0.98,
        max_steps=config.train_steps,
        max_seq_length=1024,
        save_steps=60,
        seed=config.seed,
    )


def _collect(
    config: QuickstartConfig, folder: Path, progress: Progress
) -> tuple[list[AgentTrajectory], dict[str, Any]]:
    """Let the noisy expert work, keep what succeeded, write trajectories and training rows."""
    from sage.libs.finetune.agent.environments.desk import DeskEnvironment, NoisyDeskExpert, desk_tasks

    path = folder / "trajectories.jsonl"
    if not path.exists():
        tasks = desk_tasks("train", config.train_tasks, config.seed)
        agent = NoisyDeskExpert(config.failure_rate, config.seed)
        save_trajectories(path, _run(agent, tasks, config.max_steps, "collect", progress, DeskEnvironment))
    trajectories = load_trajectories(path)
    quality = TrajectoryFilter(min_reward=0.5, require_success=True)
    kept = quality.filter(trajectories)
    jsonl.write_jsonl(folder / "train.jsonl", TrajectoryToSFTConverter().convert(kept))
    return kept, quality.get_stats(trajectories)


def _run(
    agent: object,
    tasks: Sequence[Mapping[str, Any]],
    max_steps: int,
    label: str,
    progress: Progress,
    environment: object,
) -> list[AgentTrajectory]:
    """All episodes of an agent, successful or not, in the order of the tasks."""
    finished = 0

    def count(_: AgentTrajectory) -> None:
        nonlocal finished
        finished += 1
        progress(label, finished, len(tasks))

    settings = CollectorConfig(max_steps, require_success=False, batch_size=len(tasks), max_errors=3)
    progress(label, 0, len(tasks))
    return TrajectoryCollector(agent, settings, environment, on_episode=count).collect(tasks)


def _examples_by_tools(kept: Sequence[AgentTrajectory]) -> dict[str, list[AgentTrajectory]]:
    """Solved training episodes to show for each set of tools: the first of each of two kinds that call tools.

    An episode that ends without a call is not among them: shown one, a small model imitates it for every task.
    """
    chosen: dict[str, dict[str, AgentTrajectory]] = {}
    for trajectory in kept:
        kinds = chosen.setdefault(_tools_of(trajectory.tools), {})
        if len(trajectory.steps) > 1 and len(kinds) < EXAMPLES:
            kinds.setdefault(trajectory.metadata["kind"], trajectory)
    return {tools: list(kinds.values()) for tools, kinds in chosen.items()}


def _shown(examples: Mapping[str, Sequence[AgentTrajectory]], task: Mapping[str, Any]) -> Sequence[AgentTrajectory]:
    tools = _tools_of(task["tools"])
    if tools not in examples:
        raise ConfigError(f"no solved training episode shows the tools {tools}; raise train_tasks")
    return examples[tools]


def _tools_of(tools: Sequence[Mapping[str, Any]]) -> str:
    return " ".join(tool["function"]["name"] for tool in tools)


def _episodes(
    name: str,
    loaded: LoadedModel,
    config: QuickstartConfig,
    folder: Path,
    progress: Progress,
    examples: Mapping[str, Sequence[AgentTrajectory]] | None,
) -> list[AgentTrajectory]:
    """The model's episodes on all test sets; read from the run folder when they are there."""
    from sage.libs.finetune.agent.environments.desk import DeskEnvironment, desk_tasks
    from sage.libs.finetune.agent.trajectories.agents import ModelAgent

    path = folder / "episodes" / f"{name.replace(' ', '_').replace('-', '_')}.jsonl"
    if not path.exists():
        sizes = {**dict.fromkeys(HELD_OUT, config.test_tasks), COMPOSED: config.compose_tasks}
        tasks = [task for split, n in sizes.items() for task in desk_tasks(split, n, config.seed)]
        agent = ModelAgent(
            loaded,
            max_new_tokens=config.max_new_tokens,
            examples=None if examples is None else lambda task: _shown(examples, task),
            batch_size=len(tasks),
        )
        path.parent.mkdir(exist_ok=True)
        save_trajectories(path, _run(agent, tasks, config.max_steps, name, progress, DeskEnvironment))
    return load_trajectories(path)


def _train(trainer: AgentSFTTrainer, folder: Path) -> dict[str, Any]:
    """Train, resume, or take the finished adapter of an earlier call."""
    done = folder / "train_result.json"
    if done.exists():
        trainer.load_model(folder / "adapter")
    else:
        result = trainer.train(resume=(folder / "config.yaml").exists())
        if result.interrupted:
            raise KeyboardInterrupt
        jsonl.write_json(done, {**asdict(result), "output_dir": str(folder)})
    return dict(jsonl.read_json(done))


def _score(name: str, episodes: Sequence[AgentTrajectory]) -> list[dict[str, Any]]:
    from sage.libs.finetune.agent.evaluation.episodes import by, score_episodes

    groups = by(episodes, lambda episode: str(episode.metadata["split"]))
    groups["held-out"] = [episode for split in HELD_OUT for episode in groups[split]]
    rows = []
    for split in (*HELD_OUT, "held-out", COMPOSED):
        score = score_episodes(groups[split])
        rows.append(
            {
                "model": name, "split": split, "success": score.success, "low": score.interval.low,
                "high": score.interval.high, "successes": score.successes, "n": score.n,
                "valid_calls": score.calls_valid, "calls": score.calls, "broken": score.broken,
            }
        )  # fmt: skip
    return rows


def _write_card(
    trainer: AgentSFTTrainer, folder: Path, rows: Sequence[Mapping[str, Any]], trained: Mapping[str, Any]
) -> None:
    from sage.libs.finetune.agent.types import TrainingResult

    lines = ["| model | test set | success | 95% interval | n | valid calls |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row['model']} | {row['split']} | {row['success']:.1%} | {row['low']:.1%} to {row['high']:.1%} "
        f"| {row['n']} | {row['valid_calls']}/{row['calls']} |"
        for row in rows
    ]
    lines += ["", "The tasks are synthetic and made by this project; held-out = test_iid + test_wording."]
    result = TrainingResult(**{**trained, "output_dir": folder})
    trainer.write_card(result, jsonl.read_json(folder / "data.json")["train"], "\n".join(lines))


@contextmanager
def _timed(into: dict[str, float], name: str) -> Iterator[None]:
    """Adds the seconds of the block to a dict."""
    begin = time.perf_counter()
    yield
    into[name] = round(time.perf_counter() - begin, 2)

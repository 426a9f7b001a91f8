"""FireAct on the desk (R1): few-shot prompting beside fine-tuning on 50 to 500 trajectories, and tools that fail.

In the place of HotpotQA and GPT-4 stand the desk's tasks and its scripted expert, which fails on three tasks in ten; as
in the paper, an agent works on training tasks and what succeeded is trained on. The arms:

    prompted     the model as it comes, the ReAct prompt and solved examples with the same tools
    tuned-N      trained on N trajectories; all arms see equally many rows, so that a small N sees them several times
    hardened     as the largest N, on trajectories from faulty tools, where the expert calls again (ours, not FireAct's)

Tools fail as in section 5.3 of the paper: a call is answered, with probability one half, by "None" or by what some
other tool said elsewhere. Here it is not made either, so that a task is lost unless the agent notices.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from sage.benchmark.benchmark_agent.experiments.method_comparison.budget import RowCount, steps_for
from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.environments.desk import DeskEnvironment, DeskExpert, NoisyDeskExpert, desk_tasks
from sage.libs.finetune.agent.errors import TrainingError
from sage.libs.finetune.agent.models.load import LoadedModel, load_model
from sage.libs.finetune.agent.progress import Progress, silent
from sage.libs.finetune.agent.tokenization.render import render_prompt
from sage.libs.finetune.agent.trajectories.agents import ModelAgent
from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector
from sage.libs.finetune.agent.trajectories.dialogue import Dialogue
from sage.libs.finetune.agent.types import FINISH, AgentTrajectory, StepResult, TrajectoryStep

PROMPTED, HARDENED = "prompted", "hardened"
WHOLE, NONE, RANDOM = "whole", "none", "random"
FAULTS = (WHOLE, NONE, RANDOM)
SILENCE = "None"
EXPERT_FAILS, TOOLS_FAIL = 0.3, 0.5
HELD_OUT = ("test_iid", "test_wording")
_MORE_TASKS = 1.7
"""Training tasks for each trajectory that is wanted, so that enough are left of those on which the expert fails."""


class FaultyDesk:
    """The desk with tools that fail; which calls do is drawn by task and seed.

    Args:
        fault: `none` or `random`.
        seed: Of the draw.

    Example:
        >>> desk, task = FaultyDesk("none", seed=0), desk_tasks("train", 1)[0]
        >>> desk.reset(task)
        ''
        >>> {desk.step("find_customer", {"name": "Bob"}).observation == "None" for _ in range(20)} == {True, False}
        True
    """

    def __init__(self, fault: str, seed: int) -> None:
        self._fault, self._seed = fault, seed
        self._desk = DeskEnvironment()
        self._rng = random.Random()
        self._elsewhere: Sequence[str] = ()

    def reset(self, task: Mapping[str, Any]) -> str:
        """Load the task."""
        self._rng = random.Random(f"faulty/{self._fault}/{self._seed}/{task['task_id']}")
        self._elsewhere = elsewhere(task["metadata"]["family"])
        return self._desk.reset(task)

    def step(self, action: str, action_input: dict[str, Any]) -> StepResult:
        """Run the call, or answer without running it."""
        if action == FINISH or self._rng.random() >= TOOLS_FAIL:
            return self._desk.step(action, action_input)
        return StepResult(SILENCE if self._fault == NONE else self._rng.choice(self._elsewhere))


class PersistentExpert(DeskExpert):
    """The expert, which calls again when a tool said nothing, or what no tool of the task can say."""

    def act(self, task: Mapping[str, Any], history: Sequence[TrajectoryStep]) -> TrajectoryStep:
        """The next step of the plan, as if useless answers had not been."""
        useless = {SILENCE, *elsewhere(task["metadata"]["family"])}
        return super().act(task, [step for step in history if step.observation not in useless])


def run(settings: Mapping[str, Any], folder: Path, progress: Progress = silent) -> dict[str, Any]:
    """All arms; what was done is read from the folder.

    Args:
        settings: As in `r1_fireact.yaml`.
        folder: For rows, runs and results.
        progress: Told of each part.
    """
    sizes, arms = settings["sizes"], arm_names(settings)
    faults = {PROMPTED: FAULTS, arms[len(sizes)]: FAULTS, HARDENED: FAULTS}
    found = []
    for seed in settings["seeds"]:
        for number, arm in enumerate(arms, start=1):
            progress(f"seed {seed}: arms", number - 1, len(arms), arm)
            found.append(_measured(arm, seed, faults.get(arm, (WHOLE,)), settings, folder, progress))
    return {"prompt_tokens": {arm: _prompt_tokens(arm, settings) for arm in (PROMPTED, arms[1])}, "arms": found}


def arm_names(settings: Mapping[str, Any]) -> list[str]:
    """In the order in which they run.

    Example:
        >>> arm_names({"sizes": [50, 500]})
        ['prompted', 'tuned-50', 'tuned-500', 'hardened']
    """
    return [PROMPTED, *(f"tuned-{size}" for size in settings["sizes"]), HARDENED]


def _measured(
    arm: str, seed: int, faults: Sequence[str], settings: Mapping[str, Any], folder: Path, progress: Progress
) -> dict[str, Any]:  # fmt: skip
    path = folder / f"{arm}-seed{seed}.json"
    if not path.exists():

        def told(label: str, done: int, total: int, detail: str = "") -> None:
            progress(f"{arm}, {label}", done, total, detail)

        begin = time.perf_counter()
        loaded = load_model(settings["base_model"] if arm == PROMPTED else _trained(arm, seed, settings, folder, told))
        trained = time.perf_counter() - begin
        found = {}
        for fault in faults:
            if found and not any(solved for _, solved in found[WHOLE]["solved"]):
                break  # nothing can be lost
            found[fault] = _played(arm, fault, loaded, settings, progress)
        jsonl.write_json(path, {"arm": arm, "seed": seed, "train_seconds": trained, **found})
    record: dict[str, Any] = jsonl.read_json(path)
    return record


def _trained(arm: str, seed: int, settings: Mapping[str, Any], folder: Path, progress: Progress) -> str:
    from sage.libs.finetune.agent import AgentSFTConfig, AgentSFTTrainer
    from sage.libs.finetune.agent.conversion.converter import TrajectoryToSFTConverter

    size = settings["sizes"][-1] if arm == HARDENED else int(arm.rpartition("-")[2])
    episodes = _collected(arm == HARDENED, size, seed, settings["max_steps"])
    data, runs = folder / "rows" / f"{arm}-seed{seed}.jsonl", folder / "runs" / f"{arm}-seed{seed}"
    rows = TrajectoryToSFTConverter().convert(episodes)
    if len(episodes) < size:
        raise TrainingError(f"{arm}: {len(episodes)} of {size} trajectories succeeded; raise _MORE_TASKS")
    jsonl.write_jsonl(data, rows)
    batch = settings["batch_size"]
    config = AgentSFTConfig(
        base_model=settings["base_model"], train_data=str(data), output_dir=runs, seed=seed, batch_size=batch,
        gradient_accumulation_steps=1, adam_beta2=0.98,
        max_steps=steps_for(settings["rows_seen"], RowCount(len(rows), len(rows)), batch),
        learning_rate=settings["learning_rate"], max_seq_length=2048, save_steps=100,
    )  # fmt: skip
    if not (runs / "result.json").exists():
        result = AgentSFTTrainer(config, progress).train(resume=(runs / "config.yaml").exists())
        if result.interrupted:
            raise KeyboardInterrupt
    return str(runs / "adapter")


def _collected(faulty: bool, size: int, seed: int, max_steps: int) -> list[AgentTrajectory]:
    """So many successes; with faulty tools, a third of the tasks with each fault and a third with none."""
    tasks = desk_tasks("train", round(size * _MORE_TASKS), seed)
    settings = CollectorConfig(max_steps, require_success=True)
    if not faulty:
        return TrajectoryCollector(NoisyDeskExpert(EXPERT_FAILS, seed), settings, DeskEnvironment).collect(tasks)[:size]
    parts = [
        TrajectoryCollector(PersistentExpert(), settings, environment_with(fault, seed)).collect(tasks[at::3])
        for at, fault in enumerate(FAULTS)
    ]
    number = {task["task_id"]: place for place, task in enumerate(tasks)}
    return sorted((one for part in parts for one in part), key=lambda episode: number[episode.task_id])[:size]


def environment_with(fault: str, seed: int) -> Callable[[], Any]:
    """Makes desks, whole or faulty."""
    return DeskEnvironment if fault == WHOLE else lambda: FaultyDesk(fault, seed)


def _played(
    arm: str, fault: str, loaded: LoadedModel, settings: Mapping[str, Any], progress: Progress
) -> dict[str, Any]:  # fmt: skip
    from sage.libs.finetune.agent.evaluation.episodes import score_episodes

    tasks = test_tasks(settings)
    agent = ModelAgent(
        loaded, max_new_tokens=settings["max_new_tokens"], batch_size=64, **_prompting(arm, settings)
    )  # fmt: skip
    config = CollectorConfig(settings["max_steps"], require_success=False, batch_size=len(tasks))
    over: list[str] = []

    def told(episode: AgentTrajectory) -> None:
        over.append(episode.task_id)
        progress(f"{arm}, {fault} tools", len(over), len(tasks))

    begin = time.perf_counter()
    episodes = TrajectoryCollector(agent, config, environment_with(fault, seed=0), on_episode=told).collect(tasks)
    seconds = time.perf_counter() - begin
    score = score_episodes(episodes)
    return {
        "success": score.success, "interval": asdict(score.interval), "mean_steps": score.mean_steps,
        "calls": score.calls, "calls_valid": score.calls_valid, "seconds_per_task": seconds / len(tasks),
        "solved": sorted((episode.task_id, int(episode.success)) for episode in episodes),
    }  # fmt: skip


def test_tasks(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The same held-out tasks for all arms and seeds, half of them in wordings that no training task has."""
    return [task for split in HELD_OUT for task in desk_tasks(split, settings["test_tasks"] // 2)]


test_tasks.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test


def _prompting(arm: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    if arm != PROMPTED:
        return {}
    shots = settings["examples"]
    return {"strategy": "react", "calls": "text", "examples": lambda task: _examples(task["metadata"]["family"], shots)}


def _prompt_tokens(arm: str, settings: Mapping[str, Any]) -> float:
    """Mean length of what the model reads before its first step."""
    from sage.libs.finetune.agent.models.load import load_tokenizer

    tokenizer, _ = load_tokenizer(settings["base_model"])
    dialogue = Dialogue(**_prompting(arm, settings))
    prompts = [dialogue.prompt(task, []) for task in test_tasks(settings)]
    return statistics.fmean(len(render_prompt(prompt.messages, prompt.tools, tokenizer)) for prompt in prompts)


@cache
def _solved() -> tuple[AgentTrajectory, ...]:
    """Training tasks, by the book."""
    return tuple(TrajectoryCollector(DeskExpert(), None, DeskEnvironment).collect(desk_tasks("train", 90, seed=1)))


@cache
def _examples(family: str, count: int) -> list[AgentTrajectory]:
    """One of each kind of the family, before a second of any."""
    own = [episode for episode in _solved() if episode.metadata["family"] == family]
    first = list({episode.metadata["kind"]: episode for episode in reversed(own)}.values())
    return [*first, *(episode for episode in own if episode not in first)][:count]


@cache
def elsewhere(family: str) -> tuple[str, ...]:
    """What tools said in tasks of other families, and never in those of this one."""
    said: dict[bool, set[str]] = {True: set(), False: set()}
    for episode in _solved():
        said[episode.metadata["family"] == family] |= {step.observation for step in episode.steps if step.observation}
    return tuple(sorted(said[False] - said[True]))

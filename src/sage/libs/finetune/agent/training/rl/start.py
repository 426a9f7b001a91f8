"""What reinforcement learning begins with: a model, in whatever form it was given, and tasks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.environments.known import Named, environment_named
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.models.load import LoadedModel
from sage.libs.finetune.agent.progress import Progress
from sage.libs.finetune.agent.registry import suggestion
from sage.libs.finetune.agent.rl_config import RLTrainingConfig
from sage.libs.finetune.agent.training import processes
from sage.libs.finetune.agent.training.sft import AgentSFTTrainer
from sage.libs.finetune.agent.trajectories.protocols import Task, read_tasks

Model = AgentSFTConfig | AgentSFTTrainer | LoadedModel | str | Path

_NUM_TASKS = 128
_SHARED = ("use_lora", "lora_r", "lora_alpha", "tool_format", "dtype", "base_model")
"""What the settings of both kinds of training say of the model."""


def require_possible(config: RLTrainingConfig) -> None:
    """Find out before anything is loaded whether the algorithm can run here.

    Raises:
        ConfigError: when a package is missing, or there are several processes.
    """
    if config.algorithm != "ppo":
        require_trl(f"algorithm {config.algorithm}", ", or take ppo")
    if processes.count() > 1:
        raise ConfigError("reinforcement learning runs in one process; start it without `--`")


def require_trl(what: str, instead: str = "") -> None:
    """Find out before they are imported whether TRL and what it needs are installed.

    Args:
        what: Cannot be done without.
        instead: What else there is to do.

    Raises:
        ConfigError: when one is missing.
    """
    missing = [name for name in ("trl", "datasets") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{what}: {' and '.join(missing)} not installed; run `pip install 'sage-libs[rl]'`{instead}")


def holder_of(config: RLTrainingConfig, model: Model | None, progress: Progress | None) -> AgentSFTTrainer:
    """Who loads, holds and saves the model: an `AgentSFTTrainer` around it.

    Raises:
        ConfigError: when there is no model.
    """
    if isinstance(model, AgentSFTTrainer):
        return model
    if isinstance(model, AgentSFTConfig):
        return AgentSFTTrainer(model, progress)
    name = config.base_model if model is None else model.location if isinstance(model, LoadedModel) else str(model)
    if not name:
        raise ConfigError("no model: give one, or base_model in the settings")
    settings: dict[str, Any] = {
        name: getattr(config, name)
        for name in (*_SHARED, "max_seq_length", "max_new_tokens", "eval_batch_size", "seed")
        if name != "base_model"
    }
    holder = AgentSFTTrainer.from_pretrained(name, progress, **settings)
    if isinstance(model, LoadedModel):
        holder.use(model)
    return holder


def with_the_model(config: RLTrainingConfig, model: AgentSFTConfig) -> RLTrainingConfig:
    """The settings, saying of the model what those of the model say: they are written into the run folder."""
    return replace(config, **{name: getattr(model, name) for name in _SHARED})


@dataclass(frozen=True)
class Place:
    """Where episodes are played, and what is worked on there.

    Attributes:
        make_environment: Makes an environment for one episode.
        named: What stands behind `config.environment`; None when an environment was given instead.
        config: `tasks`, `split`, `num_tasks` and `seed` are read.
        given: Tasks that were given in place of those of the settings.
    """

    make_environment: Callable[[], object]
    named: Named | None
    config: RLTrainingConfig
    given: Sequence[str | Task] | None

    @classmethod
    def of(
        cls, config: RLTrainingConfig, tasks: Sequence[str | Task] | None, environment: Callable[[], object] | None
    ) -> Place:
        """The one that was given, or that of the settings.

        Raises:
            ConfigError: when the environment is unknown, or was given without tasks.
        """
        if environment is None:
            named = environment_named(config.environment)
            return cls(named.make_environment, named, config, tasks)
        if not callable(environment):
            raise ConfigError(
                f"environment: {type(environment).__name__} makes none; give a callable without arguments that does"
            )
        if tasks is None and config.tasks is None:
            raise ConfigError("an environment of your own needs tasks: give them, or a file of them in the settings")
        return cls(environment, None, config, tasks)

    def tasks(self) -> list[dict[str, Any]]:
        """What is worked on, each with `task_id`, and with tools where the environment has some.

        Raises:
            ConfigError: for an unknown split, or more tasks asked for than there are.
            DataError: naming file, line and field, for a task that is none.
        """
        config = self.config
        if self.given is None and config.tasks is None:
            return self.with_tools(read_tasks(self._own()))
        if self.given is not None:
            tasks, where = read_tasks(self.given), "tasks"
        else:
            rows, where = list(jsonl.read_jsonl(config.tasks)), str(config.tasks)  # type: ignore[arg-type]
            if not rows:
                raise DataError(f"{where}: the file is empty; expected one task (a JSON object) a line")
            tasks = read_tasks([row for _, row in rows], [f"{where}:{line}" for line, _ in rows])
        if config.num_tasks is not None and config.num_tasks > len(tasks):
            raise ConfigError(f"{where}: {len(tasks)} tasks; ask for at most as many, not {config.num_tasks}")
        return self.with_tools(tasks[: config.num_tasks])

    def with_tools(self, tasks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Tasks, those without tools with the environment's."""
        tools = self.named.tools if self.named else []
        return [task if "tools" in task or not tools else {**task, "tools": tools} for task in tasks]

    def _own(self) -> list[dict[str, Any]]:
        config, named = self.config, self.named
        assert named is not None, "an environment that was given comes with tasks"
        split = config.split or "train"
        if named.splits and split not in named.splits:
            near = suggestion(split, named.splits)
            raise ConfigError(
                f"environment '{config.environment}' has no split '{split}'; {near}known: {', '.join(named.splits)}"
            )
        return named.tasks(split, config.num_tasks or _NUM_TASKS, config.seed)


def manifest_of(config: RLTrainingConfig, tasks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is learned from, with hashes; `require_same` compares it when the run goes on.

    Raises:
        DataError: when the file of pairs cannot be read.
    """
    text = json.dumps(list(tasks), sort_keys=True, ensure_ascii=False, default=repr)
    found: dict[str, Any] = {"tasks": {"n": len(tasks), "sha256": hashlib.sha256(text.encode()).hexdigest()}}
    if config.preferences is not None:
        try:
            content = Path(config.preferences).read_bytes()
        except OSError as error:
            raise DataError(f"{config.preferences}: cannot be read ({error.strerror}); give a file of pairs") from None
        found["preferences"] = {"file": config.preferences, "sha256": hashlib.sha256(content).hexdigest()}
    return found


def require_same(folder: Path, now: Mapping[str, Any]) -> None:
    """Refuse to go on with other tasks or pairs.

    Raises:
        ConfigError: saying what has changed.
    """
    before = jsonl.read_json(folder / "data.json")
    for name in ("tasks", "preferences"):
        then, new = ((found.get(name) or {}).get("sha256", "none") for found in (before, now))
        if then != new:
            raise ConfigError(
                f"{folder / 'data.json'}: the {name} have changed since the run began (sha256 {then[:12]} then, "
                f"{new[:12]} now); restore them, or start a new run"
            )

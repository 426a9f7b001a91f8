"""Settings of a stream of tasks: those of a run, common to all tasks, and what each task has of its own.

    base_model: smollm2-135m-instruct
    output_dir: runs/stream
    use_online_continual: true
    max_steps: 60
    tasks:
      - {name: tools, train_data: tools.jsonl, eval_data: tools_test.jsonl}
      - {name: plans, train_data: plans.jsonl, eval_data: plans_test.jsonl, max_steps: 90}

Standard library and PyYAML only, as `config.py`, whose rules hold here too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

from sage.libs.finetune.agent.config import AgentSFTConfig, Config, option
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.registry import suggestion

_SETTINGS = {spec.name: spec for spec in fields(AgentSFTConfig)}
_ALIASES = {alias: name for name, spec in _SETTINGS.items() for alias in spec.metadata.get("aliases", ())}
_OF_A_TASK = ("train_data", "eval_data")
_OF_THE_STREAM = (
    "base_model", "output_dir", "tool_format", "dtype", "max_new_tokens",
    "use_lora", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "use_dora", "use_rslora",
    "init_lora_weights", "load_in_4bit", "load_in_8bit", "use_online_continual", "continual_buffer_size",
    "continual_strategy",
)  # fmt: skip
"""What one adapter, one buffer and one matrix of scores need to be the same for all tasks."""
_MADE_HERE = {"continual_buffer_path": "each task goes on with the buffer of the one before it"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class StreamTask:
    """One task of a stream.

    Attributes:
        name: Of letters, digits, dots, dashes and underscores.
        settings: Its run, as if it were the first: `base_model` is the stream's, `output_dir` the run's own folder.
    """

    name: str
    settings: AgentSFTConfig

    @property
    def eval_data(self) -> str:
        """What the model is asked after every task."""
        return str(self.settings.eval_data)


class StreamTasks(tuple[StreamTask, ...]):
    """The tasks, in the order in which they come."""


@dataclass
class StreamConfig(Config):
    """Settings of a stream of tasks; made by `from_yaml` or `from_dict`.

    Example:
        >>> task = {"name": "tools", "train_data": "a.jsonl", "eval_data": "b.jsonl"}
        >>> config = StreamConfig.from_dict({"base_model": "m", "output_dir": "runs", "lora_r": 8, "tasks": [task]})
        >>> config.tasks[0].settings.lora_r, str(config.tasks[0].settings.output_dir)
        (8, 'runs/01-tools')
        >>> StreamConfig.from_dict({"base_model": "m", "output_dir": "runs", "lora_rank": 8, "tasks": [task]})
        Traceback (most recent call last):
        sage.libs.finetune.agent.errors.ConfigError: config: unknown setting 'lora_rank'; did you mean 'lora_r'?
    """

    base_model: str = option(
        help="model the first task starts from: id, folder, or smollm2-135m-instruct (embedded)",
        aliases=("model_name_or_path", "model"),
    )
    output_dir: Path = option(help="folder of the stream; each task gets a run folder in it")
    tasks: StreamTasks = option(help="name, train_data, eval_data and own settings of each task", file_only=True)
    evaluate: Literal["generate", "loss"] = option(
        "generate", "after each task, on all tasks: ask for every turn and score it, or compute the loss only"
    )
    evaluate_first: bool = option(True, "evaluate the base model too, which forward transfer needs")
    continual_self_rows: int = option(
        0, "rows the base model writes itself, put into the replay buffer before the first task", low=0
    )
    continual_on_policy: bool = option(
        False, "after each task, put the model's own right replies in place of the buffer's"
    )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "config") -> Self:
        """Build one from plain values: settings of the stream, of all runs, and a list of tasks.

        Raises:
            ConfigError: naming `where`, the task, every faulty field, what was expected and found.
        """
        own = {spec.name for spec in fields(cls)}
        named = _named(values)
        faults = [f"'{name}' is given under two names" for name in _twice(values)]
        faults += [
            f"unknown setting '{name}'; {suggestion(str(name), [*own, *_SETTINGS, *_ALIASES])}"
            for name in named
            if name not in own and name not in _SETTINGS
        ]
        faults += [f"'{name}' belongs to a task; put it into 'tasks'" for name in _OF_A_TASK if name in named]
        faults += [f"'{name}' is not set: {why}" for name, why in _MADE_HERE.items() if name in named]
        if faults:
            raise ConfigError(f"{where}: {'; '.join(fault.rstrip('; ') for fault in faults)}")
        mine = {name: value for name, value in named.items() if name in own}
        if {"base_model", "output_dir", "tasks"} <= mine.keys():
            common = {name: value for name, value in named.items() if name in _SETTINGS}
            mine["tasks"] = _tasks(mine["tasks"], common, where)
        return super().from_dict(mine, where)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; each task with all of its settings."""
        tasks = [{"name": task.name, **task.settings.to_dict()} for task in self.tasks]
        return {**super().to_dict(), "tasks": tasks}

    def conflicts(self) -> list[str]:
        """Names tell scores apart; who writes into the buffer needs one; PiSSA changes the adapter's rank."""
        names = [task.name.casefold() for task in self.tasks]
        faults = [f"'tasks': two are called '{name}'" for name in sorted(set(names)) if names.count(name) > 1]
        faults += [] if self.tasks else ["'tasks' is empty; give at least one task"]
        settings = self.tasks[0].settings if self.tasks else None
        if settings is not None and not settings.use_online_continual:
            faults += [
                f"'{name}' needs use_online_continual: true"
                for name in ("continual_self_rows", "continual_on_policy")
                if getattr(self, name)
            ]
        if settings is not None and settings.init_lora_weights == "pissa" and len(self.tasks) > 1:
            faults.append(
                "'init_lora_weights': pissa leaves an adapter of twice the rank, which the next task cannot go on "
                "with; leave it out"
            )
        return faults


def _tasks(given: object, common: Mapping[str, Any], where: str) -> StreamTasks:
    """The tasks, or a ConfigError about all that are faulty."""
    if isinstance(given, StreamTasks):
        return given
    if not isinstance(given, list | tuple):
        raise ConfigError(f"{where}: 'tasks': expected a list of tasks, found {type(given).__name__}")
    tasks, faults = [], []
    for number, task in enumerate(given, start=1):
        try:
            tasks.append(_task(task, number, common))
        except ConfigError as error:
            faults.append(str(error))
    if faults:
        raise ConfigError(f"{where}: {'; '.join(faults)}")
    return StreamTasks(tasks)


def _task(given: object, number: int, common: Mapping[str, Any]) -> StreamTask:
    place = f"task {number}"
    if not isinstance(given, Mapping):
        raise ConfigError(f"{place}: expected a mapping with name, train_data and eval_data, found {given!r:.80}")
    named = _named(given)
    missing = [repr(name) for name in ("name", *_OF_A_TASK) if named.get(name) in (None, "")]
    if missing:
        raise ConfigError(f"{place}: {' and '.join(missing)} must be given")
    name = named.pop("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{place}: 'name': expected letters, digits, dots, dashes and underscores (it names a folder), found "
            f"{name!r:.80}"
        )
    place = f"{place} ('{name}')"
    for setting in _twice(given):
        raise ConfigError(f"{place}: '{setting}' is given under two names")
    for setting in named:
        if setting in _OF_THE_STREAM:
            raise ConfigError(f"{place}: '{setting}' is the same for all tasks; give it outside 'tasks'")
        if setting in _MADE_HERE:
            raise ConfigError(f"{place}: '{setting}' is not set: {_MADE_HERE[setting]}")
    settings = AgentSFTConfig.from_dict({**common, **named}, place)
    return StreamTask(name, replace(settings, output_dir=settings.output_dir / f"{number:02d}-{name}"))


def _named(given: Mapping[Any, Any]) -> dict[str, Any]:
    """Settings under their own names."""
    return {_ALIASES.get(name, name): value for name, value in given.items()}


def _twice(given: Mapping[Any, Any]) -> list[str]:
    return [name for name, count in Counter(_ALIASES.get(name, name) for name in given).items() if count > 1]

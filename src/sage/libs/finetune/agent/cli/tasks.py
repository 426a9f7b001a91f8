"""What is worked on in `collect`: the environment's own tasks, or those of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.registry import suggestion

if TYPE_CHECKING:
    from pathlib import Path

    from sage.libs.finetune.agent.cli.commands.collect import CollectConfig
    from sage.libs.finetune.agent.environments.known import Named

_DESK_FIELDS = ("instruction", "tools", "answer", "world", "expected")


def tasks_of(config: CollectConfig, named: Named) -> list[dict[str, Any]]:
    """The tasks, checked, each with an id and with tools.

    Raises:
        ConfigError: for an unknown split, or tasks in the file that do not fit the environment.
        DataError: naming file, line and field, for a task that is none.
    """
    from sage.libs.finetune.agent.trajectories.protocols import read_tasks

    if config.tasks is None:
        split = config.split or "train"
        if named.splits and split not in named.splits:
            near = suggestion(split, named.splits)
            raise ConfigError(
                f"environment '{config.environment}' has no split '{split}'; {near}known: {', '.join(named.splits)}"
            )
        tasks = read_tasks(named.tasks(split, config.num_tasks or 100, config.seed))
    elif config.environment == "desk":
        tasks = _desk_tasks(config.tasks, config.agent, scripted=config.agent in named.agents)
    else:
        tasks = _read(config.tasks)[1]
    if config.tasks is not None and config.num_tasks is not None:
        if config.num_tasks > len(tasks):
            raise ConfigError(f"{config.tasks} has {len(tasks)} tasks; ask for at most as many, not {config.num_tasks}")
        tasks = tasks[: config.num_tasks]
    return [task if "tools" in task or not named.tools else {**task, "tools": named.tools} for task in tasks]


def _read(path: Path, check: Any = None) -> tuple[list[str], list[dict[str, Any]]]:
    """The tasks of a file, and where each stands; `check(place, row)` comes before all else."""
    from sage.libs.finetune.agent.jsonl import read_jsonl
    from sage.libs.finetune.agent.trajectories.protocols import read_tasks

    rows = list(read_jsonl(path))
    if not rows:
        raise DataError(f"{path}: the file is empty; expected one task (a JSON object) a line")
    places = [f"{path}:{line}" for line, _ in rows]
    for place, (_, row) in zip(places, rows, strict=True):
        if check is not None:
            check(place, row)
    return places, read_tasks([row for _, row in rows], places)


def _desk_tasks(path: Path, agent: str, *, scripted: bool) -> list[dict[str, Any]]:
    """Tasks for the desk, whose worlds it can hold."""
    from sage.libs.finetune.agent.environments.desk.store import Store

    def check(place: str, row: dict[str, Any]) -> None:
        missing = _missing_fields(row, scripted)
        if missing:
            raise ConfigError(
                f"{place}: the desk with agent {agent} needs {', '.join(missing)}; give tasks made like the desk's "
                "own, or leave --tasks out"
            )

    places, tasks = _read(path, check)
    for place, task in zip(places, tasks, strict=True):
        for field, world in (("world", task["world"]), ("expected", task["expected"] or {})):
            try:
                Store(world).close()
            except DataError as error:
                raise DataError(f"{place}: field '{field}': {error}") from None
    return tasks


def _missing_fields(task: dict[str, Any], scripted: bool) -> list[str]:
    missing = [f"'{name}'" for name in _DESK_FIELDS if name not in task]
    if scripted:
        metadata = task.get("metadata")
        known = metadata if isinstance(metadata, dict) else {}
        missing += [f"'metadata.{name}'" for name in ("kind", "slots") if name not in known]
    return missing

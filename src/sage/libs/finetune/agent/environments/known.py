"""Environments by name: how to make one, where its tasks come from, and which agents know it.

    desk                             the embedded one
    textcraft                        needs the extra `textcraft`
    textworld-express:GAME[:PARAMS]  needs the extra `textworld-express` and Java
    python:FILE.py:NAME              one's own: what FILE calls NAME

NAME is a class with `reset` and `step`, or a function that makes such an environment; or a class with methods, or a
list of functions, that are to be the tools (`FunctionEnvironment`). FILE is run, as any module that is imported. Where
it has a function `tasks(split, n, seed)`, the tasks come from there; where it has `judge(task, answer)`, that judges
the answers of functions.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from sage.libs.finetune.agent.errors import AgentFinetuneError, ConfigError
from sage.libs.finetune.agent.registry import suggestion
from sage.libs.finetune.agent.types import Environment, ToolSpec

FORMS = ("desk", "textcraft", "textworld-express:GAME", "python:FILE.py:NAME")


@dataclass(frozen=True)
class Named:
    """An environment that was asked for by name.

    Attributes:
        make_environment: Makes one, for one episode at a time; what `TrajectoryCollector` takes.
        tasks: `(split, n, seed)` -> tasks, for `TrajectoryCollector.collect`.
        splits: What `tasks` knows; empty when only the user's own file can tell.
        agents: Name -> maker of an agent that knows the environment, called with `seed` and `failure_rate`.
        tools: For tasks that name none themselves; empty when the environment's tasks all do.
    """

    make_environment: Callable[[], object]
    tasks: Callable[[str, int, int], list[dict[str, Any]]]
    splits: tuple[str, ...] = ()
    agents: Mapping[str, Callable[..., object]] = field(default_factory=dict)
    tools: list[ToolSpec] = field(default_factory=list)


def environment_named(name: str) -> Named:
    """What stands behind a name.

    Raises:
        ConfigError: for an unknown name, a file that cannot be imported or has no such thing in it, or a package that
            is missing (this may be found only when the environment or its tasks are made).

    Example:
        >>> desk = environment_named("desk")
        >>> desk.tasks("train", 1, 0)[0]["task_id"], sorted(desk.agents)
        ('train-0-0000', ['expert', 'noisy'])
        >>> environment_named("dsek")
        Traceback (most recent call last):
        sage.libs.finetune.agent.errors.ConfigError: unknown environment 'dsek'; did you mean 'desk'? known: desk, \
textcraft, textworld-express:GAME, python:FILE.py:NAME
    """
    kind, _, rest = name.partition(":")
    if name in ("desk", "textcraft"):
        return _desk() if name == "desk" else _textcraft()
    if kind == "textworld-express" and rest:
        return _textworld_express(*rest.partition(":")[::2])
    if kind == "python" and rest:
        return _own(rest)
    near = suggestion(kind, [form.partition(":")[0] for form in FORMS])
    raise ConfigError(f"unknown environment '{name}'; {near}known: {', '.join(FORMS)}")


def _desk() -> Named:
    from sage.libs.finetune.agent.environments.desk import (
        SPLITS,
        DeskEnvironment,
        DeskExpert,
        NoisyDeskExpert,
        desk_tasks,
    )

    def noisy(*, seed: int, failure_rate: float) -> object:
        return NoisyDeskExpert(failure_rate, seed)

    return Named(DeskEnvironment, desk_tasks, SPLITS, {"expert": lambda **_: DeskExpert(), "noisy": noisy})


def _textcraft() -> Named:
    from sage.libs.finetune.agent.environments.textcraft import (
        SPLITS,
        TextCraftEnvironment,
        TextCraftExpert,
        textcraft_tasks,
    )

    return Named(TextCraftEnvironment, textcraft_tasks, SPLITS, {"expert": lambda **_: TextCraftExpert()})


def _textworld_express(game: str, params: str) -> Named:
    from sage.libs.finetune.agent.environments.textworld_express import (
        SPLITS,
        GoldAgent,
        TextWorldExpressEnvironment,
        textworld_express_tasks,
    )

    def tasks(split: str, n: int, seed: int) -> list[dict[str, Any]]:
        return textworld_express_tasks(game, split, n, seed, params=params)

    return Named(TextWorldExpressEnvironment, tasks, SPLITS, {"expert": lambda **_: GoldAgent()})


def _own(place: str) -> Named:
    from sage.libs.finetune.agent.environments.functions import FunctionEnvironment, tools_of

    file, _, name = place.rpartition(":")
    if not file or not name:
        raise ConfigError(f"python:{place}: expected python:FILE.py:NAME, with the name of a class, function or list")
    module = _imported(Path(file))
    if not hasattr(module, name):
        raise ConfigError(f"{file}: has no '{name}'; {suggestion(name, _public(module))}it has {_listed(module)}")
    found = getattr(module, name)
    is_class = isinstance(found, type)
    if isinstance(found, list | tuple) or (is_class and not isinstance(found, Environment)):
        tools = tools_of(found)
        judge = getattr(module, "judge", None)
        return Named(lambda: FunctionEnvironment(found, judge=judge), _tasks_of(module, file), tools=tools)
    if not is_class and isinstance(found, Environment):
        raise ConfigError(
            f"{file}: '{name}' is one environment for all episodes; give a class or a function making one"
        )
    if not callable(found):
        raise ConfigError(
            f"{file}: '{name}' is a {type(found).__name__}; expected a class with reset and step, a function that "
            "makes such an environment, or a class or list of functions"
        )
    return Named(found, _tasks_of(module, file))


def _imported(path: Path) -> ModuleType:
    """The file as a module, not left in `sys.modules`: its classes then travel whole to workers that lack the file."""
    spec = spec_from_file_location(f"_environment_{path.stem}", path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: is no Python file; give python:FILE.py:NAME")
    module = module_from_spec(spec)
    folder = str(path.absolute().parent)
    if folder not in sys.path:  # the file may import what lies beside it, as a script could; nothing is shadowed
        sys.path.append(folder)
    sys.modules[spec.name] = module  # dataclasses look their module up while it is being run
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{path}: cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        del sys.modules[spec.name]
    return module


def _tasks_of(module: ModuleType, file: str) -> Callable[[str, int, int], list[dict[str, Any]]]:
    tasks: Callable[[str, int, int], list[dict[str, Any]]] | None = getattr(module, "tasks", None)
    if tasks is not None and callable(tasks):
        return functools.partial(_told, tasks, file)

    def missing(split: str, n: int, seed: int) -> list[dict[str, Any]]:
        raise ConfigError(
            f"{file}: has no function tasks(split, n, seed); write one, or give a file of tasks (--tasks)"
        )

    return missing


def _told(tasks: Callable[[str, int, int], Any], file: str, split: str, n: int, seed: int) -> list[dict[str, Any]]:
    """What the user's function gives; of more than was asked for the first."""
    call = f"{file}: tasks({split!r}, {n}, {seed})"
    try:
        found = tasks(split, n, seed)
        if not isinstance(found, Iterable) or isinstance(found, str | Mapping):
            raise ConfigError(f"{call}: expected a list of tasks, found {type(found).__name__}")
        return list(islice(found, n))
    except AgentFinetuneError:
        raise
    except (Exception, SystemExit) as error:  # the user's code, which may fail in any way
        raise ConfigError(f"{call} raised {type(error).__name__}: {error}; --debug shows where") from error


def _public(module: ModuleType) -> list[str]:
    return [
        name for name, value in vars(module).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    ]


def _listed(module: ModuleType) -> str:
    return ", ".join(_public(module)) or "nothing public"

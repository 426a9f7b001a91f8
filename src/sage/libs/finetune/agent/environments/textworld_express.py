"""TextWorldExpress: short text games with official splits and gold paths.

The games are those of Jansen and Côté 2023 (https://arxiv.org/abs/2208.01174). The package `textworld-express`
(Apache-2.0) plays them in a Java process; one process serves all environments of this one, each with a game of its
own. A task names game, fold and seed, which make the same game everywhere, and carries the game's gold path, which
`GoldAgent` follows. Some gold paths use what only the game knows (where the coin is): learning from them teaches the
actions, not how to explore.
"""

from __future__ import annotations

import atexit
import json
import random
import shutil
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from sage.libs.finetune.agent.errors import ConfigError, DataError, TrajectoryError
from sage.libs.finetune.agent.schemas.tools import tool_schema
from sage.libs.finetune.agent.types import FINISH, StepResult, ToolSpec, TrajectoryStep

SPLITS = ("train", "dev", "test")
SYSTEM_PROMPT = "You play a text game. Do one valid action at a time, word for word."
_SEEDS = {"train": "getValidSeedsTrain", "dev": "getValidSeedsDev", "test": "getValidSeedsTest"}
_UNKNOWN = "Unknown action:"

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"action": {"type": "string", "description": "One of the valid actions."}},
    "required": ["action"],
    "additionalProperties": False,
}
TOOLS: list[ToolSpec] = [
    {
        "type": "function",
        "function": {"name": "act", "description": "Do one thing in the game.", "parameters": _SCHEMA},
    }
]


def textworld_express_tasks(game: str, split: str, n: int, seed: int = 0, *, params: str = "") -> list[dict[str, Any]]:
    """`n` tasks of a game; a longer list begins with a shorter.

    Args:
        game: cookingworld, twc, coin, mapreader, arithmetic, sorting, simonsays or peckingorder.
        split: train, dev or test: the package's own, a thousand seeds each, other objects in each.
        n: How many.
        seed: Fixes their order; the seeds of the games are the package's.
        params: How the game is set up, as the package wants it ("numLocations=3,includeDoors=0"); "" for its default.

    Raises:
        ConfigError: for an unknown game, split or setup, more tasks than the split has, or when the package or Java
            is missing.
    """
    if split not in SPLITS:
        raise ConfigError(f"unknown textworld-express split '{split}'; known: {', '.join(SPLITS)}")
    seeds = [int(number) for number in getattr(_java(), _SEEDS[split])()]
    if not 0 <= n <= len(seeds):
        raise ConfigError(f"{game}'s {split} split has {len(seeds)} games; ask for at most as many tasks, not {n}")
    random.Random(f"textworld-express/{game}/{split}/{seed}").shuffle(seeds)
    server = _loaded(game, params)
    return [_task(server, game, split, number, params) for number in seeds[:n]]


class TextWorldExpressEnvironment:
    """One game; `reset` takes a task of `textworld_express_tasks`, `step` plays `act(action)`.

    Each observation ends with the valid actions, as the package gives them: without, their wording has to be guessed.
    Rewards are the differences of the game's score, which ends at 1; success is the game's own word.

    Args:
        show_valid_actions: Whether observations end with them.

    Raises:
        ConfigError: when the package or Java is missing.
    """

    def __init__(self, *, show_valid_actions: bool = True) -> None:
        _java()
        self._show = show_valid_actions
        self._server: Any = None
        self._score = 0.0

    def reset(self, task: Mapping[str, Any]) -> str:
        """Start the task's game; gives what is seen first.

        Raises:
            DataError: for a task that does not say which game.
        """
        if missing := [name for name in ("game", "params", "fold", "seed") if name not in task]:
            where = f"task '{task.get('task_id', '')}'"
            raise DataError(f"{where}: has no '{missing[0]}'; give tasks of textworld_express_tasks")
        self._server = _loaded(task["game"], task["params"])
        self._score = 0.0
        return self._seen(_started(self._server, task["seed"], task["fold"]))

    def step(self, action: str, action_input: dict[str, Any]) -> StepResult:
        """Play one action; `finish` gives up, since a game that is won has ended already."""
        if action == FINISH:
            return StepResult("", done=True, success=False)
        if action != "act":
            return StepResult(f"error: no tool {action}; there is act", error="unknown_tool")
        if fault := tool_schema(_SCHEMA).misfit(action_input):
            return StepResult(f"error: {fault}", error="bad_arguments")
        state = json.loads(self._server.stepJSON(action_input["action"]))
        score = float(state["score"])
        reward, self._score = score - self._score, score
        won = bool(state["tasksuccess"]) or score >= 1.0
        lost = bool(state["taskfailure"])
        error = "failed" if state["observation"].startswith(_UNKNOWN) else None
        verdict = won if won or lost else None
        return StepResult(self._seen(state, over=won or lost), reward, won or lost, verdict, error)

    def _seen(self, state: Mapping[str, Any], *, over: bool = False) -> str:
        text = str(state["observation"]).strip()
        if over or not self._show:
            return text
        return f"{text}\nValid actions: {', '.join(sorted(state['validActions']))}"


class GoldAgent:
    """Plays the gold path of a task."""

    def act(self, task: Mapping[str, Any], history: Sequence[TrajectoryStep]) -> TrajectoryStep | None:
        """The next action; None (giving up) where the path ends before the game."""
        gold = task["gold"]
        return TrajectoryStep("", "act", {"action": gold[len(history)]}) if len(history) < len(gold) else None


_STARTED: list[Any] = []
_STARTING = threading.Lock()


def _java() -> Any:
    """The package's own environment, started once: it is what holds the Java process."""
    with _STARTING:
        if not _STARTED:
            _STARTED.append(_start())
            atexit.register(_STARTED.clear)  # the package ends Java when its object goes; later it no longer can
        return _STARTED[0]


def _start() -> Any:
    try:
        from textworld_express import TextWorldExpressEnv
    except ImportError as error:
        raise ConfigError(
            f"TextWorldExpress needs a package that is missing ({error}); pip install 'sage-libs[textworld-express]'"
        ) from None
    if shutil.which("java") is None:
        raise ConfigError("TextWorldExpress needs Java 8 or newer, and there is no 'java' on the PATH; install a JRE")
    return TextWorldExpressEnv()


def _loaded(game: str, params: str) -> Any:
    """A game server of one's own in the Java process, with the game loaded."""
    server = _java()._gateway.jvm.textworldexpress.runtime.PythonInterface()
    if fault := server.load(game, params):
        raise ConfigError(f"textworld-express: {' '.join(str(fault).removeprefix('ERROR:').split())}")
    return server


def _started(server: Any, seed: int, split: str, *, gold: bool = False) -> dict[str, Any]:
    state = json.loads(server.generateNewGameJSON(seed, split, gold))
    if not isinstance(state, dict) or "observation" not in state:
        raise TrajectoryError(f"textworld-express made no game of seed {seed} ({split}): {state!r:.200}")
    return state


def _task(server: Any, game: str, split: str, seed: int, params: str) -> dict[str, Any]:
    _started(server, seed, split, gold=True)
    return {
        "task_id": f"{game}-{split}-{seed}" + (f"-{params}" if params else ""),
        "instruction": str(server.getTaskDescription()).strip(),
        "system_prompt": SYSTEM_PROMPT,
        "tools": TOOLS,
        "game": game,
        "params": params,
        "fold": split,
        "seed": seed,
        "gold": [str(action) for action in server.getGoldActionSequence()],
        "metadata": {"split": split, "family": game, "kind": game},
    }

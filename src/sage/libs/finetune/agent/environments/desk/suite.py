"""Desk tasks, by split and seed.

Splits are disjoint by construction: the words of a request (its slots) are hashed, and the hash alone decides which of
train, dev, test_iid and test_wording may use them, so no instruction can stand in two of them, whatever the seed.
test_wording draws from wordings that no other split uses; test_compose from kinds that no other split has.
"""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

from sage.libs.finetune.agent.environments.desk.kinds import COMPOSED, KINDS, Kind
from sage.libs.finetune.agent.environments.desk.requests import Posed
from sage.libs.finetune.agent.environments.desk.tools import FAMILY_TOOLS, TOOLS
from sage.libs.finetune.agent.errors import ConfigError

SYSTEM_PROMPT = "Use the tools. Then answer in one word: the value asked for, done, or none if no tool fits."

_SHARES = {"train": range(60), "dev": range(60, 70), "test_iid": range(70, 85), "test_wording": range(85, 100)}
SPLITS = (*_SHARES, "test_compose")


def desk_tasks(split: str, n: int, seed: int = 0) -> list[dict[str, Any]]:
    """`n` tasks of a split; the same (split, n, seed) gives the same tasks, and a longer list begins with a shorter.

    No instruction comes twice, so a split ends where the first of its kinds does: after 11227 tasks of train, 1162 of
    dev, 2152 of test_iid, 247 of test_wording and 770 of test_compose.

    Args:
        split: train, dev, test_iid, test_wording or test_compose.
        n: How many; kinds take turns, so every kind is equally frequent.
        seed: Fixes worlds and wordings.

    Returns:
        Dicts with task_id, instruction, system_prompt, tools (JSON schemas), answer (None when only the state
        counts), world, expected (None when the world must stay as it is) and metadata (split, family, kind, slots).

    Raises:
        ConfigError: for an unknown split, a negative n, or more tasks than the split has.

    Example:
        >>> task = desk_tasks("train", 1)[0]
        >>> task["task_id"], task["metadata"]["kind"]
        ('train-0-0000', 'order_status')
    """
    if split not in SPLITS:
        raise ConfigError(f"unknown desk split '{split}'; known: {', '.join(SPLITS)}")
    if n < 0:
        raise ConfigError(f"the number of tasks must be 0 or more, not {n}")
    composed = split == "test_compose"
    kinds = [kind for kind in KINDS.values() if (kind.name in COMPOSED) == composed]
    seen: set[str] = set()
    tasks = []
    for index in range(n):
        rng = random.Random(f"desk/{split}/{seed}/{index}")
        task = _task(kinds[index % len(kinds)], split, f"{split}-{seed}-{index:04d}", rng, seen)
        seen.add(task["instruction"])
        tasks.append(task)
    return tasks


def _task(kind: Kind, split: str, task_id: str, rng: random.Random, seen: set[str]) -> dict[str, Any]:
    """Draw until the slots belong to the split and the instruction is new in it."""
    wordings = kind.unseen if split == "test_wording" else kind.wordings
    for _ in range(10_000):
        posed = kind.pose(rng)
        instruction = rng.choice(wordings).format(**posed.slots)
        if instruction not in seen and (split == "test_compose" or _owner(kind.name, posed) == split):
            break
    else:
        raise ConfigError(f"the desk has no more new {kind.name} tasks for {split}; ask for at most {len(seen)} tasks")
    family = rng.choice(sorted(FAMILY_TOOLS)) if kind.family == "any" else kind.family
    return {
        "task_id": task_id,
        "instruction": instruction,
        "system_prompt": SYSTEM_PROMPT,
        "tools": [TOOLS[name].spec for name in FAMILY_TOOLS[family]],
        "answer": posed.answer,
        "world": posed.world,
        "expected": posed.expected,
        "metadata": {"split": split, "family": family, "kind": kind.name, "slots": posed.slots},
    }


def _owner(kind: str, posed: Posed) -> str:
    """The one split that may use these slots."""
    digest = hashlib.sha256(json.dumps([kind, posed.slots], sort_keys=True).encode()).digest()
    bucket = int.from_bytes(digest[:4], "big") % 100
    return next(split for split, buckets in _SHARES.items() if bucket in buckets)

"""Reasoning problems, by split and seed: arithmetic in several steps, look-ups over two facts, multiple choice.

Every problem comes with its answer and a worked solution. Splits are disjoint by construction: what a problem is about
(its figures, its facts) is hashed, and the hash alone decides which of train, dev and test may use it, so no problem
stands in two of them, whatever the seed. An arithmetic problem is its figures, so another name makes no new problem.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.evaluation.reasoning_problems import KINDS, Problem
from sage.libs.finetune.agent.evaluation.score import Item

_SHARES = {"train": range(70), "dev": range(70, 80), "test": range(80, 100)}
SPLITS = tuple(_SHARES)
_CLOSING = {
    "number": "Work it out step by step. End with a line 'Answer: ' and the number.",
    "text": "Reason step by step. End with a line 'Answer: ' and the name.",
    "choice": "Reason step by step. End with a line 'Answer: ' and the letter.",
}


def reasoning_items(split: str, n: int, seed: int = 0, kinds: Sequence[str] | None = None) -> list[Item]:
    """`n` problems of a split; the same arguments give the same, and a longer list begins with a shorter.

    Args:
        split: train, dev or test.
        n: How many; kinds take turns, so all are equally frequent. No problem comes twice, so a split ends where its
            first kind does: after some 6700 problems of train, 900 of dev and 1900 of test.
        seed: Fixes the problems.
        kinds: Names out of `reasoning_problems.KINDS`; None for all.

    Returns:
        Items: `messages` is one user message; `gold` has answer, kind (number, text or choice) and, of a choice,
        choices; `metadata` has split, kind, steps (how many the solution takes) and solution (without the answer).

    Raises:
        ConfigError: for an unknown split or kind, a negative n, or more problems than the split has.

    Example:
        >>> item = reasoning_items("test", 1)[0]
        >>> item["id"], item["metadata"]["kind"], item["gold"]["kind"]
        ('reasoning-test-0-0000', 'running_total', 'number')
    """
    names = list(KINDS if kinds is None else kinds)
    if split not in SPLITS:
        raise ConfigError(f"unknown split '{split}' of reasoning problems; known: {', '.join(SPLITS)}")
    if unknown := [name for name in names if name not in KINDS]:
        raise ConfigError(f"unknown kind of reasoning problem '{unknown[0]}'; known: {', '.join(KINDS)}")
    if n < 0 or not names:
        raise ConfigError(f"reasoning problems: expected n of 0 or more and a kind, found n={n} and kinds={kinds!r}")
    seen: set[str] = set()
    items = []
    for index in range(n):
        rng = random.Random(f"reasoning/{split}/{seed}/{index}")
        kind = names[index % len(names)]
        problem = _draw(kind, split, rng, seen)
        items.append(_item(problem, kind, split, f"reasoning-{split}-{seed}-{index:04d}"))
    return items


def _draw(kind: str, split: str, rng: random.Random, seen: set[str]) -> Problem:
    """Draw until the problem is the split's and new."""
    for _ in range(10_000):
        problem = KINDS[kind](rng)
        if problem is None:
            continue
        key = json.dumps([kind, problem.about])
        if key not in seen and _owner(key) == split:
            seen.add(key)
            return problem
    raise ConfigError(f"there are no more new {kind} problems for {split}; ask for at most {len(seen)} problems")


def _owner(key: str) -> str:
    """The one split that may use this problem."""
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100
    return next(split for split, buckets in _SHARES.items() if bucket in buckets)


def _item(problem: Problem, kind: str, split: str, name: str) -> Item:
    gold: dict[str, object] = {"answer": problem.answer, "kind": problem.answer_kind}
    question = problem.question
    if problem.choices:
        gold["choices"] = problem.choices
        question += "\n" + "\n".join(f"({label}) {words}" for label, words in problem.choices.items())
    return {
        "id": name,
        "messages": [{"role": "user", "content": f"{question}\n{_CLOSING[problem.answer_kind]}"}],
        "tools": [],
        "gold": gold,
        "metadata": {
            "split": split,
            "kind": kind,
            "steps": len(problem.steps),
            "solution": "\n".join(problem.steps),
        },
    }

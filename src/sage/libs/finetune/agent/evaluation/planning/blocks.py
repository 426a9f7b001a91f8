"""Blocks world: towers of coloured blocks that one arm rebuilds, the oldest planning problem there is."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

from sage.libs.finetune.agent.evaluation.planning.strips import Instance

COLOURS = tuple("red blue green black white pink gray brown gold orange purple yellow".split())
_BLOCKS = {1: 3, 2: 4, 3: 5}

DOMAIN: dict[str, Any] = {
    "name": "blocks",
    "actions": [
        {
            "name": "pick-up",
            "parameters": ["?x"],
            "pre": ["clear ?x", "on-table ?x", "arm-empty"],
            "add": ["holding ?x"],
            "delete": ["clear ?x", "on-table ?x", "arm-empty"],
        },
        {
            "name": "put-down",
            "parameters": ["?x"],
            "pre": ["holding ?x"],
            "add": ["clear ?x", "on-table ?x", "arm-empty"],
            "delete": ["holding ?x"],
        },
        {
            "name": "stack",
            "parameters": ["?x", "?y"],
            "pre": ["holding ?x", "clear ?y"],
            "add": ["on ?x ?y", "clear ?x", "arm-empty"],
            "delete": ["holding ?x", "clear ?y"],
        },
        {
            "name": "unstack",
            "parameters": ["?x", "?y"],
            "pre": ["on ?x ?y", "clear ?x", "arm-empty"],
            "add": ["holding ?x", "clear ?y"],
            "delete": ["on ?x ?y", "clear ?x", "arm-empty"],
        },
    ],
}

_ACTIONS = """\
An arm moves blocks, one at a time. A block with something on it cannot be taken or built on. Actions:
pick-up X: take X from the table
put-down X: put X on the table
stack X Y: put X, which the arm holds, on Y
unstack X Y: take X off Y"""


def generate(rng: random.Random, level: int) -> Instance:
    """A problem of `level` + 2 blocks; its goal is the towers of another arrangement, single blocks left out.

    Example:
        >>> print(generate(random.Random(3), 1).instruction.splitlines()[-2])
        Goal: gold is on black.
    """
    names = rng.sample(COLOURS, _BLOCKS[level])
    start = _towers(names, rng)
    goal: list[str] = []
    while not goal:
        goal = [atom for atom in _atoms(_towers(names, rng)) if atom.startswith("on ")]
    problem = {"init": [*_atoms(start), "arm-empty"], "goal": goal}
    instruction = "\n".join(
        (
            _ACTIONS,
            f"Now: {'; '.join(map(_tower_in_words, start))}.",
            f"Goal: {', '.join('{1} is on {2}'.format(*atom.split()) for atom in goal)}.",
            "Reply with the plan, one action a line.",
        )
    )
    return Instance(DOMAIN, problem, instruction)


def _towers(names: list[str], rng: random.Random) -> list[list[str]]:
    """The blocks in towers, each from top to bottom: every block goes on a tower or begins one with equal chances."""
    towers: list[list[str]] = []
    for name in rng.sample(names, len(names)):
        place = rng.randrange(len(towers) + 1)
        if place == len(towers):
            towers.append([name])
        else:
            towers[place].insert(0, name)
    return towers


def _atoms(towers: list[list[str]]) -> list[str]:
    atoms = []
    for tower in towers:
        atoms += [f"on {upper} {lower}" for upper, lower in pairwise(tower)]
        atoms += [f"clear {tower[0]}", f"on-table {tower[-1]}"]
    return atoms


def _tower_in_words(tower: list[str]) -> str:
    return " is on ".join([*tower, "the table"]).replace(" is on ", " on ")

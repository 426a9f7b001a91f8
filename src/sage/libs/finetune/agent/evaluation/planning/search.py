"""A shortest plan by breadth-first search, for problems as small as the generators make them.

Atoms are bits and states are integers, so that doing an action is three operations on integers. Only what the goal
needs, and what that needs, is tried: an action that adds nothing of it cannot be part of a shortest plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.evaluation.planning.strips import Action, Atom, Domain, Problem, ground

MOST_STATES = 200_000


class _Grounded(NamedTuple):
    step: str
    pre: frozenset[Atom]
    add: frozenset[Atom]
    delete: frozenset[Atom]


def shortest_plan(domain: Domain, problem: Problem, most_states: int = MOST_STATES) -> list[str] | None:
    """A plan with as few steps as possible, always the same one; None when no plan reaches the goal.

    Args:
        domain: The actions.
        problem: The beginning and the goal.
        most_states: States to look at before giving up.

    Raises:
        DataError: when the search gives up: the problem is too large.

    Example:
        >>> from sage.libs.finetune.agent.evaluation.planning.strips import read_domain, read_problem
        >>> move = {"name": "go", "parameters": ["?a", "?b"], "pre": ["at ?a", "road ?a ?b"],
        ...         "add": ["at ?b"], "delete": ["at ?a"]}
        >>> roads = {"init": ["at here", "road here there", "road there inn"], "goal": ["at inn"]}
        >>> shortest_plan(read_domain({"actions": [move]}), read_problem(roads))
        ['go here there', 'go there inn']
    """
    actions = _relevant(list(_grounded(domain, problem)), problem)
    bits: dict[Atom, int] = {}

    def mask(atoms: frozenset[Atom]) -> int:
        return sum(bits.setdefault(atom, 1 << len(bits)) for atom in atoms)

    moves = [(each.step, mask(each.pre), mask(each.add), ~mask(each.delete)) for each in actions]
    goal = mask(frozenset(problem.goal))
    start = sum(bits.get(atom, 0) for atom in problem.init)
    came_from: dict[int, tuple[int, str] | None] = {start: None}
    frontier = [start]
    while frontier:
        if len(came_from) > most_states:
            raise DataError(f"no plan among the first {most_states} states; make the problem smaller")
        reached = next((state for state in frontier if state & goal == goal), None)
        if reached is not None:
            return _steps_to(reached, came_from)
        behind, frontier = frontier, []
        for state in behind:
            for step, pre, add, keep in moves:
                if state & pre == pre and (after := (state & keep) | add) not in came_from:
                    came_from[after] = (state, step)
                    frontier.append(after)
    return None


def _steps_to(state: int, came_from: Mapping[int, tuple[int, str] | None]) -> list[str]:
    steps = []
    while (origin := came_from[state]) is not None:
        state, step = origin
        steps.append(step)
    return steps[::-1]


def _grounded(domain: Domain, problem: Problem) -> Iterator[_Grounded]:
    """Every step whose unchanging preconditions hold at the beginning, in a fixed order."""
    changing = {atom[0] for action in domain.actions.values() for atom in (*action.add, *action.delete)}
    objects = sorted(problem.objects)
    for action in domain.actions.values():
        fixed = [atom for atom in action.pre if atom[0] not in changing]
        for values in _bindings(action, fixed, problem, objects, {}):
            pre, add, delete = (
                frozenset(ground(atom, values) for atom in atoms) for atoms in (action.pre, action.add, action.delete)
            )
            yield _Grounded(" ".join((action.name, *values.values())), pre, add, delete)


def _bindings(
    action: Action, fixed: list[Atom], problem: Problem, objects: list[str], values: dict[str, str]
) -> Iterator[dict[str, str]]:
    """All ways to fill the parameters from the first to the last, given up as soon as a fixed atom is false."""
    if len(values) == len(action.parameters):
        yield values
        return
    for thing in objects:
        longer = {**values, action.parameters[len(values)]: thing}
        known = (grounded for atom in fixed if not _is_open(grounded := ground(atom, longer)))
        if all(atom in problem.init for atom in known):
            yield from _bindings(action, fixed, problem, objects, longer)


def _is_open(atom: Atom) -> bool:
    return any(word.startswith("?") for word in atom)


def _relevant(actions: list[_Grounded], problem: Problem) -> list[_Grounded]:
    """The steps that add something the goal needs, or something that such a step needs, in their order."""
    needed, before = set(problem.goal), -1
    while len(needed) != before:
        before = len(needed)
        for each in actions:
            if not needed.isdisjoint(each.add):
                needed |= each.pre
    return [each for each in actions if not needed.isdisjoint(each.add)]

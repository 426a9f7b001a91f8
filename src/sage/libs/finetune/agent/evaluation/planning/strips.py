"""STRIPS: what a plan does to a world (Fikes & Nilsson, 1971), so that a plan is judged by doing it.

A state is a set of true atoms, all others are false. An action may be done when all its preconditions are true; then
what it deletes is false and what it adds is true. A plan is valid when each of its steps may be done where it stands
and the goal is true at the end: PlanBench's criterion (Valmeekam et al., 2023, https://arxiv.org/abs/2206.10498), with
no outside validator.

Everything is written in words, so that it can stand in a JSON file: an atom or a step is its name and what it is about,
separated by blanks ("on red blue", "stack red blue"), a parameter begins with a question mark ("on ?x ?y").
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from sage.libs.finetune.agent.errors import DataError

Atom = tuple[str, ...]
_ACTION_FIELDS = ("name", "parameters", "pre", "add", "delete")


@dataclass(frozen=True)
class Action:
    """One action schema: its atoms hold parameters ("?x") where the arguments of a step go."""

    name: str
    parameters: tuple[str, ...]
    pre: tuple[Atom, ...]
    add: tuple[Atom, ...]
    delete: tuple[Atom, ...]


@dataclass(frozen=True)
class Domain:
    """What can be done: action schemas by name."""

    name: str
    actions: dict[str, Action]

    @cached_property
    def predicates(self) -> set[str]:
        """The names of all atoms that actions speak of."""
        return {atom[0] for action in self.actions.values() for atom in (*action.pre, *action.add, *action.delete)}


@dataclass(frozen=True)
class Problem:
    """What is true at the beginning, and what has to be at the end."""

    init: frozenset[Atom]
    goal: tuple[Atom, ...]

    @cached_property
    def objects(self) -> set[str]:
        """All things that there are: whatever an atom of the beginning or the goal is about."""
        return {thing for atom in (*self.init, *self.goal) for thing in atom[1:]}


class Instance(NamedTuple):
    """A generated problem: domain and problem in their JSON forms, and the words that pose it."""

    domain: dict[str, Any]
    problem: dict[str, Any]
    instruction: str


@dataclass(frozen=True)
class Outcome:
    """What became of a plan.

    Attributes:
        valid: Whether all steps could be done and the goal is reached at the end.
        executed: How many steps could be done before the first that could not.
        goals_reached: How many goal atoms are true after those.
        goals: How many there are.
        failed_at: Index of the step that could not be done, None when all could.
        why: What is wrong, in one phrase; "" for a valid plan.
    """

    valid: bool
    executed: int
    goals_reached: int
    goals: int
    failed_at: int | None
    why: str


def simulate(domain: Domain, problem: Problem, plan: Sequence[str]) -> Outcome:
    """Do a plan step by step, up to the first step that cannot be done.

    Args:
        domain: The actions.
        problem: The beginning and the goal.
        plan: Steps: an action's name and its arguments, separated by blanks. A step that is no action of the domain,
            has too few or too many arguments or speaks of things that are not there cannot be done.

    Example:
        >>> domain = read_domain({"actions": [{"name": "open", "parameters": ["?d"], "pre": ["shut ?d"],
        ...                                    "add": ["open ?d"], "delete": ["shut ?d"]}]})
        >>> problem = read_problem({"init": ["shut door"], "goal": ["open door"]})
        >>> simulate(domain, problem, ["open door"]).valid
        True
        >>> simulate(domain, problem, ["open door", "open door"]).why
        "'open door' needs 'shut door'"
    """
    state = set(problem.init)
    objects = problem.objects
    failed_at, why = None, ""
    for index, step in enumerate(plan):
        why = _do(step, state, domain, objects)
        if why:
            failed_at = index
            break
    missing = [atom for atom in problem.goal if atom not in state]
    return Outcome(
        valid=failed_at is None and not missing,
        executed=len(plan) if failed_at is None else failed_at,
        goals_reached=len(problem.goal) - len(missing),
        goals=len(problem.goal),
        failed_at=failed_at,
        why=why or (f"the goal '{' '.join(missing[0])}' is not reached" if missing else ""),
    )


def _do(step: str, state: set[Atom], domain: Domain, objects: set[str]) -> str:
    """Change the state by a step, or leave it as it is and say why the step cannot be done."""
    name, *arguments = step.split() or [""]
    action = domain.actions.get(name)
    if action is None:
        return f"'{step}' is none of the actions"
    if len(arguments) != len(action.parameters):
        return f"'{step}': {name} takes {len(action.parameters)} arguments, not {len(arguments)}"
    for argument in arguments:
        if argument not in objects:
            return f"'{step}': there is no '{argument}'"
    values = dict(zip(action.parameters, arguments, strict=True))
    for atom in action.pre:
        if (needed := ground(atom, values)) not in state:
            return f"'{step}' needs '{' '.join(needed)}'"
    state.difference_update([ground(atom, values) for atom in action.delete])
    state.update([ground(atom, values) for atom in action.add])
    return ""


def ground(atom: Atom, values: Mapping[str, str]) -> Atom:
    """The atom with its parameters replaced by their values."""
    return tuple([values.get(word, word) for word in atom])


def read_domain(record: object, where: str = "domain") -> Domain:
    """A domain out of its JSON form, `{"name": ..., "actions": [{"name", "parameters", "pre", "add", "delete"}]}`.

    Raises:
        DataError: naming `where`, the field, and what was expected.
    """
    try:
        return _domain(json.dumps(record))
    except DataError as error:
        raise DataError(f"{where}{error}") from None
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: expected plain JSON types ({error})") from None


def read_problem(record: object, where: str = "problem") -> Problem:
    """A problem out of its JSON form, `{"init": [atom, ...], "goal": [atom, ...]}`.

    Raises:
        DataError: naming `where`, the field, and what was expected.
    """
    try:
        if not isinstance(record, Mapping) or set(record) != {"init", "goal"}:
            raise DataError(": expected {'init': [...], 'goal': [...]}")
        init, goal = (_atoms(record[side], f".{side}") for side in ("init", "goal"))
        for side, atoms in ((".init", init), (".goal", goal)):
            for atom in atoms:
                if any(word.startswith("?") for word in atom):
                    raise DataError(f"{side}: '{' '.join(atom)}' holds a parameter; name the thing itself")
        if not goal:
            raise DataError(".goal: expected at least one atom")
    except DataError as error:
        raise DataError(f"{where}{error}") from None
    return Problem(frozenset(init), goal)


@lru_cache(maxsize=256)
def _domain(text: str) -> Domain:
    """The domain whose JSON this is; test sets repeat theirs item after item."""
    record = json.loads(text)
    if not isinstance(record, dict) or not isinstance(record.get("actions"), list) or not record["actions"]:
        raise DataError(": expected {'actions': [...]} with at least one action")
    if not isinstance(name := record.get("name", ""), str):
        raise DataError(f".name: expected text, found {type(name).__name__}")
    actions: dict[str, Action] = {}
    for index, entry in enumerate(record["actions"]):
        action = _action(entry, f".actions[{index}]")
        if action.name in actions:
            raise DataError(f".actions[{index}].name: '{action.name}' stands there twice")
        actions[action.name] = action
    return Domain(name, actions)


def _action(entry: object, where: str) -> Action:
    if not isinstance(entry, dict) or (unknown := set(entry) ^ set(_ACTION_FIELDS)):
        found = f"; check {', '.join(map(str, sorted(unknown)))}" if isinstance(entry, dict) else ""
        raise DataError(f"{where}: expected an object with {', '.join(_ACTION_FIELDS)}{found}")
    name, parameters = entry["name"], entry["parameters"]
    if not isinstance(name, str) or len(name.split()) != 1:
        raise DataError(f"{where}.name: expected one word, found {name!r:.60}")
    if not isinstance(parameters, list) or not all(_is_parameter(one) for one in parameters):
        raise DataError(f"{where}.parameters: expected a list of words like '?x', found {parameters!r:.60}")
    if len(set(parameters)) != len(parameters):
        raise DataError(f"{where}.parameters: one stands there twice in {parameters!r:.60}")
    atoms = {part: _atoms(entry[part], f"{where}.{part}") for part in ("pre", "add", "delete")}
    for part, many in atoms.items():
        for atom in many:
            for word in atom:
                if word.startswith("?") and word not in parameters:
                    raise DataError(f"{where}.{part}: '{' '.join(atom)}' speaks of {word}, which is no parameter")
    return Action(name, tuple(parameters), **atoms)


def _is_parameter(word: object) -> bool:
    return isinstance(word, str) and word.startswith("?") and len(word) > 1 and len(word.split()) == 1


def _atoms(value: object, where: str) -> tuple[Atom, ...]:
    if not isinstance(value, list) or not all(isinstance(atom, str) and atom.split() for atom in value):
        raise DataError(f"{where}: expected a list of atoms such as 'on red blue', found {value!r:.60}")
    return tuple(tuple(atom.split()) for atom in value)

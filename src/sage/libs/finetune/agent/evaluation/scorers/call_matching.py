"""Calls against the calls that are right: one with one, and which belongs to which.

A right call says for each argument which values are allowed (`tool_values`). Two calls agree when the name is the same,
everything required is there, nothing unexpected is, and every argument is allowed. Calls made in parallel may come in
any order. The published BFCL checker gives each right call the first reply call that fits it, which can miss an
assignment that exists; ours finds a largest one by augmenting paths, and `strict` is the published way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sage.libs.finetune.agent.evaluation.scorers.tool_values import Parameter, parameter_of, value_fault
from sage.libs.finetune.agent.tokenization.parse import ParsedCall

_ABSENT = object()


@dataclass(frozen=True)
class Function:
    """A function that can be called.

    Attributes:
        name: Its name.
        properties: The schema of each parameter.
        required: Parameters that must be given.
        known: Whether anything is known of its parameters; if not, the right call decides alone.
    """

    name: str
    properties: Mapping[str, Any] = field(default_factory=dict)
    required: Sequence[str] = ()
    known: bool = False

    def parameter(self, name: str) -> Parameter:
        """What the parameter takes."""
        return parameter_of(self.properties.get(name))

    def is_default(self, name: str, allowed: Sequence[Any]) -> bool:
        """Whether leaving the parameter out says one of the allowed values."""
        schema = self.properties.get(name)
        default = schema.get("default", _ABSENT) if isinstance(schema, Mapping) else _ABSENT
        return default is not _ABSENT and value_fault(default, allowed, self.parameter(name)) is None


@dataclass(frozen=True)
class RightCall:
    """A call that is right.

    Attributes:
        function: What is called.
        arguments: The allowed values of each argument; `""` among them: it may be left out.
    """

    function: Function
    arguments: Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Comparison:
    """A call against a right one of the same name.

    Attributes:
        fault: What kind of thing is wrong first (required, unexpected, type, value, missing); None for nothing.
        reason: The fault in words, "" for none.
        right: Arguments that are right.
        total: Arguments that count: those given, and those missing that must not be.
    """

    fault: str | None
    reason: str
    right: int
    total: int


@dataclass(frozen=True)
class Matching:
    """Which call belongs to which right one.

    Attributes:
        pairs: For each right call the index of the call that agrees with it, None when there is none.
        rest: Indices of the calls that agree with none.
    """

    pairs: list[int | None]
    rest: list[int]


def functions_of(tools: Sequence[Mapping[str, Any]]) -> dict[str, Function]:
    """Tools by name, in the wrapper `{"type": "function", "function": {...}}` or bare; the first of a name counts."""
    functions: dict[str, Function] = {}
    for tool in tools:
        function = tool.get("function", tool)
        parameters = function.get("parameters") or {}
        properties = parameters.get("properties")
        name, required = function["name"], parameters.get("required")
        functions.setdefault(
            name,
            Function(
                name,
                properties if isinstance(properties, Mapping) else {},
                required if isinstance(required, list) else [],
                known=isinstance(properties, Mapping),
            ),
        )
    return functions


def compare(arguments: Mapping[str, Any], right: RightCall, defaults: bool = False) -> Comparison:
    """The arguments of a call against the right ones, all of them, in the order in which BFCL looks at them.

    Args:
        arguments: What the call gives.
        right: The right call, of the same name.
        defaults: Whether an argument left out says its schema's `default`: one that the right call does not speak of
            may be given with that value, and one that has that value in the right call may be left out.
    """
    function, good, total = right.function, 0, 0
    faults: list[tuple[str, str]] = []
    for name in function.required:
        if name not in arguments:
            faults.append(("required", f"required argument '{name}' is missing"))
            total += 1
    for name, value in arguments.items():
        allowed = right.arguments.get(name)
        known = name in function.properties or not function.known
        if allowed is None or not known:
            if not (defaults and known and function.is_default(name, function.parameter(name).allowing(value))):
                faults.append(("unexpected", f"argument '{name}' is unexpected"))
                total += 1
            continue
        total += 1
        fault = value_fault(value, allowed, function.parameter(name))
        if fault is None:
            good += 1
        elif fault == "type":
            faults.append((fault, f"argument '{name}' is of another type: {value!r:.60}"))
        else:
            faults.append((fault, f"argument '{name}': {value!r:.60} is none of {list(allowed)!r:.80}"))
    for name, allowed in right.arguments.items():
        if name not in arguments and "" not in allowed and name not in function.required:
            if defaults and function.is_default(name, allowed):
                continue
            faults.append(("missing", f"argument '{name}' is missing"))
            total += 1
    kind, reason = faults[0] if faults else (None, "")
    return Comparison(kind, reason, good, total)


class Comparisons:
    """Every call of a reply against every right one, each pair looked at once and only when it is asked for."""

    def __init__(self, calls: Sequence[ParsedCall], right: Sequence[RightCall], defaults: bool) -> None:
        self.calls, self.right = calls, right
        self._defaults = defaults
        self._known: dict[tuple[int, int], Comparison | None] = {}

    def __call__(self, wanted: int, given: int) -> Comparison | None:
        """How the `given`-th call compares with the `wanted`-th right one; None when the name is another."""
        if (wanted, given) not in self._known:
            call, right = self.calls[given], self.right[wanted]
            same = call.name == right.function.name
            self._known[wanted, given] = compare(call.arguments, right, self._defaults) if same else None
        return self._known[wanted, given]

    def agree(self, wanted: int, given: int) -> bool:
        """Whether nothing is wrong between the two."""
        found = self(wanted, given)
        return found is not None and found.fault is None


def match_in_order(compared: Comparisons) -> Matching:
    """The n-th call belongs to the n-th right one."""
    given = len(compared.calls)
    return _matching([n if n < given and compared.agree(n, n) else None for n in range(len(compared.right))], given)


def match_first_fit(compared: Comparisons) -> Matching:
    """Each right call takes the first call left that agrees with it, as the published checker does."""
    left, pairs = list(range(len(compared.calls))), []
    for wanted in range(len(compared.right)):
        fit = next((given for given in left if compared.agree(wanted, given)), None)
        pairs.append(fit)
        if fit is not None:
            left.remove(fit)
    return Matching(pairs, left)


def match_most(compared: Comparisons) -> Matching:
    """As many agreeing pairs as there can be (augmenting paths; Kuhn, 1955)."""
    taken_by: dict[int, int] = {}

    def place(wanted: int, seen: set[int]) -> bool:
        for given in range(len(compared.calls)):
            if given not in seen and compared.agree(wanted, given):
                seen.add(given)
                if given not in taken_by or place(taken_by[given], seen):
                    taken_by[given] = wanted
                    return True
        return False

    for wanted in range(len(compared.right)):
        place(wanted, set())
    given_to = {wanted: given for given, wanted in taken_by.items()}
    return _matching([given_to.get(wanted) for wanted in range(len(compared.right))], len(compared.calls))


def _matching(pairs: list[int | None], given: int) -> Matching:
    return Matching(pairs, [index for index in range(given) if index not in pairs])

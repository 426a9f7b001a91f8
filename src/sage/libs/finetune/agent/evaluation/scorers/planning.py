"""Planning: is the plan in a reply valid, or how much of a reference plan does it hold?

Where an item brings a world (`domain` and `problem`, see `planning.strips`), the plan is done step by step and the
score is 1 when it reaches the goal, else 0. Any valid plan is right, not only the reference; how far an invalid one
came, and how much longer than the shortest a valid one is, stands in the details. Without a world the score is the F1
of the steps against a reference `plan` (see `plan_matching`). How steps are read out of a reply: `planning.plan_text`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from sage.libs.finetune.agent.errors import DataError, ScoringError
from sage.libs.finetune.agent.evaluation.planning.plan_text import (
    SMALL_WORDS,
    Step,
    name_key,
    read_plan,
    read_step,
    step_words,
)
from sage.libs.finetune.agent.evaluation.planning.search import shortest_plan
from sage.libs.finetune.agent.evaluation.planning.strips import Domain, Problem, read_domain, read_problem, simulate
from sage.libs.finetune.agent.evaluation.score import Capability, Score
from sage.libs.finetune.agent.evaluation.scorers.plan_matching import cycle_in, match_plans

_FIGURES = ("executable_prefix", "goal_share", "cost_ratio", "precision", "recall", "f1", "edge_f1")


def score_planning(reply: str, item: Mapping[str, Any]) -> Score:
    r"""Score the plan in a reply.

    Args:
        reply: The model's text; the steps are read by the rule of `planning.plan_text`.
        item: Its `gold` is `{"domain", "problem"}`, or `{"plan": [step, ...], "edges": [[i, j], ...]}` with steps that
            are text or `{"name", "arguments"}`. `metadata.optimal`, if given, is the length of a shortest plan.

    Returns:
        Value 1 or 0 with a world, else the F1 of the steps. Details with a world: `valid`, `steps`,
        `executable_prefix` (share of the steps before the first that cannot be done), `goal_share`, `failed_at`,
        `why`, `cost_ratio` (steps of a valid plan over the fewest). Without: `precision`, `recall`, `f1`, `steps`,
        `matched`, and with edges `edge_f1`.

    Raises:
        ScoringError: naming the item and the field, when the gold is malformed.

    Example:
        >>> item = {"id": "trip", "gold": {"plan": ["book hotel", "pack bag", "drive home"]}}
        >>> score_planning("1. Pack bag\n2. Drive home", item).value
        0.8
    """
    where = f"item '{item.get('id', '')}'"
    gold = item.get("gold")
    if not isinstance(gold, Mapping) or not ({"domain", "problem"} <= gold.keys() or "plan" in gold):
        raise ScoringError(f"{where}: gold: expected 'domain' and 'problem', or 'plan', found {gold!r:.80}")
    try:
        if "domain" in gold:
            domain, problem = _world(gold, f"{where}: gold")
            return _simulated(reply, domain, problem, _optimal(item, where))
        return _matched(reply, *_reference(gold, f"{where}: gold"))
    except DataError as error:
        raise ScoringError(str(error)) from None


def _simulated(reply: str, domain: Domain, problem: Problem, optimal: int | None) -> Score:
    things = {name_key(thing): thing for thing in sorted(problem.objects, reverse=True)}
    text = read_plan(reply, {name_key(name): name for name in domain.actions}, things.keys())
    words = SMALL_WORDS | {word for predicate in domain.predicates for word in predicate.casefold().split("-")}
    plan = [_as_action(step, domain, things, words) for step in text.steps]
    outcome = simulate(domain, problem, plan)
    details: dict[str, Any] = {
        "valid": outcome.valid,
        "steps": len(plan),
        "executable_prefix": outcome.executed / len(plan) if plan else 0.0,
        "goal_share": outcome.goals_reached / outcome.goals,
        "cost_ratio": len(plan) / optimal if outcome.valid and optimal else None,
        "failed_at": outcome.failed_at,
        "why": outcome.why,
    }
    if outcome.valid:
        reason = "valid plan"
    elif not plan:
        reason = text.error or "no step of a plan found"
    elif outcome.failed_at is None:
        reason = outcome.why
    else:
        reason = f"step {outcome.failed_at + 1}: {outcome.why}"
    return Score(float(outcome.valid), plan, reason, details)


def _as_action(step: Step, domain: Domain, things: Mapping[str, str], words: frozenset[str]) -> str:
    """The step as the simulator knows it; one that names no action stays as it was written, and cannot be done."""
    if not step.name:
        return step.text
    if isinstance(step.arguments, dict):
        by_name = {name_key(key): str(value) for key, value in step.arguments.items()}
        parameters = [name_key(parameter.removeprefix("?")) for parameter in domain.actions[step.name].parameters]
        named = by_name.keys() == set(parameters)
        written = [by_name[key] for key in parameters] if named else list(by_name.values())
    else:
        written = list(step.arguments)
    arguments = []
    for each in written:
        thing = things.get(name_key(each))
        if thing is not None:
            arguments.append(thing)
        elif isinstance(step.arguments, dict) or each.casefold() not in words:
            arguments.append("_".join(each.split()) or "_")  # one word, so that it stays one argument
    return " ".join((step.name, *arguments))


def _matched(reply: str, gold: list[Step], edges: list[list[int]] | None) -> Score:
    text = read_plan(reply, {name_key(step.name): step.name for step in gold})
    match = match_plans(text.steps, gold, edges)
    details: dict[str, Any] = {
        "precision": match.precision,
        "recall": match.recall,
        "f1": match.f1,
        "steps": match.steps,
        "matched": match.matched,
    }
    if edges is not None:
        details["edge_f1"] = match.edge_f1
    if not text.steps:
        reason = text.error or "no step of a plan found"
    else:
        reason = f"{match.matched} of {match.wanted} steps found, {match.hits:.3g} right and in order, of {match.steps}"
    return Score(match.f1, [step.text for step in text.steps], reason, details)


def _world(gold: Mapping[str, Any], where: str) -> tuple[Domain, Problem]:
    return read_domain(gold["domain"], f"{where}.domain"), read_problem(gold["problem"], f"{where}.problem")


def _optimal(item: Mapping[str, Any], where: str) -> int | None:
    optimal = (item.get("metadata") or {}).get("optimal")
    if optimal is not None and (isinstance(optimal, bool) or not isinstance(optimal, int) or optimal < 0):
        raise DataError(f"{where}: metadata.optimal: expected a number of steps, found {optimal!r:.40}")
    return optimal


def _reference(gold: Mapping[str, Any], where: str) -> tuple[list[Step], list[list[int]] | None]:
    """The steps of a reference plan, named as replies are read, and its edges."""
    plan, edges = gold["plan"], gold.get("edges")
    if not isinstance(plan, list) or not plan:
        raise DataError(f"{where}.plan: expected a list of at least one step, found {plan!r:.60}")
    steps = [_reference_step(step, f"{where}.plan[{index}]") for index, step in enumerate(plan)]
    if edges is None:
        return steps, None
    if not isinstance(edges, list) or not all(_is_edge(edge, len(plan)) for edge in edges):
        raise DataError(f"{where}.edges: expected pairs of indices of the {len(plan)} steps, found {edges!r:.60}")
    if (node := cycle_in(edges, len(plan))) is not None:
        raise DataError(f"{where}.edges: step {node} comes before itself")
    return steps, edges


def _is_edge(edge: object, nodes: int) -> bool:
    return (
        isinstance(edge, list | tuple)
        and len(edge) == 2
        and all(isinstance(end, int) and not isinstance(end, bool) and 0 <= end < nodes for end in edge)
    )


def _reference_step(step: object, where: str) -> Step:
    if isinstance(step, str) and (words := step_words(step)):
        # A text is called by its first word, which is all that it is known by in a reply.
        return read_step(step, {name_key(words[0]): name_key(words[0])})
    if isinstance(step, Mapping) and isinstance(step.get("name"), str) and name_key(step["name"]):
        arguments = step.get("arguments") or {}
        if isinstance(arguments, Mapping):
            return Step(step["name"], name_key(step["name"]), dict(arguments))
    raise DataError(f"{where}: expected text or {{'name': ..., 'arguments': {{...}}}}, found {step!r:.60}")


def read_gold(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    r"""What is right in a row: `expected`, `plan` or `answer`, else the row's last assistant message.

    The field may hold a world (`domain` and `problem`), a plan with `edges`, a list of steps, or a text with one step a
    line; a world may also stand in the row itself, and `edges` beside the plan. An assistant message holds its calls,
    or such a text.

    Raises:
        DataError: naming `where` and the field, when there is none of these or it is malformed.

    Example:
        >>> read_gold({"prompt": "Tea?", "expected": "1. boil water\n2. pour it"}, "tea.jsonl, row 1")
        {'plan': ['boil water', 'pour it']}
    """
    if "domain" in row and "problem" in row:
        gold, field = {"domain": row["domain"], "problem": row["problem"]}, f"{where}: the world"
    else:
        value, field = _field_of(row, where)
        if isinstance(value, str):
            value = [step.text for step in read_plan(value, {}).steps]
        gold = {"plan": value, "edges": row.get("edges")} if isinstance(value, list) else value
        if not isinstance(gold, Mapping):
            raise DataError(f"{field}: expected a plan (text, a list of steps or an object), found {value!r:.60}")
        gold = {key: gold[key] for key in ("domain", "problem", "plan", "edges") if gold.get(key) is not None}
    if "domain" in gold and "problem" in gold:
        _world(gold, field)
        return {"domain": gold["domain"], "problem": gold["problem"]}
    if "plan" not in gold:
        raise DataError(f"{field}: expected 'domain' and 'problem', or 'plan', found {sorted(gold)}")
    _reference(gold, field)
    return {key: gold[key] for key in ("plan", "edges") if key in gold}


def _field_of(row: Mapping[str, Any], where: str) -> tuple[Any, str]:
    """The value that says what is right, and where it stands."""
    for name in ("expected", "plan", "answer"):
        if row.get(name) is not None:
            return row[name], f"{where}: {name}"
    messages = row.get("messages") or []
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, Mapping) or last.get("role") != "assistant":
        raise DataError(
            f"{where}: no plan; expected 'expected', 'plan', 'answer', 'domain' and 'problem', or an assistant message "
            "at the end of 'messages'"
        )
    calls = [call["function"] for call in last.get("tool_calls") or []]
    steps = [{"name": call["name"], "arguments": call["arguments"]} for call in calls]
    return steps or last.get("content") or "", f"{where}: messages[{len(messages) - 1}]"


def summarise(scores: Sequence[Score]) -> dict[str, Any]:
    """Means, each over the replies that the figure exists for.

    `validity`, `executable_prefix`, `goal_share` and `cost_ratio` (of valid plans) where plans were simulated;
    `precision`, `recall`, `f1` and `edge_f1` where they were matched with a reference.
    """
    figures = {}
    valid = [score.details["valid"] for score in scores if "valid" in score.details]
    if valid:
        figures["validity"] = fmean(valid)
    for name in _FIGURES:
        values = [score.details[name] for score in scores if score.details.get(name) is not None]
        if values:
            figures[name] = fmean(values)
    return figures


def gold_reply(item: Mapping[str, Any]) -> str:
    """The reference plan, or a shortest plan where the item names none, one step a line.

    Raises:
        ScoringError: when the gold is malformed, or its problem has no plan or is too large to search for one.
    """
    gold, where = item["gold"], f"item '{item.get('id', '')}'"
    try:
        if "domain" not in gold:
            return _plan_reply(gold["plan"])
        plan = (item.get("metadata") or {}).get("plan") or shortest_plan(*_world(gold, f"{where}: gold"))
    except DataError as error:
        raise ScoringError(str(error)) from None
    if plan is None:
        raise ScoringError(f"{where}: gold.problem: no plan reaches the goal")
    return "\n".join(plan)


def _plan_reply(plan: list[Any]) -> str:
    """The steps as lines; as JSON when some are calls, or some text would not be read back as one step."""
    if all(isinstance(step, str) for step in plan):
        lines = "\n".join(f"{number}. {step}" for number, step in enumerate(plan, start=1))
        if [step.text for step in read_plan(lines, {}).steps] == plan:
            return lines
    return json.dumps(plan, ensure_ascii=False)


CAPABILITY = Capability("planning", score_planning, read_gold, summarise, gold_reply)

from __future__ import annotations

import copy
from typing import Any

import pytest

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.evaluation.planning.blocks import DOMAIN
from sage.libs.finetune.agent.evaluation.planning.strips import read_domain, read_problem, simulate

BLOCKS = read_domain(DOMAIN)
# The Sussman anomaly: c on a; a on b on c is wanted. Building either half first undoes the other.
SUSSMAN = {
    "init": ["on c a", "on-table a", "on-table b", "clear c", "clear b", "arm-empty"],
    "goal": ["on a b", "on b c"],
}
PLAN = ["unstack c a", "put-down c", "pick-up b", "stack b c", "pick-up a", "stack a b"]


def test_the_textbook_plan_of_the_sussman_anomaly_is_valid() -> None:
    outcome = simulate(BLOCKS, read_problem(SUSSMAN), PLAN)
    assert outcome.valid and outcome.executed == 6 and outcome.failed_at is None and outcome.why == ""
    assert (outcome.goals_reached, outcome.goals) == (2, 2)


@pytest.mark.parametrize(
    ("plan", "executed", "reached", "why"),
    [
        ([], 0, 0, "the goal 'on a b' is not reached"),
        (PLAN[:4], 4, 1, "the goal 'on a b' is not reached"),
        (["pick-up a"], 0, 0, "'pick-up a' needs 'clear a'"),
        ([*PLAN[:2], "pick-up c", "pick-up b"], 3, 0, "'pick-up b' needs 'arm-empty'"),
        (["lift c"], 0, 0, "'lift c' is none of the actions"),
        (["unstack c"], 0, 0, "'unstack c': unstack takes 2 arguments, not 1"),
        (["unstack c d"], 0, 0, "'unstack c d': there is no 'd'"),
        ([""], 0, 0, "'' is none of the actions"),
    ],
)
def test_a_plan_stops_at_its_first_impossible_step(plan: list[str], executed: int, reached: int, why: str) -> None:
    outcome = simulate(BLOCKS, read_problem(SUSSMAN), plan)
    assert not outcome.valid
    assert (outcome.executed, outcome.goals_reached, outcome.why) == (executed, reached, why)
    assert outcome.failed_at == (executed if executed < len(plan) else None)


def test_the_goal_counts_at_the_end_and_not_on_the_way() -> None:
    outcome = simulate(BLOCKS, read_problem(SUSSMAN), [*PLAN, "unstack a b"])
    assert outcome.executed == 7 and not outcome.valid and outcome.goals_reached == 1


def test_what_a_step_deletes_and_adds_again_is_true() -> None:
    domain = read_domain(
        {
            "actions": [
                {"name": "go", "parameters": ["?a", "?b"], "pre": ["at ?a"], "add": ["at ?b"], "delete": ["at ?a"]}
            ]
        }
    )
    problem = read_problem({"init": ["at inn"], "goal": ["at inn"]})
    assert simulate(domain, problem, ["go inn inn"]).valid


def without(record: dict[str, Any], **changes: Any) -> dict[str, Any]:
    record = copy.deepcopy(record)
    record["actions"][0].update(changes)
    return record


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, r"^d: expected \{'actions'"),
        ({"actions": []}, r"^d: expected \{'actions'"),
        ({"actions": ["go"]}, r"^d\.actions\[0\]: expected an object"),
        ({"name": 5, "actions": [1]}, r"^d\.name: expected text, found int"),
        (without(DOMAIN, effect=[]), r"^d\.actions\[0\]: .*check effect"),
        (without(DOMAIN, name="pick up"), r"^d\.actions\[0\]\.name: expected one word"),
        (without(DOMAIN, name="stack"), r"^d\.actions\[2\]\.name: 'stack' stands there twice"),
        (without(DOMAIN, parameters=["x"]), r"^d\.actions\[0\]\.parameters: expected a list of words like '\?x'"),
        (without(DOMAIN, parameters=["?x", "?x"]), r"^d\.actions\[0\]\.parameters: one stands there twice"),
        (without(DOMAIN, pre=["clear ?z"]), r"^d\.actions\[0\]\.pre: 'clear \?z' speaks of \?z"),
        (without(DOMAIN, add=[["holding", "?x"]]), r"^d\.actions\[0\]\.add: expected a list of atoms"),
        ({"actions": {1, 2}}, r"^d: expected plain JSON types"),
    ],
)
def test_a_malformed_domain_is_refused_with_its_place(record: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_domain(record, "d")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], r"^p: expected \{'init'"),
        ({"init": []}, r"^p: expected \{'init'"),
        ({"init": [], "goal": []}, r"^p\.goal: expected at least one atom"),
        ({"init": "on a b", "goal": ["on a b"]}, r"^p\.init: expected a list of atoms"),
        ({"init": [], "goal": ["on ?x b"]}, r"^p\.goal: 'on \?x b' holds a parameter"),
    ],
)
def test_a_malformed_problem_is_refused_with_its_place(record: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_problem(record, "p")

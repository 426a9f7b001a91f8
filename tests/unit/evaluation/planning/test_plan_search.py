from __future__ import annotations

import random
from itertools import product

import pytest

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.evaluation.planning.blocks import DOMAIN, generate
from sage.libs.finetune.agent.evaluation.planning.search import shortest_plan
from sage.libs.finetune.agent.evaluation.planning.strips import read_domain, read_problem, simulate

BLOCKS = read_domain(DOMAIN)


def test_the_sussman_anomaly_takes_six_steps() -> None:
    init = ["on c a", "on-table a", "on-table b", "clear c", "clear b", "arm-empty"]
    plan = shortest_plan(BLOCKS, read_problem({"init": init, "goal": ["on a b", "on b c"]}))
    assert plan == ["unstack c a", "put-down c", "pick-up b", "stack b c", "pick-up a", "stack a b"]


def test_no_shorter_plan_is_valid() -> None:
    """Every sequence of steps that is shorter is tried."""
    instance = generate(random.Random(2), 1)
    problem = read_problem(instance.problem)
    plan = shortest_plan(BLOCKS, problem)
    assert plan is not None and len(plan) == 4 and simulate(BLOCKS, problem, plan).valid
    steps = [f"{name} {a}" for name in ("pick-up", "put-down") for a in problem.objects]
    steps += [f"{name} {a} {b}" for name in ("stack", "unstack") for a in problem.objects for b in problem.objects]
    assert not any(
        simulate(BLOCKS, problem, tried).valid for length in range(4) for tried in product(steps, repeat=length)
    )


def test_nothing_to_do_nothing_to_be_done_and_too_much() -> None:
    problem = {"init": ["on-table a", "clear a", "arm-empty", "on-table b", "clear b"], "goal": ["clear a"]}
    assert shortest_plan(BLOCKS, read_problem(problem)) == []
    assert shortest_plan(BLOCKS, read_problem({**problem, "goal": ["on a a"]})) is None
    with pytest.raises(DataError, match="no plan among the first 1 states"):
        shortest_plan(BLOCKS, read_problem({**problem, "goal": ["on a b"]}), most_states=1)

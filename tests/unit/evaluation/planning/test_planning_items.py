from __future__ import annotations

import json

import pytest

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.evaluation.planning import planning_items
from sage.libs.finetune.agent.evaluation.planning.items import GENERATORS
from sage.libs.finetune.agent.evaluation.planning.strips import read_domain, read_problem, simulate

ITEMS = planning_items("test", 90)


def prompts(split: str, n: int, seed: int = 0) -> set[str]:
    return {item["messages"][-1]["content"] for item in planning_items(split, n, seed)}


def test_every_item_is_json_and_its_plan_reaches_the_goal() -> None:
    for item in json.loads(json.dumps(ITEMS)):
        domain, problem = read_domain(item["gold"]["domain"]), read_problem(item["gold"]["problem"])
        plan = item["metadata"]["plan"]
        assert simulate(domain, problem, plan).valid
        assert not simulate(domain, problem, []).valid
        assert item["metadata"]["optimal"] == len(plan) <= 12
        assert item["tools"] == [] and item["messages"][-1]["role"] == "user"


def test_the_instruction_names_every_action_and_every_thing_of_the_plan() -> None:
    for item in ITEMS:
        words = set(item["messages"][-1]["content"].replace(",", " ").replace(".", " ").replace(":", " ").split())
        assert {word for step in item["metadata"]["plan"] for word in step.split()} <= words | {"fly"}
        assert {action["name"] for action in item["gold"]["domain"]["actions"]} <= words | {"fly"}
        assert ("fly" in words) == (item["metadata"]["kind"] == "logistics" and item["metadata"]["level"] == 3)


def test_kinds_and_levels_take_turns_and_ids_are_unique() -> None:
    turns = [(item["metadata"]["kind"], item["metadata"]["level"]) for item in ITEMS[:9]]
    assert sorted(turns) == [(kind, level) for kind in GENERATORS for level in (1, 2, 3)]
    assert len({item["id"] for item in ITEMS}) == len({item["messages"][-1]["content"] for item in ITEMS}) == 90


def test_the_same_arguments_give_the_same_items_and_a_longer_list_begins_with_a_shorter() -> None:
    assert planning_items("test", 12) == ITEMS[:12]
    assert planning_items("test", 12, seed=1) != ITEMS[:12]


def test_no_problem_stands_in_two_splits() -> None:
    train, dev, test = (prompts(split, 60) | prompts(split, 30, seed=1) for split in ("train", "dev", "test"))
    assert not train & dev and not train & test and not dev & test


def test_only_what_is_asked_for_is_drawn() -> None:
    items = planning_items("dev", 6, kinds=("tools",), levels=(2,))
    assert {(item["metadata"]["kind"], item["metadata"]["level"]) for item in items} == {("tools", 2)}
    assert planning_items("dev", 0) == []


def test_items_share_nothing_that_a_change_could_spoil() -> None:
    planning_items("dev", 1)[0]["gold"]["domain"]["actions"].clear()
    assert planning_items("dev", 1)[0]["gold"]["domain"]["actions"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "tests", "n": 1}, "unknown planning split 'tests'"),
        ({"split": "test", "n": -1}, "0 or more, not -1"),
        ({"split": "test", "n": 1, "kinds": ("block",)}, "did you mean 'blocks'"),
        ({"split": "test", "n": 1, "kinds": ()}, "at least one kind"),
        ({"split": "test", "n": 1, "levels": (4,)}, "not 4"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planning_items(**arguments)  # type: ignore[arg-type]

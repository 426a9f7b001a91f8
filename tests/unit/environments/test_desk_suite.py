from __future__ import annotations

import json
import random
import re
from collections import Counter
from typing import Any

import pytest

from sage.libs.finetune.agent.environments.desk import SPLITS, SYSTEM_PROMPT, desk_tasks
from sage.libs.finetune.agent.environments.desk.kinds import COMPOSED, KINDS
from sage.libs.finetune.agent.environments.desk.tools import FAMILY_TOOLS, TOOLS
from sage.libs.finetune.agent.errors import ConfigError

SEEDS = range(4)
N = 60


@pytest.fixture(scope="module")
def tasks_of() -> dict[str, list[dict[str, Any]]]:
    return {split: [task for seed in SEEDS for task in desk_tasks(split, N, seed)] for split in SPLITS}


def kind_of(task: dict[str, Any]) -> str:
    return str(task["metadata"]["kind"])


def posed_words(task: dict[str, Any]) -> str:
    return kind_of(task) + json.dumps(task["metadata"]["slots"], sort_keys=True)


@pytest.mark.parametrize("split", SPLITS)
def test_the_same_seed_gives_the_same_tasks_and_a_longer_list_begins_with_the_shorter(split: str) -> None:
    tasks = desk_tasks(split, 40, seed=7)
    random.seed(1)  # the global generator plays no part
    assert desk_tasks(split, 40, seed=7) == tasks
    assert desk_tasks(split, 25, seed=7) == tasks[:25]
    assert [t["instruction"] for t in desk_tasks(split, 40, seed=8)] != [t["instruction"] for t in tasks]


def test_a_task_is_json_and_says_who_it_is() -> None:
    task = desk_tasks("dev", 1, seed=3)[0]
    assert json.loads(json.dumps(task)) == task
    assert (task["task_id"], task["system_prompt"]) == ("dev-3-0000", SYSTEM_PROMPT)
    assert task["metadata"] == {
        "split": "dev",
        "family": "orders",
        "kind": "order_status",
        "slots": task["metadata"]["slots"],
    }


@pytest.mark.parametrize(
    ("what", "key"),
    [
        ("instruction", lambda task: task["instruction"]),
        ("words", posed_words),
        ("world", lambda task: json.dumps(task["world"], sort_keys=True) if task["world"] else task["instruction"]),
    ],
)
def test_no_two_splits_share(tasks_of: dict[str, list[dict[str, Any]]], what: str, key: Any) -> None:
    found = [{key(task) for task in tasks} for tasks in tasks_of.values()]
    assert len(set.union(*found)) == sum(map(len, found)), what


@pytest.mark.parametrize("split", SPLITS)
def test_no_instruction_twice_and_kinds_take_turns(split: str) -> None:
    tasks = desk_tasks(split, N)
    assert len({task["instruction"] for task in tasks}) == N
    counts = Counter(map(kind_of, tasks))
    assert max(counts.values()) - min(counts.values()) <= 1


def test_wordings_of_test_wording_are_unseen(tasks_of: dict[str, list[dict[str, Any]]]) -> None:
    for split, tasks in tasks_of.items():
        for task in tasks:
            kind, slots = KINDS[kind_of(task)], task["metadata"]["slots"]
            seen = task["instruction"] in [wording.format(**slots) for wording in kind.wordings]
            unseen = task["instruction"] in [wording.format(**slots) for wording in kind.unseen]
            assert (seen, unseen) == ((False, True) if split == "test_wording" else (True, False))


def test_kinds_of_test_compose_are_absent_elsewhere(tasks_of: dict[str, list[dict[str, Any]]]) -> None:
    for split, tasks in tasks_of.items():
        expected = set(COMPOSED) if split == "test_compose" else set(KINDS) - set(COMPOSED)
        assert {kind_of(task) for task in tasks} == expected


def test_every_task_shows_few_of_the_sixteen_tools(tasks_of: dict[str, list[dict[str, Any]]]) -> None:
    assert len(TOOLS) == 16
    assert {name for names in FAMILY_TOOLS.values() for name in names} == set(TOOLS)
    for task in (task for tasks in tasks_of.values() for task in tasks):
        names = [spec["function"]["name"] for spec in task["tools"]]
        assert tuple(names) == FAMILY_TOOLS[task["metadata"]["family"]]
        assert 4 <= len(names) <= 6


def test_ids_in_worlds_have_two_or_three_digits(tasks_of: dict[str, list[dict[str, Any]]]) -> None:
    for task in (task for tasks in tasks_of.values() for task in tasks):
        for rows in task["world"].values():
            assert all(re.fullmatch(r"\d{2,3}", str(row["id"])) for row in rows if "id" in row)


def test_an_unknown_split_or_a_negative_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown desk split 'test'; known: train, dev"):
        desk_tasks("test", 1)
    with pytest.raises(ConfigError, match="must be 0 or more, not -1"):
        desk_tasks("train", -1)
    assert desk_tasks("train", 0) == []


def test_a_split_that_has_no_more_says_how_many_it_has() -> None:
    with pytest.raises(ConfigError, match="no more new file_owner tasks for test_wording; ask for at most 247 tasks"):
        desk_tasks("test_wording", 248)
    assert len(desk_tasks("test_wording", 247)) == 247

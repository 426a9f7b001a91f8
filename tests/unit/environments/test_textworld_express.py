"""TextWorldExpress: official splits, gold paths that win, one Java process for all games."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from typing import Any

import pytest

from sage.libs.finetune.agent.environments import textworld_express
from sage.libs.finetune.agent.environments.textworld_express import (
    TOOLS,
    GoldAgent,
    TextWorldExpressEnvironment,
    textworld_express_tasks,
)
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.types import StepResult, TrajectoryStep, check_tools

GAMES = ("cookingworld", "twc", "coin", "mapreader", "arithmetic", "sorting", "simonsays", "peckingorder")
EASY = "numLocations=1,numItemsToPutAway=1,includeDoors=0"


class TestWithThePackage:
    @pytest.fixture(autouse=True)
    def package(self) -> None:
        for name in ("textworld_express", "py4j"):
            if importlib.util.find_spec(name) is None:
                pytest.skip(f"needs the extra textworld-express ({name} is missing)")
        if shutil.which("java") is None:
            pytest.skip("needs Java")

    @pytest.mark.parametrize("game", GAMES)
    def test_gold_paths_win(self, game: str) -> None:
        environment, agent = TextWorldExpressEnvironment(), GoldAgent()
        for split, low, high in (("train", 0, 1000), ("dev", 10_000, 11_000), ("test", 20_000, 21_000)):
            [task] = textworld_express_tasks(game, split, 1)
            check_tools(task["tools"], game)
            assert low <= task["seed"] < high and task["metadata"]["split"] == split and task["instruction"]
            assert "Valid actions: " in environment.reset(task)
            steps: list[TrajectoryStep] = []
            result = StepResult("")
            while not result.done:
                step = agent.act(task, steps)
                assert step is not None
                result = environment.step(step.action, step.action_input)
                steps.append(TrajectoryStep("", step.action, step.action_input, result.observation, result.reward))
                # Some paths of cookingworld hold an action that the game itself does not know; it costs nothing.
                assert result.error is None or game == "cookingworld"
            assert result.success and sum(step.reward for step in steps) == pytest.approx(1.0)
            assert agent.act({"gold": []}, []) is None

    def test_games_run_side_by_side(self) -> None:
        [first, second] = textworld_express_tasks("twc", "train", 2, params=EASY)
        environments = [TextWorldExpressEnvironment(show_valid_actions=False) for _ in range(2)]
        seen = [environment.reset(task) for environment, task in zip(environments, (first, second), strict=True)]
        assert seen[0] != seen[1]
        assert [e.step("act", {"action": "look around"}).observation for e in environments] == seen

    def test_what_is_no_action(self) -> None:
        environment = TextWorldExpressEnvironment()
        environment.reset(textworld_express_tasks("twc", "dev", 1, params=EASY)[0])
        result = environment.step("act", {"action": "flub the wug"})
        assert result.error == "failed" and result.observation.startswith("Unknown action: ") and not result.done
        assert environment.step("act", {"action": 3}).error == "bad_arguments"
        assert environment.step("look", {}).error == "unknown_tool"
        assert environment.step("finish", {}) == StepResult("", 0.0, True, False)
        with pytest.raises(DataError, match="task 'a': has no 'game'; give tasks of textworld_express_tasks"):
            environment.reset({"task_id": "a", "instruction": "Play."})

    def test_a_longer_list_begins_with_a_shorter(self) -> None:
        tasks = textworld_express_tasks("simonsays", "train", 5)
        assert tasks[:2] == textworld_express_tasks("simonsays", "train", 2)
        assert tasks != textworld_express_tasks("simonsays", "train", 5, seed=1)

    @pytest.mark.parametrize(
        ("arguments", "params", "message"),
        [
            (
                ("chess", "train", 1),
                "",
                r"^textworld-express: Unknown game \(chess\)\. Valid game names: cookingworld, ",
            ),
            (("coin", "train", 1), "size=3", r"^textworld-express: Unrecognized property name \(size\)"),
            (("coin", "val", 1), "", "^unknown textworld-express split 'val'; known: train, dev, test$"),
            (("coin", "dev", 1001), "", "^coin's dev split has 1000 games; ask for at most as many tasks, not 1001$"),
        ],
    )
    def test_what_there_is_not(self, arguments: Any, params: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            textworld_express_tasks(*arguments, params=params)


def test_the_tool_is_one() -> None:
    check_tools(TOOLS, "here")


def test_without_the_package_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textworld_express, "_STARTED", [])
    monkeypatch.setitem(sys.modules, "textworld_express", None)
    with pytest.raises(
        ConfigError, match=r"needs a package that is missing .*pip install 'sage-libs\[textworld-express\]'"
    ):
        TextWorldExpressEnvironment()


def test_without_java_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Package:
        TextWorldExpressEnv = None

    monkeypatch.setattr(textworld_express, "_STARTED", [])
    monkeypatch.setitem(sys.modules, "textworld_express", Package)  # type: ignore[arg-type]
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="needs Java 8 or newer, and there is no 'java' on the PATH; install a JRE"):
        textworld_express_tasks("coin", "train", 1)

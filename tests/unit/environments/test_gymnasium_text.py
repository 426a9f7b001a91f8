"""Gymnasium's interface, with and without Gymnasium."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from sage.libs.finetune.agent.environments.gymnasium_text import GymnasiumEnvironment, observation_text
from sage.libs.finetune.agent.errors import ConfigError, TrajectoryError
from sage.libs.finetune.agent.types import Environment, StepResult

TASK = {"instruction": "Guess the number."}


class Guess:
    """Guess a number drawn by the seed; no gymnasium needed."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.number, self.tries = (seed or 0) % 10, (options or {}).get("tries", 3)
        return {"from": 0, "to": 9}, {}

    def step(self, action: str) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.tries -= 1
        right = action == str(self.number)
        return ("right" if right else "wrong"), (1 if right else -0.5), right, self.tries == 0, {"is_success": right}


def test_text_in_text_out_and_the_environments_own_word() -> None:
    guess = GymnasiumEnvironment(Guess)
    assert isinstance(guess, Environment)
    assert guess.tools[0]["function"]["parameters"]["properties"]["action"]["type"] == "string"
    assert guess.reset({**TASK, "seed": 17, "options": {"tries": 2}}) == '{"from": 0, "to": 9}'
    assert guess.step("act", {"action": "1"}) == StepResult("wrong", -0.5, False, False)
    assert guess.step("act", {"action": "7"}) == StepResult("right", 1.0, True, True)
    guess.reset({**TASK, "seed": 17, "options": {"tries": 1}})
    assert guess.step("act", {"action": "1"}) == StepResult("wrong", -0.5, True, False)


def test_a_call_that_does_not_fit_is_not_an_action() -> None:
    guess = GymnasiumEnvironment(Guess)
    guess.reset(TASK)
    assert guess.step("act", {"action": 7}).error == "bad_arguments"
    assert guess.step("guess", {"action": "7"}) == StepResult(
        "error: no tool guess; there are act", error="unknown_tool"
    )
    assert guess.step("finish", {"answer": "7"}) == StepResult("", 0.0, True, None)


class Walk:
    """Rewards along the way, and no verdict."""

    def reset(self, *, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        return "Start.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "On.", 0.5, action == "stop", False, {}


def test_the_return_is_the_verdict_where_there_is_no_other() -> None:
    walk = GymnasiumEnvironment(Walk, success_reward=1.0)
    walk.reset(TASK)
    assert [walk.step("act", {"action": word}).success for word in ("go", "go", "stop")] == [None, True, True]
    walk.reset(TASK)
    assert walk.step("act", {"action": "stop"}).success is False
    walk.reset(TASK)
    assert walk.step("finish", {}).success is False
    unjudged = GymnasiumEnvironment(Walk)
    unjudged.reset(TASK)
    assert unjudged.step("act", {"action": "stop"}).success is None


class Other:
    def reset(self, **_: Any) -> Any:
        return "Only this."

    def step(self, action: str) -> Any:
        return "Old.", 0.0, False, {}


def test_another_interface_is_named() -> None:
    other = GymnasiumEnvironment(Other)
    with pytest.raises(TrajectoryError, match=r"reset must give \(observation, info\), it gave a str"):
        other.reset(TASK)
    with pytest.raises(TrajectoryError, match=r"step must give .*terminated, truncated, info.*, it gave a tuple of 4"):
        other.step("act", {"action": "x"})
    with pytest.raises(ConfigError, match="make_env gave a object without reset"):
        GymnasiumEnvironment(object)


def test_several_tools() -> None:
    def tool(name: str, **properties: Any) -> dict[str, Any]:
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        return {"type": "function", "function": {"name": name, "description": name, "parameters": schema}}

    tools = [tool("say", number={"type": "integer"}), tool("pass")]
    guess = GymnasiumEnvironment(
        Guess, tools=tools, to_action=lambda name, arguments: str(arguments["number"]) if name == "say" else ""
    )
    guess.reset({**TASK, "seed": 4})
    assert [guess.step("pass", {}).observation, guess.step("say", {"number": 4.0}).observation] == ["wrong", "right"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tools": []}, "'tools' and 'to_action' go together"),
        ({"actions": ["a"]}, "'actions' names discrete actions, and this action space is not Discrete"),
        ({"action_name": "finish"}, "action_name='finish' ends an episode"),
        (
            {"tools": [{"type": "function", "function": {"name": "x", "parameters": {"type": 3}}}], "to_action": max},
            "tool 'x': parameters: no JSON schema",
        ),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GymnasiumEnvironment(Guess, **settings)


def test_gymnasium_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ConfigError, match=r"needs the package gymnasium; pip install 'sage-libs\[gymnasium\]'"):
        GymnasiumEnvironment("FrozenLake-v1")


def test_an_observation_that_is_no_text() -> None:
    with pytest.raises(TrajectoryError, match=r"an observation cannot be shown as text .*give .* a to_text"):
        observation_text(object())
    walk = GymnasiumEnvironment(Walk, to_text=str.upper)
    assert walk.reset(TASK) == "START."


def test_real_gymnasium_environments() -> None:
    gymnasium = pytest.importorskip("gymnasium", reason="needs the extra gymnasium")
    numpy = pytest.importorskip("numpy")

    class Door(gymnasium.Env):  # type: ignore[misc,name-defined]
        observation_space = gymnasium.spaces.Text(100)
        action_space = gymnasium.spaces.Discrete(2, start=5)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
            super().reset(seed=seed)
            return "A door.", {}

        def step(self, action: int) -> tuple[str, Any, Any, bool, dict[str, Any]]:
            opened = numpy.bool_(action == 6)
            return f"Did {action}.", numpy.float32(opened), opened, False, {"success": opened}

    door = GymnasiumEnvironment(Door, actions=["knock", "open"])
    assert door.tools[0]["function"]["parameters"]["properties"]["action"]["enum"] == ["knock", "open"]
    assert door.reset({**TASK, "seed": 1}) == "A door."
    assert door.step("act", {"action": "knock"}) == StepResult("Did 5.", 0.0, False, False)
    result = door.step("act", {"action": "open"})
    assert result == StepResult("Did 6.", 1.0, True, True) and result.success is True and result.done is True
    assert door.step("act", {"action": "kick"}).error == "bad_arguments"

    numbered = GymnasiumEnvironment(Door)
    action = numbered.tools[0]["function"]["parameters"]["properties"]["action"]
    assert (action["type"], action["minimum"], action["maximum"]) == ("integer", 5, 6)
    numbered.reset(TASK)
    assert numbered.step("act", {"action": 6.0}).success and numbered.step("act", {"action": 4}).error
    with pytest.raises(ConfigError, match="2 actions need as many different names"):
        GymnasiumEnvironment(Door, actions=["open"])

    Door.action_space = gymnasium.spaces.Box(0, 1)
    with pytest.raises(ConfigError, match="actions of a Box space are neither text nor discrete; give 'tools'"):
        GymnasiumEnvironment(Door)
    Door.action_space = gymnasium.spaces.Text(20)
    assert GymnasiumEnvironment(Door).tools[0]["function"]["parameters"]["properties"]["action"]["type"] == "string"

    class Grid(Door):
        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            return {"at": numpy.array([1, 2]), "n": numpy.int64(3)}, {}

    assert GymnasiumEnvironment(Grid).reset(TASK) == '{"at": [1, 2], "n": 3}'


def test_by_id() -> None:
    pytest.importorskip("gymnasium", reason="needs the extra gymnasium")
    with pytest.raises(ConfigError, match="gymnasium cannot make 'NoSuchThing-v0': Environment `NoSuchThing`"):
        GymnasiumEnvironment("NoSuchThing-v0")

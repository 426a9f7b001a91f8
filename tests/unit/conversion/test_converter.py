from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from sage.libs.finetune.agent.answers import split_answer
from sage.libs.finetune.agent.chatml import from_chatml
from sage.libs.finetune.agent.conversion.converter import SFTConversionConfig, TrajectoryToSFTConverter
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.types import INVALID, AgentTrajectory, TrajectoryStep

TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}
EPISODE = AgentTrajectory(
    task_id="a",
    instruction="Where is the Louvre?",
    steps=[
        TrajectoryStep("Look it up.", "search", {"q": "Louvre", "top": [1, {"x": "é"}]}, "Paris", 0.0),
        TrajectoryStep("", "serch", {}, "no such tool", error="unknown tool serch"),
        TrajectoryStep("", INVALID, {}, "not JSON", error="not JSON", reply='{"name": "sea'),
        TrajectoryStep("It says so.", "finish", {"answer": "Paris"}, "right", 1.0),
    ],
    success=True,
    total_reward=1.0,
    tools=[TOOL],
    system_prompt="Be brief.",
    metadata={"split": "train", "opening": "A search engine is ready."},
)


def convert(trajectory: AgentTrajectory = EPISODE, **settings: Any) -> dict[str, Any]:
    return TrajectoryToSFTConverter(SFTConversionConfig(**settings)).convert_single(trajectory)


def call(number: int, name: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"id": f"call{number:05d}", "type": "function", "function": {"name": name, "arguments": arguments}}]


def tool(number: int, name: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call{number:05d}", "name": name, "content": content}


def test_chatml_golden() -> None:
    assert convert() == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Where is the Louvre?\n\nA search engine is ready."},
            {
                "role": "assistant",
                "content": "Look it up.",
                "tool_calls": call(1, "search", {"q": "Louvre", "top": [1, {"x": "é"}]}),
            },
            tool(1, "search", "Paris"),
            {"role": "assistant", "content": "", "tool_calls": call(2, "serch", {}), "weight": 0.0},
            tool(2, "serch", "no such tool"),
            {"role": "assistant", "content": '{"name": "sea', "weight": 0.0},
            {"role": "user", "content": "not JSON"},
            {"role": "assistant", "content": "It says so.\nAnswer: Paris"},
        ],
        "tools": [TOOL],
        "metadata": {
            "split": "train",
            "opening": "A search engine is ready.",
            "task_id": "a",
            "success": True,
            "total_reward": 1.0,
            "trajectory": {
                "steps": {
                    "2": {"error": "unknown tool serch"},
                    "3": {"action": INVALID, "action_input": {}, "error": "not JSON", "reply": '{"name": "sea'},
                    "4": {"observation": "right", "reward": 1.0},
                }
            },
        },
    }


def test_chatml_and_back() -> None:
    assert from_chatml(convert()) == EPISODE


def test_without_observations_the_turns_stay_and_are_empty() -> None:
    with_them, without = convert()["messages"], convert(include_observation=False)["messages"]
    assert [m["content"] for m in without if m["role"] == "tool"] == ["", ""]
    answers = ("Paris", "no such tool", "not JSON")
    blanked = [{**m, "content": ""} if m["content"] in answers else m for m in with_them]
    assert without == blanked


@pytest.mark.parametrize(
    ("own", "configured", "expected"),
    [
        ("Be brief.", None, "Be brief."),
        ("Be brief.", "Be kind.", "Be kind."),
        (None, None, None),
        ("Be brief.", "", None),
    ],
)
def test_the_system_prompt(own: str | None, configured: str | None, expected: str | None) -> None:
    first = convert(replace(EPISODE, system_prompt=own), system_prompt=configured)["messages"][0]
    assert (first["content"] if first["role"] == "system" else None) == expected


@pytest.mark.parametrize(
    ("thought", "action_input", "content", "answer"),
    [
        ("", {"answer": "Paris"}, "Paris", "Paris"),
        ("Easy.", {"answer": 4}, "Easy.\nAnswer: 4", "4"),
        ("", {"answer": {"n": ["é"]}}, '{"n": ["é"]}', '{"n": ["é"]}'),
        ("All put away.", {}, "All put away.", "All put away."),
        ("Answer: 3?\nNo.", {"answer": "4"}, "Answer: 3?\nNo.\nAnswer: 4", "4"),
    ],
)
def test_the_final_answer_can_be_read_back(thought: str, action_input: Any, content: str, answer: str) -> None:
    step = TrajectoryStep(thought, "finish", action_input)
    last = convert(AgentTrajectory("a", "Do it.", [step]))["messages"][-1]
    assert last == {"role": "assistant", "content": content}
    assert split_answer(last["content"]) == answer


def test_an_episode_cut_off_ends_with_its_last_observation() -> None:
    messages = convert(replace(EPISODE, steps=EPISODE.steps[:1]))["messages"]
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "tool"]


def test_finish_is_a_call_where_it_is_a_tool() -> None:
    finish = {"type": "function", "function": {"name": "finish", "parameters": {}}}
    last = convert(replace(EPISODE, tools=[TOOL, finish]))["messages"][-1]
    assert last == {"role": "assistant", "content": "It says so.", "tool_calls": call(4, "finish", {"answer": "Paris"})}


def test_a_row_without_a_trained_turn_is_returned() -> None:
    row = convert(replace(EPISODE, steps=EPISODE.steps[1:3]))
    assert all(m["weight"] == 0.0 for m in row["messages"] if m["role"] == "assistant")


def test_alpaca_golden() -> None:
    instruction = "Be brief.\n\nWhere is the Louvre?\n\nA search engine is ready."
    action = 'Thought: Look it up.\nAction: search\nAction Input: {"q": "Louvre", "top": [1, {"x": "é"}]}\n'
    answer = "Thought: It says so.\nAnswer: Paris"
    assert convert(format="alpaca") == {
        "instruction": instruction,
        "input": "",
        "output": action + "Observation: Paris\n" + answer,
    }
    assert convert(format="alpaca", include_observation=False)["output"] == action + answer
    assert split_answer(convert(format="alpaca")["output"]) == "Paris"


@pytest.mark.parametrize("format", ["chatml", "alpaca"])
def test_rows_survive_json_and_do_not_share_arguments(format: str) -> None:
    row = convert(format=format)
    assert json.loads(json.dumps(row)) == row
    before = json.dumps(EPISODE.to_dict())
    for message in row.get("messages", []):
        for made in message.get("tool_calls", []):
            made["function"]["arguments"].clear()
    assert json.dumps(EPISODE.to_dict()) == before


@pytest.mark.parametrize("format", ["chatml", "alpaca"])
def test_what_cannot_be_a_row_is_named(format: str) -> None:
    for steps, message in [
        ([], "task 'a': the trajectory has no steps"),
        ([TrajectoryStep("", "finish", {"result": 4})], "step 1: the input of 'finish' has result but no 'answer'"),
        ([TrajectoryStep("", "finish", {"answer": {4}})], "task 'a': the trajectory cannot be written"),
    ]:
        with pytest.raises(DataError, match=message):
            convert(replace(EPISODE, steps=steps), format=format)


def test_what_cannot_be_chatml_or_alpaca_is_named() -> None:
    finish, look = TrajectoryStep("", "finish", {"answer": "a"}), TrajectoryStep("", "look", {"at": 4})
    with pytest.raises(DataError, match="task 'a', step 1: 'finish' ends an episode but steps follow"):
        convert(replace(EPISODE, steps=[finish, look]))
    with pytest.raises(DataError, match="task 'a': the trajectory cannot be written as JSON"):
        convert(replace(EPISODE, total_reward=float("nan")))
    with pytest.raises(DataError, match="task 'a', step 1: an 'invalid' step needs 'reply'"):
        convert(replace(EPISODE, steps=[TrajectoryStep("", INVALID, error="not JSON")]))
    with pytest.raises(DataError, match="task 'a': every step was refused"):
        convert(replace(EPISODE, steps=EPISODE.steps[1:3]), format="alpaca")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "chatlm"}, "unknown SFT format 'chatlm'; did you mean 'chatml'"),
        ({"format": None}, "format=None: expected the name of a format"),
        ({"include_observation": "no"}, "include_observation='no': expected True or False"),
        ({"system_prompt": 3}, "system_prompt=3: expected text or None"),
    ],
)
def test_a_setting_out_of_range_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SFTConversionConfig(**settings)


def test_convert_keeps_the_order() -> None:
    rows = TrajectoryToSFTConverter().convert([replace(EPISODE, task_id=name) for name in "bca"])
    assert [row["metadata"]["task_id"] for row in rows] == ["b", "c", "a"]
    assert TrajectoryToSFTConverter().convert([]) == []

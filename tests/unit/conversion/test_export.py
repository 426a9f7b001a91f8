"""Samples in other forms, each a golden row; and what no form may do: train on a turn of weight 0."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent.chatml import from_chatml, to_chatml
from sage.libs.finetune.agent.conversion.converter import SFTConversionConfig, TrajectoryToSFTConverter
from sage.libs.finetune.agent.conversion.export import (
    EXPORTERS,
    with_json_arguments,
    with_system_prompt,
    without_observations,
)
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.sources.importers.known import IMPORTERS
from sage.libs.finetune.agent.sources.rows import read_sample
from sage.libs.finetune.agent.types import INVALID, AgentTrajectory, Sample, TrajectoryStep

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
SAMPLE: Sample = read_sample(to_chatml(EPISODE), "a:1")


def call(name: str, arguments: dict[str, Any], identity: str) -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


PARALLEL: Sample = {
    "messages": [
        {"role": "user", "content": "Both."},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [call("a", {"x": 1}, "c1"), call("b", {}, "c2")],
            "weight": 0.5,
        },  # type: ignore[list-item]
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {"role": "assistant", "content": "Done."},
    ],
    "tools": [],
    "metadata": {},
}


def exported(sample: Sample, to: str) -> dict[str, Any]:
    before = copy.deepcopy(sample)
    row = EXPORTERS[to].write(sample, "a:1")
    assert sample == before, "the sample was changed"
    return json.loads(json.dumps(row))


def back(sample: Sample, to: str) -> Sample:
    return read_sample(IMPORTERS[EXPORTERS[to].importer].read(exported(sample, to), "a:1"), "a:1")


def test_the_registry() -> None:
    assert set(EXPORTERS) == {"chatml", "alpaca", "sharegpt", "trajectory", "atif"}
    assert all(EXPORTERS[name].importer in IMPORTERS for name in EXPORTERS)
    with pytest.raises(ConfigError, match="unknown output format 'sharegtp'; did you mean 'sharegpt'"):
        EXPORTERS["sharegtp"]


@pytest.mark.parametrize("to", ["chatml", "trajectory"])
def test_forms_that_hold_everything(to: str) -> None:
    assert back(SAMPLE, to) == SAMPLE
    assert from_chatml(back(SAMPLE, to)) == EPISODE


def test_sharegpt_golden() -> None:
    assert exported(SAMPLE, "sharegpt") == {
        "conversations": [
            {"from": "human", "value": "Where is the Louvre?\n\nA search engine is ready."},
            {"from": "gpt", "value": "Look it up."},
            {
                "from": "function_call",
                "value": '{"name": "search", "arguments": {"q": "Louvre", "top": [1, {"x": "é"}]}}',
            },
            {"from": "observation", "value": "Paris"},
            {"from": "function_call", "value": '{"name": "serch", "arguments": {}}', "weight": 0.0},
            {"from": "observation", "value": "no such tool"},
            {"from": "gpt", "value": '{"name": "sea', "weight": 0.0},
            {"from": "human", "value": "not JSON"},
            {"from": "gpt", "value": "It says so.\nAnswer: Paris"},
        ],
        "system": "Be brief.",
        "tools": '[{"name": "search", "parameters": {"type": "object"}}]',
        "metadata": SAMPLE["metadata"],
    }
    assert from_chatml(back(SAMPLE, "sharegpt")) == EPISODE


def test_sharegpt_with_calls_made_at_once() -> None:
    row = exported(PARALLEL, "sharegpt")
    calls = '[{"name": "a", "arguments": {"x": 1}}, {"name": "b", "arguments": {}}]'
    assert row["conversations"][1] == {"from": "function_call", "value": calls, "weight": 0.5}
    assert row.keys() == {"conversations"} and len(back(PARALLEL, "sharegpt")["messages"][1]["tool_calls"]) == 2


def test_alpaca_leaves_out_what_is_not_trained() -> None:
    row = exported(SAMPLE, "alpaca")
    assert row == TrajectoryToSFTConverter(SFTConversionConfig(format="alpaca")).convert_single(EPISODE)
    assert "serch" not in row["output"] and '{"name": "sea' not in row["output"]
    masked: Sample = copy.deepcopy(PARALLEL)
    masked["messages"][1]["weight"] = 0
    assert exported(PARALLEL, "alpaca")["output"].count("Action:") == 2
    assert exported(masked, "alpaca")["output"] == "Answer: Done."


def test_an_alpaca_row_needs_a_trained_turn() -> None:
    masked: Sample = {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "weight": 0}]
    }
    with pytest.raises(DataError, match=r"^a:1: task 'task-[0-9a-f]*': every step was refused"):
        exported(masked, "alpaca")


def test_atif_golden() -> None:
    row = exported(PARALLEL, "atif")
    assert row == {
        "schema_version": "ATIF-v1.8",
        "agent": {"name": "unknown", "version": "unknown"},
        "steps": [
            {"step_id": 1, "source": "user", "message": "Both."},
            {
                "step_id": 2,
                "source": "agent",
                "message": "",
                "tool_calls": [
                    {"tool_call_id": "c1", "function_name": "a", "arguments": {"x": 1}},
                    {"tool_call_id": "c2", "function_name": "b", "arguments": {}},
                ],
                "extra": {"weight": 0.5},
                "observation": {
                    "results": [{"source_call_id": "c1", "content": "one"}, {"source_call_id": "c2", "content": "two"}]
                },
            },
            {"step_id": 3, "source": "agent", "message": "Done."},
        ],
    }
    with pytest.raises(DataError, match=r"^a:1: messages\[0\]: a tool's answer with no step before it"):
        exported({"messages": PARALLEL["messages"][2:]}, "atif")


def test_the_wire_form() -> None:
    row = with_json_arguments(PARALLEL)
    assert [made["function"]["arguments"] for made in row["messages"][1]["tool_calls"]] == ['{"x": 1}', "{}"]
    assert read_sample(row, "a:1") == PARALLEL and PARALLEL["messages"][1]["tool_calls"][0]["function"][
        "arguments"
    ] == {"x": 1}


@pytest.mark.parametrize("prompt", ["Be kind.", ""])
@pytest.mark.parametrize("own", ["Be brief.", "", None])
def test_settings_do_to_a_sample_what_they_do_to_its_trajectory(prompt: str, own: str | None) -> None:
    episode = replace(EPISODE, system_prompt=own)
    sample = read_sample(to_chatml(episode), "a:1")
    assert without_observations(sample) == to_chatml(episode, include_observation=False)
    assert with_system_prompt(sample, prompt) == to_chatml(episode, system_prompt=prompt)
    both = to_chatml(episode, include_observation=False, system_prompt=prompt)
    assert with_system_prompt(without_observations(sample), prompt) == both


def test_observations_that_were_kept_beside_the_messages_go_too() -> None:
    steps = [TrajectoryStep("", "respond", {"content": 1}, "x"), TrajectoryStep("", "a", {}, "seen\n\nAnswer: 4", 1.0)]
    for episode in (replace(EPISODE, steps=steps), replace(EPISODE, steps=[*EPISODE.steps[:1], *steps])):
        text = json.dumps(without_observations(read_sample(to_chatml(episode), "a:1")))
        assert "seen" not in text and "Paris" not in text


TEXT = st.sampled_from(["", "hm", "Answer: 4", "Thought: x", "Action: a[1]", "Observation: o", "a\nb"])
MESSAGES = st.lists(
    st.one_of(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": TEXT}),
        st.fixed_dictionaries({"role": st.just("tool"), "content": TEXT}, optional={"tool_call_id": st.just("c1")}),
        st.fixed_dictionaries(
            {"role": st.just("assistant"), "content": TEXT},
            optional={
                "weight": st.sampled_from([0, 1]),
                "reasoning_content": TEXT,
                "tool_calls": st.lists(
                    st.builds(call, st.just("f"), st.just({"x": 1}), st.just("c1")), min_size=1, max_size=2
                ),
            },
        ),
    ),
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(MESSAGES, st.sampled_from(sorted(EXPORTERS)))
def test_any_sample_is_written_or_refused(messages: list[dict[str, Any]], to: str) -> None:
    messages = [*messages, {"role": "assistant", "content": "untrained words", "weight": 0}]
    sample = read_sample({"messages": messages, "tools": [TOOL]}, "a:1")
    try:
        row = exported(sample, to)
    except DataError as error:
        assert str(error).startswith("a:1: ")
        return
    assert to != "alpaca" or "untrained words" not in row["output"]
    try:
        twin = back(sample, to)
    except DataError:
        return  # `exchange` says so
    if to in ("chatml", "sharegpt", "atif"):  # the forms that can say it
        said = [message for message in twin["messages"] if "untrained words" in message["content"]]
        assert said and all(message["weight"] == 0 for message in said)

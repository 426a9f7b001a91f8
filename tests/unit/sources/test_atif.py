"""ATIF trajectories: what is read, kept and refused; and the way back, checked by the format's own models."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent.chatml import from_chatml
from sage.libs.finetune.agent.conversion import atif as exporting
from sage.libs.finetune.agent.conversion.atif import sample_to_atif
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.sources.importers import atif as importing
from sage.libs.finetune.agent.sources.importers.atif import ATIF
from sage.libs.finetune.agent.sources.rows import read_sample
from sage.libs.finetune.agent.types import Sample

TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}
CALL = {"tool_call_id": "c1", "function_name": "search", "arguments": {"q": "Louvre"}, "extra": {"timeout": 3}}
ROW: dict[str, Any] = {
    "schema_version": "ATIF-v1.8",
    "session_id": "s",
    "agent": {"name": "harness", "version": "1", "model_name": "m", "tool_definitions": [TOOL], "extra": {"a": 1}},
    "steps": [
        {"step_id": 1, "source": "system", "message": "Be brief."},
        {"step_id": 2, "source": "user", "message": "Where is the Louvre?", "timestamp": "2026-01-01T00:00:00Z"},
        {
            "step_id": 3,
            "source": "agent",
            "message": "I look it up.",
            "reasoning_content": "Hm.",
            "model_name": "n",
            "tool_calls": [CALL, {"tool_call_id": "c2", "function_name": "now", "arguments": {}}],
            "observation": {
                "results": [
                    {"source_call_id": "c2", "content": "noon"},
                    {"source_call_id": "c1", "content": "Paris", "extra": {"score": 0.5}},
                    {"content": "It rains."},
                ]
            },
            "metrics": {"prompt_tokens": 7, "completion_token_ids": [1, 2]},
            "extra": {"note": "x"},
        },
        {"step_id": 4, "source": "agent", "message": "Copied.", "is_copied_context": True},
        {"step_id": 5, "source": "agent", "message": "Dispatched.", "llm_call_count": 0},
        {"step_id": 6, "source": "agent", "message": "Paris", "llm_call_count": 1},
    ],
    "notes": "n",
    "final_metrics": {"total_steps": 6, "extra": {"reward": 0.5}},
    "extra": {"success": True, "split": "dev"},
    "subagent_trajectories": [
        {
            "schema_version": "ATIF-v1.8",
            "trajectory_id": "t",
            "agent": {"name": "sub", "version": "1"},
            "steps": [{"step_id": 1, "source": "user", "message": "Go."}],
        }
    ],
}


def read(row: dict[str, Any]) -> Sample:
    assert ATIF.matches(row)
    before = json.dumps(row)
    sample = read_sample(ATIF.read(row, "a:1"), "a:1")
    assert json.dumps(row) == before, "the row was changed"
    return sample


def steps(*steps: dict[str, Any], **root: Any) -> dict[str, Any]:
    return {"schema_version": "ATIF-v1.5", "agent": {"name": "a", "version": "1"}, "steps": list(steps), **root}


def test_golden() -> None:
    sample = read(ROW)
    assert sample["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where is the Louvre?"},
        {
            "role": "assistant",
            "content": "I look it up.",
            "reasoning_content": "Hm.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "search", "arguments": {"q": "Louvre"}}},
                {"id": "c2", "type": "function", "function": {"name": "now", "arguments": {}}},
            ],
        },
        {"role": "tool", "tool_call_id": "c2", "name": "now", "content": "noon"},
        {"role": "tool", "tool_call_id": "c1", "name": "search", "content": "Paris"},
        {"role": "user", "name": "environment", "content": "It rains."},
        {"role": "assistant", "content": "Copied.", "weight": 0.0},
        {"role": "assistant", "content": "Dispatched.", "weight": 0.0},
        {"role": "assistant", "content": "Paris"},
    ]
    assert sample["tools"] == [TOOL]
    kept = sample["metadata"].pop("atif")
    assert sample["metadata"] == {"success": True, "split": "dev", "total_reward": 0.5}
    assert kept.pop("steps") == {
        "2": {"timestamp": "2026-01-01T00:00:00Z"},
        "3": {
            "model_name": "n",
            "calls": {"c1": {"extra": {"timeout": 3}}},
            "results": {"1": {"extra": {"score": 0.5}}},
            "metrics": {"prompt_tokens": 7, "completion_token_ids": [1, 2]},
            "extra": {"note": "x"},
        },
        "4": {"is_copied_context": True},
        "5": {"llm_call_count": 0},
        "6": {"llm_call_count": 1},
    }
    same = ("schema_version", "session_id", "notes", "final_metrics", "subagent_trajectories")
    agent = {"name": "harness", "version": "1", "model_name": "m", "extra": {"a": 1}}
    assert kept == {**{name: ROW[name] for name in same}, "agent": agent, "number_of_steps": 6}


def test_a_trajectory_comes_back_as_it_was() -> None:
    models = pytest.importorskip("atif", reason="the models of the format are in the package atif")
    written = sample_to_atif(read(ROW), "a:1")
    extra = written.pop("extra")
    assert extra == {**ROW["extra"], "total_reward": 0.5}
    assert written == {name: value for name, value in ROW.items() if name != "extra"}
    assert models.Trajectory.model_validate(written).has_multimodal_content() is False


def test_what_is_missing_is_said() -> None:
    user = {"source": "user", "message": "Go."}
    agent = {"source": "agent", "message": "", "tool_calls": [CALL]}
    assert read(steps(user, agent))["metadata"]["atif"]["missing"] == ["system", "tools"]
    assert read(steps(user, {"source": "agent", "message": "Hi"}))["metadata"]["atif"]["missing"] == ["system"]
    assert "missing" not in read(ROW)["metadata"]["atif"]


def test_results_without_ids_belong_to_the_calls_in_order_when_there_are_as_many() -> None:
    agent = {"source": "agent", "message": "", "tool_calls": [CALL], "observation": {"results": [{"content": "x"}]}}
    sample = read(steps({"source": "user", "message": "Go."}, agent))
    assert sample["messages"][-1] == {"role": "tool", "tool_call_id": "c1", "name": "search", "content": "x"}
    assert sample["metadata"]["atif"]["steps"]["2"]["paired_by_position"] is True
    agent["observation"]["results"].append({"content": "y"})  # type: ignore[index]
    assert [m["role"] for m in read(steps(agent))["messages"]] == ["assistant", "user", "user"]


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ({"extra": {"reward": 1}}, {"reward": 1, "total_reward": 1}),
        ({"extra": {"total_reward": 0.25, "reward": 1}}, {"total_reward": 0.25, "reward": 1}),
        ({"final_metrics": {"extra": {"success": False}}}, {"success": False}),
        ({"extra": {"success": 1}, "final_metrics": {"extra": {"success": 0}}}, {"success": True}),
        ({"extra": {"success": "partly", "reward": "high"}}, {"success": "partly", "reward": "high"}),
        ({"extra": {"atif": 1, "trajectory": "t"}}, {"extra.atif": 1, "extra.trajectory": "t"}),
        ({"extra": {"split": "a"}, "split": "b", "atif": 1}, {"split": "a", "row.split": "b", "row.atif": 1}),
    ],
)
def test_success_reward_and_names_that_are_taken(root: dict[str, Any], expected: dict[str, Any]) -> None:
    metadata = read(steps({"source": "agent", "message": "Hi"}, **root))["metadata"]
    assert {name: value for name, value in metadata.items() if name != "atif"} == expected


def test_text_parts_are_joined_and_others_refused() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert read(steps({"source": "agent", "message": parts}))["messages"][0]["content"] == "ab"
    image = {"type": "image", "source": {"media_type": "image/png", "path": "x.png"}}
    with pytest.raises(DataError, match=r"a:1: steps\[0\].message.content\[1\]: a part of type 'image'; only text"):
        read(steps({"source": "agent", "message": [parts[0], image]}))


AGENT = {"source": "agent", "message": ""}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {**ROW, "schema_version": "ATIF-v2.0"},
            "a:1: schema_version: expected ATIF-v1.0 to ATIF-v1.8, found 'ATIF-v2.0'",
        ),
        ({**ROW, "steps": []}, "a:1: steps: expected a non-empty list of steps, found []"),
        ({**ROW, "agent": "x"}, "a:1: agent: expected an object, found str"),
        (steps({"source": "env", "message": ""}), "a:1: steps[0].source: expected system, user or agent, found 'env'"),
        (
            steps({"source": "user", "tool_calls": [CALL]}),
            "a:1: steps[0]: a step of source user has reasoning_content or",
        ),
        (
            steps({**AGENT, "tool_calls": [{}]}),
            "a:1: steps[0].tool_calls[0]: expected {'tool_call_id', 'function_name'",
        ),
        (
            steps({**AGENT, "tool_calls": [{**CALL, "tool_call_id": None}]}),
            "a:1: steps[0].tool_calls[0].tool_call_id: exp",
        ),
        (
            steps({**AGENT, "tool_calls": [{**CALL, "arguments": [1]}]}),
            "a:1: steps[0].tool_calls[0].arguments: expected",
        ),
        (steps({**AGENT, "reasoning_content": 3}), "a:1: steps[0].reasoning_content: expected text, found int"),
        (
            steps({**AGENT, "observation": {"results": [{"source_call_id": "z"}]}}),
            "a:1: steps[0].observation.results[0].source_call_id: 'z' is no call of this step",
        ),
        (
            steps({**AGENT, "extra": {"message_fields": {"role": "user"}}}),
            "a:1: steps[0].extra.message_fields: expected",
        ),
    ],
)
def test_what_cannot_be_read_is_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        ATIF.read(row, "a:1")
    assert str(caught.value).startswith(message)


def test_reader_and_writer_agree_on_names() -> None:
    names = ("NAME", "ENVIRONMENT", "MESSAGE_FIELDS")
    assert [getattr(importing, name) for name in names] == [getattr(exporting, name) for name in names]


TEXT = st.text(max_size=6)
ARGUMENTS = st.dictionaries(TEXT, st.one_of(TEXT, st.integers(), st.lists(TEXT, max_size=2)), max_size=2)


@st.composite
def samples(draw: st.DrawFn) -> dict[str, Any]:
    """Conversations as `read_sample` accepts them, with the fields that this package writes."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": draw(TEXT)}]
    if draw(st.booleans()):
        messages.insert(0, {"role": "system", "content": draw(TEXT)})
    for turn in range(draw(st.integers(1, 3))):
        message: dict[str, Any] = {"role": "assistant", "content": draw(TEXT)}
        for name, value in (("weight", st.sampled_from([0, 0.0, 1, 0.5])), ("reasoning_content", TEXT), ("name", TEXT)):
            if draw(st.booleans()):
                message[name] = draw(value)
        calls = [
            {
                "id": f"c{turn}{n}",
                "type": "function",
                "function": {"name": draw(TEXT) or "f", "arguments": draw(ARGUMENTS)},
            }
            for n in range(draw(st.integers(0, 2)))
        ]
        messages.append({**message, "tool_calls": calls} if calls else message)
        for call in calls:
            answer = {"role": "tool", "tool_call_id": call["id"], "content": draw(TEXT)}
            messages.append({**answer, "name": call["function"]["name"]} if draw(st.booleans()) else answer)
        if draw(st.booleans()):
            messages.append({"role": "user", "content": draw(TEXT)})
    metadata = draw(st.dictionaries(st.sampled_from(("task_id", "split", "a", "b")), TEXT, max_size=2))
    return {"messages": messages, "tools": [TOOL] if draw(st.booleans()) else [], "metadata": metadata}


@settings(max_examples=60, deadline=None)
@given(samples())
def test_a_sample_survives_the_format(row: dict[str, Any]) -> None:
    models = pytest.importorskip("atif", reason="the models of the format are in the package atif")
    sample = read_sample(row, "a:1")
    before = copy.deepcopy(sample)
    written = sample_to_atif(sample, "a:1")
    models.Trajectory.model_validate(written)
    back = read(json.loads(json.dumps(written)))
    assert sample == before
    for message, twin in zip(sample["messages"], back["messages"], strict=True):
        made = {"name": twin.get("name")} if message["role"] == "tool" else {}
        assert {**made, **message} == twin
    assert back["tools"] == sample["tools"]
    assert {name: value for name, value in back["metadata"].items() if name != "atif"} == sample["metadata"]
    assert sample_to_atif(back, "a:1") == written
    from_chatml(back)

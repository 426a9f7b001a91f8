"""A conversation gives back the trajectory it was made from, whatever was in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent.chatml import KEPT, from_chatml, task_key, to_chatml
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.sources.rows import read_sample
from sage.libs.finetune.agent.types import FINISH, INVALID, RESPOND, AgentTrajectory, TrajectoryStep

WEIRD = (
    "",
    " ",
    "\n",
    "Answer: 4",
    "Answer:",
    "so\nAnswer: 3\n\nAnswer:",
    "a\n\nb",
    " x ",
    "{}",
    "Thought: no",
    "é😀",
    "0",
)
TEXTS = st.one_of(st.sampled_from(WEIRD), st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=3)
NUMBERS = st.one_of(st.integers(-3, 3), st.floats(allow_nan=False, allow_infinity=False))
ACTIONS = st.one_of(st.sampled_from((RESPOND, INVALID, "search", FINISH)), TEXTS)
INPUTS = st.one_of(
    OBJECTS, JSON.map(lambda value: {"content": value}), JSON.map(lambda value: {"answer": value}), st.just({})
)
STEPS = st.builds(
    TrajectoryStep, TEXTS, ACTIONS, INPUTS, TEXTS, NUMBERS, st.one_of(st.none(), TEXTS), st.one_of(st.none(), TEXTS)
)
TOOLS = st.lists(
    st.builds(
        lambda name, more: {"type": "function", "function": {"name": name, **more}},
        st.sampled_from(("search", FINISH, RESPOND, INVALID, "é")),
        st.sampled_from(({}, {"description": ""}, {"parameters": {"type": "object", "properties": {}}})),
    ),
    max_size=3,
)
METADATA = st.dictionaries(
    st.one_of(st.sampled_from(("opening", "judged", "task_id", "success", "total_reward", KEPT, "split")), TEXTS),
    JSON,
    max_size=3,
)


@st.composite
def trajectories(draw: st.DrawFn) -> AgentTrajectory:
    steps = draw(st.lists(STEPS, max_size=4))
    tools = draw(TOOLS)
    named = {tool["function"]["name"] for tool in tools}
    for number, step in enumerate(steps, start=1):
        last = number == len(steps)
        if step.action == FINISH and step.error is None and not last:
            step.error = "too early"
        if step.action == FINISH and FINISH not in named and step.action_input and "answer" not in step.action_input:
            step.action_input = {"answer": step.action_input}
        if step.action == INVALID and step.error is not None and step.reply is None:
            step.reply = draw(TEXTS)
    return AgentTrajectory(
        draw(TEXTS), draw(TEXTS), steps, draw(st.booleans()), draw(NUMBERS), tools, draw(st.one_of(st.none(), TEXTS)),
        draw(st.one_of(st.none(), TEXTS)), draw(METADATA),
    )  # fmt: skip


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: 1, 1.0 and True are three."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@settings(max_examples=150, deadline=None)
@given(trajectories())
@example(AgentTrajectory("a", "", [TrajectoryStep("", "x", {}, "seen", 1)], metadata={"opening": "x"}))
@example(AgentTrajectory("a", "metadata may hold the name we keep things under", metadata={KEPT: None, "success": 3}))
def test_there_and_back(trajectory: AgentTrajectory) -> None:
    before = json.dumps(trajectory.to_dict())
    sample = to_chatml(trajectory)
    assert json.dumps(trajectory.to_dict()) == before, "the trajectory was changed"
    assert same(from_chatml(sample).to_dict(), trajectory.to_dict())
    assert same(to_chatml(from_chatml(sample)), sample)
    stored = json.loads(json.dumps(sample))
    if trajectory.steps:
        stored = read_sample(stored, "row")
    assert same(from_chatml(stored).to_dict(), trajectory.to_dict())


@pytest.mark.parametrize(
    ("given", "success", "judged"),
    [
        ({}, False, False),
        ({"success": 1}, True, True),
        ({"success": 0}, False, True),
        ({"success": "yes"}, False, False),
    ],
)
def test_only_a_verdict_is_a_verdict(given: dict[str, Any], success: bool, judged: bool) -> None:
    messages = [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "Done."}]
    trajectory = from_chatml({"messages": messages, "metadata": given})
    assert trajectory.success is success and trajectory.metadata.get("judged", True) is judged


def test_a_row_without_a_task_is_named() -> None:
    with pytest.raises(DataError, match=r"^a\.jsonl:3: messages: no user turn before the assistant's first"):
        from_chatml({"messages": [{"role": "assistant", "content": "Hi"}]}, "a.jsonl:3")


@pytest.mark.parametrize("kept", [3, {"stps": []}, {"steps": {"9": {}}}, {"steps": {"x": {}}}, {"steps": 4}])
def test_what_was_kept_cannot_be_tampered_with_unseen(kept: Any) -> None:
    sample = to_chatml(AgentTrajectory("a", "Go.", [TrajectoryStep("", FINISH, {"answer": "x"})]))
    sample["metadata"][KEPT] = kept
    with pytest.raises(DataError, match=r"^row: metadata\.trajectory"):
        from_chatml(sample)


def test_tasks_without_an_identifier_share_one_when_they_are_the_same() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert task_key("Go.", None, tools) == task_key("Go.", None, json.loads(json.dumps(tools)))
    assert len({task_key("Go.", None, tools), task_key("Go.", "S", tools), task_key("Go.", None, [])}) == 3


def test_a_turn_of_weight_0_is_not_trained_on_after_the_way_through_a_trajectory() -> None:
    turn = {"role": "assistant", "content": "Wrong.", "weight": 0.0}
    sample = {"messages": [{"role": "user", "content": "Hi"}, turn], "tools": []}
    assert to_chatml(from_chatml(sample))["messages"][1] == turn

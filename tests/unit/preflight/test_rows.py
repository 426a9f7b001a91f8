"""Each kind of fault that shows without a model, in its own words, and what is no fault."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.preflight.rows_of import USER, answer, call, right, row, tool, turn

from sage.libs.finetune.agent.chatml import to_chatml
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.preflight import rows as rows_module
from sage.libs.finetune.agent.preflight.faults import KINDS
from sage.libs.finetune.agent.preflight.rows import RowChecks
from sage.libs.finetune.agent.sources.rows import read_sample
from sage.libs.finetune.agent.types import AgentTrajectory, TrajectoryStep

SYSTEM = {"role": "system", "content": "Be brief."}


def found(sample: Any) -> dict[str, str]:
    return {fault.kind: fault.message for fault in RowChecks().check("a.jsonl:1", sample)}


def test_a_right_row_has_no_fault() -> None:
    assert found(right()) == {}
    assert found(row(SYSTEM, SYSTEM, USER, turn("", call(), call("c2")), answer("c2"), answer(), turn("ok"))) == {}


@pytest.mark.parametrize(
    ("sample", "kind", "message"),
    [
        (
            row(turn("Hi"), USER, turn("Yes?")),
            "roles",
            "message 0: the assistant speaks first; a system or user message must come before it",
        ),
        (
            row(USER, SYSTEM, turn("12")),
            "roles",
            "message 1: a system message after the user's; it belongs at the beginning",
        ),
        (row(USER, answer(), turn("12")), "roles", "message 1: an answer of a tool that no call comes before"),
        (row(USER, turn("Wait."), turn("12")), "roles", "messages 1 and 2: two assistant turns in a row"),
        (row(USER, turn("", call()), turn("12")), "call_ids", "message 1: nothing answers 'c1'"),
        (row(USER, turn("", call(), call("c2")), answer(), turn("12")), "call_ids", "message 1: nothing answers 'c2'"),
        (row(USER, turn("", call(None)), turn("12")), "call_ids", "message 1: nothing answers a call without an id"),
        (
            row(USER, turn("", call()), answer(), answer(), turn("12")),
            "call_ids",
            "message 3: an answer to 'c1', which message 1 did not call or has its answer already",
        ),
        (
            row(USER, turn("", call()), answer("c7"), turn("12")),
            "call_ids",
            "message 2: an answer to 'c7', which message 1 did not call or has its answer already (and 1 more in this "
            "row)",
        ),
        (
            row(USER, turn("", call(), call()), answer(), answer(), turn("12")),
            "call_ids",
            "message 1: two calls have the id 'c1'",
        ),
        (
            row(USER, turn("", call(name="fnd")), answer(), turn("12")),
            "unknown_tool",
            "message 1: calls 'fnd', the row shows find",
        ),
        (
            row(USER, turn("", call()), answer(), turn("12"), tools=[]),
            "unknown_tool",
            "message 1: calls 'find', the row shows no tools",
        ),
        (row(USER, turn("12"), tools=[tool(), tool()]), "bad_tool", "tool 'find' stands there twice"),
        (
            row(USER, turn("12"), tools=[tool(q={"type": "dict"})]),
            "bad_tool",
            "tool 'find', parameters: properties.q.type: 'dict' is not valid under any of the given schemas",
        ),
        (
            row(USER, turn("", call(q=5)), answer(), turn("12")),
            "arguments",
            "message 1: call of 'find': q: 5 is not of type 'string'",
        ),
        (
            row(USER, turn("", call(n=5)), answer(), turn("12")),
            "arguments",
            "message 1: call of 'find': 'q' is a required property",
        ),
        (
            row(USER, turn("", call(q="tea", city=None, day=None)), answer(), turn("12")),
            "null_arguments",
            "message 1: call of 'find': city, day",
        ),
        (row(USER, turn(" \n")), "empty_turn", "message 1: neither words nor calls"),
        (row(USER, turn("12", weight=0)), "untrained", "every assistant turn has weight 0"),
    ],
)
def test_a_fault_is_named_with_its_message(sample: Any, kind: str, message: str) -> None:
    assert found(sample) == {kind: message}


@pytest.mark.parametrize(
    "sample",
    [
        pytest.param(row(USER, turn("", call())), id="the last turn's call may be open"),
        pytest.param(row(USER, turn("", call(), call("c2")), answer()), id="or one of its calls"),
        pytest.param(row(USER, turn("12"), USER), id="a trailing question teaches nothing wrong"),
        pytest.param(row(USER, USER, turn("12")), id="two questions in a row"),
        pytest.param(row(SYSTEM, turn("Hello."), USER, turn("12")), id="a greeting after a system message"),
        pytest.param(row(USER, turn("", call(None), call(None)), answer(None), answer(None), turn("12")), id="no ids"),
        pytest.param(row(USER, turn("", call()), answer(), turn("", call()), answer(), turn("12")), id="ids again"),
        pytest.param(row(USER, turn('{"total": 5}')), id="JSON that is no call"),
        pytest.param(row(USER, turn("", call(q="tea")), answer(), turn("1"), tools=[{**tool(), "x": 1}]), id="extras"),
    ],
)
def test_what_is_no_fault(sample: Any) -> None:
    assert found(sample) == {}


def test_a_turn_of_weight_0_is_held_to_its_place_only() -> None:
    wrong = turn("<tool_call>", call("c1", "fnd", n=None), weight=0)
    assert found(row(USER, wrong, answer(), turn("12"))) == {}
    assert found(row(USER, wrong, turn("12"))) == {"call_ids": "message 1: nothing answers 'c1'"}
    assert found(row(USER, turn("", weight=0), USER, turn("12"))) == {}


@pytest.mark.parametrize("text", ['<tool_call>{"name": "find", "argum', 'Look. {"name": "find", "arguments": {"q": '])
def test_a_call_that_breaks_off(text: str) -> None:
    faults = found(row(USER, turn(text)))
    assert list(faults) == ["half_call"] and faults["half_call"].startswith("message 1: the call is no valid JSON")


def test_a_trajectory_with_mistakes_makes_a_row_without_fault() -> None:
    """A refused call and a reply that could not be read stay in the conversation, untrained."""
    steps = [
        TrajectoryStep("", "invalid", {}, "That is no call.", error="unreadable", reply='<tool_call>{"name'),
        TrajectoryStep("", "fnd", {"x": 1}, "no such tool", error="unknown_tool"),
        TrajectoryStep("Ask.", "respond", {"content": "Which tea?"}, "The green one."),
        TrajectoryStep("Look.", "find", {"q": "green tea"}, "12"),
        TrajectoryStep("", "finish", {"answer": "12"}),
    ]
    trajectory = AgentTrajectory("t1", "Find tea.", steps, success=True, tools=[tool()])
    assert found(read_sample(to_chatml(trajectory), "a.jsonl:1")) == {}


def test_code_with_braces_is_a_call_only_where_there_are_tools() -> None:
    code = turn('Use this: {"name": name, "arguments": x}')
    assert "half_call" in found(row(USER, code)) and "half_call" not in found(row(USER, code, tools=[]))


def test_all_kinds_of_a_row_are_told_each_once() -> None:
    sample = row(USER, turn("", call(q=1), call("c2", q=2), call("c2", name="x")), answer("c9"), turn(""), turn(""))
    faults = RowChecks().check("a.jsonl:1", sample)
    assert [fault.kind for fault in faults] == ["roles", "call_ids", "arguments", "unknown_tool", "empty_turn"]
    assert faults[2].message == "message 1: call of 'find': q: 1 is not of type 'string' (and 1 more in this row)"


def test_a_duplicate_names_the_row_it_repeats() -> None:
    checks = RowChecks()
    assert checks.check("a.jsonl:3", right()) == []
    again = {**right(), "metadata": {"task_id": "other"}}
    [fault] = checks.check("a.jsonl:9", again)
    assert (fault.kind, fault.message) == ("duplicate", "the same messages and tools as line 3")
    [fault] = checks.check("b.jsonl:3", right())
    assert fault.message == "the same messages and tools as a.jsonl:3"
    weighted = right()
    weighted["messages"][1]["weight"] = 0.5
    assert checks.check("a.jsonl:10", weighted) == []
    assert checks.check("a.jsonl:11", {**right(), "tools": [tool(), tool("other")]}) == []


@pytest.mark.parametrize(
    ("one", "other"), [({}, {"weight": 1}), ({"weight": 1}, {"weight": 1.0}), ({"weight": 0}, {"weight": 0.0})]
)
def test_a_weight_that_says_the_same_makes_no_other_row(one: Any, other: Any) -> None:
    checks = RowChecks()
    checks.check("a.jsonl:1", row(USER, turn("1", **one), USER, turn("2")))
    assert [fault.kind for fault in checks.check("a.jsonl:2", row(USER, turn("1", **other), USER, turn("2")))] == [
        "duplicate"
    ]


def test_the_memory_for_duplicates_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "REMEMBERED", 2)
    checks = RowChecks()
    for number in range(4):
        assert checks.check(f"a.jsonl:{number}", row(USER, turn(str(number)))) == []
    assert checks.full and len(checks._seen) == 2
    assert checks.check("a.jsonl:9", row(USER, turn("3"))) == []
    assert [fault.kind for fault in checks.check("a.jsonl:9", row(USER, turn("1")))] == ["duplicate"]


def test_notes_are_counted_and_are_no_faults() -> None:
    sample = row(USER, turn("12"), tools=[], metadata={"success": False, "tools_inferred": True})
    kinds = list(found(sample))
    assert kinds == ["failed_episode", "tools_inferred", "no_tools"]
    assert all(KINDS[kind].severity == "note" for kind in kinds)
    assert found(row(USER, turn("12"), metadata={"success": True})) == {}
    assert found(row(USER, turn("12"), metadata="free text")) == {}


WORDS = st.sampled_from(["", "a", "c1", "find", "<tool_call>", '{"name": "find"', "type", "object", "integer", "#"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
KEYWORDS = st.sampled_from(
    "type properties required items enum $ref $schema $id pattern minimum multipleOf additionalProperties allOf".split()
)
CALLS = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": WORDS, "arguments": st.dictionaries(WORDS, VALUES, max_size=3)})},
    optional={"id": VALUES},
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "assistant", "tool"]), "content": WORDS},
    optional={"tool_calls": st.lists(CALLS, max_size=3), "tool_call_id": VALUES, "weight": st.sampled_from([0, 1])},
)
TOOLS = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": WORDS}, optional={"parameters": st.dictionaries(KEYWORDS, VALUES)})}
)
ROWS = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGES, min_size=1, max_size=6), "tools": st.lists(TOOLS, max_size=2)},
    optional={"metadata": VALUES},
)


@settings(max_examples=150, deadline=None)
@given(ROWS)
def test_every_row_that_can_be_read_can_be_checked(raw: Any) -> None:
    try:
        sample = read_sample(raw, "a.jsonl:1")
    except DataError:
        return
    faults = RowChecks().check("a.jsonl:1", sample)
    assert len({fault.kind for fault in faults}) == len(faults)
    assert all(fault.kind in KINDS and fault.message for fault in faults)


def test_nothing_heavy_is_loaded_to_check_rows() -> None:
    code = (
        "import sys; from sage.libs.finetune.agent.preflight import rows; import sage.libs.finetune.agent.validation; "
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_call_in_the_words_is_counted_as_text() -> None:
    text = '<tool_call>{"name": "find", "arguments": {}}</tool_call>'
    assert found(row(USER, turn(text))) == {"call_in_text": "message 1: calls 'find' in its words"}


@pytest.mark.parametrize(
    "text",
    [
        "**Action:** search[x]\n**Observation:** y\nso y",
        "ACTION: go to desk 1\nOBSERVATION: a desk",
        "### Action: look\n### Observation 1: y.",
        "<tool_response>y</tool_response>",
    ],
)
def test_an_observation_among_trained_words_is_a_fault(text: str) -> None:
    assert list(found(row(USER, turn(text)))) == ["observation_in_turn"]
    assert "observation_in_turn" not in found(row(USER, turn("My observation: y.\nAction is needed.")))
    assert "observation_in_turn" not in found(row(USER, turn(text, weight=0), turn("y")))

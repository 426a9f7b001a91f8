"""Files from form to form: what is written, what is lost and said to be, and what stops the writing."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.sources.test_fuzz import FORMS

from sage.libs.finetune.agent.chatml import to_chatml
from sage.libs.finetune.agent.conversion.export import EXPORTERS
from sage.libs.finetune.agent.environments.desk import DeskEnvironment, NoisyDeskExpert, desk_tasks
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.exchange import MAX_KINDS, OTHERS, convert_file, lost_fields, read_tools_file
from sage.libs.finetune.agent.jsonl import read_jsonl, write_jsonl
from sage.libs.finetune.agent.sources.importers.known import IMPORTERS
from sage.libs.finetune.agent.sources.rows import read_sample
from sage.libs.finetune.agent.trajectories.collector import TrajectoryCollector
from sage.libs.finetune.agent.trajectories.io import load_trajectories, save_trajectories
from sage.libs.finetune.agent.types import AgentTrajectory, Sample

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {"q": {}}}}}


@pytest.fixture(scope="module")
def episodes() -> list[AgentTrajectory]:
    collector = TrajectoryCollector(NoisyDeskExpert(failure_rate=0.5), environment=DeskEnvironment)
    return [episode for episode in collector.collect(desk_tasks("train", 12)) if episode.steps]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)]


@pytest.mark.parametrize("form", ["chatml", "sharegpt", "trajectory", "atif"])
def test_our_trajectories_survive_a_detour(episodes: list[AgentTrajectory], tmp_path: Path, form: str) -> None:
    save_trajectories(tmp_path / "t.jsonl", episodes)
    there = convert_file(tmp_path / "t.jsonl", tmp_path / "x.jsonl", to=form)
    assert (there.read, there.written, there.source, there.failed) == (len(episodes), len(episodes), "trajectory", {})
    assert set(there.lost) == ({"messages.name"} if form == "sharegpt" else set())
    again = convert_file(tmp_path / "x.jsonl", tmp_path / "back.jsonl", to="trajectory")
    assert again.written == len(episodes) and not again.failed
    back = load_trajectories(tmp_path / "back.jsonl")
    for trajectory in back:
        trajectory.metadata.pop("atif", None)
    assert back == episodes


def test_chatml_is_what_the_converter_makes(episodes: list[AgentTrajectory], tmp_path: Path) -> None:
    save_trajectories(tmp_path / "t.jsonl", episodes)
    for chosen in ({}, {"include_observation": False, "system_prompt": "Be kind."}, {"system_prompt": ""}):
        convert_file(tmp_path / "t.jsonl", tmp_path / "x.jsonl", **chosen)  # type: ignore[arg-type]
        assert rows_of(tmp_path / "x.jsonl") == [to_chatml(episode, **chosen) for episode in episodes]  # type: ignore[arg-type]


def test_what_alpaca_loses_is_said(episodes: list[AgentTrajectory], tmp_path: Path) -> None:
    save_trajectories(tmp_path / "t.jsonl", episodes)
    report = convert_file(tmp_path / "t.jsonl", tmp_path / "x.jsonl", to="alpaca", skip_bad=True)
    lost = report.lost
    assert {"messages[system]", "tools", "metadata.success", "metadata.task_id"} <= lost.keys()
    assert lost["tools"].rows == report.written and lost["tools"].first[0] == f"{tmp_path / 't.jsonl'}:1"
    assert len(lost["tools"].first) <= 5


def sample(*messages: dict[str, Any], **fields: Any) -> Sample:
    return {"messages": list(messages), "tools": [], "metadata": {}, **fields}  # type: ignore[typeddict-item]


USER, HELLO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


@pytest.mark.parametrize(
    ("ours", "written", "lost"),
    [
        (sample(USER, HELLO), {"messages": [USER, HELLO]}, []),
        (sample(USER, HELLO), {"messages": [USER, {**HELLO, "name": "x"}], "id": 3}, []),  # in addition: no loss
        (sample(USER, HELLO), {"messages": [USER, {**HELLO, "weight": 0}]}, ["messages.weight"]),  # trained no more
        (sample(USER, {**HELLO, "weight": 1}), {"messages": [USER, HELLO]}, []),
        (sample(USER, {**HELLO, "weight": 0}), {"messages": [USER, HELLO]}, ["messages.weight"]),
        (sample(USER, {**HELLO, "weight": 1}), {"messages": [USER, {**HELLO, "weight": 1.0}]}, []),
        (sample(USER, {**HELLO, "x": 1}), {"messages": [USER, {**HELLO, "x": True}]}, ["messages.x"]),
        (sample({"role": "system", "content": "S"}, USER, HELLO), {"messages": [USER, HELLO]}, ["messages[system]"]),
        (sample(USER, HELLO, USER), {"messages": [USER, USER, HELLO]}, ["messages (their order)"]),
        (sample(USER, HELLO, tools=[TOOL]), {"messages": [USER, HELLO], "tools": []}, ["tools"]),
        (
            sample(USER, HELLO, metadata={"a": {"b": [1]}}),
            {"messages": [USER, HELLO], "metadata": {"a": {"b": [2]}}},
            ["metadata.a"],
        ),
    ],
)
def test_losses_are_what_comes_back_different(ours: Sample, written: dict[str, Any], lost: list[str]) -> None:
    assert lost_fields(ours, written, "chat") == lost


def test_a_row_that_would_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^row: the row would not be read back as chat: messages: no assistant turn"):
        lost_fields(sample(USER, HELLO), {"messages": [USER]}, "chat")
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    turns = [{**HELLO, "content": "", "tool_calls": [call], "weight": weight} for weight in (0, 1)]
    write_jsonl(tmp_path / "a.jsonl", [{"messages": [USER, *turns]}])
    report = convert_file(tmp_path / "a.jsonl", tmp_path / "out.jsonl", to="sharegpt")
    [tally] = report.failed.values()
    assert tally.message.startswith("the row would not be read back as sharegpt: conversations[") and not report.output


def test_calls_are_compared_field_by_field() -> None:
    def turn(**call: Any) -> dict[str, Any]:
        function = {"name": "f", "arguments": {"a": 1}, **call.pop("function", {})}
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "x", "type": "function", "function": function, **call}],
        }

    for change, lost in (({"id": "y"}, "id"), ({"function": {"arguments": {"a": 2}}}, "function.arguments")):
        assert lost_fields(sample(USER, turn()), {"messages": [USER, turn(**change)]}, "chat") == [
            f"messages.tool_calls.{lost}"
        ]


@pytest.mark.parametrize("form", list(IMPORTERS))
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_was_imported_chatml_holds_all_of_it(form: str, data: st.DataObject) -> None:
    try:
        read = read_sample(IMPORTERS[form].read(data.draw(FORMS[form]), "a:1"), "a:1")
    except DataError:
        return
    assert lost_fields(read, EXPORTERS["chatml"].write(read, "a:1"), "chat", "a:1") == []
    for to in EXPORTERS:
        try:
            row = EXPORTERS[to].write(read, "a:1")
            assert all(isinstance(path, str) for path in lost_fields(read, row, EXPORTERS[to].importer, "a:1"))
        except DataError as error:
            assert str(error).startswith("a:1: ")


BAD = ['{"messages": [{"role": "user", "content": "Hi"}]}', "not json", json.dumps({"messages": 3})]


def test_a_bad_row_stops_the_writing_and_all_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join([json.dumps(CHAT), *BAD, json.dumps(CHAT), BAD[0]]))
    (tmp_path / "out.jsonl").write_text("before")
    report = convert_file(tmp_path / "a.jsonl", tmp_path / "out.jsonl", "chat")
    assert (report.read, report.written, report.output, report.failures) == (6, 0, None, 4)
    assert (tmp_path / "out.jsonl").read_text() == "before" and len(list(tmp_path.iterdir())) == 2
    assert [(tally.rows, [where.rpartition(":")[2] for where in tally.first]) for tally in report.failed.values()] == [
        (2, ["2", "6"]), (1, ["3"]), (1, ["4"])
    ]  # fmt: skip
    first = next(iter(report.failed.values()))
    assert first.message == "messages: no assistant turn, so there is nothing to train on or to score"


def test_bad_rows_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join([json.dumps(CHAT), *BAD]))
    report = convert_file(tmp_path / "a.jsonl", tmp_path / "out.jsonl", skip_bad=True)
    assert (report.written, report.failures, report.output) == (1, 3, tmp_path / "out.jsonl")
    assert len(rows_of(tmp_path / "out.jsonl")) == 1
    (tmp_path / "b.jsonl").write_text(BAD[0])
    assert convert_file(tmp_path / "b.jsonl", tmp_path / "none.jsonl", skip_bad=True).output is None
    assert not (tmp_path / "none.jsonl").exists()


def test_rows_without_a_form_in_the_output_are_reported_alike(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [CHAT, {"messages": [CHAT["messages"][1]]}])
    report = convert_file(tmp_path / "a.jsonl", tmp_path / "out.jsonl", to="trajectory")
    [tally] = report.failed.values()
    assert tally.message == "messages: no user turn before the assistant's first, so there is no task"
    assert tally.first == [f"{tmp_path / 'a.jsonl'}:2"]


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [CHAT])
    for chosen, message in (
        ({"to": "sharegtp"}, "unknown output format 'sharegtp'; did you mean 'sharegpt'"),
        ({"source": "charm"}, "unknown form of rows 'charm'"),
        ({"to": "atif", "arguments": "json"}, "arguments='json' is for chatml, not atif"),
    ):
        with pytest.raises(ConfigError, match=message):
            convert_file(tmp_path / "a.jsonl", tmp_path / "out.jsonl", **chosen)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"gone\.jsonl"):
        convert_file(tmp_path / "gone.jsonl", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_tools_from_a_file_and_the_wire_form(tmp_path: Path) -> None:
    output = "Action: search[a]\nObservation: b\nFinal Answer: c"
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps([{"instruction": "Q", "output": output}]).encode()))
    (tmp_path / "tools.json").write_text(json.dumps([TOOL["function"]]))
    tools = read_tools_file(tmp_path / "tools.json")
    assert tools == [TOOL]
    report = convert_file(tmp_path / "a.json.gz", tmp_path / "out.jsonl", tools=tools, arguments="json")
    [row] = rows_of(tmp_path / "out.jsonl")
    assert report.source == "react" and row["tools"] == [TOOL] and not report.lost
    assert isinstance(row["messages"][1]["tool_calls"][0]["function"]["arguments"], str)
    (tmp_path / "tools.json").write_text("[]")
    with pytest.raises(DataError, match=r"tools\.json: holds no tools"):
        read_tools_file(tmp_path / "tools.json")


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        filled = {"messages": [USER, {**HELLO, "content": "x" * 2000}], "metadata": {}}
        write_jsonl(tmp_path / "a.jsonl", ({**filled, "metadata": {f"k{n}": n}} for n in range(rows)))
        tracemalloc.start()
        report = convert_file(tmp_path / "a.jsonl", tmp_path / "out.jsonl", to="alpaca")
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert report.written == rows and len(report.lost) <= MAX_KINDS + 1
        assert (OTHERS in report.lost) == (rows > MAX_KINDS)
        return size

    few = peak(50)
    assert peak(500) < 2 * few + 1_000_000

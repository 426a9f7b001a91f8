"""Rows as data sets and logs have them: read right, or refused with a line that says why; never read as less."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.sources.importers.known import ORDER
from sage.libs.finetune.agent.sources.stream import import_rows
from sage.libs.finetune.agent.types import Sample

ORDER_NAMES = [importer.name for importer in ORDER]
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
ASKED = {"role": "user", "content": "Where?"}
SAID = {"role": "assistant", "content": "There."}
FIREACT = [
    ASKED,
    {"role": "assistant", "content": "Thought: Look.\nAction: search[it]"},
    {"role": "user", "content": "Observation: There."},
    {"role": "assistant", "content": "Action: finish[There]"},
    {"role": "user", "content": "Observation: Episode finished, reward = True"},
]
BACK = "Action: finish[b]\nObservation: Episode finished, reward = 1"


def read(folder: Path, row: dict[str, Any]) -> tuple[str, Sample]:
    """The form that was found and the sample; raises the row's error."""
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(row))
    [found] = import_rows(path)
    if found.sample is None:
        raise found.error or AssertionError(found)
    return found.source, found.sample


def chat(*turns: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"messages": [ASKED, *turns], **fields}


def called(**call: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def share(*turns: tuple[str, str], **fields: Any) -> dict[str, Any]:
    return {"conversations": [{"from": who, "value": text} for who, text in turns], **fields}


@pytest.mark.parametrize(
    ("row", "line"),
    [
        # axolotl: a part of a turn, and another name of `train`
        (chat({**SAID, "train_detail": [{"begin_offset": 0, "end_offset": 2, "train": False}]}), "messages[1].train_d"),
        (chat({**SAID, "training": False}), "messages[1].training: this switch is not supported"),
        # LangChain, and arguments outside of the function: the call would be learned without arguments
        (chat(called(name="find", args={"q": 1}, id="a")), "messages[1].tool_calls[0]: the call has 'args'; put"),
        (chat(called(function={"name": "find"}, arguments={"q": 1})), "messages[1].tool_calls[0]: the call has 'argu"),
        (chat(called(type="custom", custom={"name": "find", "input": "x"})), "messages[1].tool_calls[0]: expected a"),
        # SmolTalk 2: tools among the template's options
        (chat(SAID, chat_template_kwargs={"xml_tools": [TOOL]}), "chat_template_kwargs.xml_tools: tools are read from"),
        # LLaMA-Factory, ms-swift: pictures, answers to be unlearned
        (share(("human", "<image>Who?"), ("gpt", "A cat."), images=["a.png"]), "images: the text shows one with <im"),
        (share(("human", "a"), ("gpt", "b"), kto_tag=False), "kto_tag: a row for preference training"),
        # Python's dicts for JSON (Toucan); NeMo's and LangChain's roles; OpenAI's items of the Responses API
        (chat({"role": "tool_call", "content": "{'name': 'find'}"}), "messages[1].content: is not valid JSON"),
        (share(("User", "a"), ("Assistant", "b")), "conversations[0].from: expected one of human, user"),
        ({"messages": [{"type": "human", "content": "a"}]}, "messages[0].role: expected one of system, user"),
        (chat({"type": "function_call", "call_id": "c", "name": "find"}), "messages[1].role: expected one of system"),
        # ToolBench's way to give up
        (
            share(("user", "a"), ("assistant", 'Thought: \nAction: Finish\nAction Input: {"return_type": "give_up"}')),
            "messages[1], line 3: 'finish' gives up (return_type), so there is no answer to learn",
        ),
        # a thought after words cannot be said by a chat turn
        (
            chat({**SAID, "content": [{"type": "text", "text": "a"}, {"type": "thinking", "thinking": "b"}]}),
            "messages[1].content[1]: thinking after words in the same turn",
        ),
        # no such form: OpenAI's preference rows, xLAM, Glaive, tau-bench
        ({"input": {"messages": []}, "preferred_output": [], "non_preferred_output": []}, "a row of no known form"),
        ({"query": "a", "answers": "[]", "tools": "[]"}, "a row of no known form (it has query, answers, tools)"),
        ({"system": "a", "chat": "USER: a ASSISTANT: b"}, "a row of no known form (it has system, chat)"),
        ({"traj": [ASKED, SAID], "reward": 1.0}, "a row of no known form (it has traj, reward)"),
    ],
)  # fmt: skip
def test_what_would_be_read_as_less_is_refused(tmp_path: Path, row: dict[str, Any], line: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, row)
    assert str(caught.value).removeprefix(f"{tmp_path}/rows.jsonl:1: ").startswith(line)


@pytest.mark.parametrize("switch", [{"weight": 0}, {"train": False}, {"loss": False}, {"loss_mask": 0}])
def test_a_switch_in_fireact_rows_is_followed(tmp_path: Path, switch: dict[str, Any]) -> None:
    turns = [{**turn, **(switch if index == 1 else {})} for index, turn in enumerate(FIREACT)]
    source, sample = read(tmp_path, {"messages": turns})
    assert (source, [turn.get("weight") for turn in sample["messages"]]) == ("react", [None, 0, None, None])


def test_what_fireact_rows_have_besides_is_not_passed_over(tmp_path: Path) -> None:
    plain = {"instruction": "a", "output": BACK}
    assert (
        read(tmp_path, plain)[0] == "fireact" and read(tmp_path, {**plain, "tools": [], "system": None})[0] == "fireact"
    )
    assert [turn["content"] for turn in read(tmp_path, {**plain, "system": "Be."})[1]["messages"]] == ["Be.", "a", "b"]
    assert read(tmp_path, {"messages": FIREACT, "tools": [TOOL]})[1]["tools"] == [TOOL]
    with pytest.raises(DataError, match="history: a ReAct episode has no earlier turns"):
        read(tmp_path, {**plain, "history": [["c", "d"]]})
    with pytest.raises(DataError, match="loss_mask: a switch for a whole row"):
        read(tmp_path, {**plain, "loss_mask": [0]})


def test_a_system_field_is_read_whatever_the_form(tmp_path: Path) -> None:
    act = ("gpt", "Thought: Look.\nAction: search[it]")
    for row in (
        share(("human", "a"), act, system="Be."),
        share(("human", "a"), ("gpt", "b"), system="Be."),
        chat(SAID, system="Be."),
        chat(SAID, {"role": "tool", "content": "", "tool_call_id": "a"}, system=[{"type": "text", "text": "Be."}]),
    ):
        source, sample = read(tmp_path, row)
        assert sample["messages"][0] == {"role": "system", "content": "Be."}, source
        assert "system" not in sample["metadata"]
    _, sample = read(tmp_path, chat({**SAID, "reasoning": "hm"}, system="Be.", functions=[TOOL["function"]]))
    assert sample["messages"][2] == {**SAID, "reasoning_content": "hm"} and sample["tools"] == [TOOL]


def test_an_answer_alone_is_trained_as_it_stands(tmp_path: Path) -> None:
    """MMLU-like rows say `Answer: B` and are no ReAct; among rows that act they are."""
    alone = {"instruction": "Which?", "output": "Answer: B"}
    assert read(tmp_path, alone)[1]["messages"][1]["content"] == "Answer: B"
    path = tmp_path / "both.jsonl"
    path.write_text("\n".join(map(json.dumps, [{"instruction": "a", "output": "Action: search[b]"}, alone])))
    assert [row.source for row in import_rows(path)] == ["react", "react"]


def test_a_canonical_row_is_read_as_it_stands(tmp_path: Path) -> None:
    """What `convert --from chat` kept as text must not become calls when training finds the form by itself."""
    row = {"messages": FIREACT[:4], "tools": [], "metadata": {}}
    source, sample = read(tmp_path, row)
    assert source == "chat" and sample == row
    assert read(tmp_path, {"messages": FIREACT[:4]})[0] == "react"


def test_toolbench_answers_with_its_final_answer(tmp_path: Path) -> None:
    given = json.dumps({"return_type": "give_answer", "final_answer": "There."})
    row = share(("user", "a"), ("assistant", f"Thought: Done.\nAction: Finish\nAction Input: {given}"))
    assert read(tmp_path, row)[1]["messages"][-1]["content"] == "Done.\nAnswer: There."


def test_switches_on_steps_of_atif_are_followed_and_other_versions_refused(tmp_path: Path) -> None:
    steps = [{"source": "user", "message": "a"}, {"source": "agent", "message": "b", "train": False}]
    row = {"schema_version": "ATIF-v1.6", "agent": {}, "steps": [*steps, {"source": "agent", "message": "c"}]}
    assert [turn.get("weight") for turn in read(tmp_path, row)[1]["messages"]] == [None, 0.0, None]
    with pytest.raises(DataError, match=r"schema_version: expected ATIF-v1\.0 to ATIF-v1\.8, found 'ATIF-v10\.0'"):
        read(tmp_path, {**row, "schema_version": "ATIF-v10.0"})


def test_forms_that_are_read_whole(tmp_path: Path) -> None:
    call = json.dumps({"name": "find", "arguments": {"q": 1}})
    glaive = share(
        ("human", "a"), ("function_call", call), ("observation", "x"), ("gpt", "b"), tools=json.dumps([TOOL])
    )
    swe = [ASKED, {**called(id="t", function={"name": "find", "arguments": '{"q": 1}'}), "thought": "hm"}]
    swe += [{"role": "tool", "content": [{"type": "text", "text": "x"}], "tool_call_ids": ["t"]}, SAID]
    swift = chat({"role": "tool_call", "content": call}, {"role": "tool_response", "content": "x"}, SAID, tools=[TOOL])
    for row in (glaive, {"messages": json.dumps(swe), "resolved": True}, swift):
        _, sample = read(tmp_path, row)
        _, turn, answer, _ = sample["messages"]
        assert turn["tool_calls"][0]["function"] == {"name": "find", "arguments": {"q": 1}}
        assert (answer["content"], answer["tool_call_id"]) == ("x", turn["tool_calls"][0]["id"])


def test_a_field_called_trajectory_is_not_taken_for_what_a_conversion_kept(tmp_path: Path) -> None:
    row = chat(SAID, trajectory={"success": True}, metadata={"split": "dev"})
    assert read(tmp_path, row)[1]["metadata"] == {"split": "dev", "row.trajectory": {"success": True}}


WHOLE: list[dict[str, Any]] = [
    {"messages": FIREACT},
    {"instruction": "a", "input": "", "output": BACK},
    chat(called(id="a", function={"name": "find", "arguments": {}}), {"role": "tool", "content": "x"}, tools=[TOOL]),
    chat({"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "find", "input": {}}]}, system=[]),
    share(
        ("system", "s"), ("human", "a"), ("gpt", "Action: find\nAction Input: {}"), ("observation", "b"), ("gpt", "c")
    ),
    share(("human", "a"), ("function_call", '{"name": "find", "arguments": {}}'), ("observation", "b"), ("gpt", "c")),
    {
        "schema_version": "ATIF-v1.6",
        "agent": {},
        "steps": [{"source": "user", "message": "a"}, {"source": "agent", "message": "b"}],
    },
]
VALUES = [None, 0, True, "", "x", [], {}, [1], "Action: find[x]", "system", "tool", "assistant"]


@pytest.mark.parametrize("seed", range(4))
def test_a_row_changed_anywhere_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    """Sound rows with a field or two put elsewhere or replaced: what random JSON never comes close to."""
    rng = random.Random(seed)
    for _ in range(250):
        rows = [json.loads(json.dumps(rng.choice(WHOLE))) for _ in range(2)]
        for row in rows:
            for _ in range(rng.randint(0, 2)):
                place: Any = row
                while isinstance(place, dict | list) and place:
                    key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
                    if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.2:
                        place[key] = rng.choice([*VALUES, json.loads(json.dumps(row))])
                        if isinstance(place, dict) and rng.random() < 0.3:
                            place[rng.choice(["tool_calls", "role", "weight", "system"])] = place.pop(key)
                        break
                    place = place[key]
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        for source in ("auto", *ORDER_NAMES):
            try:
                found = list(import_rows(path, source))
            except DataError:
                continue  # of no form, or of two
            assert len(found) == 2 and all((row.sample is None) != (row.error is None) for row in found)

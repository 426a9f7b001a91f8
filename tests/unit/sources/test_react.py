"""ReAct text: the parser, and rows that hold such text."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent.chatml import from_chatml
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.sources.importers.known import ORDER
from sage.libs.finetune.agent.sources.importers.react import REACT, infer_tools, name_inputs
from sage.libs.finetune.agent.sources.importers.react_text import (
    Block,
    is_bare_answer,
    looks_like_react,
    observation_text,
    parse_react,
)
from sage.libs.finetune.agent.sources.rows import read_sample
from sage.libs.finetune.agent.types import Sample

EPISODE = """Thought: I look it up.
Action: search[Louvre]
Observation: It is in Paris.
Thought: That is the answer.
Action: finish[Paris]
Observation: Right."""
STEPS = [("I look it up.", "search", {"input": "Louvre"}, "It is in Paris.")]
END = ("That is the answer.", "finish", {"answer": "Paris"})


def parsed(text: str) -> list[tuple[Any, ...]]:
    return [(block.thought, block.action, block.arguments, block.observation) for block in parse_react(text, "a:1")]


def read(row: dict[str, Any]) -> Sample:
    assert REACT.matches(row) or REACT.accepts(row)
    return read_sample(REACT.read(row, "a:1"), "a:1")


@pytest.mark.parametrize(
    ("ending", "observation"),
    [
        ("Thought: That is the answer.\nAction: finish[Paris]\nObservation: Right.", "Right."),
        ("Thought 2: That is the answer.\nAction 2: Finish [Paris]\n", None),
        ("Thought: That is the answer.\nFinal Answer: Paris", None),
        ("Thought: That is the answer.\nAnswer: Paris\n\n", None),
        ("Thought: That is the answer.\nAction: finish\nAction Input: Paris", None),
        ('Thought: That is the answer.\nAction: finish\nAction Input: {"answer": "Paris"}', None),
        ("Thought:\tThat is the answer.\r\n Final Answer : Paris\nObservation: Right.", "Right."),
    ],
)
def test_forms_of_the_end(ending: str, observation: str | None) -> None:
    start = "Thought 1: I look it up.\nAction 1: search[Louvre]\nObservation 1: It is in Paris.\n"
    assert parsed(start + ending) == [*STEPS, (*END, observation)]


@pytest.mark.parametrize(
    ("text", "action", "arguments"),
    [
        ("Action: search[a [b] c]", "search", {"input": "a [b] c"}),
        ("Action: search[a] and [b]", "search", {"input": "a] and [b"}),
        ("Action: search[two\nlines]", "search", {"input": "two\nlines"}),
        ("Action: search[what is\nThought: in it]", "search", {"input": "what is\nThought: in it"}),
        ("Action: search[]", "search", {"input": ""}),
        ("Action: finish[[1, 2]]", "finish", {"answer": "[1, 2]"}),
        ("Action: finish[]", "finish", {"answer": ""}),
        ('Action: search\nAction Input: {"q": "a",\n "top": [1]}', "search", {"q": "a", "top": [1]}),
        (
            "Action: Google Search\nAction Input: the Louvre\nin Paris",
            "Google Search",
            {"input": "the Louvre\nin Paris"},
        ),
        ("Action: now\nAction Input:", "now", {}),
        ("Action: search\nAction Input: [1, 2]", "search", {"input": "[1, 2]"}),
    ],
)
def test_forms_of_an_action(text: str, action: str, arguments: dict[str, Any]) -> None:
    assert parsed(text) == [("", action, arguments, None)]


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        # Lines that look like fields, where no such field can stand.
        (
            "Action: search[film]\nObservation: Genres\nObservation: x\nAction: Comedy\nAnswer: no\nAction: finish[a]",
            [("", "search", {"input": "film"}, "Genres\nObservation: x\nAction: Comedy\nAnswer: no")],
        ),
        (
            "Thought: One.\nThought: two. Thought: three.\nAnswer: four?\nNo.\nAction: finish[a]",
            [],
        ),
    ],
)
def test_lines_that_look_like_fields_are_text(text: str, blocks: list[Any]) -> None:
    found = parsed(text)
    assert found[:-1] == blocks and found[-1][1:3] == ("finish", {"answer": "a"})
    if not blocks:
        assert found[-1][0] == "One.\nThought: two. Thought: three.\nAnswer: four?\nNo."


def test_a_thought_may_be_missing_or_have_no_label() -> None:
    text = "I look it up.\nAction: a[1]\nObservation: x\nAction: b[2]\nObservation: y\nFinal Answer: z"
    assert parsed(text) == [
        ("I look it up.", "a", {"input": "1"}, "x"),
        ("", "b", {"input": "2"}, "y"),
        ("", "finish", {"answer": "z"}, None),
    ]


def test_an_action_that_ends_the_line_of_its_thought() -> None:
    text = "Thought: See Action: a[0] first. Action: a[1]\nObservation: x\nThought: So. Action: finish[y]"
    assert parsed(text) == [
        ("See Action: a[0] first.", "a", {"input": "1"}, "x"),
        ("So.", "finish", {"answer": "y"}, None),
    ]
    assert parsed("Thought: Then Action: a[0]\nAction: a[1]") == [("Then Action: a[0]", "a", {"input": "1"}, None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Thought: Hm.\nAction: search[Lou", "a:1, line 2: half an action: 'search[Lou'; expected name[input], or"),
        ("Thought: Hm.\nAction: search", "a:1, line 2: half an action: 'search'"),
        ("Action: search\nObservation: none", "a:1, line 1: half an action: 'search'"),
        ("Action: search[a\nObservation: b]", "a:1, line 1: half an action: 'search[a'"),
        ("Action: search[a\nAction Input: b", "a:1, line 1: half an action: 'search[a'"),
        ("Action: search[a\nAction: search[b]", "a:1, line 1: half an action: 'search[a'"),
        ("Action: a[1]\nObservation: x\nAction: sea", "a:1, line 3: half an action: 'sea'"),
        ("Action: a[1]\nObservation: x\nThought: And now?", "a:1, line 3: a thought without an action or an answer"),
        ("\n\nThought: And now?", "a:1, line 3: a thought without an action or an answer after it"),
        ("Thought: Hm.\nObservation: none", "a:1, line 2: an observation, but no action before it"),
        (
            "Action: finish[a]\nObservation: x\nAction: b[1]",
            "a:1, line 3: 'Action:' after 'finish', which ends an episo",
        ),
        ("Action: a[1]\nAction Input: b", "a:1, line 2: a second input for 'a', which has its input in brackets"),
        ('Action: a\nAction Input: {"q": "b', "a:1, line 2: the input of 'a' is broken JSON: Unterminated string"),
        (
            'Action: a\nAction Input: {"q": NaN}',
            "a:1, line 2: the input of 'a' is broken JSON: NaN is not a JSON number",
        ),
    ],
)
def test_what_is_broken_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_react(text, "a:1")
    assert str(caught.value).startswith(message)


def test_text_without_fields() -> None:
    assert parse_react("Just words: an Action: search[x] within a line.", "a:1") == []
    assert not looks_like_react("Just words.") and not looks_like_react(None)
    assert looks_like_react(EPISODE) and looks_like_react("Thought: 4?\nAnswer: 4")
    assert not looks_like_react("Answer: 4") and is_bare_answer("Final Answer: 4") and not is_bare_answer(EPISODE)
    assert observation_text("\nObservation 3:  x ") == "x" and observation_text(" x ") == "x"


FIELD = st.text(st.sampled_from("ab [](){}:\n\té1\"'"), max_size=12).map(str.strip)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(FIELD, st.sampled_from(["search", "Look_up", "a.b-c"]), FIELD, FIELD), max_size=4), FIELD, FIELD
)
def test_what_is_written_is_read(steps: list[tuple[str, str, str, str]], thought: str, answer: str) -> None:
    lines = [f"Thought: {t}\nAction: {name}[{text}]\nObservation: {seen}" for t, name, text, seen in steps]
    text = "\n".join([*lines, f"Thought: {thought}", f"Action: finish[{answer}]"])
    expected = [(t, name, {"input": text}, seen) for t, name, text, seen in steps]
    assert parsed(text) == [*expected, (thought, "finish", {"answer": answer}, None)]


LINES = st.sampled_from(
    "Thought: t|Thought:|Action: a[1]|Action: a[|Action: a|Action: finish[x]|Action Input: {}|Action Input: {||]|"
    "Observation: o|Observation:|Answer: x|Final Answer:|words| Thought 2 : t".split("|")
)


@settings(max_examples=200, deadline=None)
@given(st.lists(LINES, max_size=9))
def test_any_order_of_fields_is_read_or_refused(lines: list[str]) -> None:
    text = "\n".join(lines)
    try:
        blocks = parse_react(text, "a:1")
    except DataError as error:
        assert str(error).startswith("a:1, line ")
        return
    assert all(block.action != "finish" for block in blocks[:-1])


@pytest.mark.parametrize("names", [("instruction", "output"), ("prompt", "completion"), ("question", "trajectory")])
def test_an_episode_in_one_text(names: tuple[str, str]) -> None:
    sample = read({names[0]: "Where is the Louvre?", names[1]: EPISODE, "id": 7, "success": True})
    assert [(message["role"], message["content"]) for message in sample["messages"]] == [
        ("user", "Where is the Louvre?"),
        ("assistant", "I look it up."),
        ("tool", "It is in Paris."),
        ("assistant", "That is the answer.\nAnswer: Paris"),
    ]
    [call] = sample["messages"][1]["tool_calls"]
    assert call["function"] == {"name": "search", "arguments": {"input": "Louvre"}}
    assert sample["messages"][2]["tool_call_id"] == call["id"]
    parameters = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
    assert sample["tools"][0]["function"] == {"name": "search", "description": "", "parameters": parameters}
    metadata = sample["metadata"]
    assert (metadata["id"], metadata["success"], metadata["tools_inferred"]) == (7, True, True)
    trajectory = from_chatml(sample)
    assert trajectory.success and trajectory.answer == "Paris" and trajectory.steps[-1].observation == "Right."


def test_instruction_input_and_system() -> None:
    row = {"instruction": "Answer.", "input": "Where?", "system": "Be brief.", "output": "Action: finish[Here]"}
    sample = read(row)
    texts = [message["content"] for message in sample["messages"]]
    assert texts == ["Be brief.", "Answer.\nWhere?", "Here"] and sample["tools"] == []
    assert "tools_inferred" not in sample["metadata"]


def test_a_chat() -> None:
    row = {
        "messages": [
            {"role": "system", "content": "Use tools."},
            {"role": "user", "content": "Where is the Louvre?"},
            {"role": "assistant", "content": "Thought: Hm.\nAction: serch[Louvre]", "train": False},
            {"role": "user", "content": "Observation: no such tool"},
            {"role": "assistant", "content": 'Action: search\nAction Input: {"q": 1}', "time": 3},
            {"role": "user", "content": "Paris\nAction: none"},
            {"role": "assistant", "content": "Thought: So.\nFinal Answer: Paris"},
            {"role": "user", "content": "Thanks. And the Prado?"},
            {"role": "assistant", "content": "Action: finish[Madrid]", "loss": True},
            {"role": "user", "content": "Observation: Right."},
        ],
        "split": "train",
    }
    sample = read(row)
    messages = sample["messages"]
    assert [message["role"] for message in messages] == [
        "system",
        "user",
        *["assistant", "tool"] * 2,
        "assistant",
        "user",
        "assistant",
    ]
    assert [message.get("weight") for message in messages if message["role"] == "assistant"] == [0.0, None, None, 1.0]
    assert (
        messages[4]["tool_calls"][0]["function"] == {"name": "search", "arguments": {"q": 1}}
        and messages[4]["time"] == 3
    )
    assert [m["content"] for m in messages[3:9]] == [
        "no such tool", "", "Paris\nAction: none", "So.\nAnswer: Paris", "Thanks. And the Prado?", "Madrid"
    ]  # fmt: skip
    assert sample["metadata"] == {
        "split": "train",
        "trajectory": {"steps": {"4": {"observation": "Right."}}},
        "tools_inferred": True,
    }
    assert from_chatml(sample).steps[-1].observation == "Right."


def test_what_only_begins_like_an_observation_is_the_users() -> None:
    turns = [("user", "Where?"), ("assistant", "Final Answer: Paris"), ("user", "Observation deck too?")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns], "prompt": "a", "output": "b"}
    sample = read(row)
    assert [message["content"] for message in sample["messages"]] == ["Where?", "Paris", "Observation deck too?"]
    assert sample["metadata"] == {"prompt": "a", "output": "b"}


def test_a_chat_whose_assistant_wrote_the_observations() -> None:
    turn = {"from": "gpt", "value": EPISODE}
    sample = read({"conversations": [{"from": "human", "value": "Where?"}, turn]})
    assert [message["role"] for message in sample["messages"]] == ["user", "assistant", "tool", "assistant"]


def test_a_chat_that_breaks_off_ends_with_its_call_and_no_made_up_answer() -> None:
    turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Action: a[1]\nAction: b[2]"}]
    roles = [(message["role"], message["content"]) for message in read({"messages": turns})["messages"]]
    assert roles == [("user", "Where?"), ("assistant", ""), ("tool", ""), ("assistant", "")]


def test_tools_of_the_row_name_the_input() -> None:
    tool = {"name": "search", "parameters": {"properties": {"query": {}, "top": {}}, "required": ["query"]}}
    sample = read({"instruction": "Where?", "output": EPISODE, "tools": [tool]})
    assert sample["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"query": "Louvre"}
    assert sample["tools"][0]["function"] == tool and "tools_inferred" not in sample["metadata"]


def test_inferred_tools_allow_what_was_called() -> None:
    [tool] = infer_tools([("a", {"x": 1, "y": "t"}), ("a", {"y": "u"})])
    parameters = tool["function"]["parameters"]
    assert parameters == {"type": "object", "properties": {"x": {}, "y": {"type": "string"}}, "required": ["y"]}


def test_an_input_keeps_its_name_where_the_tool_has_it_or_has_several() -> None:
    for properties in ({"input": {}}, {"a": {}, "b": {}}, {}):
        call = {"function": {"name": "f", "arguments": {"input": "x"}}}
        name_inputs(
            [{"tool_calls": [call]}],
            [{"type": "function", "function": {"name": "f", "parameters": {"properties": properties}}}],
        )
        assert call["function"]["arguments"] == {"input": "x"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"instruction": "Do.", "output": "Words."},
            "a:1: output: no line 'Action: name[input]' or 'Final Answer: ...'",
        ),
        ({"instruction": "Do.", "output": "Thought: Hm."}, "a:1: output, line 1: a thought without an action"),
        (
            {"instruction": "Do.", "output": "Answer: 4", "history": [["a", "b"]]},
            "a:1: history: a ReAct episode has no",
        ),
        ({"instruction": "Do.", "output": "Answer: 4", "input": 3}, "a:1: input and system: expected text or null"),
        ({"instruction": "Do.", "output": "Answer: 4", "tools": [3]}, "a:1: tools[0]: expected"),
        ({"text": "Answer: 4"}, "a:1: expected a chat whose assistant turns, or an instruction whose output, is text"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "a:1: no assistant turn with 'Action: name[input]'"),
        ({"messages": [3]}, "a:1: messages[0]: expected an object with role and content, found int"),
        (
            {"messages": [{"role": "bot", "content": ""}]},
            "a:1: messages[0]: role: expected system, user, assistant or tool",
        ),
        ({"messages": [{"role": "user", "content": 3}]}, "a:1: messages[0].content: expected text, null or a list"),
        (
            {"messages": [{"role": "assistant", "content": "Action: a[", "loss": 1}]},
            "a:1: messages[0], line 1: half an action: 'a['",
        ),
        (
            {"messages": [{"role": "assistant", "content": "Action: a[1]", "tool_calls": [{}]}]},
            "a:1: messages[0]: tool_calls: the turn has calls of its own; read the file with --from chat",
        ),
        (
            {"messages": [{"role": "assistant", "content": "Action: a[1]", "loss": 1, "train": False}]},
            "a:1: messages[0]: the switches disagree",
        ),
    ],
)
def test_rows_that_cannot_be_read_are_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        REACT.read(row, "a:1")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"instruction": "Do.", "input": "", "output": "Done."}, "alpaca"),
        ({"instruction": "Do.", "input": "", "output": "Action: get up early\nThought: no"}, "alpaca"),
        ({"instruction": "Do.", "input": "", "output": EPISODE}, "react"),
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}, "chat"),
        ({"messages": [{"role": "user", "content": EPISODE}, {"role": "assistant", "content": "Hello"}]}, "chat"),
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": EPISODE}]}, "react"),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, "sharegpt"),
    ],
)
def test_which_importer_is_found(row: dict[str, Any], name: str) -> None:
    assert next(importer.name for importer in ORDER if importer.matches(row)) == name


def test_blocks_are_values() -> None:
    assert parse_react("Action: a[1]", "x") == [Block("", "a", {"input": "1"})]


def test_many_half_actions_in_one_thought_cost_no_more_than_their_length() -> None:
    """Each was cut out of the text to be looked at: minutes for a megabyte."""
    text = "Thought: " + "x Action: b[ " * 20_000
    start = time.perf_counter()
    with pytest.raises(DataError, match="a thought without an action"):
        parse_react(text, "a:1")
    assert time.perf_counter() - start < 5  # 0.1 s; before, 25 s


@pytest.mark.parametrize("last", [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Action: b[2]"}])
def test_a_system_turn_may_stand_between_a_call_and_what_follows(last: dict[str, str]) -> None:
    """It was taken for the turn of the call: KeyError."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Action: a[1]"}]
    sample = read({"messages": [*turns, {"role": "system", "content": "s"}, last]})
    assert [(turn["role"], turn.get("name")) for turn in sample["messages"][2:4]] == [("system", None), ("tool", "a")]

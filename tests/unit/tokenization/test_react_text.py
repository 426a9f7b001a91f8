import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.libs.finetune.agent.tokenization.react_text import read_react


def tool(name, required=(), **types):
    properties = {key: {"type": kind} for key, kind in types.items()}
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("search", ["query"], query="string", limit="integer"), tool("add", ["a", "b"], a="integer", b="integer"),
         tool("wait", ["seconds"], seconds="integer"), tool("now")]  # fmt: skip


def call(text, tools=TOOLS):
    parsed = read_react(text, tools)
    assert parsed.error is None, parsed.error
    [made] = parsed.calls
    return made.name, made.arguments


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("Action: search[tea]", "search", {"query": "tea"}),
        ("Action: search[tea [green]]", "search", {"query": "tea [green]"}),
        ("Action: search[two\nlines]", "search", {"query": "two\nlines"}),
        ("Action: search[tea]\nThat will tell.", "search", {"query": "tea"}),
        ('Action: search[{"query": "tea", "limit": 2}]', "search", {"query": "tea", "limit": 2}),
        ("Action: search[{tea}]", "search", {"query": "{tea}"}),
        ("Action: search\nAction Input: tea", "search", {"query": "tea"}),
        ('Action: search\nAction Input: "tea"', "search", {"query": "tea"}),
        ('Action: add\nAction Input: {"a": 1,\n "b": 2}', "add", {"a": 1, "b": 2}),
        ('Action: add\nAction Input: {"a": 1, "b": 2} and so on', "add", {"a": 1, "b": 2}),
        ("Action 3: wait[5]", "wait", {"seconds": 5}),
        ("**Action:** wait[5]", "wait", {"seconds": 5}),
        ("**Action**: wait[5]", "wait", {"seconds": 5}),
        ("action: now", "now", {}),
        ("Action: now[]", "now", {}),
        ("Action: now\nAction Input:", "now", {}),
        ("Action: elsewhere[x]", "elsewhere", {"input": "x"}),
        ("Action: finish[12]", "finish", {"answer": "12"}),
        ("Action: Finish[a [b] c]", "finish", {"answer": "a [b] c"}),
        ('Action: finish\nAction Input: {"answer": 12}', "finish", {"answer": 12}),
        ("Action: finish\nAction Input: twelve", "finish", {"answer": "twelve"}),
        ("Final Answer: twelve\nor so", "finish", {"answer": "twelve\nor so"}),
        ("Thought: I know.\nFinal Answer: 12\nObservation: no", "finish", {"answer": "12"}),
    ],
)
def test_a_step_in_its_many_forms(text, name, arguments):
    assert call(text) == (name, arguments)
    assert call(f"Thought: Hm.\n{text}") == (name, arguments)


def test_of_an_invented_episode_only_the_first_step_counts():
    text = "Thought: a\nAction: now[]\nObservation: 12:00\nThought: b\nAction: search[tea]"
    parsed = read_react(text, TOOLS)
    assert (parsed.content, [made.name for made in parsed.calls]) == ("a", ["now"])
    assert call("Thought: a\nAction: now\nThought: b\nAction: search[tea]") == ("now", {})


@pytest.mark.parametrize("start", ["<think>\n", ""])  # some templates write <think> into the prompt
def test_what_a_reasoning_model_thinks_first_holds_no_action(start):
    parsed = read_react(f"{start}Action: now?\n</think>\n\nThought: a\nAction: search[tea]", TOOLS)
    assert (parsed.reasoning, parsed.content, parsed.calls[0].name) == ("Action: now?", "a", "search")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("The answer is 12.", "expected a line 'Action: tool' or 'Final Answer: ...', found neither"),
        ("Observation: 12\nAction: now", "expected a line 'Action: tool' or 'Final Answer: ...', found neither"),
        ("Final Answer: \nObservation: 12", "expected the answer after 'Final Answer:', found nothing"),
        ("Action: ", "expected 'Action: tool[input]' or an 'Action Input:' line, found ''"),
        ("Action: search[tea", "expected 'Action: tool[input]' or an 'Action Input:' line, found 'search[tea'"),
        ("Action:\nAction Input: x", "expected the name of a tool after 'Action:', found nothing"),
        ("Action: add[1]", "'add' takes a, b; expected a JSON object with them, found '1'"),
        ("Action: now[x]", "'now' takes no input; expected a JSON object with them, found 'x'"),
        ("Action: wait[long]", "the action input is no valid JSON: Expecting value, found 'long'"),
        ("Action: wait[true]", "'seconds' of 'wait': expected integer, found 'true'"),
        ('Action: add\nAction Input: {"a": 1', "the action input is no valid JSON: Expecting ',' delimiter, found"),
        ('Action: add\nAction Input: {"a": NaN}', "the action input is no valid JSON: NaN is no JSON value, found"),
    ],
)
def test_what_cannot_be_read_says_why_and_keeps_the_text(text, error):
    parsed = read_react(text, TOOLS)
    assert parsed.error.startswith(error)
    assert parsed.content == text and not parsed.calls


def test_a_tool_named_finish_is_a_tool():
    assert call("Action: finish[12]", [tool("finish", ["value"], value="integer")]) == ("finish", {"value": 12})


@given(st.text())
def test_any_text_ends_in_a_call_or_an_error(text):
    for given_text in (text, f"Action: {text}", f"Action: search\nAction Input: {text}", f"Action: search[{text}]"):
        parsed = read_react(given_text, TOOLS)
        assert (parsed.error is None) == (len(parsed.calls) == 1)


def test_the_end_of_a_thought_in_an_input_ends_no_thought():
    assert call('Action: search\nAction Input: {"</think>": null}') == ("search", {"</think>": None})
    parsed = read_react("I could write\nAction: no[x]\n</think>\nAction: search[tea]", TOOLS)
    assert (parsed.calls[0].name, parsed.reasoning) == ("search", "I could write\nAction: no[x]")


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text())))
def test_json_arguments_come_back_whatever_is_in_them(arguments):
    assert call(f"Action: search\nAction Input: {json.dumps(arguments)}") == ("search", arguments)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.libs.finetune.agent import DataError
from sage.libs.finetune.agent.evaluation.scorers.calls import calls_of_row, plain_calls, read_calls

TOOLS = [{"type": "function", "function": {"name": "area", "parameters": {}}}]
JSON = '{"name": "area", "arguments": {"base": 10}}'


def names_and_arguments(reply):
    return [(call.name, call.arguments) for call in read_calls(reply, TOOLS).calls]


@pytest.mark.parametrize(
    "reply",
    [
        JSON,
        f"<tool_call>\n{JSON}\n</tool_call><|im_end|>",
        "[area(base=10)]",
        "area(base=10)",
        "[area(base=10)]<|im_end|>",
        "<think>\nf(x)\n</think>\n\n[area(base=10)]",
        "```python\n[area(base=10)]\n```",
        "```[area(base=10)]```",
        "`area(base=10)`",
        " [ area(base=10) ] </s>",
        "I shall measure it.\n[area(base=10)]",
    ],
)
def test_one_call_in_every_notation(reply):
    assert names_and_arguments(reply) == [("area", {"base": 10})]


@pytest.mark.parametrize("reply", ["[f(a=1), g.h(b='x')]", "f(a=1), g.h(b='x')", "f(a=1)\ng.h(b='x')"])
def test_several_python_calls_and_dotted_names(reply):
    assert names_and_arguments(reply) == [("f", {"a": 1}), ("g.h", {"b": "x"})]


def test_python_literals_of_every_kind():
    assert names_and_arguments("[f(a=-1.5, b=None, c=True, d=(1, [2]), e={'k': 'it\\'s'}, f='[g(x=1)]')]") == [
        ("f", {"a": -1.5, "b": None, "c": True, "d": (1, [2]), "e": {"k": "it's"}, "f": "[g(x=1)]"})
    ]


def test_json_inside_python_is_an_argument_and_python_inside_json_is_text():
    assert names_and_arguments('[f(a={"name": "x", "arguments": {}})]') == [
        ("f", {"a": {"name": "x", "arguments": {}}})
    ]
    assert names_and_arguments('{"name": "run", "arguments": {"code": "[f(a=1)]"}}') == [("run", {"code": "[f(a=1)]"})]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ("[area(10)]", "the call of 'area' has an argument without a name"),
        ("[area(**{'base': 1})]", "the call of 'area' has an argument without a name"),
        ("[area(base=width)]", "the argument 'base' of 'area' is no literal"),
        ("[area(base=2 * 5)]", "the argument 'base' of 'area' is no literal"),
        ("[area(base=__import__('os').getcwd())]", "the argument 'base' of 'area' is no literal"),
        ("[area(base={1, 2})]", "the argument 'base' of 'area' is no JSON value"),
        ("[area(base=1e999)]", "the argument 'base' of 'area' is no JSON value"),
        ("[area(base='\\ud83d')]", "the argument 'base' of 'area' is no JSON value"),
        ("[area(base=10), 5]", "the Python holds something else than calls"),
        ("[area(base=10", "the Python call is not closed, or text follows it"),
        ("area(base=10", "the Python call is not closed, or text follows it"),
        ("[area(base=" + "-" * 100_000 + "1)]", "the call is no valid Python"),
        ("[area(base=" + "(" * 1000 + "1)]", "the call is no valid Python"),
        ('{"name": "area", "arguments": {"base": 10', "the call is no valid JSON"),
    ],
)
def test_a_call_that_cannot_be_read_is_an_attempt(reply, error):
    read = read_calls(reply, TOOLS)
    assert read.attempted and not read.calls
    assert read.error is not None and read.error.startswith(error)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "The area is 25 (in metres).",
        "sqrt(16) is 4",
        "sqrt(16)",
        "[see (1)] and so on",
        "f(x) = 2x",
        "As said (twice)\n[note(s) follow]\nthat is all.",
        '{"total": 5}',
    ],
)
def test_words_are_no_call(reply):
    assert not read_calls(reply, TOOLS).attempted


@pytest.mark.parametrize(
    ("reply", "after_words"),
    [
        (JSON, False),
        (f"<think>\nHm.\n</think>\n\n{JSON}", False),
        (f"Let me see.\n{JSON}", True),
        (f"<think>\nHm.\n</think>\n\nLet me see.\n{JSON}", True),
        (f"{JSON}\nThat was it.", False),
        ("[area(base=10)]", False),
        ("Let me see.\n[area(base=10)]", True),
    ],
)
def test_whether_words_come_first(reply, after_words):
    assert read_calls(reply, TOOLS).after_words is after_words


@given(st.text() | st.text("[]()f.g=,'\"{}:1<>`\n\\ "))
def test_any_text_can_be_read(reply):
    read = read_calls(reply, TOOLS)
    assert read.error is None or not read.calls


def test_a_row_ends_in_calls_or_in_none():
    function = {"name": "area", "arguments": '{"base": 10}'}
    turn = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": function}]}
    assert [call.arguments for call in calls_of_row({"messages": [turn]}, "row 1")] == [{"base": 10}]
    assert calls_of_row({"messages": [{"role": "assistant", "content": "25."}]}, "row 1") == []
    assert calls_of_row({"messages": [{"role": "user", "content": "Hi"}]}, "row 1") is None
    assert calls_of_row({"prompt": "Hi"}, "row 1") is None


def test_a_call_written_as_text_in_a_row_is_not_overlooked():
    assert len(calls_of_row({"messages": [{"role": "assistant", "content": JSON}]}, "row 1")) == 1
    with pytest.raises(DataError, match=r"row 1: messages\[0\].content: holds a call that cannot be read"):
        calls_of_row({"messages": [{"role": "assistant", "content": JSON[:-2]}]}, "row 1")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "row 1: expected: is not valid JSON"),
        ("[1]", r"row 1: expected\[0\]: expected a call with 'name' and 'arguments', found 1"),
        ({"arguments": {}}, r"row 1: expected\[0\]: expected a call"),
        ({"name": "f", "arguments": [1]}, r"row 1: expected\[0\].arguments: expected an object, found list"),
    ],
)
def test_no_call(value, message):
    with pytest.raises(DataError, match=message):
        plain_calls(value, "row 1: expected")

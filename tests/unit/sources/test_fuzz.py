"""Any JSON at any importer ends in samples or in a DataError that says where; so does any file."""

from __future__ import annotations

import copy
import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent.chatml import from_chatml
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.sources.files import read_rows
from sage.libs.finetune.agent.sources.importers.known import IMPORTERS
from sage.libs.finetune.agent.sources.rows import read_sample
from sage.libs.finetune.agent.sources.stream import import_rows

WHERE = "f.jsonl:7"
SETTINGS = settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)

TEXT = st.text(max_size=12) | st.sampled_from(
    [
        "user", "assistant", "system", "tool", "function", "tool_call", "tool_response", "developer", "human", "gpt",
        "function_call", "observation", "agent", "text", "tool_use", "tool_result", "thinking", "finish", "search",
        "{}", "[]", "[{}]", '{"name": "f"}', '{"name": "f", "arguments": "{}"}', '[{"name": "f"}, {"name": "g"}]',
        "Thought: a\nAction: search[b]\nObservation: c\nThought: d\nAction: finish[e]", "Action: f\nAction Input: {",
        "Final Answer: 4", "ATIF-v1.4", "ATIF-v1.8", "1.8", "True", "id", "",
    ]
)  # fmt: skip
ATOM = (
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from([10**400, -0.0, 0.5, 1e300, "\ud800"])
    | st.floats(allow_nan=False, allow_infinity=False) | TEXT
)  # fmt: skip
NAMES = st.sampled_from(
    [
        "role", "content", "tool_calls", "tool_call_id", "name", "id", "type", "function", "arguments", "parameters",
        "function_call", "weight", "train", "loss", "loss_mask", "reasoning_content", "reasoning", "from", "value",
        "text", "thinking", "input", "tool_use_id", "is_error", "input_schema", "instruction", "output", "system",
        "history", "tools", "functions", "metadata", "messages", "conversations", "conversation", "chosen", "rejected",
        "task_id", "steps", "thought", "action", "action_input", "observation", "reward", "error", "reply", "success",
        "total_reward", "schema_version", "agent", "step_id", "source", "message", "results", "source_call_id",
        "function_name", "tool_definitions", "is_copied_context", "llm_call_count", "extra", "final_metrics",
        "prompt", "completion", "question", "trajectory", "properties", "opening", "signature",
    ]
)  # fmt: skip
VALUE = st.recursive(
    ATOM,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | TEXT, inner, max_size=5),
    max_leaves=12,
)


def some(required: dict, **optional):
    return st.fixed_dictionaries(required, optional=optional)


def places(value):
    """Where something stands in a value: each container with its key or index."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield value, key
        yield from places(child)


@st.composite
def spoiled(draw, form):
    """A row of a form in which up to two values are replaced by anything."""
    row = copy.deepcopy(draw(form))
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
        container, key = draw(st.sampled_from(list(places(row))))
        container[key] = draw(VALUE)
    return row


ROLE = st.sampled_from(["user", "assistant", "assistant", "tool", "system", "function", "tool_response", "developer"])
SWITCH = st.sampled_from([True, False, None, 0, 1, 0.5])
META = st.dictionaries(NAMES, VALUE, max_size=3)
ARGUMENTS = st.dictionaries(TEXT, VALUE, max_size=2)
CALL = some(
    {"function": some({"name": TEXT, "arguments": ARGUMENTS | st.sampled_from(["", "{}", '{"a": 1}'])})}, id=TEXT
)
BLOCK = some(
    {"type": st.sampled_from(["text", "tool_use", "tool_result", "thinking", "image"])},
    text=TEXT, thinking=TEXT, id=TEXT, name=TEXT, input=VALUE, tool_use_id=TEXT, content=TEXT, is_error=st.booleans(),
)  # fmt: skip
MESSAGE = some(
    {"role": ROLE, "content": TEXT | st.lists(BLOCK, max_size=3)},
    tool_calls=st.lists(CALL, max_size=3), function_call=CALL, tool_call_id=TEXT, name=TEXT, weight=SWITCH,
    train=SWITCH, loss=SWITCH, loss_mask=SWITCH, reasoning_content=TEXT,
)  # fmt: skip
TURNS = st.tuples(
    some({"role": st.just("user"), "content": TEXT}),
    some({"role": st.just("assistant"), "tool_calls": st.lists(CALL, min_size=1, max_size=3)}, weight=SWITCH),
    some({"role": st.just("tool"), "content": TEXT}, tool_call_id=TEXT, name=TEXT),
    some({"role": st.sampled_from(["tool", "assistant"]), "content": TEXT}, loss=SWITCH),
).map(list)
CLEAN = st.text("abcde :[]{}\n", max_size=12)
USED = some(
    {"type": st.just("tool_use"), "id": CLEAN, "name": CLEAN, "input": st.dictionaries(CLEAN, ATOM, max_size=2)}
)
RESULT = some({"type": st.just("tool_result"), "tool_use_id": CLEAN, "content": CLEAN}, is_error=st.booleans())
WORDS = some({"type": st.just("text"), "text": CLEAN}, citations=VALUE)
THOUGHT = some({"type": st.just("thinking"), "thinking": CLEAN}, signature=CLEAN)
BLOCKS = some(
    {"role": st.just("assistant"), "content": st.tuples(THOUGHT, WORDS, USED).map(list) | CLEAN}, loss=SWITCH
) | some({"role": st.just("user"), "content": st.lists(RESULT | WORDS, max_size=3) | CLEAN})
LINE = st.builds(
    "{}{}\n".format,
    st.sampled_from(
        ["Thought: ", "Action: search", "Action: ", "Action Input: ", "Observation: ", "Action: finish", "Answer: ",
         "Final Answer: ", "Thought 1: ", "Action 1: lookup", "Episode finished, reward = True", "Question: ", ""]
    ),
    CLEAN | CLEAN.map("[{}]".format) | st.sampled_from(["[a]", '{"q": 1}', "[a]\nObservation: b", '{"q": '])
)  # fmt: skip
REACT_TEXT = st.lists(LINE, max_size=8).map("".join)
SPOKEN = some({"role": st.sampled_from(["user", "assistant"]), "content": REACT_TEXT}, weight=SWITCH)
SAID = (
    some({"from": st.sampled_from(["human", "gpt", "observation", "system"]), "value": TEXT})
    | some({"from": st.just("gpt"), "value": TEXT}, loss=SWITCH, weight=SWITCH)
    | some(
        {
            "from": st.just("function_call"),
            "value": st.sampled_from(['{"name": "f"}', '[{"name": "g", "arguments": "{}"}]']),
        }
    )
)
TOOLS = st.lists(
    some({"name": TEXT}, parameters=META, input_schema=META)
    | some({"type": st.just("function"), "function": some({"name": TEXT}, parameters=META)}),
    max_size=2,
)
STEP = some(
    {"action": TEXT},
    thought=TEXT,
    action_input=ARGUMENTS,
    observation=TEXT,
    reward=st.sampled_from([0, 1, 0.5]),
    error=TEXT,
    reply=TEXT,
)
ATIF_STEP = some({"source": st.sampled_from(["system", "user"]), "message": TEXT}) | some(
    {"source": st.just("agent"), "message": TEXT},
    reasoning_content=TEXT, is_copied_context=st.booleans(), llm_call_count=st.integers(0, 2), extra=META,
    tool_calls=st.lists(some({"tool_call_id": TEXT, "function_name": TEXT, "arguments": ARGUMENTS}), max_size=2),
    observation=some({"results": st.lists(some({"content": TEXT}, source_call_id=TEXT), max_size=2)}),
)  # fmt: skip
CHAT = some({"messages": TURNS}, tools=TOOLS, system=TEXT) | some(
    {"messages": st.lists(MESSAGE, min_size=1, max_size=5)}, tools=TOOLS, functions=TOOLS, metadata=META
)
REACT = some({"instruction": TEXT, "output": REACT_TEXT}, input=TEXT, tools=TOOLS, reward=TEXT) | some(
    {"messages": st.lists(SPOKEN, min_size=1, max_size=5)}, tools=TOOLS, metadata=META
)
FORMS = {
    "chat": CHAT,
    "anthropic": some({"messages": st.lists(BLOCKS, min_size=1, max_size=5)}, tools=TOOLS, system=TEXT),
    "sharegpt": some({"conversations": st.lists(SAID, min_size=1, max_size=5)}, tools=TOOLS, system=TEXT, id=TEXT),
    "alpaca": some(
        {"instruction": TEXT, "output": TEXT}, input=TEXT, system=TEXT, reward=TEXT,
        history=st.lists(st.lists(TEXT, min_size=2, max_size=2), max_size=2),
    ),
    "trajectory": some(
        {"task_id": TEXT, "instruction": TEXT, "steps": st.lists(STEP, min_size=1, max_size=4)},
        success=st.booleans(), total_reward=st.floats(0, 1), tools=TOOLS, system_prompt=TEXT, error=TEXT, metadata=META,
    ),
    "react": REACT,
    "fireact": REACT,
    "atif": some(
        {"schema_version": st.just("ATIF-v1.8"), "steps": st.lists(ATIF_STEP, min_size=1, max_size=4)},
        agent=some({"name": TEXT}, tool_definitions=TOOLS, extra=META), extra=META, final_metrics=META,
    ),
}  # fmt: skip
FORMS = {name: spoiled(form) for name, form in FORMS.items()}
ROW = st.one_of(VALUE, st.dictionaries(NAMES, VALUE, max_size=6), *FORMS.values())
OBJECT = ROW.filter(lambda row: isinstance(row, dict))


@pytest.mark.parametrize("name", list(IMPORTERS))
@SETTINGS
@given(data=st.data())
def test_any_object_at_any_importer_is_a_sample_or_an_error_that_says_where(name, data):
    importer = IMPORTERS[name]
    row = data.draw(st.one_of(OBJECT, FORMS[name], FORMS[name]))
    before = repr(row)
    assert importer.matches(row) in (True, False)
    assert importer.accepts(row) in (True, False)
    try:
        sample = read_sample(importer.read(row, WHERE), WHERE)
    except DataError as error:
        assert str(error).startswith(WHERE)
        return
    finally:
        assert repr(row) == before  # the row is the caller's
    assert read_sample(sample, WHERE) == sample
    assert isinstance(sample["metadata"], dict)
    try:
        from_chatml(sample, WHERE)
    except DataError as error:
        assert str(error).startswith(WHERE)


@pytest.mark.parametrize("form", ["lines", "array", "gzip"])
@SETTINGS
@given(rows=st.lists(ROW, max_size=4), source=st.sampled_from(["auto", *IMPORTERS]))
def test_any_rows_in_a_file_come_back_one_by_one(tmp_path, form, rows, source):
    path = tmp_path / "rows"
    texts = [json.dumps(row) for row in rows]
    text = "[" + ",\n".join(texts) + "]" if form == "array" else "\n".join(texts)
    path.write_bytes(gzip.compress(text.encode()) if form == "gzip" else text.encode())
    try:
        found = list(import_rows(path, source))
    except DataError as error:
        assert str(error).startswith(str(path)) and str(error).isprintable()
        return
    array = form == "array" or text.startswith("[")
    assert array or [row.where for row in found] == [f"{path}:{number}" for number in range(1, len(rows) + 1)]
    for row in found:
        assert (row.sample is None) != (row.error is None)
        assert row.where.startswith(f"{path}:")
        if row.error is not None:
            assert str(row.error).startswith(row.where) and str(row.error).isprintable()
        else:
            assert read_sample(row.sample, "again") == row.sample


BYTES = st.binary(max_size=60) | st.lists(
    st.sampled_from(
        [b"{", b"}", b"[", b"]", b",", b":", b'"a"', b'"', b"1", b"-", b"NaN", b"1e999", b"\n", b" ", b"\xef\xbb\xbf",
         b"\xff", b"\xc3", b"\\u", b"\\ud83d", b"{}", b'{"a": 1}', b'{"a": 1, "a": 2}', b"null", b"[[", b"\r\n", b"\0"]
    ),
    max_size=14,
).map(b"".join)  # fmt: skip


@SETTINGS
@given(content=BYTES, head=st.sampled_from([b"", b"[", b"{\n", b"\x1f\x8b", b"\x1f\x8b\x08\x00", b"PAR1"]))
def test_any_bytes_are_rows_or_errors_that_say_where(tmp_path, content, head):
    path = tmp_path / "bytes"
    path.write_bytes(head + content)
    try:
        for where, row in read_rows(path):
            assert where.startswith(f"{path}:")
            assert isinstance(row, dict) or str(row).startswith(f"{where}: ")
    except DataError as error:
        assert str(error).startswith(f"{path}:") and "\n" not in str(error)

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import tiny_tokenizer

from sage.libs.finetune.agent.tokenization.parse import ParsedCall, parse_reply

F = ParsedCall("f", {"a": 1})
G = ParsedCall("g", {})
CALL = '{"name": "f", "arguments": {"a": 1}}'
OTHER = '{"name": "g", "arguments": {}}'


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("Just words.", "Just words.", []),
        ("Words.<|im_end|>", "Words.", []),
        ("Words.<|eot_id|><|end_of_text|>", "Words.", []),
        ("Words.</s>\n", "Words.", []),
        ("", "", []),
        (CALL, "", [F]),
        (f"Thought.\n{CALL}<|im_end|>\n", "Thought.", [F]),
        (f"Thought: {CALL}", "Thought: ", [F]),
        (f"{CALL}\n{OTHER}", "", [F, G]),
        (f"Both.\n[{CALL}, {OTHER}]", "Both.", [F, G]),
        (f"{CALL}; {OTHER}", "", [F, G]),
        ('{"name": "f", "parameters": {"a": 1}}', "", [F]),
        ('{"type": "function", "name": "f", "parameters": {"a": 1}}', "", [F]),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', "", [F]),
        ('{\n  "name": "f",\n  "arguments": {\n    "a": 1\n  }\n}', "", [F]),
        (f"<tool_call>\n{CALL}\n</tool_call>", "", [F]),
        (f"Hm.\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>{OTHER}</tool_call><|im_end|>", "Hm.", [F, G]),
        (f"<tool_call>[{CALL}, {OTHER}]</tool_call>", "", [F, G]),
        (f"<tool_call>\n{CALL}", "", [F]),
        (f"<|python_tag|>{CALL}<|eom_id|>", "", [F]),
        (f"<|python_tag|>{CALL}; {OTHER}", "", [F, G]),
        (f"Before.\n{CALL}\nObservation: 3", "Before.\nObservation: 3", [F]),
        (f"<tool_call>{CALL}</tool_call> done", "done", [F]),
        (f'<think>Maybe {{"name": "x", "arguments": {{}}}}?</think>\n{CALL}',
         '<think>Maybe {"name": "x", "arguments": {}}?</think>', [F]),
        ('{"name": "f", "arguments": {"q": "</tool_call> } ] {\\"name\\": 1"}}', "",
         [ParsedCall("f", {"q": '</tool_call> } ] {"name": 1'})]),
        ('{"name": "f", "arguments": {"q": "<tool_call><think></think><|python_tag|>"}}', "",
         [ParsedCall("f", {"q": "<tool_call><think></think><|python_tag|>"})]),
        (f"<think>cut off {CALL}", f"<think>cut off {CALL}", []),
        ('{"total": 5}', '{"total": 5}', []),
        ('{"name": "Ada", "age": 36}', '{"name": "Ada", "age": 36}', []),
        ('{"result": {"name": "f", "arguments": {}}}', '{"result": {"name": "f", "arguments": {}}}', []),
        ("[1, 2]", "[1, 2]", []),
        ("[]", "[]", []),
        ("{curly} [1] {", "{curly} [1] {", []),
        (f"See [1]\n{CALL}", "See [1]", [F]),
        ("[" * 100_000, "[" * 100_000, []),
        ('{"a":' * 2_000, '{"a":' * 2_000, []),
    ],
)  # fmt: skip
def test_reads(text: str, content: str, calls: list[ParsedCall]) -> None:
    reply = parse_reply(text)
    assert (reply.content, reply.calls, reply.error) == (content, calls, None)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"name": "f", "arguments": {"a": 1}', "no valid JSON.*end of the reply"),
        ('{"name": "f", "arguments": {"a": 1,}}', "no valid JSON"),
        ('{"name": "f", "argum', "no valid JSON"),
        ("{'name': 'f', 'arguments': {}}", "no valid JSON"),
        ('{"name": "f", "arguments": {"a": NaN}}', "NaN"),
        ('{"arguments": {"a": 1}}', "lacks its name"),
        ('{"name": 5, "arguments": {}}', "lacks its name"),
        ('{"name": "f", "arguments": [1]}', "are a list"),
        ('{"name": "f", "arguments": null}', "are null"),
        ('{"name": "f", "arguments": "a=1"}', "no valid JSON"),
        ('{"name": "f", "arguments": "{} {}"}', "go on after"),
        (f"[{CALL}, 3]", "a call is a number"),
        (f"[{CALL}", "no valid JSON"),
        (f'{CALL}\n{{"name": "g", "arguments": ', "no valid JSON"),
        ("<tool_call>\nf(a=1)\n</tool_call>", "no valid JSON"),
        ("<tool_call>", "no valid JSON"),
        ('<tool_call>{"name": "f"}</tool_call>', "'f' lacks its arguments"),
        ('<tool_call>{"total": 5}</tool_call>', "lacks its name"),
        ("<tool_call>[]</tool_call>", "a call is a list"),
        (f"<tool_call>{CALL}}}</tool_call>", "expected </tool_call>"),
        ('<|python_tag|>search.call(query="x")', "no valid JSON"),
    ],
)
def test_a_broken_call_is_an_error_and_no_answer(text: str, error: str) -> None:
    reply = parse_reply(f"{text}<|im_end|>")
    assert reply.error is not None

    assert re.search(error, reply.error)
    assert (reply.calls, reply.content) == ([], text)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)
tricky = st.lists(st.sampled_from([*'{}[]"\\\né:, ', "<tool_call>", "</tool_call>", "<think>", "<|im_end|>"])).map(
    "".join
)
calls = st.lists(
    st.builds(
        ParsedCall,
        name=st.from_regex(r"[a-z_]{1,12}", fullmatch=True),
        arguments=st.dictionaries(st.text(max_size=8), values | tricky, max_size=4),
    ),
    max_size=3,
)
contents = st.text(alphabet=st.characters(exclude_characters="<{[", codec="utf-8"), max_size=60)


@given(content=contents, calls=calls, tool_format=st.sampled_from(["compact", "json"]))
@settings(max_examples=100, deadline=None)
def test_parsing_is_the_inverse_of_rendering(content: str, calls: list[ParsedCall], tool_format: str) -> None:
    message: Any = {
        "role": "assistant",
        "content": content,
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in calls
        ],
    }
    head = "<|im_start|>assistant\n"
    text = tiny_tokenizer().apply_chat_template([message], tokenize=False, tool_format=tool_format)
    assert text.startswith(head)
    reply = parse_reply(text.removeprefix(head).removesuffix("\n"))
    assert (reply.content, reply.calls, reply.error) == (content, calls, None)

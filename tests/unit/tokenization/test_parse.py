from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import new_tokenizer
from tests.unit.tokenization.conversations import CALLS, TRICKY, WORDS
from tests.unit.tokenization.templates import family_tokenizer

from sage.libs.finetune.agent.tokenization.layout import TOOL_FORMATS, layout
from sage.libs.finetune.agent.tokenization.parse import ParsedCall, ParsedReply, parse_reply
from sage.libs.finetune.agent.tokenization.template import prepare_template

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
        (f'Hm. <think>Maybe {{"name": "x", "arguments": {{}}}}?</think>\n{CALL}',
         'Hm. <think>Maybe {"name": "x", "arguments": {}}?</think>', [F]),
        (f'[TOOL_CALLS] [{{"name": "f", "arguments": {{"a": 1}}, "id": "abcdefghi"}}, {OTHER}]</s>', "", [F, G]),
        ('{"name": "f", "arguments": {"q": "[TOOL_CALLS]</think>"}}', "",
         [ParsedCall("f", {"q": "[TOOL_CALLS]</think>"})]),
        ('{"name": "f", "arguments": {"a": 1e5, "b": -0.0, "c": 1E-7}}', "",
         [ParsedCall("f", {"a": 100000.0, "b": -0.0, "c": 1e-7})]),
        ('{"name": "f", "arguments": {"q": "\\ud83d\\ude00"}}', "", [ParsedCall("f", {"q": "😀"})]),
        ('{"size": 1e999}', '{"size": 1e999}', []),
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
        ('{"name": "f", "arguments": {"a": 1e999}}', "1e999 is too large"),
        ('{"name": "f", "arguments": {"a": "\\ud83d"}}', r"'f' holds half a character \('\\ud83d'\)"),
        ('{"name": "\\ud83d", "arguments": {}}', "holds half a character"),
        ('[TOOL_CALLS] search(query="x")', "no valid JSON"),
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


@pytest.mark.parametrize(
    ("text", "reasoning", "content", "calls"),
    [
        ("<think>\n2 + 2\n</think>\n\n4", "2 + 2", "4", []),
        ("<think>2 + 2</think>4<|im_end|>", "2 + 2", "4", []),
        ("\n<think>\n\n</think>\n\n4", "", "4", []),
        ("2 + 2\n</think>\n\n4", "2 + 2", "4", []),  # the prompt ended in <think>
        (f"<think>\nMaybe {OTHER}?\n</think>\n\n{CALL}", f"Maybe {OTHER}?", "", [F]),
        (f"Maybe {OTHER}?\n</think>\n\nNo.\n{CALL}", f"Maybe {OTHER}?", "No.", [F]),
        ("<think>\na <think> b\n</think>\n\n4 </think> 5", "a <think> b", "4 </think> 5", []),
        ("<think>\n\n a\n\n</think>\n\n\n4", "\n a\n", "\n4", []),
        ("Well. <think>x</think> 4", "", "Well. <think>x</think> 4", []),
    ],
)
def test_reads_the_thought_apart(text: str, reasoning: str, content: str, calls: list[ParsedCall]) -> None:
    reply = parse_reply(text)
    assert (reply.reasoning, reply.content, reply.calls, reply.error) == (reasoning, content, calls, None)


def reads_as_words(content: str) -> bool:
    """Text has no escapes: words that look like a call, a thought or a stop token are read as what they look like."""
    alone = parse_reply(content)
    before_a_call = parse_reply(f"{content}\n{CALL}")
    return alone == ParsedReply(content) and before_a_call == ParsedReply(content, [F])


def rendered_turn(message: Any, tokenizer: Any) -> str:
    text, [(start, end)] = layout([{"role": "user", "content": "?"}, message], None, tokenizer)
    return text[start:end]


def expected_of(message: Any) -> tuple[str, list[ParsedCall]]:
    functions = [call["function"] for call in message.get("tool_calls", [])]
    return message["content"], [ParsedCall(function["name"], function["arguments"]) for function in functions]


@st.composite
def turns(draw: st.DrawFn, thoughts: bool = True, with_words: bool = True) -> Any:
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    if with_words:
        message["content"] = draw((WORDS | TRICKY).filter(reads_as_words))
    if thoughts:
        message["reasoning_content"] = draw((WORDS | TRICKY).filter(lambda text: "</think>" not in text))
    message["tool_calls"] = draw(CALLS)
    return message


def prepared(tool_format: Any) -> Any:
    tokenizer = new_tokenizer()
    prepare_template(tokenizer, tool_format, small_model=True)
    return tokenizer


OWN = {name: prepared(name) for name in TOOL_FORMATS}
OTHERS = {name: family_tokenizer(name) for name in ("qwen2.5", "llama3", "llama3-marked", "mistral")}


@given(message=turns(), tool_format=st.sampled_from(TOOL_FORMATS))
@settings(max_examples=200, deadline=None)
def test_parsing_is_the_inverse_of_our_rendering(message: Any, tool_format: str) -> None:
    reply = parse_reply(rendered_turn(message, OWN[tool_format]))
    assert (reply.content, reply.calls, reply.error) == (*expected_of(message), None)
    assert reply.reasoning == message["reasoning_content"]


@given(message=turns(thoughts=False))
@settings(max_examples=100, deadline=None)
def test_parsing_is_the_inverse_of_qwen(message: Any) -> None:
    reply = parse_reply(rendered_turn(message, OTHERS["qwen2.5"]))
    assert (reply.content, reply.calls, reply.error) == (*expected_of(message), None)


@given(message=turns(thoughts=False))
@settings(max_examples=100, deadline=None)
def test_parsing_is_the_inverse_of_llama3(message: Any) -> None:
    """Llama 3 puts no line end between words and call, so one at the end of the words is taken for it."""
    reply = parse_reply(rendered_turn(message, OTHERS["llama3-marked"]))
    content, calls = expected_of(message)
    assert (reply.content, reply.calls, reply.error) == (content.removesuffix("\n") if calls else content, calls, None)


@given(call=CALLS.filter(bool), name=st.sampled_from(["llama3", "mistral"]))
@settings(max_examples=60, deadline=None)
def test_parsing_is_the_inverse_of_calls_alone(call: Any, name: str) -> None:
    message = {"role": "assistant", "content": "", "tool_calls": call if name == "mistral" else call[:1]}
    reply = parse_reply(rendered_turn(message, OTHERS[name]))
    assert (reply.content, reply.calls, reply.error) == (*expected_of(message), None)


@given(text=st.text() | TRICKY)
@settings(max_examples=200, deadline=None)
def test_any_text_is_read_or_refused_with_its_words(text: str) -> None:
    reply = parse_reply(text)
    if reply.error is not None:
        assert not reply.calls and text.startswith(reply.content)
    json.dumps([[call.name, call.arguments] for call in reply.calls], allow_nan=False, ensure_ascii=False).encode()


@given(content=st.text(alphabet=st.characters(exclude_characters="<{[", codec="utf-8"), max_size=60))
@settings(max_examples=100, deadline=None)
def test_words_without_brackets_are_always_words(content: str) -> None:
    assert reads_as_words(content)


def test_a_deep_nest_is_left_at_once() -> None:  # each of its brackets was tried, which took seconds
    parsed = parse_reply('{"a": ' * 30_000 + '\n{"name": "find", "arguments": {"q": "tea"}}')
    assert [call.name for call in parsed.calls] in ([], ["find"])

"""What becomes of the templates of well-known families: they work, give way to ours, or refuse with one line."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import new_tokenizer
from tests.unit.tokenization.conftest import call
from tests.unit.tokenization.conversations import conversations
from tests.unit.tokenization.templates import FAMILIES, family_tokenizer
from tokenizers.processors import TemplateProcessing

from sage.libs.finetune.agent.chatml import to_chatml
from sage.libs.finetune.agent.errors import DataError, ModelError
from sage.libs.finetune.agent.tokenization.render import IGNORED, render, render_prompt, special_tokens_in
from sage.libs.finetune.agent.tokenization.template import prepare_template, stop_ids
from sage.libs.finetune.agent.types import AgentTrajectory, TrajectoryStep

TOOLS: Any = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}]
SINGLE: Any = [
    {"role": "system", "content": "You help."},
    {"role": "user", "content": "Price?"},
    {"role": "assistant", "content": "", "tool_calls": [call("find", query="tea")]},
    {"role": "tool", "content": "12", "tool_call_id": "call00001"},
    {"role": "assistant", "content": "It is 12."},
]
PARALLEL: Any = [
    *SINGLE[:2],
    {"role": "assistant", "content": "", "tool_calls": [call("find", query="tea"), call("find", query="cake")]},
    {"role": "tool", "content": "12", "tool_call_id": "call00001"},
    {"role": "tool", "content": "7", "tool_call_id": "call00001"},
    {"role": "assistant", "content": "12 and 7."},
    {"role": "user", "content": "Which is less?"},
    {"role": "assistant", "content": "The cake."},
]
WITH_WORDS: Any = [*SINGLE[:2], {**SINGLE[2], "content": "Look it up."}]
WORKING = ("qwen2.5", "llama3", "llama3-marked", "mistral")


def prepared(name: str) -> Any:
    tokenizer = family_tokenizer(name)
    prepare_template(tokenizer, small_model=False)
    return tokenizer


TOKENIZERS = {name: prepared(name) for name in (*WORKING, "qwen3")}


def check(messages: Any, tokenizer: Any, tools: Any = TOOLS) -> None:
    """What holds of every row: the prompts of generation, the server's tokens, labels on turns and their stop only."""
    rendered = render({"messages": messages, "tools": tools}, tokenizer)
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    for index, (start, end) in zip(turns, rendered.turns, strict=True):
        assert render_prompt(messages[:index], tools, tokenizer) == rendered.input_ids[:start]
        assert rendered.labels[start:end] == rendered.input_ids[start:end]
        assert rendered.input_ids[end - 1] in stop_ids(tokenizer)
    inside = {token for start, end in rendered.turns for token in range(start, end)}
    assert all(label == IGNORED for i, label in enumerate(rendered.labels) if i not in inside)
    assert tokenizer.decode(rendered.input_ids) == rendered.text
    text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    assert rendered.text == text
    if tokenizer.bos_token:
        assert rendered.input_ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("name", WORKING)
def test_a_row_with_one_question_and_single_calls_works_everywhere(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    assert tokenizer.chat_template == FAMILIES[name].template
    check(SINGLE, tokenizer)
    served = tokenizer.apply_chat_template(SINGLE, tools=TOOLS, tokenize=True, return_dict=False)
    assert render({"messages": SINGLE, "tools": TOOLS}, tokenizer).input_ids == served


@pytest.mark.parametrize("name", ["qwen2.5", "llama3-marked", "qwen3"])
def test_parallel_calls_keep_their_answers(name: str) -> None:
    """Qwen2.5 puts the answers to parallel calls into one turn; no assistant turn stands in between."""
    check(PARALLEL, TOKENIZERS[name])
    text = render({"messages": PARALLEL, "tools": TOOLS}, TOKENIZERS[name]).text
    assert "12" in text and text.index("12") < text.index("7")
    if name == "qwen2.5":
        merged = (
            "<|im_start|>user\n<tool_response>\n12\n</tool_response>\n<tool_response>\n7\n</tool_response><|im_end|>"
        )
        assert merged in text


@given(messages=conversations(), name=st.sampled_from(["llama3-marked", "qwen3"]))
@settings(max_examples=40, deadline=None)
def test_invariants_hold_for_any_conversation(messages: Any, name: str) -> None:
    """With our template in the JSON format (Qwen3 gives way to it) and with Llama 3's as users patch it."""
    tokenizer = TOKENIZERS[name]
    if name == "llama3-marked":
        messages = [{k: v for k, v in message.items() if k != "reasoning_content"} for message in messages]
    check(messages, tokenizer)


@given(messages=conversations(thoughts=False))
@settings(max_examples=40, deadline=None)
def test_invariants_hold_for_qwen(messages: Any) -> None:
    check(messages, TOKENIZERS["qwen2.5"])


@pytest.mark.parametrize(
    ("name", "messages", "error"),
    [
        ("llama3", PARALLEL, r"message 2: the chat template refuses it \(only single tool-calls at once\)"),
        ("llama3", WITH_WORDS, "message 2: .* drops or rewrites its content"),
        ("mistral", PARALLEL, "template is not prefix-preserving at message 2"),
        (
            "mistral",
            [*SINGLE[:2], {**SINGLE[2], "tool_calls": [{**call("find"), "id": "call_1"}]}],
            r"message 2: the chat template refuses it \(call ids must have 9 characters\)",
        ),
        ("mistral", WITH_WORDS, "message 2: .* drops or rewrites its content"),
    ],
)  # fmt: skip
def test_what_a_template_cannot_show_is_refused_in_one_line(name: str, messages: Any, error: str) -> None:
    with pytest.raises(DataError, match=error) as caught:
        render({"messages": messages, "tools": TOOLS}, TOKENIZERS[name])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "source", "reason"),
    [
        ("qwen2.5", "model", "the model's own chat template shows tools, calls and observations"),
        ("qwen3", "chatml_tools", "own chat template fails .*not prefix-preserving at message 2"),
        ("llama3", "model", "rows with words beside a call are refused"),
        ("llama3-marked", "model", "shows tools, calls and observations"),
        ("mistral", "model", "rows with words beside a call or a second question are refused"),
    ],
)
def test_the_choice_and_its_reason(name: str, source: str, reason: str) -> None:
    import re

    choice = prepare_template(family_tokenizer(name), small_model=False)
    assert choice.source == source
    assert re.search(reason, choice.reason) and "\n" not in choice.reason


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("gemma", r"fails on a conversation with tools \(message 0 or the tools: .*system role not supported"),
        ("phi", r"fails on a conversation with tools \(message 2: the chat template drops the call of 'probe_tool'\)"),
    ],
)
def test_a_template_without_tools_and_without_chatml_tokens_is_one_clear_error(name: str, fault: str) -> None:
    with pytest.raises(ModelError, match=f"the chat template of the tokenizer {fault}.* use a ChatML model"):
        prepare_template(family_tokenizer(name), small_model=False)


@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize("adds", [True, False])
def test_bos_is_what_the_template_writes_never_what_the_tokenizer_adds(writes: bool, adds: bool) -> None:
    """Chat prompts are tokenised without special tokens by servers, so a BOS of the post-processor is never there."""
    tokenizer = new_tokenizer(bos_token="<|endoftext|>")
    bos = tokenizer.bos_token_id
    if adds:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", bos)]
        )
        assert tokenizer("Hi")["input_ids"][0] == bos
    tokenizer.chat_template = ("{{ bos_token }}" if writes else "") + FAMILIES["qwen2.5"].template
    rendered = render({"messages": SINGLE, "tools": TOOLS}, tokenizer)
    served = tokenizer.apply_chat_template(SINGLE, tools=TOOLS, tokenize=True, return_dict=False)
    assert rendered.input_ids == served
    assert rendered.input_ids.count(bos) == (1 if writes else 0)
    prompt = tokenizer.apply_chat_template(SINGLE[:2], tools=TOOLS, add_generation_prompt=True, return_dict=False)
    assert render_prompt(SINGLE[:2], TOOLS, tokenizer) == prompt == rendered.input_ids[: rendered.turns[0][0]]


def test_the_stop_token_is_trained_where_pad_is_eos() -> None:
    tokenizer = new_tokenizer(pad_token="<|im_end|>")
    prepare_template(tokenizer, small_model=True)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    rendered = render({"messages": SINGLE, "tools": TOOLS}, tokenizer)
    assert [rendered.labels[end - 1] for _, end in rendered.turns] == [tokenizer.eos_token_id] * 2


def test_special_tokens_in_a_text() -> None:
    tokenizer = family_tokenizer("qwen2.5")
    tokenizer.add_tokens(["<tool_call>"])
    assert special_tokens_in("Stop: <|im_end|> and <|im_start|>user, <|im_end|>", tokenizer) == [
        "<|im_end|>",
        "<|im_start|>",
    ]
    assert special_tokens_in("<tool_call> is a word, <|im_end is none", tokenizer) == []
    assert special_tokens_in("<s>struck</s>", TOKENIZERS["mistral"]) == ["<s>", "</s>"]
    assert special_tokens_in("", tokenizer) == []


def test_our_own_call_ids_suit_mistral() -> None:
    steps = [TrajectoryStep("", "find", {"query": "tea"}, "12"), TrajectoryStep("", "finish", {"answer": "12"})]
    row = to_chatml(AgentTrajectory("a", "What is tea?", steps, tools=TOOLS))
    assert render(row, TOKENIZERS["mistral"]).turns

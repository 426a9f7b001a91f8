from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import new_tokenizer
from tests.unit.tokenization.conversations import conversations
from tests.unit.tokenization.templates import family_tokenizer

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.tokenization import layout as layout_module
from sage.libs.finetune.agent.tokenization.layout import TOOL_FORMATS, generation_mask, layout, own_template
from sage.libs.finetune.agent.tokenization.render import IGNORED, render

TOOLS: Any = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}]


def own(tool_format: Any) -> Any:
    tokenizer = new_tokenizer()
    tokenizer.chat_template = own_template(tool_format)
    return tokenizer


OWN = {name: own(name) for name in TOOL_FORMATS}
MARKED = {**OWN, "llama3-marked": family_tokenizer("llama3-marked")}


@given(messages=conversations(), tools=st.sampled_from([None, TOOLS]), name=st.sampled_from(TOOL_FORMATS))
@settings(max_examples=60, deadline=None)
def test_the_markers_of_our_template_say_what_prefix_difference_says(messages: Any, tools: Any, name: str) -> None:
    tokenizer = OWN[name]
    for prompt in (False, True):
        slow = layout_module._by_prefixes(messages, tools, tokenizer, prompt)
        assert layout(messages, tools, tokenizer, add_generation_prompt=prompt) == slow


@given(messages=conversations(thoughts=False), name=st.sampled_from(sorted(MARKED)))
@settings(max_examples=60, deadline=None)
def test_labels_agree_with_the_mask_of_the_generation_markers(messages: Any, name: str) -> None:
    """Tokens of a whole text may straddle the border of a turn; such a token is in the mask."""
    tokenizer = MARKED[name]
    rendered = render({"messages": messages, "tools": TOOLS}, tokenizer)
    mask = generation_mask(messages, TOOLS, tokenizer)
    whole = tokenizer(rendered.text, add_special_tokens=False, return_offsets_mapping=True)
    _, spans = layout(messages, TOOLS, tokenizer)
    inside = [any(start < turn_end and end > turn_start for turn_start, turn_end in spans)
              for start, end in whole["offset_mapping"]]  # fmt: skip
    assert mask == [int(is_inside) for is_inside in inside]
    if whole["input_ids"] == rendered.input_ids:
        assert mask == [int(label != IGNORED) for label in rendered.labels]


def test_a_template_without_markers_has_no_mask(messages: Any, tools: Any) -> None:
    assert generation_mask(messages, tools, family_tokenizer("qwen2.5")) is None


def test_one_rendering_tells_all_of_our_template(messages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two renderings a turn made long conversations quadratic."""
    tokenizer, count = own("json"), 0
    original = tokenizer.apply_chat_template

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        return original(*arguments, **options)

    monkeypatch.setattr(tokenizer, "apply_chat_template", counted)
    render({"messages": messages * 20}, tokenizer)
    assert count == 1


def test_threads_do_not_disturb_one_another(messages: Any) -> None:
    """transformers keeps the spans of generation markers on the template, which all threads share."""
    samples: list[Any] = [{"messages": messages * count} for count in range(1, 9)] * 4
    alone = [render(sample, OWN["json"]) for sample in samples]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda sample: render(sample, OWN["json"]), samples)) == alone


def test_reasoning_stands_before_the_words(tools: Any) -> None:
    messages: Any = [
        {"role": "user", "content": "Sum?"},
        {"role": "assistant", "content": "4", "reasoning_content": "2 + 2"},
    ]
    rendered = render({"messages": messages}, OWN["json"])
    assert rendered.text.endswith("<|im_start|>assistant\n<think>\n2 + 2\n</think>\n\n4<|im_end|>\n")
    [(start, end)] = rendered.turns
    assert OWN["json"].decode(rendered.labels[start:end]) == "<think>\n2 + 2\n</think>\n\n4<|im_end|>"


@pytest.mark.parametrize("nothing", ["", None])
def test_no_reasoning_changes_nothing(messages: Any, tools: Any, nothing: Any) -> None:
    plain = render({"messages": messages, "tools": tools}, OWN["compact"])
    messages[2]["reasoning_content"] = nothing
    assert render({"messages": messages, "tools": tools}, OWN["compact"]) == plain


def test_dropped_reasoning_is_an_error_not_silence(messages: Any, tools: Any) -> None:
    messages[2]["reasoning_content"] = "tea it is"
    with pytest.raises(DataError, match="message 2: the chat template drops or rewrites its reasoning_content; use"):
        render({"messages": messages, "tools": tools}, family_tokenizer("qwen2.5"))


def test_a_tool_that_no_template_can_show_is_an_error(messages: Any) -> None:
    """Our template asks a description for its words; a number has none, which ended in jinja's own exception."""
    tools: Any = [{"type": "function", "function": {"name": "f", "description": 5}}]
    with pytest.raises(DataError, match="message 0 or the tools: the chat template refuses it"):
        render({"messages": messages, "tools": tools}, OWN["compact"])
    with pytest.raises(DataError, match="message 0 or the tools: the chat template refuses it"):
        generation_mask(messages, tools, OWN["compact"])

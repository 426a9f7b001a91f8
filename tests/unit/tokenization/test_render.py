from __future__ import annotations

from typing import Any

import pytest
from tests.tiny import new_tokenizer, tiny_tokenizer
from tests.unit.tokenization.conftest import call
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sage.libs.finetune.agent.errors import DataError, ModelError
from sage.libs.finetune.agent.tokenization.render import IGNORED, layout, render, render_prompt

COMPACT = """<|im_start|>system
You help.

Tools:
- find(query: str, limit?: int|null, unit: "kg"|"g", deep?: bool, where?: dict, tags?: list, price?: float, other?: any): Find an item.
- noop()
Call a tool with one JSON line: {"name": ..., "arguments": {...}}<|im_end|>
<|im_start|>user
Price of thé?<|im_end|>
<|im_start|>assistant
Look it up.
{"name": "find", "arguments": {"query": "thé \\"{x}\\"", "unit": "g"}}<|im_end|>
<|im_start|>tool
12<|im_end|>
<|im_start|>assistant
{"name": "noop", "arguments": {}}
{"name": "find", "arguments": {"query": "a\\nb", "unit": "kg"}}<|im_end|>
<|im_start|>tool
ok<|im_end|>
<|im_start|>tool
none<|im_end|>
<|im_start|>assistant
It is 12.<|im_end|>
<|im_start|>user
Thanks<|im_end|>
<|im_start|>assistant
Bye.<|im_end|>
"""  # noqa: E501

JSON = """<|im_start|>system
You may call functions. Their signatures are within <tools></tools>:
<tools>
{"type": "function", "function": {"name": "noop"}}
</tools>
For each call, return a JSON object with its name and arguments within <tool_call></tool_call>:
<tool_call>
{"name": <function-name>, "arguments": <arguments-object>}
</tool_call><|im_end|>
<|im_start|>user
Go<|im_end|>
<|im_start|>assistant
Sure.
<tool_call>
{"name": "noop", "arguments": {}}
</tool_call>
<tool_call>
{"name": "noop", "arguments": {"é": [1.5, null, true]}}
</tool_call><|im_end|>
<|im_start|>user
<tool_response>
ok
</tool_response><|im_end|>
<|im_start|>assistant
"""


def trained_texts(rendered: Any, tokenizer: Any) -> list[str]:
    """The maximal runs of tokens that carry loss, as text."""
    runs: list[list[int]] = [[]]
    for token, label in zip(rendered.input_ids, rendered.labels, strict=True):
        assert label in (IGNORED, token)
        if label == IGNORED:
            runs.append([])
        else:
            runs[-1].append(token)
    return [tokenizer.decode(run) for run in runs if run]


def test_compact_golden(messages: Any, tools: Any) -> None:
    assert render({"messages": messages, "tools": tools}, tiny_tokenizer()).text == COMPACT


def test_json_golden(tools: Any) -> None:
    calls = [call("noop"), call("noop", é=[1.5, None, True])]
    messages: Any = [
        {"role": "user", "content": "Go"},
        {"role": "assistant", "content": "Sure.", "tool_calls": calls},
        {"role": "tool", "content": "ok"},
    ]
    text = tiny_tokenizer().apply_chat_template(
        messages, tools=tools[1:], tool_format="json", add_generation_prompt=True, tokenize=False
    )
    assert text == JSON


def test_no_system_turn_without_system_message_and_tools(tokenizer: Any) -> None:
    messages: Any = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
    assert render({"messages": messages}, tokenizer).text == expected
    assert render({"messages": messages, "tools": []}, tokenizer).text == expected


def test_each_assistant_turn_is_trained_with_its_stop_token_and_nothing_else(messages: Any, tools: Any) -> None:
    tokenizer = tiny_tokenizer()
    rendered = render({"messages": messages, "tools": tools}, tokenizer)
    assert trained_texts(rendered, tokenizer) == [
        'Look it up.\n{"name": "find", "arguments": {"query": "thé \\"{x}\\"", "unit": "g"}}<|im_end|>',
        '{"name": "noop", "arguments": {}}\n{"name": "find", "arguments": {"query": "a\\nb", "unit": "kg"}}<|im_end|>',
        "It is 12.<|im_end|>",
        "Bye.<|im_end|>",
    ]
    assert rendered.weights is None
    assert rendered.row().keys() == {"input_ids", "labels"}
    assert tokenizer.decode(rendered.input_ids) == rendered.text
    for start, end in rendered.turns:
        assert rendered.labels[start:end] == rendered.input_ids[start:end]


def test_prefix_difference_agrees_with_the_generation_markers(tokenizer: Any, messages: Any, tools: Any) -> None:
    rendered = render({"messages": messages, "tools": tools}, tokenizer)
    marked = tokenizer.apply_chat_template(messages, tools=tools, return_assistant_tokens_mask=True, return_dict=True)
    assert marked["input_ids"] == rendered.input_ids
    assert marked["assistant_masks"] == [int(label != IGNORED) for label in rendered.labels]


def test_the_prompt_at_generation_is_the_prompt_of_training(tokenizer: Any, messages: Any, tools: Any) -> None:
    messages[2]["content"], messages[4]["content"] = "\n  odd blanks at the border", "  and  "
    rendered = render({"messages": messages, "tools": tools}, tokenizer)
    assert tokenizer.decode(rendered.input_ids) == rendered.text
    assistants = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    assert len(assistants) == len(rendered.turns)
    for index, (start, _) in zip(assistants, rendered.turns, strict=True):
        assert render_prompt(messages[:index], tools, tokenizer) == rendered.input_ids[:start]


def test_our_template_only_appends(tokenizer: Any, messages: Any, tools: Any) -> None:
    whole, _ = layout(messages, tools, tokenizer)
    for count in range(1, len(messages) + 1):
        assert whole.startswith(layout(messages[:count], tools, tokenizer)[0])


def test_null_content_renders_as_empty(tokenizer: Any, messages: Any, tools: Any) -> None:
    expected = render({"messages": messages, "tools": tools}, tokenizer)
    messages[4]["content"] = None
    assert render({"messages": messages, "tools": tools}, tokenizer) == expected
    del messages[4]["content"]
    assert render({"messages": messages, "tools": tools}, tokenizer) == expected


def test_weight_zero_takes_a_turn_out_of_the_loss(tokenizer: Any, messages: Any, tools: Any) -> None:
    plain = render({"messages": messages, "tools": tools}, tokenizer)
    messages[2]["weight"] = 0
    rendered = render({"messages": messages, "tools": tools}, tokenizer)
    start, end = rendered.turns[0]
    assert rendered.input_ids == plain.input_ids and rendered.turns == plain.turns
    assert rendered.labels == plain.labels[:start] + [IGNORED] * (end - start) + plain.labels[end:]
    assert rendered.weights is None


def test_weights_are_given_for_each_token(tokenizer: Any, messages: Any, tools: Any) -> None:
    messages[2]["weight"], messages[7]["weight"] = 0.25, 0.0
    rendered = render({"messages": messages, "tools": tools}, tokenizer)
    expected = [0.0] * len(rendered.input_ids)
    for (start, end), weight in zip(rendered.turns, [0.25, 1.0, 0.0, 1.0], strict=True):
        expected[start:end] = [weight] * (end - start)
    assert rendered.weights == expected
    assert [weight > 0 for weight in expected] == [label != IGNORED for label in rendered.labels]


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), "1", True, None])
def test_a_weight_that_is_no_weight_is_refused(messages: Any, weight: Any) -> None:
    messages[2]["weight"] = weight
    with pytest.raises(DataError, match="message 2: weight"):
        render({"messages": messages}, tiny_tokenizer())


def with_template(template: str) -> Any:
    tokenizer = new_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_a_template_that_rewrites_the_past_is_refused(messages: Any) -> None:
    tokenizer = with_template(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content if loop.last or m.role != 'assistant' else m.content | upper }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    chat = [m for m in messages if "tool_calls" not in m and m["role"] != "tool"]
    assert render({"messages": chat[:3]}, tokenizer).turns
    with pytest.raises(DataError, match="template is not prefix-preserving at message 2"):
        render({"messages": chat}, tokenizer)


def test_a_turn_without_stop_token_is_refused(messages: Any) -> None:
    tokenizer = with_template("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
                              "{% if add_generation_prompt %}[assistant] {% endif %}")  # fmt: skip
    with pytest.raises(ModelError, match="without a stop token"):
        render({"messages": [messages[1], messages[7]]}, tokenizer)


def test_an_added_token_that_is_no_control_token_ends_no_turn(messages: Any) -> None:
    """Qwen3's </tool_call> is an added token, yet a word of the model's own: generation goes on after it."""
    tokenizer = with_template(PLAIN.replace("<|im_end|>", "</tool_call>"))
    tokenizer.add_tokens(["</tool_call>"])
    with pytest.raises(ModelError, match="without a stop token"):
        render({"messages": [messages[1], messages[7]]}, tokenizer)


PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_dropped_call_is_an_error_not_silence(messages: Any) -> None:
    with pytest.raises(DataError, match="message 2: the chat template drops the call of 'find'"):
        render({"messages": messages}, with_template(PLAIN))


def test_a_dropped_thought_is_an_error_not_silence(messages: Any) -> None:
    tokenizer = with_template(PLAIN.replace("m.content", "(m.tool_calls or m.content)"))
    with pytest.raises(DataError, match="message 2: the chat template drops or rewrites its content"):
        render({"messages": messages}, tokenizer)


def test_the_error_names_the_message_a_template_refuses(messages: Any) -> None:
    refuse = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}{% endfor %}"
    with pytest.raises(DataError, match=r"message 3: the chat template refuses it \(no tools\)"):
        render({"messages": messages}, with_template(refuse + PLAIN))


@pytest.mark.parametrize("messages", [[], [{"role": "assistant", "content": "Hello"}]])
def test_a_conversation_begins_before_the_assistant(messages: Any) -> None:
    with pytest.raises(DataError, match="message 0"):
        render({"messages": messages}, tiny_tokenizer())


def test_sentencepiece_tokens_are_those_a_server_makes() -> None:
    """A Metaspace tokenizer marks the start of every text: piece by piece, replies would begin with a false space."""
    lines = ["[INST] What does the tea cost? [/INST]The tea costs 12.", "[INST] And the cake? [/INST]The cake is 7."]
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "</s>", "[/INST]"], show_progress=False)
    backend.train_from_iterator(lines * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
    )
    messages = [
        {"role": "user", "content": "What does the tea cost?"},
        {"role": "assistant", "content": "The tea costs 12."},
        {"role": "user", "content": "And the cake?"},
        {"role": "assistant", "content": "The cake is 7."},
    ]
    rendered = render({"messages": messages}, tokenizer)
    assert rendered.input_ids == tokenizer(rendered.text, add_special_tokens=False)["input_ids"]
    piecewise = tokenizer("The tea costs 12.</s>", add_special_tokens=False)["input_ids"]
    (start, end), (later, _) = rendered.turns
    firsts = tokenizer.convert_ids_to_tokens([rendered.input_ids[start], piecewise[0]])
    assert firsts[0].startswith("T") and firsts[1].startswith("▁")
    assert rendered.input_ids[end - 1] == tokenizer.eos_token_id
    assert render_prompt(messages[:1], None, tokenizer) == rendered.input_ids[:start]
    assert render_prompt(messages[:3], None, tokenizer) == rendered.input_ids[:later]

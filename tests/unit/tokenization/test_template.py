from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.tiny import new_tokenizer
from transformers import AutoTokenizer, GenerationConfig

from sage.libs.finetune.agent.errors import ConfigError, ModelError
from sage.libs.finetune.agent.tokenization.layout import own_template
from sage.libs.finetune.agent.tokenization.render import render
from sage.libs.finetune.agent.tokenization.template import prepare_template, stop_ids, template_fault

CHATML = """
{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\n' + 'A default prompt<|im_end|>\n' }}{% endif %}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

WITH_TOOLS = """
{%- if tools %}{{ '<|im_start|>system\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}
{%- for m in messages %}
    {%- if m.role == 'tool' %}
        {%- if messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
        {{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}
    {%- else %}
        {{- '<|im_start|>' + m.role + '\n' + m.content }}
        {%- for call in m.tool_calls or [] %}
            {{- '\n<tool_call>' + call.function.name + call.function.arguments | tojson + '</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def tokenizer_with(template: str | None, **options: Any) -> Any:
    tokenizer = new_tokenizer(**options)
    tokenizer.chat_template = template
    return tokenizer


def test_a_template_that_drops_tools_is_replaced() -> None:
    """SmolLM2's: calls vanish, tools are not shown, and nothing says so."""
    tokenizer = tokenizer_with(CHATML)
    choice = prepare_template(tokenizer, small_model=True)
    assert (choice.source, choice.tool_format) == ("chatml_tools", "compact")
    assert "drops the call" in choice.reason and "\n" not in choice.reason
    assert template_fault(tokenizer) is None


def test_a_template_that_shows_tools_is_kept() -> None:
    """Qwen2.5's: it merges the observations after a call, which rewrites no assistant turn."""
    tokenizer = tokenizer_with(WITH_TOOLS)
    choice = prepare_template(tokenizer, small_model=True)
    assert (choice.source, choice.tool_format) == ("model", "model")
    assert tokenizer.chat_template == WITH_TOOLS


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("tools | tojson", "''", "drops tool schemas"),
        ("call.function.arguments | tojson", "''", "drops or rewrites 'probe_argument' in the call of 'probe_tool'"),
        ("<tool_response>\n' + m.content", "<tool_response>\n'", "drops observations"),
        ("m.role + '\n' + m.content", "m.role + '\n' + (m.content if loop.last else '')", "not prefix-preserving"),
        ("{{- '<|im_end|>\n' }}\n    {%- endif", "{{- '\n' }}\n    {%- endif", "without a stop token"),
    ],
)
def test_each_fault_is_found(old: str, new: str, fault: str) -> None:
    assert WITH_TOOLS.count(old) == 1
    found = template_fault(tokenizer_with(WITH_TOOLS.replace(old, new)))
    assert found is not None and fault in found


def test_the_size_of_the_model_picks_the_format() -> None:
    assert prepare_template(tokenizer_with(None), small_model=True).tool_format == "compact"
    assert prepare_template(tokenizer_with(None), small_model=False).tool_format == "json"


def test_an_explicit_format_forces_ours() -> None:
    tokenizer = tokenizer_with(WITH_TOOLS)
    assert prepare_template(tokenizer, "json", small_model=True).source == "chatml_tools"
    assert prepare_template(tokenizer, "compact", small_model=False).tool_format == "compact"
    with pytest.raises(ConfigError, match="yaml"):
        prepare_template(tokenizer, "yaml", small_model=True)


def test_the_format_is_baked_into_the_saved_template(tmp_path: Path, messages: Any, tools: Any) -> None:
    tokenizer = tokenizer_with(CHATML)
    prepare_template(tokenizer, "json", small_model=True)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    sample: Any = {"messages": messages, "tools": tools}
    assert render(sample, loaded) == render(sample, tokenizer)
    choice = prepare_template(loaded, small_model=True)
    assert (choice.source, choice.tool_format) == ("chatml_tools", "json")
    assert loaded.chat_template == own_template("json")  # to the byte, or rendering falls back to the slow way


def test_without_chatml_tokens_and_usable_template_there_is_an_error() -> None:
    tokenizer = new_tokenizer(without=("<|im_start|>",))
    for template, tool_format in [(None, "auto"), (CHATML, "auto"), (WITH_TOOLS, "compact")]:
        tokenizer.chat_template = template
        with pytest.raises(ModelError, match=r"<\|im_start\|> and <\|im_end\|> as tokens"):
            prepare_template(tokenizer, tool_format, small_model=True)


def test_a_template_without_thoughts_is_kept_where_ours_cannot_be_used() -> None:
    """Llama 3.1's: a message is either text or calls."""
    template = WITH_TOOLS.replace("m.role + '\n' + m.content", "m.role + '\n' + ('' if m.tool_calls else m.content)")
    choice = prepare_template(tokenizer_with(template), small_model=True)
    assert choice.source == "chatml_tools"
    tokenizer = new_tokenizer(without=("<|im_start|>",))
    tokenizer.chat_template = template
    choice = prepare_template(tokenizer, small_model=True)
    assert choice.source == "model" and "refused" in choice.reason


def test_ours_makes_the_turn_end_the_eos_token() -> None:
    """A base model's eos is <|endoftext|>; a server that loads the tuned folder would never stop."""
    tokenizer = tokenizer_with(None, eos_token="<|endoftext|>")
    choice = prepare_template(tokenizer, small_model=True)
    assert tokenizer.eos_token == "<|im_end|>" and "eos becomes <|im_end|>" in choice.reason


def test_stop_ids_join_eos_and_the_turn_end() -> None:
    tokenizer = tokenizer_with(WITH_TOOLS, eos_token="<|endoftext|>")
    end_of_text, turn_end = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert stop_ids(tokenizer) == sorted([end_of_text, turn_end])
    assert stop_ids(tokenizer, GenerationConfig(eos_token_id=[77, turn_end])) == sorted([end_of_text, turn_end, 77])
    assert stop_ids(tokenizer, GenerationConfig(eos_token_id=88)) == sorted([end_of_text, turn_end, 88])
    assert stop_ids(tokenizer_with(None)) == [turn_end]


def test_of_several_named_templates_the_one_for_tools_is_kept(tmp_path: Path, messages: Any, tools: Any) -> None:
    """A row without tools was rendered by another template than the one file a server is given."""
    tokenizer = tokenizer_with(None)
    tokenizer.chat_template = {"default": CHATML, "tool_use": WITH_TOOLS}
    assert prepare_template(tokenizer, small_model=True).source == "model"
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(tmp_path).chat_template == WITH_TOOLS
    tokenizer.chat_template = {"rag": WITH_TOOLS}
    assert prepare_template(tokenizer, small_model=True).source == "chatml_tools"

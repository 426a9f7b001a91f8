"""Chat templates with the shapes of well-known families, written for these tests, and tokenizers that carry them."""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.tiny import new_tokenizer

QWEN25 = """
{%- macro tool_system() -%}
    {{- '\n\n# Tools\n<tools>' }}{% for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}{{ '\n</tools>' }}
{%- endmacro -%}
{%- if messages[0].role == 'system' or tools %}
    {{- '<|im_start|>system\n' + (messages[0].content if messages[0].role == 'system' else 'You are helpful.') }}
    {%- if tools %}{{ tool_system() }}{% endif %}
    {{- '<|im_end|>\n' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'user' or (m.role == 'assistant' and not m.tool_calls) %}
        {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
    {%- elif m.role == 'assistant' %}
        {{- '<|im_start|>assistant' + ('\n' + m.content if m.content else '') }}
        {%- for call in m.tool_calls %}
            {{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson + '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif m.role == 'tool' %}
        {%- if messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
        {{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

QWEN3 = QWEN25.replace(
    "{%- for m in messages %}\n    {%- if m.role == 'user'",
    """{%- set ns = namespace(question=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.question = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
    {%- set thought = '' %}
    {%- if m.role == 'assistant' and loop.index0 > ns.question and (m.reasoning_content or loop.last) %}
        {%- set thought = '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' %}
    {%- endif %}
    {%- if m.role == 'user'""",
).replace(
    "+ m.role + '\n' + m.content", "+ m.role + '\n' + thought + m.content"
).replace("('\n' + m.content if m.content else '')", "('\n' + thought + m.content)")  # fmt: skip
"""Thoughts before the last question vanish, and only the last turn gets an empty one."""

LLAMA3 = """
{{- bos_token + '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- set skipped = 1 if messages[0].role == 'system' else 0 %}
{{- (messages[0].content if skipped else '') + '<|eot_id|>' }}
{%- for m in messages[skipped:] %}
    {%- if m.role in ('user', 'assistant') and not m.tool_calls %}
        {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}
        {%- if loop.first and tools %}
            {{- 'Answer with a JSON call: {"name": ..., "parameters": ...}\n' }}
            {%- for tool in tools %}{{ tool | tojson(indent=4) + '\n\n' }}{% endfor %}
        {%- endif %}
        {{- m.content | trim + '<|eot_id|>' }}
    {%- elif m.tool_calls %}
        {%- if m.tool_calls | length != 1 %}{{ raise_exception('only single tool-calls at once') }}{% endif %}
        {%- set call = m.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
        {{- '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}<|eot_id|>' }}
    {%- elif m.role == 'tool' %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\n\n' + m.content | tojson + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

LLAMA3_MARKED = """
{{- bos_token }}
{%- for m in messages %}
    {%- set role = 'ipython' if m.role == 'tool' else m.role %}
    {{- '<|start_header_id|>' + role + '<|end_header_id|>\n\n' }}
    {%- if m.role == 'assistant' %}
        {%- generation %}
            {{- m.content }}
            {%- if m.tool_calls %}{{ '<|python_tag|>' }}{% endif %}
            {%- for call in m.tool_calls or [] %}
                {{- '{"name": ' + call.function.name | tojson + ', "parameters": ' }}
                {{- call.function.arguments | tojson + '}' + ('' if loop.last else '; ') }}
            {%- endfor %}
            {{- '<|eot_id|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- m.content }}
        {%- if loop.first and tools %}{% for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}{% endif %}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""
"""As users patch it for training: thoughts beside calls, several calls, generation markers."""

MISTRAL = """
{%- set ns = namespace(question=0, system='') %}
{%- for m in messages %}
    {%- if m.role == 'user' %}{% set ns.question = loop.index0 %}{% endif %}
    {%- if m.role == 'system' %}{% set ns.system = m.content + '\n\n' %}{% endif %}
{%- endfor %}
{{- bos_token }}
{%- for m in messages %}
    {%- if m.role == 'user' %}
        {%- if tools and loop.index0 == ns.question %}
            {{- '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' + (ns.system if loop.index0 == ns.question else '') + m.content + '[/INST]' }}
    {%- elif m.tool_calls %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in m.tool_calls %}
            {%- if call.id | length != 9 %}{{ raise_exception('call ids must have 9 characters') }}{% endif %}
            {{- '{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson }}
            {{- ', "id": "' + call.id + '"}' + ('' if loop.last else ', ') }}
        {%- endfor %}
        {{- ']' + eos_token }}
    {%- elif m.role == 'assistant' %}
        {{- ' ' + m.content + eos_token }}
    {%- elif m.role == 'tool' %}
        {{- '[TOOL_RESULTS] {"content": ' + m.content | tojson + '}[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}"""
"""Tools and system message stand with the newest question, and there is no header before the assistant's turn."""

GEMMA = """
{{- bos_token }}
{%- for m in messages %}
    {%- if m.role not in ('user', 'assistant') %}{{ raise_exception(m.role + ' role not supported') }}{% endif %}
    {{- '<start_of_turn>' + ('model' if m.role == 'assistant' else 'user') + '\n' }}
    {{- m.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

PHI = """
{%- for m in messages %}
    {{- '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"""


class Family(NamedTuple):
    template: str
    special: tuple[str, ...]
    eos: str
    bos: str | None = None


_LLAMA3 = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>")
FAMILIES = {
    "qwen2.5": Family(QWEN25, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "qwen3": Family(QWEN3, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "llama3": Family(LLAMA3, _LLAMA3, "<|eot_id|>", "<|begin_of_text|>"),
    "llama3-marked": Family(LLAMA3_MARKED, _LLAMA3, "<|eot_id|>", "<|begin_of_text|>"),
    "mistral": Family(MISTRAL, ("[INST]", "[/INST]", "[TOOL_CALLS]"), "</s>", "<s>"),
    "gemma": Family(GEMMA, ("<start_of_turn>", "<end_of_turn>"), "<eos>", "<bos>"),
    "phi": Family(PHI, ("<|user|>", "<|assistant|>", "<|end|>"), "<|endoftext|>"),
}


def family_tokenizer(name: str) -> Any:
    """A tiny tokenizer with the template and the control tokens of a family."""
    family = FAMILIES[name]
    chatml = ("<|im_start|>", "<|im_end|>")
    tokenizer = new_tokenizer(without=() if chatml[0] in family.special else chatml, eos_token=family.eos)
    tokenizer.add_special_tokens({"extra_special_tokens": list(family.special)})
    if family.bos:
        tokenizer.add_special_tokens({"bos_token": family.bos})
    tokenizer.chat_template = family.template
    return tokenizer

"""Which chat template speaks for a tokenizer: the model's own if it can show tools, else ours.

Many templates drop `tools` and `tool_calls` without a word (SmolLM2, Zephyr), and some rewrite earlier turns when a
new one comes (Qwen3 strips thoughts); training on either teaches nonsense. So a template is probed with a small
conversation before it is trusted. Ours, `templates/chatml_tools.jinja`, is plain ChatML and only ever appends.

Its two tool formats, each what a vLLM tool parser reads:

- `compact` (`llama3_json`): tools as signatures, a call as one JSON line. Well under half the prompt, which is what a
  small model on a CPU can afford; descriptions of single parameters are left out.
- `json` (`hermes`): tools as JSON schemas in `<tools>`, calls in `<tool_call>`. Observations come back in a user turn
  within `<tool_response>`, as in Qwen2.5 and Qwen3, the ChatML models most often tuned; vLLM's parser reads replies
  only, so it is indifferent to it. Each observation has a turn of its own, since merging them would rewrite the past.

The chosen format is written into the saved template, so a server renders what training rendered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sage.libs.finetune.agent.errors import ConfigError, DataError, ModelError
from sage.libs.finetune.agent.tokenization.layout import (
    TOOL_FORMATS,
    ToolFormat,
    baked_format,
    layout,
    own_template,
)
from sage.libs.finetune.agent.tokenization.render import is_stop
from sage.libs.finetune.agent.types import Message, ToolSpec

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

_MARK = "{#- chatml_tools"
_START, _STOP = "<|im_start|>", "<|im_end|>"
_THOUGHT = "probe thought"


@dataclass(frozen=True)
class TemplateChoice:
    """What `prepare_template` decided.

    Attributes:
        source: `model` (its own template is kept) or `chatml_tools` (ours).
        tool_format: `compact` or `json` for ours, `model` for the model's own.
        reason: One sentence for the log.
    """

    source: Literal["model", "chatml_tools"]
    tool_format: Literal["compact", "json", "model"]
    reason: str


def prepare_template(
    tokenizer: PreTrainedTokenizerBase, tool_format: str = "auto", *, small_model: bool
) -> TemplateChoice:
    """Make sure the tokenizer's chat template can train and serve tool calls; set ours on it where it cannot.

    Setting ours also makes `<|im_end|>` the tokenizer's eos token, so that whoever loads the saved folder stops there.
    Of several named templates the one for tools (`tool_use`, else `default`) is kept for all rows.

    Args:
        tokenizer: Changed in place when our template is set.
        tool_format: `auto` keeps a usable template of the model's and else picks `compact` for a small model, `json`
            for a large one; `compact` and `json` force ours in that format.
        small_model: Whether the model has less than a billion parameters.

    Raises:
        ConfigError: An unknown `tool_format`.
        ModelError: The model's template cannot be used, and neither can ours for want of the ChatML tokens.
    """
    named: Any = tokenizer.chat_template
    if isinstance(named, dict):  # one for tools, another for rows without: a server is given one, so that is trained
        tokenizer.chat_template = named.get("tool_use", named.get("default"))
    if tool_format != "auto":
        if tool_format not in TOOL_FORMATS:
            raise ConfigError(f"tool_format '{tool_format}' is unknown; expected auto, {', '.join(TOOL_FORMATS)}")
        if not _has_chatml_tokens(tokenizer):
            raise ModelError(
                f"tool_format '{tool_format}' needs {_START} and {_STOP} as tokens, which {_name(tokenizer)} lacks; "
                "use tool_format 'auto' or a ChatML model"
            )
        return _set_ours(tokenizer, "compact" if tool_format == "compact" else "json", "it was asked for")
    baked = _baked_format(tokenizer)
    if baked is not None:
        return TemplateChoice("chatml_tools", baked, f"the tokenizer carries our template ({baked}) already")
    fault = template_fault(tokenizer)
    if fault is None:
        return TemplateChoice("model", "model", "the model's own chat template shows tools, calls and observations")
    if _has_chatml_tokens(tokenizer):
        return _set_ours(tokenizer, "compact" if small_model else "json", f"the model's own chat template {fault}")
    for thought, questions in (("", 2), (_THOUGHT, 1), ("", 1)):
        if template_fault(tokenizer, thought=thought, questions=questions) is None:
            lacks = [] if thought else ["words beside a call"]
            lacks += ["a second question"] if questions == 1 else []
            reason = f"the model's own chat template is kept though it {fault}: rows with {' or '.join(lacks)}"
            return TemplateChoice("model", "model", f"{reason} are refused")
    raise ModelError(
        f"the chat template of {_name(tokenizer)} {fault}, and ours needs {_START} and {_STOP} as tokens, which it "
        "lacks; use a ChatML model, or set a chat template that shows tools on the tokenizer"
    )


def template_fault(tokenizer: PreTrainedTokenizerBase, thought: str = _THOUGHT, questions: int = 2) -> str | None:
    """What keeps a chat template from training tool calls, as the rest of a sentence about it; None if nothing.

    Args:
        tokenizer: Its template is probed with a call, an observation, an answer and a second question.
        thought: Text beside the call; with "" a template that cannot show both passes (Llama 3).
        questions: With 1 a template that moves its tools to the newest question passes (Mistral).
    """
    if not tokenizer.chat_template:
        return "is missing"
    messages, tools = _probe(thought)
    try:
        text, spans = layout(messages if questions > 1 else messages[:5], tools, tokenizer)
    except DataError as error:
        fault, _, _ = str(error).partition("; ")  # without the remedy
        return f"fails on a conversation with tools ({fault})"
    if not is_stop(_last_token(text, spans[0], tokenizer), tokenizer):
        return "ends a turn without a stop token"
    prompt = text[: spans[0][0]]
    shown = {  # `layout` has seen to the calls
        "tool schemas": all(word in prompt for word in ("probe_tool", "probe_argument")),
        "observations": "probe observation" in text[spans[0][1] : spans[1][0]],
    }
    missing = [what for what, is_shown in shown.items() if not is_shown]
    return f"drops {' and '.join(missing)}" if missing else None


def stop_ids(tokenizer: PreTrainedTokenizerBase, generation_config: GenerationConfig | None = None) -> list[int]:
    """Token ids at which generation stops: eos of the tokenizer and of the generation config, and the turn's end.

    The turn's end is the special token with which the chat template closes an assistant turn, hence what training
    teaches the model to stop with; it need not be eos (Gemma's `<end_of_turn>`, `<|im_end|>` of a Qwen base model).
    """
    eos: Any = generation_config.eos_token_id if generation_config is not None else None
    ids = {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])}
    if tokenizer.chat_template:
        exchange: list[Message] = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi"}]
        text, [span] = layout(exchange, None, tokenizer)
        last = _last_token(text, span, tokenizer)
        if is_stop(last, tokenizer):
            ids.add(last)
    return sorted(token for token in ids if token is not None)


def _last_token(text: str, span: tuple[int, int], tokenizer: PreTrainedTokenizerBase) -> int:
    ids: list[int] = tokenizer.encode(text[slice(*span)], add_special_tokens=False)
    return ids[-1]


def _set_ours(tokenizer: PreTrainedTokenizerBase, tool_format: ToolFormat, why: str) -> TemplateChoice:
    tokenizer.chat_template = own_template(tool_format)
    reason = f"our ChatML template ({tool_format}) is set because {why}"
    if tokenizer.eos_token != _STOP:
        reason += f"; eos becomes {_STOP} (was {tokenizer.eos_token})"
        tokenizer.eos_token = _STOP
    return TemplateChoice("chatml_tools", tool_format, reason)


def _baked_format(tokenizer: PreTrainedTokenizerBase) -> ToolFormat | None:
    """The tool format of our template on a tokenizer, None when the template is another's."""
    template = tokenizer.chat_template
    if not isinstance(template, str) or not template.startswith(_MARK):
        return None
    return baked_format(template)


def _has_chatml_tokens(tokenizer: PreTrainedTokenizerBase) -> bool:
    return all(len(tokenizer.encode(token, add_special_tokens=False)) == 1 for token in (_START, _STOP))


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.name_or_path or "the tokenizer"


def _probe(thought: str) -> tuple[list[Message], list[ToolSpec]]:
    """A small conversation that a usable template shows in full. Mistral's wants call ids of nine characters."""
    arguments = {"probe_argument": "probe value"}
    messages: list[Message] = [
        {"role": "system", "content": "probe system"},
        {"role": "user", "content": "probe question"},
        {
            "role": "assistant",
            "content": thought,
            "tool_calls": [
                {"id": "call00001", "type": "function", "function": {"name": "probe_tool", "arguments": arguments}}
            ],
        },
        {"role": "tool", "tool_call_id": "call00001", "name": "probe_tool", "content": "probe observation"},
        {"role": "assistant", "content": "probe answer"},
        {"role": "user", "content": "another question"},
        {"role": "assistant", "content": "another answer"},
    ]
    parameters = {
        "type": "object",
        "properties": {"probe_argument": {"type": "string", "description": "an argument"}},
        "required": ["probe_argument"],
    }
    function = {"name": "probe_tool", "description": "a tool", "parameters": parameters}
    return messages, [{"type": "function", "function": function}]

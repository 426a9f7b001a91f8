"""The exact command lines that serve a model: vLLM, `transformers serve`, llama.cpp.

What a server must be told follows from the model, not from its name: the tool-call parser from what the chat template
makes of a call, the rank from the saved adapter (PiSSA's conversion doubles it). vLLM takes LoRA and rsLoRA adapters
up to rank 512; DoRA, adapters with a bias and fully trained modules are merged first (`vllm/lora/peft_helper.py`).
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.tokenization.layout import layout
from sage.libs.finetune.agent.types import Message

ADAPTER_NAME = "agent"
"""What a served adapter is called in requests (`"model": "agent"`)."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's --max-lora-rank may be (`MaxLoRARanks` in vllm/config/lora.py)."""
_PARSERS = {"compact": "llama3_json", "json": "hermes"}
"""The parser for the calls of our template, by tool format."""
_MARKS = (
    ("<function=", "qwen3_xml"),
    ("<arg_key>", "glm45"),
    ("[TOOL_CALLS]", "mistral"),
    ('<tool_call>\n{"name"', "hermes"),
    ("<|python_tag|>", "llama3_json"),
    ('{"name"', "llama3_json"),
)
"""What a call of another template looks like, and vLLM's parser for it (its page "Tool Calling"); the first counts."""
_STREAMING = "Ask without streaming: this parser streams a call only when no thought stands before it."
_UNKNOWN_PARSER = "Add --enable-auto-tool-choice and the --tool-call-parser that vLLM has for this model's family."
_THINKS = "If it thinks before it answers, add the --reasoning-parser that vLLM has for this model's family."


def serve_model(folder: str, tokenizer: PreTrainedTokenizerBase, tool_format: str, model_type: str) -> list[str]:
    """Markdown with the line that serves a whole model (merged, or trained in full), as a block, and notes.

    Args:
        folder: Model folder; its tokenizer and chat template are in it.
        tokenizer: Has the template.
        tool_format: `TemplateChoice.tool_format`.
        model_type: `config.model_type`.
    """
    flags, notes = _talk(tokenizer, tool_format, model_type)
    template = ["--chat-template", str(Path(folder) / "chat_template.jinja")]
    return [
        *_block("vllm", "serve", folder, *template, *flags),
        *notes,
        "",
        "Without vLLM (`pip install transformers[serving]`):",
        "",
        *_block("transformers", "serve", folder),
    ]


def serve_adapter(
    adapter: Path, base: str, template: Path, tokenizer: PreTrainedTokenizerBase, tool_format: str, model_type: str
) -> list[str]:
    """As `serve_model`, for an adapter over its base model; `unservable` has found nothing against it.

    Args:
        adapter: PEFT folder with the tokenizer beside it, which knows where a turn ends.
        base: Folder or id of the base model.
        template: The chat template of training.
        tokenizer: Has the template.
        tool_format: `TemplateChoice.tool_format`.
        model_type: `config.model_type`.
    """
    flags, notes = _talk(tokenizer, tool_format, model_type)
    lora = ["--enable-lora", "--max-lora-rank", str(served_rank(adapter_rank(adapter)))]
    lora += ["--lora-modules", _lora_module(adapter)]
    line = ["vllm", "serve", base, "--tokenizer", str(adapter), *lora, "--chat-template", str(template), *flags]
    return [*_block(*line), "", f'Requests name the adapter: `"model": "{ADAPTER_NAME}"`.', *notes]


def serve_gguf(file: Path) -> list[str]:
    """The line for llama.cpp's server; `--jinja` makes it use the chat template in the file, tools included."""
    return _block("llama-server", "-m", str(file), "--jinja")


def export_line(run: Path, *flags: str) -> list[str]:
    """The line of `sage-finetune export` for a run."""
    return _block("sage-finetune", "export", str(run), *flags)


def unservable(adapter: Path) -> str | None:
    """Why vLLM does not load an adapter, None when it does."""
    config = _config(adapter)
    if config.get("use_dora"):
        return "vLLM loads no DoRA adapters"
    if config.get("modules_to_save"):
        return "vLLM loads no adapters with fully trained modules (modules_to_save)"
    if config.get("bias", "none") != "none":
        return "vLLM loads no adapters with a bias"
    if adapter_rank(adapter) > RANKS[-1]:
        return f"vLLM loads adapters up to rank {RANKS[-1]}, and this one has {adapter_rank(adapter)}"
    return None


def adapter_rank(adapter: Path) -> int:
    """The largest rank in a saved adapter."""
    config = _config(adapter)
    return max(int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values()), 0)


def served_rank(rank: int) -> int:
    """The smallest rank vLLM can be told that holds an adapter's.

    Example:
        >>> served_rank(4), served_rank(24), served_rank(300)
        (8, 32, 320)
    """
    return next(allowed for allowed in RANKS if allowed >= rank)


def tool_parser(tokenizer: PreTrainedTokenizerBase, tool_format: str) -> str | None:
    """The parser of vLLM for the calls that a template writes, None when it is not known."""
    if tool_format in _PARSERS:
        return _PARSERS[tool_format]
    call: Any = {"id": "call00001", "type": "function", "function": {"name": "find", "arguments": {"q": "tea"}}}
    messages: list[Message] = [
        {"role": "user", "content": "Find tea."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    properties = {"q": {"type": "string", "description": "what to find"}}
    function = {"name": "find", "description": "Find it.", "parameters": {"type": "object", "properties": properties}}
    text, [(start, end)] = layout(messages, [{"type": "function", "function": function}], tokenizer)
    return next((parser for mark, parser in _MARKS if mark in text[start:end]), None)


def _talk(tokenizer: PreTrainedTokenizerBase, tool_format: str, model_type: str) -> tuple[list[str], list[str]]:
    """Flags about calls and thoughts, and what they leave to say."""
    parser = tool_parser(tokenizer, tool_format)
    flags = ["--enable-auto-tool-choice", "--tool-call-parser", parser] if parser else []
    notes = [] if parser else [_UNKNOWN_PARSER]
    notes += [_STREAMING] if tool_format == "compact" else []
    if tool_format == "model" and "<think>" in str(tokenizer.chat_template):
        if model_type.startswith("qwen3"):
            flags += ["--reasoning-parser", "qwen3"]
        else:
            notes.append(_THINKS)
    return flags, [line for note in notes for line in ("", note)]


def _lora_module(adapter: Path) -> str:
    """The short form `name=path` is cut at every `=`, and taken for JSON when it holds a comma."""
    if set(str(adapter)) & set("=,"):
        return json.dumps({"name": ADAPTER_NAME, "path": str(adapter)}, ensure_ascii=False)
    return f"{ADAPTER_NAME}={adapter}"


def _block(*words: str) -> list[str]:
    return ["```bash", shlex.join(words), "```"]


def _config(adapter: Path) -> dict[str, Any]:
    config: dict[str, Any] = jsonl.read_json(adapter / "adapter_config.json")
    return config

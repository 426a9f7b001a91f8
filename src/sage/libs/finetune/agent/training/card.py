"""The model card: what was trained, what it scored, and the exact commands that load and serve it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.models.embedded import EMBEDDED, EMBEDDED_ORIGIN
from sage.libs.finetune.agent.models.load import LoadedModel

_PARSERS = {"compact": "llama3_json", "json": "hermes"}
"""vLLM's parser for the calls of our template, by tool format."""


def model_card(
    folder: Path, config: AgentSFTConfig, loaded: LoadedModel, facts: Sequence[str], table: str | None
) -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        folder: The run folder.
        config: Its settings.
        loaded: The model that was trained.
        facts: Lines on what was trained (loss, steps, data).
        table: Markdown table of evaluation results, None when nothing was evaluated.
    """
    kind = "adapter" if config.use_lora else "model"
    method = "DoRA" if config.use_dora else "LoRA" if config.use_lora else "full fine-tuning"
    method += " with LoRA+" if config.use_lora_plus else ""
    parts = [
        "---",
        f"base_model: {EMBEDDED_ORIGIN if config.base_model == EMBEDDED else config.base_model}",
        f"library_name: {'peft' if config.use_lora else 'transformers'}",
        "tags: [agent, tool-calling, sft]",
        "---",
        "",
        f"# {config.base_model}, fine-tuned on {config.train_data}",
        "",
        f"Supervised fine-tuning by {method}; loss on the assistant's turns, stop tokens included; seed {config.seed}.",
        "",
        *(f"- {fact}" for fact in facts),
        "",
    ]
    if table is not None:
        parts += ["## Results", "", table, ""]
    parts += [
        "## Load",
        "",
        "```python",
        *_load(folder / kind),
        "```",
        "",
        "## Serve",
        "",
        *_serve(folder, config, loaded),
    ]
    return "\n".join(parts) + "\n"


def _load(saved: Path) -> list[str]:
    return [
        "from sage.libs.finetune.agent import AgentSFTTrainer",
        "",
        f'trainer = AgentSFTTrainer.from_pretrained("{saved.resolve()}")',
        'print(trainer.evaluate("agent_sft:test").accuracy)',
    ]


def _serve(folder: Path, config: AgentSFTConfig, loaded: LoadedModel) -> list[str]:
    folder = folder.resolve()
    template = folder / "chat_template.jinja"
    parser = _PARSERS.get(loaded.template.tool_format)
    tools = f"--enable-auto-tool-choice --tool-call-parser {parser}" if parser else ""
    note = [] if parser else ["", "Add the tool-call parser that vLLM has for this model's family."]
    if config.use_dora:
        merge = [
            "from peft import AutoPeftModelForCausalLM",
            f'model = AutoPeftModelForCausalLM.from_pretrained("{folder / "adapter"}")',
            'model.merge_and_unload().save_pretrained("merged")',
        ]
        command = f"vllm serve merged --tokenizer {folder / 'adapter'} --chat-template {template} {tools}".strip()
        return [
            "vLLM loads no DoRA adapters: merge it first.",
            "",
            "```python",
            *merge,
            "```",
            "",
            "```bash",
            command,
            "```",
            *note,
        ]
    if config.use_lora:
        command = (
            f"vllm serve {loaded.location} --enable-lora --max-lora-rank {config.lora_r} "
            f"--lora-modules agent={folder / 'adapter'} --chat-template {template} {tools}"
        )
    else:
        command = f"vllm serve {folder / 'model'} --chat-template {template} {tools}"
    if loaded.template.tool_format == "compact":
        note = [
            "",
            "Ask without streaming: this parser streams a call only when no thought stands before it.",
        ]
    return ["```bash", command.strip(), "```", *note]

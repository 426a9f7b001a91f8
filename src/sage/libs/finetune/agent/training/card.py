"""The model card: what was trained, what it scored, and the exact commands that load and serve it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.models.embedded import EMBEDDED, EMBEDDED_ORIGIN
from sage.libs.finetune.agent.models.load import LoadedModel
from sage.libs.finetune.agent.rl_config import RLTrainingConfig
from sage.libs.finetune.agent.training.serving import export_line, serve_adapter, serve_model, unservable

Settings = AgentSFTConfig | RLTrainingConfig


def model_card(folder: Path, config: Settings, loaded: LoadedModel, facts: Sequence[str], table: str | None) -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        folder: The run folder; the adapter or model is in it already.
        config: Its settings.
        loaded: The model that was trained.
        facts: Lines on what was trained (loss, steps, data).
        table: Markdown table of evaluation results, None when nothing was evaluated.
    """
    kind = "adapter" if config.use_lora else "model"
    parts = [
        "---",
        f"base_model: {_base(config, loaded)}",
        f"library_name: {'peft' if config.use_lora else 'transformers'}",
        f"tags: [agent, tool-calling, {'sft' if isinstance(config, AgentSFTConfig) else config.algorithm}]",
        "---",
        "",
        *_title(config),
        "",
        *(f"- {fact}" for fact in facts),
        "",
    ]
    if table is not None:
        parts += ["## Results", "", table, ""]
    parts += ["## Load", "", "```python", *_load(folder / kind), "```", "", "## Serve", ""]
    parts += _serve(folder.resolve(), config, loaded)
    return "\n".join(parts) + "\n"


def _base(config: Settings, loaded: LoadedModel) -> str:
    """The model beneath all adapters, as a hub knows it; a run of RL mostly begins with another run."""
    base = config.base_model if isinstance(config, AgentSFTConfig) else loaded.location
    return EMBEDDED_ORIGIN if Path(str(base)).name.startswith(EMBEDDED) else str(base)


def _title(config: Settings) -> list[str]:
    if isinstance(config, AgentSFTConfig):
        return [
            f"# {config.base_model}, fine-tuned on {config.train_data}",
            "",
            f"Supervised fine-tuning by {_method(config)}; loss on the assistant's turns, stop tokens included; "
            f"seed {config.seed}.",
        ]
    algorithm = config.algorithm.upper()
    taught_by = config.preferences or config.tasks or f"the tasks of {config.environment}"
    weights = "adapter" if config.use_lora else "all weights"
    actions = f", gamma {config.gamma:g} a {config.gae_level}" if config.algorithm == "ppo" else ""
    return [
        f"# {config.base_model}, trained by {algorithm} on {taught_by}",
        "",
        f"Reinforcement learning by {algorithm} ({weights}); KL coefficient {config.kl_coef:g}{actions}; learned from "
        f"what the model wrote itself, observations masked; seed {config.seed}.",
    ]


def _method(config: AgentSFTConfig) -> str:
    """The method by its names: `DoRA with LoRA+ and PiSSA`.

    Example:
        >>> _method(AgentSFTConfig(base_model="m", train_data="d", use_dora=True, use_lora_plus=True))
        'DoRA with LoRA+'
    """
    if not config.use_lora:
        return "full fine-tuning"
    extras = {
        "rank-stabilised scaling (rsLoRA)": config.use_rslora,
        "LoRA+": config.use_lora_plus,
        "PiSSA": config.init_lora_weights == "pissa",
    }
    named = [name for name, used in extras.items() if used]
    return " with ".join(filter(None, ("DoRA" if config.use_dora else "LoRA", " and ".join(named))))


def _load(saved: Path) -> list[str]:
    return [
        "from sage.libs.finetune.agent import AgentSFTTrainer",
        "",
        f"trainer = AgentSFTTrainer.from_pretrained({str(saved.resolve())!r})",
        'print(trainer.evaluate("agent_sft:test").accuracy)',
    ]


def _serve(folder: Path, config: Settings, loaded: LoadedModel) -> list[str]:
    tokenizer, tool_format = loaded.tokenizer, loaded.template.tool_format
    model_type = str(loaded.model.config.model_type)
    template = folder / "chat_template.jinja"
    if not config.use_lora:
        lines = serve_model(str(folder / "model"), tokenizer, tool_format, model_type)
    elif why := unservable(folder / "adapter"):
        lines = [f"{why}: merge it first.", "", *export_line(folder, "--merge"), ""]
        lines += serve_model(str(folder / "merged"), tokenizer, tool_format, model_type)
    else:
        base = Path(loaded.location)
        location = str(base.resolve()) if base.is_dir() else loaded.location  # as the other paths of the line
        lines = serve_adapter(folder / "adapter", location, template, tokenizer, tool_format, model_type)
        lines += ["", "As one model without adapter, for every other server (its README has the lines):", ""]
        lines += export_line(folder, "--merge")
    return [*lines, "", "For llama.cpp and what builds on it:", "", *export_line(folder, "--gguf")]

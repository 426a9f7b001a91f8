"""LoRA and DoRA adapters by PEFT, and the optimiser groups of LoRA+.

LoRA: W' = W + (alpha / r) B A (Hu et al., 2021). DoRA learns the length of each output row of W' apart from its
direction (Liu et al., 2024, section 4). LoRA+ gives B a learning rate `ratio` times that of A (Hayou et al., 2024);
DoRA's magnitude vector keeps the plain rate, since the argument for the ratio concerns B alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.errors import ConfigError, TrainingError


def add_adapter(model: Any, config: AgentSFTConfig) -> Any:
    """The model with a fresh trainable adapter; its weights are float32 whatever the base is in.

    Raises:
        ConfigError: when `lora_target_modules` matches nothing in the model.
    """
    from peft import LoraConfig, get_peft_model

    wanted = config.lora_target_modules
    targets = wanted if wanted == "all-linear" else [name.strip() for name in wanted.split(",")]
    adapter = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        use_dora=config.use_dora,
    )
    try:
        return get_peft_model(model, adapter)
    except ValueError as error:
        raise ConfigError(f"'lora_target_modules': {wanted!r} does not fit this model: {error}") from None


def parameter_groups(model: nn.Module, config: AgentSFTConfig, learning_rate: float) -> list[dict[str, Any]]:
    """Optimiser groups of the trainable parameters: B at `lora_plus_lr_ratio` times the rate with LoRA+.

    Biases and norms (one dimension) are not decayed.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        boosted = config.use_lora_plus and (".lora_B." in name or ".lora_embedding_B." in name)
        rate = learning_rate * (config.lora_plus_lr_ratio if boosted else 1.0)
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": chosen, "lr": rate, "weight_decay": decay} for (rate, decay), chosen in groups.items()]


def learning_rate_for(config: AgentSFTConfig, parameters: int) -> float:
    """The configured rate, or for "auto" one that suits the method and size.

    Full fine-tuning: 2e-5. LoRA wants about ten times as much (Schulman et al., "LoRA Without Regret", 2025): 2e-4,
    and 1e-3 below a billion parameters, which small models with few steps need (measured on the embedded model).
    """
    if config.learning_rate != "auto":
        return config.learning_rate
    if not config.use_lora:
        return 2e-5
    return 1e-3 if parameters < 1_000_000_000 else 2e-4


def require_same_adapter(model: Any, config: AgentSFTConfig) -> None:
    """Training goes on with the adapter the base model came with; other settings would be ignored, so they are refused.

    Raises:
        ConfigError: naming the setting.
    """
    [found] = model.peft_config.values()
    has = {"use_lora": True, "lora_r": found.r, "lora_alpha": found.lora_alpha, "use_dora": found.use_dora}
    for name, value in has.items():
        if getattr(config, name) != value:
            raise ConfigError(
                f"'{name}' is {getattr(config, name)} but base_model is an adapter with {value}; give the same, or the "
                "base model beneath it"
            )


def require_finite(model: nn.Module, step: int) -> None:
    """Weights that are no numbers are not saved as a result.

    Raises:
        TrainingError: naming the parameter.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
            raise TrainingError(f"after step {step} {name} is not finite; lower learning_rate")


def float32_copy_needed(dtype: torch.dtype, config: AgentSFTConfig) -> bool:
    """Whether full fine-tuning must lift the weights: steps of 1e-5 vanish in bfloat16's eight bits."""
    return not config.use_lora and dtype == torch.bfloat16

"""Learning rates: how high, and for which parameters.

LoRA+ (Hayou et al., 2024) gives B `ratio` times the rate of A: A's update sums over as many inputs as the layer is
wide, B's over the rank alone, so for wide layers the best rates lie apart. PEFT's `create_loraplus_optimizer` builds
the same groups for LoRA on linear layers; we deviate in two places where that argument says nothing:

- DoRA's magnitude vector learns at the plain rate, undecayed; PEFT counts every vector as a B.
- LoRA on an embedding learns at the plain rate, since a one-hot input sums over nothing; PEFT fixes it at 1e-6.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from sage.libs.finetune.agent.config import AgentSFTConfig


def parameter_groups(model: nn.Module, config: AgentSFTConfig, learning_rate: float) -> list[dict[str, Any]]:
    """Optimiser groups of the trainable parameters, always in this order (checkpoints name groups by number).

    Args:
        model: Its parameters that require a gradient are grouped.
        config: `use_lora_plus`, `lora_plus_lr_ratio` and `weight_decay` are read.
        learning_rate: Rate of all but LoRA+'s B.

    Returns:
        Those of `matrices`, `lora_B` and `vectors` that have members, each with `lr` and `weight_decay`. Vectors
        (biases, norms, DoRA's magnitudes) are not decayed.

    Example:
        >>> config = AgentSFTConfig(base_model="-", train_data="-", use_lora=False, weight_decay=0.1)
        >>> [group["weight_decay"] for group in parameter_groups(nn.Linear(2, 3), config, 1e-3)]
        [0.1, 0.0]
    """
    ratio = config.lora_plus_lr_ratio if config.use_lora_plus else 1.0
    groups: dict[str, dict[str, Any]] = {
        "matrices": {"params": [], "lr": learning_rate, "weight_decay": config.weight_decay},
        "lora_B": {"params": [], "lr": learning_rate * ratio, "weight_decay": config.weight_decay},
        "vectors": {"params": [], "lr": learning_rate, "weight_decay": 0.0},
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = "vectors" if parameter.ndim < 2 else "lora_B" if ".lora_B." in name else "matrices"
            groups[kind]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def learning_rate_for(config: AgentSFTConfig, parameters: int) -> float:
    """The configured rate, or for "auto" one that suits the method and size.

    Full fine-tuning: 2e-5. LoRA wants about ten times as much (Schulman et al., "LoRA Without Regret", 2025): 2e-4,
    and 1e-3 below a billion parameters, which small models with few steps need (measured on the embedded model).

    Args:
        config: `learning_rate` and `use_lora` are read.
        parameters: Size of the model.

    Example:
        >>> config = AgentSFTConfig(base_model="-", train_data="-", learning_rate="auto")
        >>> learning_rate_for(config, 135_000_000), learning_rate_for(config, 7_000_000_000)
        (0.001, 0.0002)
    """
    if config.learning_rate != "auto":
        return config.learning_rate
    if not config.use_lora:
        return 2e-5
    return 1e-3 if parameters < 1_000_000_000 else 2e-4

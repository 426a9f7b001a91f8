"""LoRA, DoRA, rsLoRA and PiSSA adapters by PEFT: made, saved, and checked against the settings.

LoRA: W' = W + s B A with s = alpha / r (Hu et al., 2021); rsLoRA: s = alpha / sqrt(r) (Kalajdzievski, 2023).
DoRA learns the length of each output row of W' apart from its direction (Liu et al., 2024, section 4). PiSSA (Meng et
al., 2024) starts A and B from the largest singular vectors of W and trains on top of what remains, W - s B0 A0.

What PiSSA saves must load on the original W, as any adapter does: it is s (B A - B0 A0), an adapter of twice the rank.
A0 and B0 are therefore kept beside the run; resuming reads them too, rather than trust that a second decomposition
comes out the same to the last bit.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.errors import ConfigError, DivergedError
from sage.libs.finetune.agent.models.lora_linear import row_squares

PISSA_START = "pissa_start"
"""Folder of a run with A0 and B0 of PiSSA, as a PEFT adapter."""


def add_adapter(model: Any, config: AgentSFTConfig) -> Any:
    """The model with a fresh trainable adapter; its weights are float32 whatever the base is in.

    With PiSSA the base weights are changed, and where they came from is written to `PISSA_START` in
    `config.output_dir`; if it is there already (a run goes on), it is read instead.

    Args:
        model: A causal language model of transformers.
        config: The LoRA settings, and `output_dir` for PiSSA.

    Raises:
        ConfigError: when `lora_target_modules` matches nothing in the model, or PiSSA cannot be had with the rest.

    Example:
        >>> model = add_adapter(load_model("smollm2-135m-instruct").model, config)  # doctest: +SKIP
        >>> replace_forwards(model)  # doctest: +SKIP
    """
    from peft import LoraConfig, get_peft_model

    pissa = config.init_lora_weights == "pissa"
    if pissa:
        _require_pissa_possible(config)
    wanted = config.lora_target_modules
    targets = wanted if wanted == "all-linear" else [name.strip() for name in wanted.split(",")]
    adapter = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        use_dora=config.use_dora,
        use_rslora=config.use_rslora,
    )
    try:
        model = get_peft_model(model, adapter)
    except ValueError as error:
        raise ConfigError(f"'lora_target_modules': {wanted!r} does not fit this model: {error}") from None
    if config.use_dora:
        _set_exact_magnitudes(model)
    if pissa:
        _start_pissa(model, config.output_dir / PISSA_START)
    return model


def save_adapter(
    model: Any, folder: Path, run_folder: Path | None = None, weights: dict[str, torch.Tensor] | None = None
) -> None:
    """Save the adapter in PEFT's layout, such that it loads on the original base model.

    Args:
        model: What `add_adapter` or `load_model` gave.
        folder: Where to.
        run_folder: The `output_dir` of `add_adapter`; needed for a PiSSA adapter.
        weights: The model's state dict, where it had to be gathered from several devices.

    Raises:
        ConfigError: when a PiSSA adapter's start is not in `run_folder`.
    """
    [found] = model.peft_config.values()
    pissa = found.init_lora_weights == "pissa"
    start = (run_folder or Path()) / PISSA_START
    if pissa and not (run_folder and start.exists()):
        raise ConfigError(f"{start} is missing; a PiSSA adapter is saved with the start of its run")
    if not isinstance(found.target_modules, str):  # PEFT keeps a set: another order in every process
        found.target_modules = sorted(found.target_modules)
    model.save_pretrained(folder, state_dict=weights)
    if pissa:
        _subtract_start(folder, start)


def _subtract_start(folder: Path, start: Path) -> None:
    """Make a saved PiSSA adapter one for the original base: s [B, -B0] [A; A0], of twice the rank at the same s."""
    from peft import LoraConfig
    from safetensors.torch import load_file, save_file

    trained, first = (load_file(place / "adapter_model.safetensors") for place in (folder, start))
    joined = {
        name: torch.cat([tensor, first[name]], dim=0)
        if ".lora_A." in name
        else torch.cat([tensor, -first[name]], dim=1)
        for name, tensor in trained.items()
    }
    save_file(joined, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = LoraConfig.from_pretrained(str(folder))
    config.init_lora_weights = True
    config.r *= 2
    config.lora_alpha *= 2**0.5 if config.use_rslora else 2
    config.save_pretrained(folder)


def _require_pissa_possible(config: AgentSFTConfig) -> None:
    """PEFT's conversion drops DoRA's magnitudes, and quantised weights cannot be decomposed."""
    for name in ("use_dora", "load_in_4bit", "load_in_8bit"):
        if getattr(config, name):
            raise ConfigError(f"'init_lora_weights': pissa cannot be combined with {name}; give one of them")


@torch.no_grad()
def _set_exact_magnitudes(model: Any) -> None:
    """Start from the lengths of W's rows to float32's precision.

    PEFT computes them in the base's: in bfloat16 the first forward would be up to 0.4% off the base model's.
    """
    for layer in _linear_layers(model):
        [name] = layer.active_adapters
        if layer.base_layer.weight.is_floating_point():
            layer.lora_magnitude_vector[name].weight.copy_(row_squares(layer.base_layer.weight).sqrt_())


@torch.no_grad()
def _start_pissa(model: Any, start: Path) -> None:
    """Set A0 and B0, read from `start` or decomposed and written there, and take s B0 A0 from the base weights.

    As PEFT's "pissa" in float32. In bfloat16 PEFT rounds A0 and B0 after it has subtracted their exact product.
    """
    from peft import load_peft_weights, set_peft_model_state_dict
    from peft.tuners.lora.layer import LoraLayer

    if len(_linear_layers(model)) != sum(isinstance(module, LoraLayer) for module in model.modules()):
        raise ConfigError("'init_lora_weights': pissa decomposes linear layers; 'lora_target_modules' names others too")
    [found] = model.peft_config.values()
    most = min(min(layer.base_layer.weight.shape) for layer in _linear_layers(model))
    if found.r > most:
        raise ConfigError(f"'lora_r': pissa finds at most {most} singular vectors in a layer here, not {found.r}")
    if not start.exists():
        _write_principal(model, start)
    # Read back even what was just written: of several processes one has written it, and all go on from the same.
    set_peft_model_state_dict(model, load_peft_weights(str(start), device="cpu"))
    for layer in _linear_layers(model):
        [name] = layer.active_adapters
        base, a, b = layer.base_layer.weight, layer.lora_A[name].weight, layer.lora_B[name].weight
        base.copy_(base.float() - layer.scaling[name] * b @ a)
    found.init_lora_weights = "pissa"


def _write_principal(model: Any, start: Path) -> None:
    """Decompose the base weights, and save the adapter made of their principal parts."""
    for layer in _linear_layers(model):
        [name] = layer.active_adapters
        left, lengths, right = torch.linalg.svd(layer.base_layer.weight.float(), full_matrices=False)
        rank = layer.r[name]
        roots = (lengths[:rank] / layer.scaling[name]).sqrt_()
        layer.lora_A[name].weight.copy_(roots.unsqueeze(1) * right[:rank])
        layer.lora_B[name].weight.copy_(left[:, :rank] * roots)
    start.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{start.name}-", dir=start.parent) as aside:
        model.save_pretrained(Path(aside) / "adapter")
        try:
            (Path(aside) / "adapter").rename(start)
        except OSError:
            if not start.is_dir():  # not another process of the run that was faster
                raise


def _linear_layers(model: Any) -> list[Any]:
    from peft.tuners.lora.layer import Linear

    return [module for module in model.modules() if isinstance(module, Linear)]


def require_same_adapter(model: Any, config: AgentSFTConfig) -> None:
    """Training goes on with the adapter the base model came with; other settings would be ignored, so they are refused.

    Raises:
        ConfigError: naming the setting.
    """
    [found] = model.peft_config.values()
    if found.peft_type != "LORA":
        raise ConfigError(f"'base_model': adapters of the kind {found.peft_type.value} are not trained; give a LoRA")
    has = {
        "use_lora": True,
        "lora_r": found.r,
        "lora_alpha": found.lora_alpha,
        "lora_dropout": found.lora_dropout,
        "use_dora": found.use_dora,
        "use_rslora": found.use_rslora,
        "init_lora_weights": "default",
    }
    for name, value in has.items():
        if getattr(config, name) != value:
            raise ConfigError(
                f"'{name}' is {getattr(config, name)} but base_model is an adapter with {value}; give the same, or the "
                "base model beneath it"
            )


def require_finite(model: nn.Module, step: int) -> None:
    """Weights that are no numbers are not saved as a result.

    Raises:
        DivergedError: naming the parameter.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
            raise DivergedError(f"after step {step} {name} is not finite; lower learning_rate")


def float32_copy_needed(dtype: torch.dtype, config: AgentSFTConfig) -> bool:
    """Whether full fine-tuning must lift the weights: steps of 1e-5 vanish in bfloat16's eight bits."""
    return not config.use_lora and dtype == torch.bfloat16

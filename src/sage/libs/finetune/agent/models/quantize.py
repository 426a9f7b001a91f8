"""Base weights in 4 or 8 bits by bitsandbytes, for models that would not fit otherwise (CUDA only).

4 bits: NormalFloat-4 in blocks of 64 with their scales quantised once more, products in bfloat16 (QLoRA: Dettmers et
al., 2023), which makes about 0.52 bytes a weight. 8 bits: LLM.int8() (Dettmers et al., 2022), a byte a weight and
16-bit products for outlier columns. Both cover the linear layers; embeddings, norms and the language-model head stay
in bfloat16. What is trained are the adapters, in float32 as ever.

Where we deviate: the usual preparation for such training (PEFT's `prepare_model_for_kbit_training`) lifts everything
that was not quantised to float32. With a vocabulary of 150,000 that is a gigabyte or two, and the logits become float32
as well. Llama-type norms compute in float32 inside and our loss lifts its logits, so nothing is gained by it: we freeze
the base, which adding the adapter does, and leave its types alone. Nor need the embedding's output ask for a gradient:
gradient checkpointing here is the non-reentrant one, which finds the adapters by itself.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from sage.libs.finetune.agent.errors import ConfigError

BYTES_PER_WEIGHT = {"4bit": 0.5 + 1 / 64 + 4 / (64 * 256), "8bit": 1.0}
"""Memory of a quantised weight with its share of the scales (for 8 bits, four bytes a row: nothing to speak of)."""


def quantization_of(load_in_4bit: bool, load_in_8bit: bool) -> str | None:
    """The settings' two switches as one name: `4bit`, `8bit` or None.

    Example:
        >>> quantization_of(load_in_4bit=True, load_in_8bit=False)
        '4bit'
    """
    return "4bit" if load_in_4bit else "8bit" if load_in_8bit else None


def require_quantization(quantization: str | None) -> None:
    """Refuse what this machine cannot do, before anything is downloaded or loaded.

    Args:
        quantization: `4bit`, `8bit`, or None, which every machine can do.

    Raises:
        ConfigError: without a CUDA device, or without bitsandbytes.
    """
    if quantization is None:
        return
    setting = f"load_in_{quantization}"
    if not torch.cuda.is_available():
        raise ConfigError(
            f"'{setting}' needs a CUDA device and this machine has none; leave it out (base weights then take 2 bytes "
            "each with dtype: bfloat16), or train on a machine with one"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"'{setting}' needs the package bitsandbytes; run: pip install 'sage-libs[quantized]'")


def loading_options(quantization: str | None, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` must be told: weights are quantised as they arrive, on the device they stay on.

    Args:
        quantization: `4bit`, `8bit`, or None for no options at all.
        dtype: In which 4-bit weights are multiplied.

    Raises:
        ConfigError: as `require_quantization`.
    """
    require_quantization(quantization)
    if quantization is None:
        return {}
    from transformers import BitsAndBytesConfig

    chosen: dict[str, Any] = {"load_in_8bit": True}
    if quantization == "4bit":
        chosen = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": dtype,
        }
    settings = BitsAndBytesConfig(**chosen)  # type: ignore[no-untyped-call]
    return {"quantization_config": settings, "device_map": {"": torch.cuda.current_device()}}

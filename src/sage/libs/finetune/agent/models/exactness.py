"""For which models our own attention is known to compute what the model's own would.

Decoding with kept keys (`generate`) and packed batches with shared prefixes (`prefix`) replace the attention function
and nothing else. That is exact where attention is plain and causal over the whole row, positions come from position
ids alone, and every other layer works on tokens alone. Everything else takes the library's own path, and says so.
"""

from __future__ import annotations

from typing import Any

EXACT_MODEL_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3"})
"""`config.model_type` of the architectures tested or verified, all without sliding window."""

_EXACT_ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})


def inexact_because(model: Any) -> str:
    """Why our attention is not known to be exact for `model`; empty if it is."""
    base = base_model(model)
    config = base.config
    if config.model_type not in EXACT_MODEL_TYPES:
        return f"model type '{config.model_type}' is not one of {', '.join(sorted(EXACT_MODEL_TYPES))}"
    layer_types = getattr(config, "layer_types", None)
    windowed = getattr(config, "sliding_window", None) if layer_types is None else {*layer_types} != {"full_attention"}
    if windowed:
        return f"model type '{config.model_type}' has sliding-window attention"
    rope = config.rope_parameters["rope_type"]
    if rope not in _EXACT_ROPE_TYPES:
        return f"rope type '{rope}' depends on the length of the batch"
    if len(set(getattr(base, "hf_device_map", {}).values())) > 1:
        return "the model is spread over several devices"
    for name, adapter in getattr(model, "peft_config", {}).items():
        if adapter.peft_type != "LORA" or adapter.alora_invocation_tokens:
            return f"adapter '{name}' is not a plain LoRA"
    return ""


def base_model(model: Any) -> Any:
    """The transformers model inside a PeftModel, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model

"""A model with its adapter as one ordinary model folder, proved to say the same.

The merge W' = W + (alpha / r) B A (for DoRA: its rows brought to their learned lengths) is computed in float32 and
rounded once, whatever number type the base was trained in: merged in bfloat16, an update smaller than 1/256 of a
weight would vanish. For a run on a quantised base the adapter is merged into the base as it was before.

Three comparisons of logits, all in float32 on one prompt, stand behind a folder that was written:

1. the merged weights against base + adapter: equal but for float32's own rounding, so the merge is right;
2. the folder read back against the rounded weights in memory: equal, so the files are right;
3. the folder read back against base + adapter: within what rounding the weights can do, so the number type suffices.

Memory: the model once in float32, four bytes a parameter, and a copy of its largest layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.errors import AgentFinetuneError, ModelError
from sage.libs.finetune.agent.models.load import LoadedModel, load_model
from sage.libs.finetune.agent.tokenization.render import render_prompt
from sage.libs.finetune.agent.tokenization.template import stop_ids
from sage.libs.finetune.agent.types import Message

_EXACT = 1e-3
"""Largest difference of equal computations in float32, as a share of the logits' standard deviation; 1e-5 is usual."""
_SPREAD = 5.0
"""How far above the expected difference the largest of all logits may lie: they number 100,000 and have long tails."""
_UNIT = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""Largest relative error of one rounding."""
_PROBE: list[Message] = [
    {"role": "user", "content": 'Which of the 3 orders of "Mia Novak" was sent on 2024-05-17? Über 84,50 EUR, bitte.'}
]


class MergeError(AgentFinetuneError, RuntimeError):
    """A merged model does not say what base and adapter said."""


@dataclass(frozen=True)
class Merged:
    """A model folder that was written and checked.

    Attributes:
        adapter: What was merged ("LoRA", "rsLoRA", "DoRA"); "" when there was no adapter.
        dtype: Number type of the weights in the folder ("bfloat16" ...).
        parameters: Their number.
        difference: Largest difference of a logit between the folder and base + adapter.
        bound: The largest that rounding can explain.
        loaded: The folder's model in float32, with its tokenizer, as it was read back.
    """

    adapter: str
    dtype: str
    parameters: int
    difference: float
    bound: float
    loaded: LoadedModel


def write_merged(name: str, folder: Path, dtype: str = "auto") -> Merged:
    """Write a model, its adapter merged if it has one, as config, safetensors, tokenizer and template.

    Args:
        name: Run folder, adapter, model folder or model id.
        folder: A new folder; what is in it is not to be trusted when this fails.
        dtype: "float32", "float16", "bfloat16", or "auto": as the base model is stored.

    Raises:
        ModelError: when the model cannot be loaded.
        MergeError: when the folder says something else than base + adapter.

    Example:
        >>> write_merged("runs/first", Path("merged")).dtype  # doctest: +SKIP
        'bfloat16'
    """
    loaded = load_model(name, dtype="float32")
    model, tokenizer = loaded.model, loaded.tokenizer
    prompt = render_prompt(_PROBE, None, tokenizer)
    truth = _logits(model, prompt)
    adapter = _kind(model)
    if adapter:
        model = _without_adapter(model, name)
        _require(_largest(_logits(model, prompt), truth), _EXACT * _scale(truth), "the merge in float32 changes logits")
    target = _stored_dtype(loaded.location) if dtype == "auto" else getattr(torch, dtype)
    _cast(model, target)
    model.save_pretrained(folder)
    _add_stop_ids(folder / "generation_config.json", stop_ids(tokenizer, model.generation_config))
    tokenizer.save_pretrained(folder)
    _cast(model, torch.float32)
    rounded = _logits(model, prompt)
    parameters, layers = model.num_parameters(), _layers(model)
    del model, loaded
    back = load_model(str(folder), dtype="float32")
    found = _logits(back.model, prompt)
    _require(_largest(found, rounded), _EXACT * _scale(truth), "the folder read back differs from what was written")
    bound = rounding_bound(target, layers) * _scale(truth)
    difference = _largest(found, truth)
    _require(difference, bound, f"rounding to {_name(target)} changes logits; write it with dtype float32: they move")
    return Merged(adapter, _name(target), parameters, difference, bound, back)


def rounding_bound(dtype: torch.dtype, layers: int) -> float:
    """The largest difference of logits that rounding all weights to `dtype` explains, in their standard deviations.

    Errors of single weights are independent, so the output of a matrix is off by its unit roundoff, relatively, and
    the two blocks of each layer add up like the root of their number; the largest of many logits lies several standard
    deviations above that. Float32 is held to what two orders of summation do.

    Example:
        >>> rounding_bound(torch.bfloat16, 32), rounding_bound(torch.float32, 32)
        (0.15625, 0.001)
    """
    return max(_EXACT, _SPREAD * _UNIT[dtype] * math.sqrt(2 * layers))


def _kind(model: Any) -> str:
    """What the adapter is called, "" for a model without one."""
    if not hasattr(model, "peft_config"):
        return ""
    [config] = model.peft_config.values()
    return "DoRA" if config.use_dora else "rsLoRA" if config.use_rslora else "LoRA"


def _without_adapter(model: Any, name: str) -> Any:
    try:
        return model.merge_and_unload(safe_merge=True)
    except ValueError as error:  # PEFT on weights that are no numbers
        raise ModelError(f"the adapter of {name} cannot be merged: {error}") from error


def _add_stop_ids(file: Path, ids: list[int]) -> None:
    """In the file: transformers saves a faulty generation config (many are published) only if nobody touched it."""
    jsonl.write_json(file, {**jsonl.read_json(file), "eos_token_id": ids})


def _stored_dtype(location: str) -> torch.dtype:
    found = AutoConfig.from_pretrained(location, trust_remote_code=False).dtype
    return found if found in _UNIT else torch.float32


def _cast(model: Any, dtype: torch.dtype) -> None:
    """Round or widen the parameters in place; buffers (rotary frequencies) are computed anew by whoever loads them."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


@torch.inference_mode()
def _logits(model: Any, prompt: list[int]) -> Tensor:
    """Logits of each position, float32 on the CPU, [tokens, vocabulary]."""
    logits: Tensor = model(input_ids=torch.tensor([prompt], device=model.device), use_cache=False).logits[0]
    return logits.float().cpu()


def _largest(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _scale(logits: Tensor) -> float:
    return float(logits.std())


def _layers(model: Any) -> int:
    return int(model.config.get_text_config().num_hidden_layers)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _require(difference: float, bound: float, what: str) -> None:
    if not difference <= bound:  # NaN is no small difference
        raise MergeError(f"{what} by {difference:.3g}, more than {bound:.3g}; nothing was kept")

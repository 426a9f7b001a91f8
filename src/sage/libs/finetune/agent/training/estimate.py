"""How much memory a training run takes: from shapes and token counts, before any weight is read.

The shapes come from the model's configuration, built on the meta device with the adapter that training would add, so
parameters are counted and not guessed. What the backward pass needs is derived for blocks of the Llama and Qwen type.
With H the hidden size, Q and K the widths of queries and of keys, I the width of the MLP, c the bytes of a base weight
(2 or 4), autograd keeps per layer and token:

    two norms                 2 H in float32, their inputs
    inputs of the linears     (2 H + Q + I) c, where something is adapted or trained
    output of A               r c for each adapted linear
    attention                 Q c (queries); 2 K c for each position that some segment sees (keys, values); with the
                              blocked products of CPUs the heads' probabilities, c for each pair of query and key;
                              with a fused kernel its output, Q c
    gated MLP                 3 I c (gate, its activation, up)
    DoRA                      (Q + 2 K + 2 H) c, the outputs that the magnitudes' gradients need and nobody else keeps
    norms of queries, keys    (Q + K) in float32, in models that have them
    full fine-tuning          2 H in float32 for the gradients of the two norms' weights

Adapter layers that are left to PEFT (dropout, quantised bases) keep more: under a bfloat16 base a float32 copy of its
input for each of them, with dropout two (the input after it, and the noise), with DoRA about three float32 outputs.
Frozen weights keep no input of their own, so adapters on few linears save less than one might think.

With gradient checkpointing only each layer's input remains (H c), and one layer at a time has the rest. On top come the
gradients of activations while they are needed, and the head's logits, of trained tokens only and a chunk at a time.
Adapters, gradients and AdamW's two moments are float32: 16 bytes a trained parameter. Activations are multiplied by
what allocators were seen to hold beyond what is asked of them.

Not modelled: mixtures of experts, and weights that are sharded over several devices.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import nn

from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.models.batches import BatchForm
from sage.libs.finetune.agent.models.exactness import base_model
from sage.libs.finetune.agent.models.load import pick_dtype
from sage.libs.finetune.agent.models.lora_linear import FastLoraLinear
from sage.libs.finetune.agent.models.prefix import Layout, packed_length
from sage.libs.finetune.agent.models.quantize import BYTES_PER_WEIGHT, quantization_of
from sage.libs.finetune.agent.training.available import available_memory
from sage.libs.finetune.agent.training.processes import anywhere

logger = logging.getLogger(__name__)

USABLE = 0.9
"""Share of the available memory an estimate may fill before checkpointing is turned on."""

_CONTEXT = {"cpu": 128 * 2**20, "cuda": 600 * 2**20}
"""What libraries take for themselves once they compute."""
_HEAD_CHUNK = {"cpu": 128, "cuda": 1024}
"""Trained tokens whose logits `models.losses` holds at once."""
_SLACK = {"cpu": 1.5, "cuda": 1.1}
"""Memory the allocator holds for each byte of activations: what is freed between tensors that stay is not all used
again (measured with glibc at 1.2 to 1.8; assumed for CUDA's caching allocator)."""


class MicroBatch(NamedTuple):
    """What one forward and backward pass computes.

    Attributes:
        tokens: Tokens that run through the model: shared prefixes once, padding as well.
        trained: Tokens whose logits are computed.
        seen: Positions whose keys are laid out for some segment; more than `tokens` where prefixes are shared.
        pairs: Pairs of a query and a key it sees.
        packed: Whether it is packed (`models.prefix`) and not padded.
    """

    tokens: int
    trained: int
    seen: int
    pairs: int
    packed: bool

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], form: BatchForm) -> MicroBatch:
        """Of token rows, in the form in which training computes them."""
        batch = form(rows)
        if not form.packed:
            count, length = batch["input_ids"].shape
            trained = count * int((batch["labels"][:, 1:] != -100).any(dim=0).sum())
            return cls(count * length, trained, count * length, count * length * (length + 1) // 2, False)
        layout: Layout = batch["layout"]
        seen = pairs = 0
        for segment, length in zip(layout.segments, layout.lengths, strict=True):
            seen += segment.position + length
            pairs += length * segment.position + length * (length + 1) // 2
        return cls(sum(layout.lengths), len(batch["targets"]), seen, pairs, True)


def computed_tokens(rows: Sequence[Mapping[str, Any]], form: BatchForm) -> int:
    """Tokens of the micro-batch of these rows, without building it."""
    ids = [row["input_ids"] for row in rows]
    return packed_length(ids, form.share) if form.packed else len(ids) * max(map(len, ids))


def largest_batch(rows: Sequence[Mapping[str, Any]], batches: Iterable[Sequence[int]], form: BatchForm) -> MicroBatch:
    """The micro-batch that computes the most tokens.

    Args:
        rows: Token rows.
        batches: Row numbers of each micro-batch of an epoch.
        form: How rows become batches.
    """
    chosen = [[rows[number] for number in batch] for batch in batches if batch]
    chosen = chosen or [[rows[0]]]  # fewer batches than processes, and this one has none of them

    def most(batch: Sequence[Mapping[str, Any]]) -> int:
        lengths = [len(row["input_ids"]) for row in batch]
        return sum(lengths) if form.packed else len(lengths) * max(lengths)

    best, largest = -1, chosen[0]
    for batch in sorted(chosen, key=most, reverse=True):
        if most(batch) <= best:
            break
        tokens = computed_tokens(batch, form)
        if tokens > best:
            best, largest = tokens, batch
    return MicroBatch.of(largest, form)


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a model with its adapter that memory and time depend on.

    Attributes:
        parameters: Weights of the base model, tied ones once.
        trained: Weights that are trained: the adapter's, or all.
        linear: Weights in the base model's linear layers but the head; these can be quantised.
        adapted_inputs: Widths of the inputs of all adapted linears, summed.
        adapted_outputs: The same of their outputs.
        rank: Rank times number of adapted linears.
        fast: Whether the adapters compute by `models.lora_linear`.
        layers: Blocks.
        hidden: H.
        queries: Q.
        keys: K.
        heads: Query heads.
        mlp: I.
        vocabulary: Rows of the head.
        head_norms: Whether queries and keys have norms of their own.
    """

    parameters: int
    trained: int
    linear: int
    adapted_inputs: int
    adapted_outputs: int
    rank: int
    fast: bool
    layers: int
    hidden: int
    queries: int
    keys: int
    heads: int
    mlp: int
    vocabulary: int
    head_norms: bool

    @classmethod
    def of(cls, model: Any) -> ModelShape:
        """Of a causal language model of transformers, or a PeftModel around one; the meta device will do."""
        base = base_model(model)
        config = base.config.get_text_config()
        adapted = [module for module in base.modules() if isinstance(module, LoraLayer)]
        own = [parameter for name, parameter in base.named_parameters() if "lora_" not in name]
        head, linears = base.get_output_embeddings(), _own_linears(base)
        packed = sum(_weights(linear) - linear.weight.numel() for linear in linears)
        heads = getattr(config, "num_attention_heads", None) or 1  # state-space models have none
        head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            parameters=sum(parameter.numel() for parameter in own) + packed,
            trained=sum(parameter.numel() for parameter in base.parameters() if parameter.requires_grad),
            linear=sum(_weights(linear) for linear in linears if linear is not head),
            adapted_inputs=sum(int(layer.in_features or 0) for layer in adapted),
            adapted_outputs=sum(int(layer.out_features or 0) for layer in adapted),
            rank=sum(int(rank or 0) for layer in adapted for rank in layer.r.values()),
            fast=any(isinstance(layer, FastLoraLinear) for layer in adapted),
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            queries=heads * head_size,
            keys=(getattr(config, "num_key_value_heads", None) or heads) * head_size,
            heads=heads,
            mlp=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            vocabulary=config.vocab_size,
            head_norms=any(name.endswith("q_norm") for name, _ in base.named_modules()),
        )


def _own_linears(base: nn.Module) -> list[nn.Linear]:
    """Without the adapters' factors."""
    return [module for name, module in base.named_modules() if isinstance(module, nn.Linear) and "lora_" not in name]


def _weights(linear: nn.Linear) -> int:
    """Weights of a layer; 4-bit ones are packed, two to an element."""
    return linear.in_features * linear.out_features


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak of a step.

    Attributes:
        weights: Base weights.
        adapters: The adapter's weights; 0 in full fine-tuning.
        gradients: Gradients of what is trained.
        optimizer: AdamW's moments.
        activations: What the backward pass needs, without checkpointing.
        checkpointed: The same with it.
        logits: Logits and their gradients.
        workspace: Gradients of activations while they are needed.
        context: What the libraries underneath take for themselves.
    """

    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    checkpointed: int
    logits: int
    workspace: int
    context: int

    def parts(self, checkpointing: bool) -> dict[str, int]:
        """Bytes by what they are for."""
        return {
            "weights": self.weights,
            "adapters": self.adapters,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "activations": self.checkpointed if checkpointing else self.activations,
            "logits": self.logits,
            "workspace": self.workspace,
            "context": self.context,
        }

    def total(self, checkpointing: bool) -> int:
        """Bytes in all."""
        return sum(self.parts(checkpointing).values())


def estimate_memory(
    shape: ModelShape, config: AgentSFTConfig, batch: MicroBatch, device: torch.device
) -> MemoryEstimate:
    """Memory at the peak of a training step.

    Args:
        shape: Of the model with its adapter.
        config: The run's settings.
        batch: The largest micro-batch.
        device: Where it is to run.
    """
    size = pick_dtype(config.dtype).itemsize if config.use_lora else 4  # full fine-tuning is lifted to float32
    quantization = quantization_of(config.load_in_4bit, config.load_in_8bit)
    weights = shape.parameters * size
    if quantization:
        weights += int(shape.linear * (BYTES_PER_WEIGHT[quantization] - size))
    kept = _kept(shape, config, batch, size, blocked=batch.packed and device.type == "cpu")
    slack = _SLACK[device.type]
    chunk = min(batch.trained, _HEAD_CHUNK[device.type]) if batch.packed else batch.trained
    return MemoryEstimate(
        weights=weights,
        adapters=4 * shape.trained if config.use_lora else 0,
        gradients=4 * shape.trained,
        optimizer=8 * shape.trained,
        activations=int(kept * shape.layers * slack),
        checkpointed=int((kept + batch.tokens * shape.hidden * size * shape.layers) * slack),
        logits=chunk * shape.vocabulary * (8 if batch.packed and config.use_lora else 16),
        workspace=int(batch.tokens * (3 * shape.mlp + 2 * shape.hidden) * size * slack),
        context=_CONTEXT[device.type],
    )


def _kept(shape: ModelShape, config: AgentSFTConfig, batch: MicroBatch, size: int, blocked: bool) -> int:
    """Bytes that autograd keeps of one layer; the terms are those of the module's docstring."""
    hidden, queries, keys, mlp = shape.hidden, shape.queries, shape.keys, shape.mlp
    inputs, outputs = shape.adapted_inputs // shape.layers, shape.adapted_outputs // shape.layers
    shared = 2 * hidden + queries + mlp
    a_token = 4 * 2 * hidden + (queries + 3 * mlp) * size
    if shape.head_norms:
        a_token += 4 * (queries + keys)
    if not config.use_lora:
        a_token += shared * size + 4 * 2 * hidden
    elif shape.fast and not (config.load_in_4bit or config.load_in_8bit):
        a_token += (min(inputs, shared) + shape.rank // shape.layers) * size
        a_token += min(outputs, queries + 2 * keys + 2 * hidden) * size if config.use_dora else 0
    else:
        inputs_kept = 2 * inputs if config.lora_dropout else inputs if size == 2 else min(inputs, shared)
        a_token += 4 * (inputs_kept + shape.rank // shape.layers)
        a_token += (8 + size) * outputs if config.use_dora else 0
    attention = batch.seen * 2 * keys * size
    attention += batch.pairs * shape.heads * size if blocked else batch.tokens * queries * size
    return batch.tokens * a_token + attention


def decide_checkpointing(config: AgentSFTConfig, estimate: MemoryEstimate, available: int | None) -> tuple[bool, str]:
    """Whether to recompute activations in the backward pass, and why.

    It makes a step about a third slower, so `auto` turns it on only where memory would not suffice without it. Where it
    would not suffice with it either, it is on too: that comes nearest, and the reason says what to change.

    Args:
        config: Of which `gradient_checkpointing` is read.
        estimate: For the largest micro-batch.
        available: Bytes that can be taken before the model is loaded; None when unknown.

    Returns:
        The decision, and a line for the log.

    Example:
        >>> estimate = MemoryEstimate(2**30, 0, 0, 0, 8 * 2**30, 2**30, 0, 0, 0)
        >>> decide_checkpointing(AgentSFTConfig("m", "d"), estimate, 4 * 2**30)
        (True, 'gradient checkpointing on: 9.0 GB estimated without it, 2.0 GB with it, 4.0 GB available')
    """
    setting = config.gradient_checkpointing
    if setting != "auto":
        return setting, f"gradient checkpointing {'on' if setting else 'off'}, as set"
    plain, with_it = estimate.total(False), estimate.total(True)
    if available is None:
        return False, f"gradient checkpointing off: {in_bytes(plain)} estimated, available memory unknown"
    if plain <= USABLE * available:
        return False, f"gradient checkpointing off: {in_bytes(plain)} estimated, {in_bytes(available)} available"
    reason = f"{in_bytes(plain)} estimated without it, {in_bytes(with_it)} with it, {in_bytes(available)} available"
    if with_it > USABLE * available:
        reason += "; even so it may not fit: lower batch_size or max_seq_length, or take dtype: bfloat16"
    return True, f"gradient checkpointing on: {reason}"


def choose_checkpointing(
    model: Any, config: AgentSFTConfig, rows: Sequence[Any], batches: Iterable[Sequence[int]], form: BatchForm
) -> int:
    """Turn gradient checkpointing on or off on a loaded model, as settings and memory have it, and log why.

    Args:
        model: With its adapter, on the device it trains on.
        config: The run's settings.
        rows: Token rows.
        batches: Row numbers of each micro-batch of an epoch.
        form: How rows become batches.

    Returns:
        The bytes that the run is expected to take at its peak.
    """
    shape = ModelShape.of(model)
    estimate = estimate_memory(shape, config, largest_batch(rows, batches, form), model.device)
    held = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    checkpointing, reason = decide_checkpointing(config, estimate, available_memory(model.device, held))
    checkpointing = anywhere(checkpointing)  # sharded models: all must compute the same layers again
    if checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    elif base_model(model).is_activation_checkpointing:
        model.activation_checkpointing_disable()
    logger.info("%s", reason)
    return estimate.total(checkpointing)


def in_bytes(amount: int) -> str:
    """Bytes for people, in powers of 1024.

    Example:
        >>> in_bytes(3 * 2**30), in_bytes(5 * 2**19)
        ('3.0 GB', '2 MB')
    """
    return f"{amount / 2**30:.1f} GB" if amount >= 2**30 else f"{amount / 2**20:.0f} MB"

"""How long a training run takes: operations counted, over a rate measured here. Rough: within a factor of two.

A product with P weights takes 2 P operations a token forward and 2 P backward for the gradient of its input; another
2 P only where the weights themselves are trained. So a frozen base costs 4 P, an adapter or full fine-tuning 6 P, and
checkpointing another forward pass. The head runs on trained tokens only. Attention's two products take 4 Q forward (Q
the width of the queries) for each layer and pair of query and key, and 8 Q backward, where both factors have a
gradient.

The sum is divided by the rate of a matrix product at the model's own sizes, measured on the device in well under a
second, and by the share of that rate which whole steps were seen to reach: what is not a matrix product (norms,
activations, softmax, adding adapters) takes the rest of the time.
"""

from __future__ import annotations

import time

import torch

from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.training.estimate import MicroBatch, ModelShape

EFFICIENCY = {"cpu": 0.5, "cuda": 0.4}
"""Share of a large product's rate that a whole step reaches: seen with the embedded model on CPUs, assumed on CUDA."""

_PROBE_SECONDS = 0.3


def step_flops(shape: ModelShape, config: AgentSFTConfig, batch: MicroBatch, checkpointing: bool) -> float:
    """Floating point operations of a forward and a backward pass over one micro-batch."""
    head = shape.vocabulary * shape.hidden
    forward = 2 * shape.linear * batch.tokens + 4 * shape.queries * shape.layers * batch.pairs
    passes = 2 if config.use_lora else 3  # gradients of inputs, and in full fine-tuning of weights
    work = passes * (forward + 2 * head * batch.trained)
    if config.use_lora:
        work += 2 * shape.queries * shape.layers * 2 * batch.pairs  # both factors of attention have a gradient
        work += 6 * shape.trained * batch.tokens
    return work + (forward if checkpointing else 0)


def product_rate(shape: ModelShape, dtype: torch.dtype, device: torch.device, tokens: int) -> float:
    """Floating point operations a second of the model's largest product, measured here in under a second."""
    rows = max(16, min(tokens, 1024 if device.type == "cpu" else 8192))
    left = torch.ones(rows, shape.hidden, dtype=dtype, device=device)
    right = torch.ones(shape.hidden, shape.mlp, dtype=dtype, device=device)

    def seconds(times: int) -> float:
        begin = time.perf_counter()
        for _ in range(times):
            product = left @ right
        float(product[0, 0])  # waits for the device
        return time.perf_counter() - begin

    seconds(2)
    times = max(1, int(_PROBE_SECONDS / max(seconds(1), 1e-6)))
    return 2.0 * rows * shape.hidden * shape.mlp * times / seconds(times)

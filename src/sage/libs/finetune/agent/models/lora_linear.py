"""A faster forward and backward for PEFT's LoRA and DoRA linear layers: the same numbers, objects and files.

With s = alpha / r (or alpha / sqrt(r)), frozen W and bias b, a LoRA layer computes (Hu et al., 2021)

    y = W x + b + s B (A x)

and a DoRA layer, with a learned length m per output row (Liu et al., 2024),

    y = g * (W x + s B (A x)) + b,    g = m / n,    n = length of each row of W + s B A

where n counts as a constant in the backward pass (their section 4.3). What differs from PEFT:

- One autograd function saves x and A x (DoRA: and its output, for the gradient of m) and adds both gradients of x into
  one tensor. PEFT's chain of operations keeps and sums full-size intermediates.
- Under bfloat16 base weights the two thin products run in bfloat16 as well; PEFT lifts x to float32 for them. A, B and
  m stay float32, and so do their gradients.
- PEFT builds B A, as large as W, in each forward. Here n comes from thin products (arXiv 2603.22276),

      n^2 = rowsum(W^2) + 2 s rowsum((W A^T) * B) + s^2 rowsum((B (A A^T)) * B)

  in float32, and is kept until A, B or W changes: the micro-batches of an optimiser step share it, so does the
  recomputation of gradient checkpointing.

Only the class of a module is exchanged, for one that adds neither parameters nor buffers. What it does not do exactly
(dropout, quantised bases, several active adapters ...) it leaves to PEFT's own forward, at each call anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

_DTYPES = (torch.float32, torch.bfloat16)
_NORM_ROWS = {"cpu": 512}
"""Rows of W lifted to float32 at once for the norms: bounds the memory, and on CPUs they stay in the cache (a third of
the time for SmolLM2's layers)."""
_NORM_ROWS_ELSEWHERE = 4096


@dataclass(frozen=True)
class ReplacedForwards:
    """What `replace_forwards` did.

    Attributes:
        fast: Number of adapter layers with the fast forward.
        left: Name of each adapter layer that keeps PEFT's forward, and why.
    """

    fast: int
    left: dict[str, str]


def replace_forwards(model: nn.Module) -> ReplacedForwards:
    """Give the LoRA and DoRA linear layers of a model with PEFT adapters the fast forward.

    Parameters, `state_dict`, saved files, merging and disabling stay PEFT's. Calling it again does no harm.

    Returns:
        How many layers are fast, and which are left to PEFT. A fast layer goes back to PEFT's forward by itself while
        something applies that it does not compute (a second active adapter, autocast, hooks on its parts).

    Example:
        >>> model = get_peft_model(model, LoraConfig(target_modules="all-linear"))  # doctest: +SKIP
        >>> replace_forwards(model)  # doctest: +SKIP
        ReplacedForwards(fast=210, left={})
    """
    _count_optimiser_steps()
    fast = 0
    left: dict[str, str] = {}
    module: Any
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        reason = _why_left(module)
        if reason:
            left[name] = reason
            continue
        if type(module) is PeftLinear:
            vars(module)["_row_norms"] = RowNorms()
            module.__class__ = FastLoraLinear
        fast += 1
    return ReplacedForwards(fast, left)


def restore_forwards(model: nn.Module) -> None:
    """Undo `replace_forwards`."""
    fast: list[Any] = [module for module in model.modules() if type(module) is FastLoraLinear]
    for module in fast:
        del vars(module)["_row_norms"]
        module.__class__ = PeftLinear


class FastLoraLinear(PeftLinear):
    """PEFT's LoRA linear layer with another forward; made by `replace_forwards`, not by hand."""

    _row_norms: RowNorms

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As PEFT's."""
        if args or kwargs or self.disable_adapters or _why_left(self) or _needs_casts(x, self):
            return super().forward(x, *args, **kwargs)
        [name] = self.active_adapters
        base: Any = self.base_layer
        a: Any = self.lora_A[name].weight
        b: Any = self.lora_B[name].weight
        scaling = float(self.scaling[name])
        magnitude = norms = None
        if name in self.lora_variant:
            magnitude = self.lora_magnitude_vector[name].weight
            norms = self._row_norms.of(base.weight, a, b, scaling)
        flat = x.reshape(-1, x.shape[-1])
        product: Any = _AdaptedProduct.apply
        result: Tensor = product(flat, base.weight, base.bias, a, b, scaling, magnitude, norms)
        return result.view(*x.shape[:-1], -1)


def _why_left(layer: Any) -> str:
    """Why a layer is left to PEFT's forward, or an empty string."""
    if type(layer) not in (PeftLinear, FastLoraLinear):
        return f"it is a {type(layer).__module__.rpartition('.')[2]}.{type(layer).__name__}"
    if layer.merged:
        return "the adapter is merged into the weights"
    if len(layer.active_adapters) != 1 or layer.active_adapters[0] not in layer.lora_A:
        return "not exactly one adapter is active"
    name, base = layer.active_adapters[0], layer.base_layer
    if not isinstance(layer.lora_dropout[name], nn.Identity):
        return "the adapter has dropout"
    if type(layer.lora_variant.get(name)) not in (type(None), DoraLinearVariant):
        return f"it is of the variant {type(layer.lora_variant[name]).__name__}"
    if layer.fan_in_fan_out or layer.lora_bias[name]:
        return "its weight is transposed" if layer.fan_in_fan_out else "B has a bias"
    if not all(_is_plain(part) for part in (base, layer.lora_A[name], layer.lora_B[name])):
        return f"its base ({type(base).__name__}), A or B is no plain linear layer, or has hooks"
    if base.weight.dtype not in _DTYPES or layer.lora_A[name].weight.dtype not in (torch.float32, base.weight.dtype):
        return f"its weights are in {base.weight.dtype}, A in {layer.lora_A[name].weight.dtype}"
    if base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad):
        return "its base is trained too"
    return ""


def _is_plain(linear: nn.Module) -> bool:
    """Whether reading its weight is all that calling it would do (FSDP, ZeRO-3 and offloading do more)."""
    return (
        type(linear) is nn.Linear
        and type(linear.weight) in (nn.Parameter, Tensor)
        and not (linear._forward_hooks or linear._forward_pre_hooks)
        and not (linear._backward_hooks or linear._backward_pre_hooks)
        and "forward" not in vars(linear)
    )


def _needs_casts(x: Tensor, layer: Any) -> bool:
    """Whether PEFT's forward casts this input, or operations under it."""
    return x.dtype != layer.base_layer.weight.dtype or torch.is_autocast_enabled(x.device.type)


class _AdaptedProduct(torch.autograd.Function):
    """The formulas of the module docstring for x of shape (n, in): result (n, out), in the dtype of W."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
        magnitude: Tensor | None,
        norms: Tensor | None,
    ) -> Tensor:
        low = F.linear(x, a.to(x.dtype)).mul_(scaling)
        if magnitude is None or norms is None:
            result = F.linear(x, weight, bias).addmm_(low, b.to(x.dtype).T)
            kept = None
        else:
            result = F.linear(x, weight).addmm_(low, b.to(x.dtype).T)
            # y = z + (g - 1) z: near 1 bfloat16 has steps of 1/128, and a g rounded to them would not learn.
            gain = _gain(magnitude, norms, x.dtype)
            if bias is None:
                kept = result.addcmul_(result, gain)  # the next operation often saves it too: then it costs nothing
            else:
                kept = result
                result = torch.addcmul(kept, kept, gain).add_(bias)
        ctx.save_for_backward(x, weight, a, b, low, magnitude, norms, kept)
        ctx.scaling, ctx.has_bias = scaling, bias is not None
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, low, magnitude, norms, kept = ctx.saved_tensors
        wants_x, _, _, wants_a, wants_b, _, wants_magnitude, _ = ctx.needs_input_grad
        grad_x = grad_a = grad_b = grad_magnitude = None
        if magnitude is not None:
            if wants_magnitude:
                # z summed against the gradient is dm n; without bias the output is g z, which gives dm m.
                length = norms if ctx.has_bias else magnitude
                summed = (grad * kept).sum(0).to(magnitude.dtype)  # the sum itself runs in float32
                grad_magnitude = torch.where(length == 0, 0.0, summed / length)
            grad = torch.addcmul(grad, grad, _gain(magnitude, norms, grad.dtype))
        if wants_b:
            grad_b = (grad.T @ low).to(b.dtype)
        if wants_x or wants_a:
            up = (grad @ b.to(grad.dtype)).mul_(ctx.scaling)
            if wants_a:
                grad_a = (up.T @ x).to(a.dtype)
            if wants_x:
                grad_x = (grad @ weight).addmm_(up, a.to(grad.dtype))
        return grad_x, None, None, grad_a, grad_b, None, grad_magnitude, None


def _gain(magnitude: Tensor, norms: Tensor, dtype: torch.dtype) -> Tensor:
    """What g exceeds 1 by, for each output row."""
    return ((magnitude.float() - norms) / norms).to(dtype)


class RowNorms:
    """The lengths of the rows of W + s B A of one layer, computed again whenever one of them may have changed.

    A change is seen by the tensors' version counters (operations in place: optimiser steps, loading a checkpoint), by
    their storage (`.data` exchanged, moved to a device), and by any optimiser's step: some write past the counters, and
    FSDP gathers into the same storage without counting.
    """

    def __init__(self) -> None:
        self._base_state: tuple[Any, ...] = ()
        self._base_squares = torch.empty(0)
        self._state: tuple[Any, ...] = ()
        self._norms = torch.empty(0)

    def __reduce__(self) -> tuple[type[RowNorms], tuple[()]]:
        """Copies and pickles start empty: the keys mean tensors of this process and model."""
        return RowNorms, ()

    def of(self, weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        """Float32 lengths, shape (out,), without gradient.

        Args:
            weight: Frozen base weight (out, in).
            a: (r, in).
            b: (out, r).
            scaling: s.
        """
        base_state = (_state(weight),)
        state = (*base_state, _state(a), _state(b), scaling, _Steps.done)
        if None in state[:3] or state != self._state:
            # A tensor made in inference mode could not be saved for a later backward pass.
            with torch.inference_mode(False), torch.no_grad():
                if None in base_state or base_state != self._base_state:
                    self._base_squares, self._base_state = row_squares(weight), base_state
                self._norms, self._state = _row_norms(self._base_squares, weight, a, b, scaling), state
        return self._norms


def row_squares(weight: Tensor) -> Tensor:
    """rowsum(W^2) of a weight (out, in), summed in float64, as float32 of shape (out,)."""
    return torch.cat([rows.double().square_().sum(1).float() for rows in _row_blocks(weight)])


def _row_blocks(weight: Tensor) -> tuple[Tensor, ...]:
    rows = _NORM_ROWS.get(weight.device.type, _NORM_ROWS_ELSEWHERE)
    return torch.split(weight.detach(), rows)


def _row_norms(squares: Tensor, weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    a, b = a.detach().float(), b.detach().float()
    crossed = torch.cat([rows.float() @ a.T for rows in _row_blocks(weight)])
    crossed.mul_(2 * scaling).addmm_(b, a @ a.T, alpha=scaling**2)
    length = torch.linalg.vecdot(crossed, b).add_(squares)
    # Where W and s B A cancel, rounding is all that is left of the sum; it must not become a huge g.
    floor = squares.mul(torch.finfo(torch.float32).eps).clamp_min_(torch.finfo(torch.float32).tiny)
    return torch.maximum(length, floor).sqrt_()


def _state(tensor: Tensor) -> tuple[StorageWeakRef, int, int] | None:
    """What changes when the tensor's values do; None when that cannot be told."""
    if tensor.is_inference():
        return None
    storage = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
    return storage, tensor.data_ptr(), tensor._version


class _Steps:
    """Steps that optimisers of this process have taken since `replace_forwards` was first called."""

    done = 0


@cache
def _count_optimiser_steps() -> None:
    def count(*_: Any) -> None:
        _Steps.done += 1

    register_optimizer_step_post_hook(count)

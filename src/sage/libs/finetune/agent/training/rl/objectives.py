"""What PPO minimises. Pure functions of tensors (Schulman et al. 2017, arXiv:1707.06347)."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_policy_loss(logps: Tensor, old_logps: Tensor, advantages: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """PPO's surrogate (eq. 7), as a loss of each token.

        ratio = exp(log pi(a) - log pi_old(a));  loss = -min(ratio A, clip(ratio, 1 - clip, 1 + clip) A)

    At ratio 1 its gradient is that of the plain policy gradient, -A grad log pi(a).

    Args:
        logps: [N] of the policy as it is, with gradient.
        old_logps: [N] of the policy that played.
        advantages: [N].
        clip: Half the width of the range in which a ratio earns more; infinite for none.

    Returns:
        [N] losses, and [N] bool: where the clipped side was the smaller one, so that the token has no gradient.

    Example:
        >>> old = torch.log(torch.tensor([0.5])); new = torch.log(torch.tensor([0.75]))
        >>> loss, clipped = clipped_policy_loss(new, old, torch.tensor([1.0]), clip=0.2)
        >>> [round(value, 4) for value in loss.tolist()], clipped.tolist()
        ([-1.2], [True])
    """
    ratio = torch.exp(logps - old_logps)
    plain, bounded = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(plain, bounded), bounded > plain


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """Half the squared error of each value, the larger one of it and of the value clipped to near the old one.

        loss = 1/2 max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2)

    (The implementation that came with the paper; TRL's PPO takes the same.)

    Args:
        values: [N] with gradient.
        old_values: [N] as they were when the episodes were played.
        returns: [N] targets.
        clip: How far a value may move; None for no clipping.

    Example:
        >>> clipped_value_loss(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([1.0]), 0.5).tolist()
        [0.125]
    """
    squared = (values - returns) ** 2
    if clip is None:
        return 0.5 * squared
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum(squared, (near - returns) ** 2)

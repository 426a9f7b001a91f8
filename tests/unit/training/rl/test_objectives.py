import math

import pytest
import torch

from sage.libs.finetune.agent.training.rl.objectives import clipped_policy_loss, clipped_value_loss


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.5, 1.0, -1.2, True),  # better and far enough: nothing more to earn
        (0.5, 1.0, -0.5, False),  # better, and yet less likely: the way back is open
        (1.5, -1.0, 1.5, False),  # worse, and yet likelier: the way back is open
        (0.5, -1.0, 0.8, True),  # worse and far enough
        (1.1, 2.0, -2.2, False),
        (0.9, -2.0, 1.8, False),
        (1.5, 0.0, 0.0, False),
    ],
)
def test_a_ratio_is_clipped_only_where_it_would_earn_more(ratio, advantage, loss, clipped):
    new = torch.tensor([math.log(0.2 * ratio)], requires_grad=True)
    found, cut = clipped_policy_loss(new, torch.tensor([math.log(0.2)]), torch.tensor([advantage]), 0.2)
    found.sum().backward()
    assert found.tolist() == pytest.approx([loss], abs=1e-6)
    assert cut.tolist() == [clipped]
    assert float(new.grad) == pytest.approx(0.0 if clipped else -advantage * ratio, abs=1e-6)


@pytest.mark.parametrize("clip", [0.2, math.inf])
def test_at_ratio_1_the_gradient_is_that_of_the_policy_gradient(clip):
    old = torch.tensor([-0.1, -2.0, -7.0])
    new, advantages = old.clone().requires_grad_(), torch.tensor([1.0, -3.0, 0.5])
    loss, clipped = clipped_policy_loss(new, old, advantages, clip)
    loss.sum().backward()
    assert new.grad.tolist() == [-1.0, 3.0, -0.5] and not clipped.any()


def test_without_clipping_the_loss_is_the_plain_surrogate():
    new, old, advantages = torch.tensor([-0.5]), torch.tensor([-3.0]), torch.tensor([2.0])
    loss, clipped = clipped_policy_loss(new, old, advantages, math.inf)
    assert float(loss) == pytest.approx(-2.0 * math.exp(2.5)) and not clipped.any()


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "gradient"),
    [
        (0.1, 0.0, 1.0, 0.405, -0.9),  # near the old one: the plain error
        (0.9, 0.0, 1.0, 0.32, 0.0),  # too far towards the target: the clipped one is larger, no gradient
        (-0.9, 0.0, 1.0, 1.805, -1.9),  # too far the wrong way: the plain one is larger
        (2.0, 0.0, 0.1, 1.805, 1.9),  # past the target
    ],
)
def test_the_value_loss_takes_the_larger_error(value, old, target, loss, gradient):
    values = torch.tensor([value], requires_grad=True)
    found = clipped_value_loss(values, torch.tensor([old]), torch.tensor([target]), 0.2)
    found.sum().backward()
    assert found.tolist() == pytest.approx([loss], abs=1e-6)
    assert float(values.grad) == pytest.approx(gradient, abs=1e-6)


def test_a_value_loss_without_clipping_is_half_the_squared_error():
    assert clipped_value_loss(torch.tensor([3.0]), torch.tensor([0.0]), torch.tensor([1.0]), None).tolist() == [2.0]

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sage.libs.finetune.agent.training.rl.advantages import (
    AdaptiveKL,
    deviation,
    explained_variance,
    gae,
    kl_estimate,
    whiten,
)

floats = st.floats(-5, 5, width=32)


def found(rewards, values, gamma, lam):
    advantages, returns = gae(torch.tensor(rewards), torch.tensor(values), gamma, lam)
    return advantages.tolist(), returns.tolist()


def test_gae_with_gamma_and_lambda_1_is_the_sum_of_what_is_still_paid_minus_the_value():
    advantages, returns = found([1.0, 0.0, 2.0], [0.5, 1.0, -1.0], 1.0, 1.0)
    assert advantages == [2.5, 1.0, 3.0]
    assert returns == [3.0, 2.0, 2.0]


def test_gae_with_lambda_0_is_the_error_of_one_step():
    advantages, returns = found([1.0, 0.0, 2.0], [0.5, 1.0, -1.0], 0.5, 0.0)
    assert advantages == [1.0 + 0.5 * 1.0 - 0.5, 0.0 + 0.5 * -1.0 - 1.0, 2.0 + 1.0]
    assert returns == [1.5, -0.5, 2.0]


def test_gae_of_two_turns_by_hand():
    # delta_2 = 1 - 0.6 = 0.4; delta_1 = 0 + 0.9 * 0.6 - 0.2 = 0.34; A_1 = 0.34 + 0.9 * 0.8 * 0.4 = 0.628
    advantages, returns = found([0.0, 1.0], [0.2, 0.6], 0.9, 0.8)
    assert advantages == pytest.approx([0.628, 0.4])
    assert returns == pytest.approx([0.828, 1.0])


@given(st.lists(st.tuples(floats, floats), min_size=1, max_size=12), st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_sum_of_its_definition(steps, gamma, lam):
    rewards, values = (list(column) for column in zip(*steps, strict=True))
    following = [*values[1:], 0.0]
    deltas = [r + gamma * after - v for r, v, after in zip(rewards, values, following, strict=True)]
    expected = [
        sum((gamma * lam) ** (later - at) * deltas[later] for later in range(at, len(deltas)))
        for at in range(len(deltas))
    ]
    advantages, returns = found(rewards, values, gamma, lam)
    assert advantages == pytest.approx(expected, abs=1e-4)
    assert returns == pytest.approx([a + v for a, v in zip(expected, values, strict=True)], abs=1e-4)


def test_whitening_counts_a_value_as_often_as_its_weight_says():
    values, weights = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([3.0, 1.0, 2.0])
    spelled_out = torch.repeat_interleave(values, weights.long())
    expected = (spelled_out - spelled_out.mean()) / spelled_out.std(correction=0)
    torch.testing.assert_close(torch.repeat_interleave(whiten(values, weights), weights.long()), expected)
    white = whiten(values)
    assert float(white.mean()) == pytest.approx(0, abs=1e-6)
    assert float(white.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert deviation(values, weights) == pytest.approx(float(spelled_out.std(correction=0)))
    torch.testing.assert_close(whiten(values, spread=4.0), (values - values.mean()) / 4)


def test_a_constant_is_whitened_to_nothing():
    assert whiten(torch.full((7,), 0.1), torch.tensor([1.0, 2, 3, 4, 5, 6, 7])).abs().max() < 1e-3


def test_kl_estimators_are_unbiased_and_k3_varies_less():
    generator = torch.Generator().manual_seed(0)
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.4, 0.35, 0.25])
    exact = float((p * (p / q).log()).sum())
    drawn = torch.multinomial(p, 200_000, replacement=True, generator=generator)
    k1, k3 = (kl_estimate(p.log()[drawn], q.log()[drawn], name).double() for name in ("k1", "k3"))
    for estimate in (k1, k3):
        assert abs(float(estimate.mean()) - exact) < 4 * float(estimate.std()) / math.sqrt(len(drawn))
    assert float(k3.min()) >= 0 > float(k1.min())
    assert float(k3.std()) < float(k1.std()) / 4
    # In expectation, without any noise.
    for name in ("k1", "k3"):
        assert float((p * kl_estimate(p.log(), q.log(), name)).sum()) == pytest.approx(exact, abs=1e-6)
    with pytest.raises(ValueError, match="unknown KL estimator 'k2'"):
        kl_estimate(p, q, "k2")


def test_k3_of_nearly_equal_probabilities_is_not_lost_to_rounding():
    small = kl_estimate(torch.tensor([-1.0]), torch.tensor([-1.0 - 2e-4]), "k3")
    assert float(small) == pytest.approx(2e-8, rel=0.05)


def test_the_coefficient_goes_up_above_the_target_down_below_it_and_never_by_more_than_a_fifth():
    def after(kl, episodes=100, horizon=1000):
        control = AdaptiveKL(0.1, target=6.0, horizon=horizon)
        control.update(kl, episodes)
        return control.coefficient

    assert after(6.0) == 0.1
    assert after(6.6) == pytest.approx(0.1 * (1 + 0.1 * 0.1))
    assert after(600.0) == pytest.approx(0.1 * 1.02)
    assert after(0.0) == after(-3.0) == pytest.approx(0.1 * 0.98)
    assert after(600.0, episodes=1000) == pytest.approx(0.12)


def test_explained_variance():
    returns = [1.0, 2.0, 3.0, 6.0]
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(returns, [3.0] * 4) == 0.0
    assert explained_variance(returns, [value - 5 for value in returns]) == 1.0  # a constant error is no variance
    assert explained_variance(returns, [-value for value in returns]) == pytest.approx(-3.0)
    assert explained_variance([2.0, 2.0], [1.0, 3.0]) is None


@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3])
def test_equal_advantages_are_nothing_once_they_are_whitened(value):
    # In float32 they are not their own mean, and the rest was divided by a spread of nearly 0.
    assert float(whiten(torch.full((7,), value)).abs().max()) < 1e-9

import pytest
import torch
from tests.tiny import tiny_model

from sage.libs.finetune.agent.errors import ConfigError, ModelError
from sage.libs.finetune.agent.models.generate import Generator
from sage.libs.finetune.agent.models.sampling import Sampler, greedy

PROMPTS = [[5, 6, 7], [5, 6, 7, 8, 9], [30, 31], [40, 41, 42, 43]]
SEEDS = ["a", "b", "c", "d"]


def sampled(prompts, seeds, fast=None, temperature=1.0, batch=64, **settings):
    generator = Generator(tiny_model(), stop_ids=[2], pad_id=0, fast=fast, max_batch=batch)
    return generator.generate(prompts, max_new_tokens=12, choose=Sampler(temperature, seeds), **settings)


def test_draws_follow_the_distribution():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.0, 0.2]])).expand(4000, 4)
    drawn = torch.tensor(Sampler(1.0, [str(i) for i in range(4000)])(logits, range(4000)))
    shares = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.0, 0.2]), atol=0.03)


def test_the_first_and_last_tokens_can_be_drawn():
    logits = torch.tensor([[9.0, -torch.inf, -torch.inf], [-torch.inf, -torch.inf, 9.0]])
    assert Sampler(1.0, ["a", "b"])(logits, [0, 1]) == [0, 2]


@pytest.mark.parametrize("fast", [True, False])
def test_a_reply_does_not_depend_on_the_batch(fast):
    together = sampled(PROMPTS, SEEDS, fast)
    alone = [sampled([prompt], [seed], fast)[0] for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
    assert together == alone == sampled(PROMPTS, SEEDS, fast, batch=3)
    assert sampled(PROMPTS, SEEDS, fast, keys=SEEDS) == together
    assert sampled(PROMPTS[::-1], SEEDS[::-1], fast) == together[::-1]


def test_both_engines_draw_the_same():
    assert sampled(PROMPTS, SEEDS, True) == sampled(PROMPTS, SEEDS, False)


def test_seeds_tell_replies_apart_and_cold_is_greedy():
    assert len({tuple(reply) for reply in sampled([PROMPTS[0]] * 4, SEEDS)}) > 1
    likeliest = Generator(tiny_model(), stop_ids=[2], pad_id=0).generate(PROMPTS, max_new_tokens=12)
    assert sampled(PROMPTS, SEEDS, temperature=1e-4) == likeliest


def test_greedy_takes_the_likeliest():
    assert greedy(torch.tensor([[1.0, 3.0, 2.0]]), [0]) == [1]


def test_a_temperature_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="temperature is 0; a sampler needs one above 0"):
        Sampler(0, ["a"])


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("choose", [greedy, Sampler(1.0, SEEDS)])
def test_a_model_that_computes_nan_is_an_error_and_no_reply(fast, choose):
    model = tiny_model()
    torch.nn.init.constant_(model.get_output_embeddings().weight, torch.nan)
    with pytest.raises(ModelError, match=r"^the model computes NaN: its weights are broken"):
        Generator(model, stop_ids=[2], pad_id=0, fast=fast).generate(PROMPTS, max_new_tokens=3, choose=choose)

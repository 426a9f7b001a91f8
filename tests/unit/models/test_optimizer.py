import copy
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from tests.tiny import tiny_model
from torch import nn

from sage.libs.finetune.agent import AgentSFTConfig
from sage.libs.finetune.agent.models.optimizer import learning_rate_for, parameter_groups

CONFIG = AgentSFTConfig(base_model="-", train_data="-", use_lora_plus=True, weight_decay=0.1)
IDS = torch.arange(40).reshape(2, 20) * 7 % 300


def adapted(**settings) -> nn.Module:
    torch.manual_seed(0)
    return get_peft_model(tiny_model(), LoraConfig(**{"target_modules": "all-linear", "r": 4, **settings}))


def rates(model: nn.Module, groups: list[dict]) -> dict[str, tuple[float, float]]:
    """Rate and decay of each parameter, by name."""
    of = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    return {name: of[id(p)] for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("ratio", [1.0, 4.0, 16.0])
def test_the_same_rates_and_decays_as_pefts_loraplus(ratio):
    model = adapted()
    config = replace(CONFIG, lora_plus_lr_ratio=ratio)
    theirs = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=ratio, loraplus_weight_decay=0.1
    )
    assert rates(model, parameter_groups(model, config, 1e-3)) == rates(model, theirs.param_groups)


def test_doras_magnitudes_learn_at_the_plain_rate_undecayed_in_a_group_of_their_own():
    model = adapted(use_dora=True)
    matrices, boosted, vectors = parameter_groups(model, CONFIG, 1e-3)
    magnitudes = {id(p) for name, p in model.named_parameters() if "lora_magnitude_vector" in name}
    assert {id(p) for p in vectors["params"]} == magnitudes
    assert (vectors["lr"], vectors["weight_decay"]) == (1e-3, 0.0)
    assert (matrices["lr"], boosted["lr"], boosted["weight_decay"]) == (1e-3, 16e-3, 0.1)


def test_lora_on_an_embedding_learns_at_the_plain_rate():
    model = adapted(target_modules=["embed_tokens", "q_proj"])
    found = rates(model, parameter_groups(model, CONFIG, 1e-3))
    assert {value for name, value in found.items() if "embedding" in name} == {(1e-3, 0.1)}
    assert {value for name, value in found.items() if "lora_B" in name} == {(16e-3, 0.1)}


def test_full_fine_tuning_spares_vectors_the_decay():
    model = tiny_model(kind="qwen2")
    found = rates(model, parameter_groups(model, replace(CONFIG, use_lora=False, use_lora_plus=False), 1e-3))
    assert found.keys() == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert found[name] == (1e-3, 0.1 if parameter.ndim > 1 else 0.0)


@pytest.mark.parametrize("use_dora", [False, True])
def test_ratio_one_is_lora_bit_for_bit(use_dora):
    start = adapted(use_dora=use_dora)
    results = []
    for config in (replace(CONFIG, use_lora_plus=False), replace(CONFIG, lora_plus_lr_ratio=1.0)):
        model = copy.deepcopy(start)
        optimizer = torch.optim.AdamW(parameter_groups(model, config, 1e-2), fused=True)
        for _ in range(5):
            model(input_ids=IDS, labels=IDS).loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        results.append(model.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert not all(torch.equal(results[0][name], tensor) for name, tensor in start.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "parameters", "expected"),
    [
        ({"learning_rate": 3e-5}, 10, 3e-5),
        ({"learning_rate": "auto"}, 135_000_000, 1e-3),
        ({"learning_rate": "auto"}, 7_000_000_000, 2e-4),
        ({"learning_rate": "auto", "use_lora": False, "use_lora_plus": False}, 135_000_000, 2e-5),
    ],
)
def test_the_automatic_rate(settings, parameters, expected):
    assert learning_rate_for(replace(CONFIG, **settings), parameters) == expected

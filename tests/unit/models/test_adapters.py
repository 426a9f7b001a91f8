from dataclasses import replace

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from tests.tiny import tiny_model
from torch import nn

from sage.libs.finetune.agent import AgentSFTConfig
from sage.libs.finetune.agent.errors import ConfigError, TrainingError
from sage.libs.finetune.agent.models.adapters import (
    PISSA_START,
    add_adapter,
    float32_copy_needed,
    require_finite,
    require_same_adapter,
    save_adapter,
)
from sage.libs.finetune.agent.models.batches import BatchForm

IDS = torch.arange(40).reshape(2, 20) * 7 % 300


@pytest.fixture
def config(tmp_path) -> AgentSFTConfig:
    return AgentSFTConfig(
        base_model="-", train_data="-", output_dir=tmp_path / "run", lora_r=4, lora_alpha=8, init_lora_weights="pissa"
    )


def fresh(config: AgentSFTConfig, dtype: torch.dtype = torch.float32) -> PeftModel:
    torch.manual_seed(0)
    return add_adapter(tiny_model().to(dtype), config)


def train(model: nn.Module, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def logits(model: nn.Module) -> torch.Tensor:
    return model(input_ids=IDS).logits.detach()


@pytest.mark.parametrize("method", [{}, {"use_dora": True}, {"use_rslora": True}])
def test_a_new_adapter_changes_nothing_and_is_float32(config, method):
    model = fresh(replace(config, init_lora_weights="default", **method), torch.bfloat16)
    assert torch.equal(logits(model), logits(tiny_model().bfloat16()))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_rslora_scales_by_the_root_of_the_rank(config):
    model = fresh(replace(config, init_lora_weights="default", use_rslora=True, lora_r=16, lora_alpha=32))
    assert model.base_model.model.model.layers[0].self_attn.q_proj.scaling == {"default": 8.0}


@pytest.mark.parametrize("use_rslora", [False, True])
def test_trained_pissa_loads_on_the_original_base(config, tmp_path, use_rslora):
    config = replace(config, use_rslora=use_rslora)
    model = fresh(config)
    torch.testing.assert_close(logits(model), logits(tiny_model()), rtol=1e-5, atol=1e-5)
    train(model)
    expected = logits(model)
    save_adapter(model, tmp_path / "adapter", config.output_dir, weights=model.state_dict())
    assert torch.equal(logits(model), expected)  # saving leaves the model as it was
    assert model.peft_config["default"].r == 4
    again = PeftModel.from_pretrained(tiny_model(), tmp_path / "adapter")
    torch.testing.assert_close(logits(again), expected, rtol=1e-5, atol=1e-5)
    assert again.peft_config["default"].r == 8
    assert float((expected - logits(tiny_model())).abs().max()) > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pissa_starts_again_to_the_last_bit(config, dtype):
    first = fresh(config, dtype)
    torch.manual_seed(7)
    second = add_adapter(tiny_model().to(dtype), config)
    ours, theirs = second.state_dict(), first.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert second.peft_config["default"].init_lora_weights == "pissa"
    assert {p.requires_grad for n, p in second.named_parameters() if "lora_" in n} == {True}


def test_pissa_is_pefts_in_float32(config):
    model = fresh(config)
    theirs = get_peft_model(
        tiny_model(), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights="pissa")
    )
    for (name, ours), peft in zip(model.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, peft, rtol=0, atol=1e-6, msg=name)


def test_pissa_reads_its_start_instead_of_decomposing(config):
    other = replace(config, output_dir=config.output_dir.with_name("other"))
    fresh(config)
    torch.manual_seed(0)
    add_adapter(tiny_model(seed=1), other)
    (other.output_dir / PISSA_START).rename(config.output_dir / "swapped")
    (config.output_dir / PISSA_START).rename(other.output_dir / PISSA_START)
    (config.output_dir / "swapped").rename(config.output_dir / PISSA_START)
    assert not torch.equal(fresh(config).state_dict()[LORA_A], fresh(other).state_dict()[LORA_A])


LORA_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"


def test_a_pissa_adapter_is_not_saved_without_its_start(config, tmp_path):
    model = fresh(config)
    for run_folder in (None, tmp_path / "elsewhere"):
        with pytest.raises(ConfigError, match=f"{PISSA_START} is missing"):
            save_adapter(model, tmp_path / "adapter", run_folder)


@pytest.mark.parametrize("name", ["use_dora", "load_in_4bit", "load_in_8bit"])
def test_what_pissa_cannot_be_combined_with(config, name):
    config.__dict__[name] = True
    with pytest.raises(ConfigError, match=f"'init_lora_weights': pissa cannot be combined with {name}; give one"):
        fresh(config)


def test_pissa_decomposes_linear_layers_only(config):
    with pytest.raises(ConfigError, match="pissa decomposes linear layers; 'lora_target_modules' names others too"):
        fresh(replace(config, lora_target_modules="embed_tokens,q_proj"))


def test_pissa_has_no_more_vectors_than_the_smallest_layer(config):
    with pytest.raises(ConfigError, match="'lora_r': pissa finds at most 32 singular vectors in a layer here, not 33"):
        fresh(replace(config, lora_r=33))


def test_an_adapter_of_another_kind_is_evaluated_and_not_trained(config):
    model = get_peft_model(tiny_model(), IA3Config(task_type="CAUSAL_LM"))
    assert "adapter 'default' is not a plain LoRA" in BatchForm(model, 0).description
    with pytest.raises(ConfigError, match="adapters of the kind IA3 are not trained"):
        require_same_adapter(model, config)


def test_ordinary_adapters_are_saved_as_they_are(config, tmp_path):
    model = fresh(replace(config, init_lora_weights="default", use_dora=True))
    train(model)
    save_adapter(model, tmp_path / "adapter")
    again = PeftModel.from_pretrained(tiny_model(), tmp_path / "adapter")
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-5, atol=1e-5)


def test_target_modules_that_match_nothing(config):
    with pytest.raises(ConfigError, match="'lora_target_modules': 'nowhere' does not fit this model"):
        fresh(replace(config, init_lora_weights="default", lora_target_modules="nowhere"))


@pytest.mark.parametrize(
    ("setting", "value", "found"),
    [
        ("lora_r", 8, 4),
        ("lora_alpha", 9, 8),
        ("lora_dropout", 0.1, 0.0),
        ("use_dora", True, False),
        ("use_rslora", True, False),
        ("init_lora_weights", "pissa", "default"),
    ],
)
def test_other_settings_than_those_of_the_given_adapter_are_refused(config, setting, value, found):
    config = replace(config, init_lora_weights="default")
    model = fresh(config)
    require_same_adapter(model, config)
    with pytest.raises(ConfigError, match=f"'{setting}' is {value} but base_model is an adapter with {found}"):
        require_same_adapter(model, replace(config, **{setting: value}))


def test_weights_that_are_no_numbers(config):
    model = fresh(replace(config, init_lora_weights="default"))
    require_finite(model, 3)
    model.state_dict()[LORA_A][0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"after step 3 .*q_proj\.lora_A\.default\.weight is not finite"):
        require_finite(model, 3)


def test_only_full_fine_tuning_needs_float32(config):
    assert not float32_copy_needed(torch.bfloat16, config)
    full = replace(config, use_lora=False, init_lora_weights="default")
    assert float32_copy_needed(torch.bfloat16, full)
    assert not float32_copy_needed(torch.float32, full)

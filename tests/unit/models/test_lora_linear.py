import copy
import pickle

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tests.tiny import tiny_model
from torch import nn

from sage.libs.finetune.agent.models.lora_linear import FastLoraLinear, RowNorms, replace_forwards, restore_forwards

IDS = torch.arange(60).reshape(3, 20) * 7 % 300


def adapted(kind: str = "llama", dtype: torch.dtype = torch.float32, **settings) -> PeftModel:
    """A tiny model with PEFT's adapters, B no longer zero; Qwen2's q, k and v have a bias that is not zero."""
    model = tiny_model(kind=kind)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    config = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
    model = get_peft_model(model.to(dtype), LoraConfig(**config))
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.05)
    return model


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def layers(model: nn.Module) -> list[FastLoraLinear]:
    return [module for module in model.modules() if isinstance(module, FastLoraLinear)]


def logits(model: nn.Module) -> torch.Tensor:
    return model(input_ids=IDS).logits.detach()


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Two accumulated micro-batches and a step; the loss and the gradients before it."""
    grads: dict[str, torch.Tensor] = {}
    grads["loss"] = torch.zeros(())
    for rows in (IDS[:2], IDS[2:]):
        loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        grads["loss"] += loss.detach()
    grads |= {name: parameter.grad.clone() for name, parameter in trained(model).items()}
    optimizer.step()
    optimizer.zero_grad()
    return grads


def assert_close(ours: dict, theirs: dict, tolerance: float = 2e-5) -> None:
    """Each tensor by its largest entry; weak ones (softmax ignores parts of k) by the rest."""
    assert ours.keys() == theirs.keys()
    floor = 1e-3 * max(float(tensor.abs().max()) for name, tensor in theirs.items() if name != "loss")
    for name, tensor in theirs.items():
        scale = max(float(tensor.abs().max()), floor)
        assert float((ours[name] - tensor).abs().max()) <= tolerance * scale, name


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_same_losses_and_gradients_as_peft_over_several_steps(kind, use_dora, rank):
    theirs = adapted(kind, use_dora=use_dora, r=rank)
    ours = copy.deepcopy(theirs)
    assert replace_forwards(ours).left == {}
    optimizers = [torch.optim.AdamW(trained(model).values(), lr=1e-2, eps=1e-3) for model in (theirs, ours)]
    for _ in range(3):
        peft, fast = (one_step(model, it) for model, it in zip((theirs, ours), optimizers, strict=True))
        assert_close(fast, peft)
    assert_close({"out": logits(ours)}, {"out": logits(theirs)})


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_gradient_of_the_input_and_of_each_parameter(use_dora, bias):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(24, 40, bias=bias))
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["0"], use_dora=use_dora)
    theirs = get_peft_model(base, config)
    nn.init.normal_(theirs.base_model.model[0].lora_B["default"].weight)
    ours = copy.deepcopy(theirs)
    assert replace_forwards(ours).fast == 1
    x, weights = torch.randn(2, 5, 24), torch.randn(2, 5, 40)
    found = []
    for model in (theirs, ours):
        given = x.clone().requires_grad_()
        out = model(given)
        (out * weights).sum().backward()
        found.append({"out": out, "x": given.grad, **{name: p.grad for name, p in trained(model).items()}})
    assert_close(found[1], found[0], 1e-5)


def test_rslora_scaling():
    model = adapted(use_rslora=True)
    expected = logits(model)
    replace_forwards(model)
    torch.testing.assert_close(logits(model), expected)


def test_first_loss_of_dora_is_that_of_lora():
    losses = []
    for use_dora in (False, True):
        model = adapted(use_dora=use_dora)
        for name, parameter in trained(model).items():
            if ".lora_B." in name:
                nn.init.zeros_(parameter)
        replace_forwards(model)
        losses.append(float(model(input_ids=IDS, labels=IDS).loss))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@pytest.mark.parametrize("use_dora", [False, True])
def test_saved_adapter_loads_in_plain_peft(tmp_path, use_dora):
    plain, ours = adapted(use_dora=use_dora), adapted(use_dora=use_dora)
    replace_forwards(ours)
    assert list(ours.state_dict()) == list(plain.state_dict())
    one_step(ours, torch.optim.AdamW(trained(ours).values(), lr=1e-2))
    ours.save_pretrained(tmp_path / "ours")
    plain.save_pretrained(tmp_path / "plain")
    files = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "plain")]
    assert {k: v.shape for k, v in files[0].items()} == {k: v.shape for k, v in files[1].items()}
    base = adapted().unload()
    again = PeftModel.from_pretrained(base, tmp_path / "ours")
    torch.testing.assert_close(logits(again), logits(ours), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("use_dora", [False, True])
def test_disabling_merging_and_copies(use_dora):
    model = adapted(use_dora=use_dora)
    replace_forwards(model)
    expected = logits(model)
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), logits(adapted().unload()))
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert len(layers(same)) == len(layers(model))
        torch.testing.assert_close(logits(same), expected)
    model.merge_adapter()
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
    merged = copy.deepcopy(model).merge_and_unload()
    assert not layers(merged)
    torch.testing.assert_close(merged(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-5)
    restore_forwards(model)
    assert not layers(model)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)


def test_generation_and_inference_mode_before_training():
    plain, ours = adapted(use_dora=True), adapted(use_dora=True)
    replace_forwards(ours)
    options = {"max_new_tokens": 8, "do_sample": False}
    assert ours.generate(input_ids=IDS, **options).tolist() == plain.generate(input_ids=IDS, **options).tolist()
    with torch.inference_mode():
        ours(input_ids=IDS)
    optimizers = [torch.optim.SGD(trained(model).values(), lr=0.1) for model in (plain, ours)]
    assert_close(one_step(ours, optimizers[1]), one_step(plain, optimizers[0]))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant):
    plain, ours = adapted(use_dora=True), adapted(use_dora=True)
    replace_forwards(ours)
    ours.enable_input_require_grads()
    ours.gradient_checkpointing_enable({"use_reentrant": reentrant})
    ours.train()
    optimizers = [torch.optim.SGD(trained(model).values(), lr=0.1) for model in (plain, ours)]
    assert_close(one_step(ours, optimizers[1]), one_step(plain, optimizers[0]))


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("use_dora", [False, True])
def test_bfloat16_base_stays_near_the_float32_one(kind, use_dora):
    exact, ours = (adapted(kind, dtype, use_dora=use_dora) for dtype in (torch.float32, torch.bfloat16))
    peft = copy.deepcopy(ours)
    assert replace_forwards(ours).left == {}
    grads = [one_step(m, torch.optim.SGD(trained(m).values(), lr=0.1)) for m in (exact, ours, peft)]
    assert all(grad.dtype == torch.float32 for grad in grads[1].values())

    def error(found: dict) -> float:
        flat, true = (torch.cat([tensor.flatten() for tensor in it.values()]) for it in (found, grads[0]))
        return float((flat - true).norm() / true.norm())

    assert error(grads[1]) < max(0.02, 1.5 * error(grads[2]))


def test_a_change_of_the_gain_below_bfloat16_steps_is_computed():
    model = adapted(dtype=torch.bfloat16, use_dora=True)
    replace_forwards(model)
    layer = layers(model)[0]
    x = torch.randn(64, 64, dtype=torch.bfloat16)
    before = layer(x).float()
    with torch.no_grad():
        layer.lora_magnitude_vector["default"].weight.mul_(1.002)
    after = layer(x).float()
    assert float((after * before).sum() / before.square().sum()) == pytest.approx(1.002, abs=3e-4)


def direct_norms(layer: FastLoraLinear) -> torch.Tensor:
    a, b = layer.lora_A["default"].weight.double(), layer.lora_B["default"].weight.double()
    return (layer.base_layer.weight.double() + layer.scaling["default"] * b @ a).norm(dim=1).float().detach()


def kept_norms(layer: FastLoraLinear) -> torch.Tensor:
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return layer._row_norms.of(layer.base_layer.weight, a, b, layer.scaling["default"])


@pytest.fixture
def dora() -> PeftModel:
    model = adapted(use_dora=True)
    replace_forwards(model)
    model(input_ids=IDS, labels=IDS).loss.backward()
    return model


def test_norms_are_right_and_kept(dora):
    layer = layers(dora)[0]
    norms = kept_norms(layer)
    torch.testing.assert_close(norms, direct_norms(layer), rtol=1e-6, atol=0)
    assert kept_norms(layer) is norms


@pytest.mark.parametrize("way", [{}, {"fused": True}, {"foreach": True}, {"foreach": False}])
def test_norms_follow_an_optimiser_step(dora, way):
    before = kept_norms(layers(dora)[0])
    torch.optim.AdamW(trained(dora).values(), lr=1e-2, **way).step()
    assert not torch.equal(before, kept_norms(layers(dora)[0]))
    torch.testing.assert_close(kept_norms(layers(dora)[0]), direct_norms(layers(dora)[0]), rtol=1e-6, atol=0)


class WritesPastTheCounter(torch.optim.Optimizer):
    def __init__(self, parameters) -> None:
        super().__init__(parameters, {})

    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(0.1)


def load_another(model: PeftModel) -> None:
    other = {name: tensor + 0.1 for name, tensor in model.state_dict().items()}
    model.load_state_dict(other)


def exchange(model: PeftModel, part: str) -> None:
    for name, parameter in model.named_parameters():
        if part in name:
            parameter.data = parameter.data + 0.1


def convert(model: PeftModel) -> None:
    model.to(torch.bfloat16)
    model.to(torch.float32)


def rescale(model: PeftModel) -> None:
    for layer in layers(model):
        layer.set_scale("default", 3.0)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: WritesPastTheCounter(trained(model).values()).step(),
        load_another,
        lambda model: exchange(model, "lora_A"),
        lambda model: exchange(model, "lora_B"),
        lambda model: exchange(model, "base_layer.weight"),
        convert,
        rescale,
        lambda model: nn.init.normal_(layers(model)[0].base_layer.weight),
        lambda model: setattr(layers(model)[0].lora_B["default"], "weight", nn.Parameter(torch.ones(64, 4))),
    ],
    ids=["step", "load", "A.data", "B.data", "W.data", "to", "scale", "W in place", "new B"],
)
def test_norms_follow_every_other_change(dora, change):
    layer = layers(dora)[0]
    before = kept_norms(layer)
    change(dora)
    assert not torch.equal(before, kept_norms(layer))
    torch.testing.assert_close(kept_norms(layer), direct_norms(layer), rtol=1e-6, atol=0)


def test_a_row_of_zeros_and_a_row_that_cancels_give_finite_norms():
    a, b = torch.ones(1, 8), torch.tensor([[0.0], [-1.0]])
    weight = torch.stack([torch.zeros(8), torch.ones(8)])
    norms = RowNorms().of(weight, a, b, 1.0)
    assert torch.isfinite(1 / norms).all()
    assert float(norms.max()) < 1e-2


def test_what_is_left_to_peft_and_why():
    assert set(replace_forwards(adapted(lora_dropout=0.1)).left.values()) == {"the adapter has dropout"}
    assert set(replace_forwards(adapted("qwen2", target_modules=["q_proj"], lora_bias=True)).left.values()) == {
        "B has a bias"
    }
    found = replace_forwards(adapted(target_modules=["embed_tokens", "q_proj"]))
    assert found.fast == 2
    assert found.left == {"base_model.model.model.embed_tokens": "it is a layer.Embedding"}
    model = adapted()
    model.base_model.model.model.layers[0].self_attn.q_proj.base_layer.weight.requires_grad_(True)
    [(name, reason)] = replace_forwards(model).left.items()
    assert name.endswith("0.self_attn.q_proj")
    assert reason == "its base is trained too"


def test_a_fast_layer_goes_back_to_peft_while_it_must():
    plain, ours = adapted(), adapted()
    replace_forwards(ours)
    for model in (plain, ours):
        torch.manual_seed(1)
        model.add_adapter("other", LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
        model.base_model.set_adapter(["default", "other"])
    torch.testing.assert_close(logits(ours), logits(plain))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(logits(ours), logits(plain))
    called = []
    layer = layers(ours)[0]
    ours.base_model.set_adapter("default")
    layer.lora_A["default"].register_forward_hook(lambda *_: called.append(1))
    logits(ours)
    assert called

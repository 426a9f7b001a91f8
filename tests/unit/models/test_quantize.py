"""What is refused without a GPU, and real 4- and 8-bit training where there is one."""

from __future__ import annotations

import importlib.machinery
import importlib.util

import pytest
import torch
from tests.tiny import save_tiny, tiny_tokenizer

from sage.libs.finetune.agent import AgentSFTConfig, ConfigError
from sage.libs.finetune.agent.models.adapters import add_adapter
from sage.libs.finetune.agent.models.load import load_model
from sage.libs.finetune.agent.models.losses import supervised_nll
from sage.libs.finetune.agent.models.quantize import loading_options, quantization_of, require_quantization


def test_the_switches_have_one_name() -> None:
    assert [quantization_of(True, False), quantization_of(False, True), quantization_of(False, False)] == [
        "4bit", "8bit", None,
    ]  # fmt: skip


def test_no_quantization_asks_for_nothing() -> None:
    require_quantization(None)
    assert loading_options(None, torch.bfloat16) == {}


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_without_cuda_it_is_one_line(quantization: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=rf"'load_in_{quantization}' needs a CUDA device.*leave it out") as caught:
        loading_options(quantization, torch.bfloat16)
    assert "\n" not in str(caught.value)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"bitsandbytes; run: pip install 'sage-libs\[quantized\]'"):
        require_quantization("8bit")


def test_four_bits_are_nf4_quantised_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: importlib.machinery.ModuleSpec(name, None))
    options = loading_options("4bit", torch.bfloat16)
    chosen = options["quantization_config"]
    assert options["device_map"] == {"": 0} and chosen.load_in_4bit and not chosen.load_in_8bit
    assert (chosen.bnb_4bit_quant_type, chosen.bnb_4bit_use_double_quant) == ("nf4", True)
    assert chosen.bnb_4bit_compute_dtype is torch.bfloat16
    assert loading_options("8bit", torch.bfloat16)["quantization_config"].load_in_8bit


@pytest.mark.gpu
@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_quantised_model_learns(quantization: str, tmp_path) -> None:
    pytest.importorskip("bitsandbytes")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    loaded = load_model(str(save_tiny(tmp_path)), dtype="bfloat16", quantization=quantization)
    kinds = {parameter.dtype for name, parameter in loaded.model.named_parameters() if "proj" in name}
    assert kinds == {torch.uint8 if quantization == "4bit" else torch.int8}
    assert loaded.model.get_input_embeddings().weight.dtype is torch.bfloat16  # not lifted
    model = add_adapter(loaded.model, AgentSFTConfig("m", "d", lora_r=4))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    ids = torch.arange(5, 37, device="cuda").remainder(len(tiny_tokenizer())).view(2, 16)
    losses = []
    for _ in range(12):
        nll, mask = supervised_nll(model, {"input_ids": ids, "labels": ids})
        loss = nll.sum() / mask.sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]

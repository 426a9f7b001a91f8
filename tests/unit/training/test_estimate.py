"""The estimate of memory against what autograd keeps and what a process takes; when activations are recomputed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import tiny_model, tiny_tokenizer
from torch.autograd.graph import saved_tensors_hooks
from transformers import LlamaConfig, LlamaForCausalLM

from sage.libs.finetune.agent import AgentSFTConfig
from sage.libs.finetune.agent.models.adapters import add_adapter
from sage.libs.finetune.agent.models.batches import BatchForm
from sage.libs.finetune.agent.models.load import empty_model
from sage.libs.finetune.agent.models.lora_linear import replace_forwards, restore_forwards
from sage.libs.finetune.agent.models.losses import supervised_nll
from sage.libs.finetune.agent.training.available import available_memory
from sage.libs.finetune.agent.training.batching import EpochBatches
from sage.libs.finetune.agent.training.duration import step_flops
from sage.libs.finetune.agent.training.estimate import (
    MemoryEstimate,
    MicroBatch,
    ModelShape,
    choose_checkpointing,
    computed_tokens,
    decide_checkpointing,
    estimate_memory,
    largest_batch,
)

CPU = torch.device("cpu")
GB = 2**30


def config(**settings: Any) -> AgentSFTConfig:
    return AgentSFTConfig("m", "d", **{"dtype": "float32", "lora_r": 4, **settings})


def token_rows(count: int, shared: int, own: int, vocabulary: int = 300) -> list[dict[str, Any]]:
    draw = random.Random(0)
    head = [draw.randrange(vocabulary) for _ in range(shared)]
    rows = [head + [draw.randrange(vocabulary) for _ in range(own)] for _ in range(count)]
    return [{"input_ids": ids, "labels": [-100] * (len(ids) - 10) + ids[-10:]} for ids in rows]


def kept_by_autograd(model: Any, rows: list[dict[str, Any]], form: BatchForm) -> int:
    """Bytes of all tensors that the layers' backward pass needs, the model's own weights left out."""
    body = model.get_base_model().model if hasattr(model, "peft_config") else model.model
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    sizes: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    batch = form(rows)
    with form.attention(), saved_tensors_hooks(keep, lambda tensor: tensor):
        body(input_ids=batch["input_ids"], position_ids=batch["position_ids"], layout=batch["layout"], use_cache=False)
    return sum(sizes.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"use_dora": True}, {"lora_target_modules": "q_proj,v_proj"}, {"lora_dropout": 0.1}],
    ids=["lora", "dora", "two linears", "dropout"],
)
def test_the_formula_counts_what_autograd_keeps(dtype: str, fast: bool, kind: str, settings: dict[str, Any]) -> None:
    settings = config(dtype=dtype, **settings)
    model = add_adapter(tiny_model(kind=kind).to(getattr(torch, dtype)), settings).train()
    (replace_forwards if fast else restore_forwards)(model)
    form = BatchForm(model, 0)
    for rows in (token_rows(3, 64, 200), token_rows(1, 100, 300)):
        batch = MicroBatch.of(rows, form)
        estimate = estimate_memory(ModelShape.of(model), settings, batch, CPU)
        assert 0.8 < estimate.activations / 1.5 / kept_by_autograd(model, rows, form) < 1.2


def test_full_fine_tuning_is_counted_too() -> None:
    model, settings, rows = tiny_model().train(), config(use_lora=False), token_rows(2, 64, 200)
    form = BatchForm(model, 0)
    estimate = estimate_memory(ModelShape.of(model), settings, MicroBatch.of(rows, form), CPU)
    assert 0.8 < estimate.activations / 1.5 / kept_by_autograd(model, rows, form) < 1.2
    weights = 4 * model.num_parameters()
    assert (estimate.weights, estimate.adapters, estimate.gradients) == (weights, 0, weights)
    assert estimate.optimizer == 2 * weights


def test_parameters_are_counted_without_weights(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    empty = empty_model(str(tmp_path))
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
    shape = ModelShape.of(add_adapter(empty, config(use_dora=True)))
    real = add_adapter(model, config(use_dora=True))
    assert shape == ModelShape.of(real)
    assert shape.parameters == tiny_model().num_parameters()
    assert shape.trained == sum(parameter.numel() for parameter in real.parameters() if parameter.requires_grad)


def test_quantised_weights_are_smaller() -> None:
    shape = ModelShape.of(add_adapter(tiny_model(), config()))
    batch = MicroBatch(100, 10, 100, 5000, True)

    def weights(**settings: Any) -> int:
        return estimate_memory(shape, config(dtype="bfloat16", **settings), batch, CPU).weights

    rest = shape.parameters - shape.linear
    assert weights() == 2 * shape.parameters and weights(load_in_8bit=True) == 2 * rest + shape.linear
    assert 2 * rest + 0.5 * shape.linear < weights(load_in_4bit=True) < 2 * rest + 0.53 * shape.linear


def test_the_largest_batch_is_that_of_most_computed_tokens() -> None:
    alike, apart = token_rows(4, 200, 20), token_rows(2, 0, 180)
    rows = [*alike, *apart]
    form = BatchForm(tiny_model(), 0)
    batches = [[0, 1, 2, 3], [4, 5]]
    assert [computed_tokens([rows[number] for number in batch], form) for batch in batches] == [280, 360]
    assert largest_batch(rows, batches, form) == MicroBatch.of(apart, form) == (360, 20, 360, 2 * 180 * 181 // 2, True)


def test_a_process_without_a_batch_estimates_that_of_a_row() -> None:
    rows, form = token_rows(1, 0, 50), BatchForm(tiny_model(), 0)
    batches = EpochBatches(rows, 8, 1, seed=0, processes=2, rank=1)
    assert list(batches) == [[]] and largest_batch(rows, batches, form) == MicroBatch.of(rows, form)


def test_packed_weights_count_as_many() -> None:
    model = tiny_model()
    whole, gate = ModelShape.of(model), model.model.layers[0].mlp.gate_proj
    gate.weight = torch.nn.Parameter(torch.zeros(gate.weight.numel() // 2, 1, dtype=torch.uint8), requires_grad=False)
    assert replace(ModelShape.of(model), trained=whole.trained) == whole


def test_padded_batches_count_padding() -> None:
    model = tiny_model()
    model.config.attention_dropout = 0.1
    form = BatchForm(model, 0)
    rows = token_rows(1, 0, 100) + token_rows(1, 0, 60)
    assert MicroBatch.of(rows, form) == (200, 40, 200, 10_100, False) and computed_tokens(rows, form) == 200


def estimate(plain: float, checkpointed: float) -> MemoryEstimate:
    return MemoryEstimate(0, 0, 0, 0, int(plain * GB), int(checkpointed * GB), 0, 0, 0)


def test_checkpointing_only_where_memory_would_not_suffice() -> None:
    auto = config()
    assert decide_checkpointing(auto, estimate(8, 2), 9 * GB) == (
        False, "gradient checkpointing off: 8.0 GB estimated, 9.0 GB available",
    )  # fmt: skip
    assert decide_checkpointing(auto, estimate(8.2, 2), 9 * GB) == (
        True, "gradient checkpointing on: 8.2 GB estimated without it, 2.0 GB with it, 9.0 GB available",
    )  # fmt: skip
    on, reason = decide_checkpointing(auto, estimate(80, 20), 9 * GB)
    assert on and "it may not fit: lower batch_size" in reason
    assert decide_checkpointing(auto, estimate(80, 20), None)[0] is False


@pytest.mark.parametrize("setting", [True, False])
def test_checkpointing_that_is_set_stays(setting: bool) -> None:
    on, reason = decide_checkpointing(config(gradient_checkpointing=setting), estimate(80, 20), GB)
    assert on is setting and reason.endswith("as set")


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"use_lora": False}], ids=["lora", "dora", "full"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("fast", [True, False])
def test_gradients_are_the_same_with_checkpointing(settings: dict[str, Any], packed: bool, fast: bool) -> None:
    """With the embedding frozen as well, adapters in layers that are computed again get their gradients."""
    rows = token_rows(3, 40, 30)

    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        model = tiny_model()
        if config(**settings).use_lora:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                model = add_adapter(model, config(**settings))
                for name, parameter in model.named_parameters():
                    if "lora_B" in name:
                        torch.nn.init.normal_(parameter, std=0.1)
            (replace_forwards if fast else restore_forwards)(model)
        if checkpointing:
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        form = BatchForm(model.train(), 0)
        form.packed = packed
        with form.attention():
            supervised_nll(model, form(rows)).sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}

    plain, recomputed = gradients(False), gradients(True)
    assert plain.keys() == recomputed.keys() and any(gradient.abs().max() > 0 for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_a_model_is_set_as_its_settings_have_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sage")
    model, rows = add_adapter(tiny_model(), config()), token_rows(2, 0, 40)
    form = BatchForm(model, 0)

    def chosen(setting: Any) -> tuple[int, bool]:
        expected = choose_checkpointing(model, config(gradient_checkpointing=setting), rows, [[0, 1]], form)
        return expected, model.get_base_model().is_activation_checkpointing

    (_, automatic), (less, on), (more, off) = chosen("auto"), chosen(True), chosen(False)
    assert (automatic, on, off) == (False, True, False) and 0 < less < more
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "gradient checkpointing off", "gradient checkpointing on, as set", "gradient checkpointing off, as set",
    ]  # fmt: skip


def place(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = "MemTotal: 16000 kB\nMemFree: 100 kB\nMemAvailable: 8000 kB\n"


def test_without_a_group_it_is_what_linux_calls_available(tmp_path: Path) -> None:
    assert available_memory(CPU, root=place(tmp_path, {"proc/meminfo": MEMINFO})) == 8000 * 1024
    assert available_memory(CPU, held=5, root=tmp_path) == 8000 * 1024 + 5
    assert available_memory(CPU, root=tmp_path / "nothing") is None


def test_the_limit_of_a_group_counts_its_cache_as_free(tmp_path: Path) -> None:
    second = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/pod/job\n",
        "sys/fs/cgroup/pod/job/memory.max": "max\n",
        "sys/fs/cgroup/pod/job/memory.current": "900000\n",
        "sys/fs/cgroup/pod/job/memory.stat": "anon 1\ninactive_file 7\n",
        "sys/fs/cgroup/pod/memory.max": "3000000\n",
        "sys/fs/cgroup/pod/memory.current": "1000000\n",
        "sys/fs/cgroup/pod/memory.stat": "anon 1\ninactive_file 400000\n",
    }
    assert available_memory(CPU, root=place(tmp_path / "second", second)) == 2_400_000
    first = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "5:cpu:/x\n4:memory:/not/shown/in/containers\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "3000000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000000\n",
        "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 300000\ninactive_file 1\n",
    }
    assert available_memory(CPU, root=place(tmp_path / "first", first)) == 2_300_000


def test_operations_of_a_step() -> None:
    shape = ModelShape.of(add_adapter(tiny_model(), config()))
    batch = MicroBatch(100, 10, 100, 5050, True)
    base = 4 * shape.linear * 100 + 6 * shape.trained * 100
    attention = 12 * shape.queries * shape.layers * 5050
    head = 4 * shape.vocabulary * shape.hidden * 10
    assert step_flops(shape, config(), batch, checkpointing=False) == base + attention + head
    again = 2 * shape.linear * 100 + 4 * shape.queries * shape.layers * 5050
    assert step_flops(shape, config(), batch, checkpointing=True) == base + attention + head + again
    full = ModelShape.of(tiny_model())
    assert step_flops(full, config(use_lora=False), batch, False) == 6 * (full.linear * 100 + head / 4) + attention


_RUN = """
import json, sys
import torch
from sage.libs.finetune.agent import AgentSFTConfig, AgentSFTTrainer
from sage.libs.finetune.agent.progress import silent
from sage.libs.finetune.agent.training.dry_run import plan_training

def resident(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

config = AgentSFTConfig(**json.loads(sys.argv[1]))
plan = plan_training(config)
before = resident("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
AgentSFTTrainer(config, silent).train()
print(json.dumps([plan.memory.total(plan.checkpointing), resident("VmHWM") - before]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (60, {"dtype": "float32", "batch_size": 8}),
        (400, {"dtype": "bfloat16", "batch_size": 4}),
        (400, {"dtype": "float32", "batch_size": 2, "use_dora": True}),
        (200, {"dtype": "float32", "batch_size": 4, "use_lora": False}),
        (400, {"dtype": "bfloat16", "batch_size": 4, "gradient_checkpointing": True}),
        (100, {"base_model": "smollm2-135m-instruct", "batch_size": 4}),
    ],
    ids=["float32", "bfloat16", "dora", "full", "checkpointing", "embedded"],
)
def test_the_estimate_is_near_the_measured_peak(tmp_path: Path, words: int, settings: dict[str, Any]) -> None:
    tokenizer = tiny_tokenizer()
    shape = LlamaConfig(
        vocab_size=16000, hidden_size=512, intermediate_size=1408, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=4, tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    draw = random.Random(0)
    with (tmp_path / "rows.jsonl").open("w") as file:
        for _ in range(16):
            texts = [" ".join(draw.choices("tea price order customer find add".split(), k=k)) for k in (words, 40)]
            roles = zip(("user", "assistant"), texts, strict=True)
            file.write(json.dumps({"messages": [{"role": role, "content": text} for role, text in roles]}) + "\n")
    run = {
        "base_model": str(tmp_path / "model"), "train_data": str(tmp_path / "rows.jsonl"), "max_steps": 2,
        "output_dir": str(tmp_path / "run"), "gradient_accumulation_steps": 1, "learning_rate": 1e-4,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", _RUN, json.dumps({**run, **settings})], capture_output=True, text=True, check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    estimated, measured = json.loads(done.stdout.splitlines()[-1])
    assert 0.7 < estimated / measured < 1.5

"""What stops a run says where and what to do, and comes before any damage."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sage.libs.finetune.agent import AgentSFTTrainer, TrainingError
from sage.libs.finetune.agent.training.checkpoints import fault_of, last_checkpoint
from sage.libs.finetune.agent.training.guards import StepGuard, rows_named, told_of_disk, told_of_memory
from sage.libs.finetune.agent.training.loop import SupervisedTrainer


def test_rows_are_named_as_their_owner_knows_them():
    places = ["a.jsonl:4", "b.jsonl:1", "a.jsonl:17", "a.jsonl:17"]
    assert rows_named([2, 0, 3], places) == "rows 4, 17 of a.jsonl"
    assert rows_named([1, 0], places) == "row 4 of a.jsonl; row 1 of b.jsonl"
    assert rows_named(range(10), None) == "training rows 0, 1, 2, 3, 4, 5, 6, 7 and 2 more, counted from 0"


def test_the_batch_of_an_accumulated_step_is_found(tmp_path):
    guard = StepGuard(tmp_path, ["r.jsonl:1", "r.jsonl:2", "r.jsonl:3"])
    for loss, rows in ((1.0, [0]), (float("inf"), [2, 1]), (float("nan"), [0])):
        guard.saw(torch.tensor(loss), rows)
    with pytest.raises(
        TrainingError, match=r"step 7: the loss is inf in batch 2 of 3 \(rows 2, 3 of r.jsonl\); the st"
    ):
        guard.check(7, torch.tensor(float("nan")))


def test_a_gradient_that_is_no_number_under_a_loss_that_is_one(tmp_path):
    guard = StepGuard(tmp_path)
    guard.saw(torch.tensor(1.0), [0])
    guard.saw(torch.tensor(1.0), [3])
    with pytest.raises(TrainingError, match=r"the gradient norm is inf though the loss is finite \(training rows 0, 3"):
        guard.check(1, torch.tensor(float("inf")))


def test_each_step_is_looked_at_alone_and_the_norm_comes_back_as_a_number(tmp_path):
    guard = StepGuard(tmp_path)
    guard.saw(torch.tensor(float("nan")), None)
    with pytest.raises(TrainingError, match=r"batch 1 of 1; the step"):
        guard.check(1, None)
    guard.saw(torch.tensor(1.0, dtype=torch.bfloat16), None)
    assert guard.check(2, torch.tensor(0.25, dtype=torch.float64)) == 0.25
    assert guard.check(3, 0.5) == 0.5 and guard.check(4, None) is None


def spoil(trainer: AgentSFTTrainer, rows_file: Path, when=lambda: True) -> None:
    """Make the model give no number wherever row 6 of the file is, the only one with a tilde."""
    rows_file.write_text(rows_file.read_text().replace("shelf", "~"))
    [tilde] = trainer.loaded.tokenizer("~")["input_ids"]

    def hook(module, inputs, output):
        seen = inputs[0] == tilde
        return output.masked_fill(seen[..., None], float("nan")) if when() and seen.any() else output

    trainer.loaded.model.get_input_embeddings().register_forward_hook(hook)


def test_the_row_that_spoils_a_step_is_named_and_the_step_is_not_made(make_config, rows_file, monkeypatch):
    """One row a batch, all eight in a step: it is the first step, and one of its batches."""
    config = make_config(batch_size=1, gradient_accumulation_steps=8, save_steps=1)
    monkeypatch.setattr(SupervisedTrainer, "places", [f"rows.jsonl:{number}" for number in range(1, 9)])
    trainer = AgentSFTTrainer(config)
    spoil(trainer, rows_file)
    said = (
        r"step 1: the loss is nan in batch \d of 8 \(row 6 of .*rows.jsonl\); the step was not made; .*no checkpoint w"
    )
    with pytest.raises(TrainingError, match=said):
        trainer.train()
    trained = {name: value for name, value in trainer.loaded.model.named_parameters() if value.requires_grad}
    assert trained and all(not value.any() for name, value in trained.items() if "lora_B" in name)
    assert last_checkpoint(config.output_dir) is None


def test_the_last_good_checkpoint_is_named_and_is_good(make_config, rows_file):
    config, done = make_config(batch_size=8, save_steps=2, num_epochs=6), []
    trainer = AgentSFTTrainer(config, lambda label, step, *_: done.append(step) if label == "train" else None)
    spoil(trainer, rows_file, when=lambda: 3 in done)
    with pytest.raises(TrainingError, match=r"step 4: the loss is nan in batch 1 of 1 .*is .*checkpoint-2$"):
        trainer.train()
    assert fault_of(last_checkpoint(config.output_dir)) is None


def test_weights_that_are_no_numbers_are_not_kept_as_a_checkpoint(make_config):
    config = make_config(max_steps=3, save_steps=1, learning_rate=1e39, max_grad_norm=1e30, warmup_ratio=0.0)
    with pytest.raises(TrainingError):
        AgentSFTTrainer(config).train()
    assert last_checkpoint(config.output_dir) is None


def test_out_of_memory_says_which_settings_to_change(make_config):
    config = make_config(batch_size=6, gradient_accumulation_steps=4)
    said = re.escape(
        "out of memory (4194304.00 GiB more were asked for, the estimate was 3.00 GiB in all); start a new run with "
        "batch_size 3 with gradient_accumulation_steps 8 (as many rows a step), or gradient_checkpointing true (the "
        "same result, slower), or max_seq_length below 512"
    )
    with pytest.raises(TrainingError, match=said), told_of_memory(config, estimate=3 * 2**30):
        torch.empty(2**50)
    single = replace(config, batch_size=1, gradient_checkpointing=True, use_lora=False)
    said = r"^out of memory; start a new run with max_seq_length below 512, or use_lora true$"
    with pytest.raises(TrainingError, match=said), told_of_memory(single):
        bytearray(2**60)
    evaluated = replace(single, eval_data="held-out.jsonl")
    with pytest.raises(TrainingError, match=r"resume with a lower eval_batch_size$"), told_of_memory(evaluated):
        bytearray(2**60)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 79 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_devices_say_it_in_other_words(make_config, error):
    with pytest.raises(TrainingError, match=r"out of memory.*batch_size 1"), told_of_memory(make_config()):
        raise error


def test_other_errors_are_left_as_they_are(make_config, tmp_path):
    with pytest.raises(RuntimeError, match="shapes"), told_of_memory(make_config()), told_of_disk(tmp_path):
        raise RuntimeError("shapes do not fit")


def test_memory_that_ends_in_training_is_one_line(make_config):
    trainer = AgentSFTTrainer(make_config(batch_size=2))
    trainer.loaded.model.get_input_embeddings().register_forward_hook(lambda *_: torch.empty(2**50))
    with pytest.raises(TrainingError, match=r"out of memory .*batch_size 1 with gradient_accumulation_steps 2"):
        trainer.train()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(TrainingError, match=r"cannot be written .*No space left.*resume"), told_of_disk(tmp_path):
        (tmp_path / "full").symlink_to("/dev/full")
        (tmp_path / "full").write_text("x")

"""Checkpoints: whole or invisible, checked before use, and a run that goes on from one ends as if never stopped."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.unit.training.conftest import conversation

from sage.libs.finetune.agent import AgentSFTTrainer, TrainingError
from sage.libs.finetune.agent.training.checkpoints import (
    CHECKPOINTS,
    Attributes,
    drafted,
    fault_of,
    last_checkpoint,
    newest_checkpoint,
    read_states,
    remove_leftovers,
    require_same_processes,
    write_states,
)


def checkpoint(run: Path, step: int, keep: int = 2, text: str = "weights", **how) -> Path:
    with drafted(run / CHECKPOINTS, step, keep, **how) as draft:
        (draft / "part").mkdir(parents=True)
        (draft / "part" / "weights.bin").write_text(text)
    return run / CHECKPOINTS / f"checkpoint-{step}"


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / CHECKPOINTS).iterdir())


def test_a_checkpoint_is_seen_only_when_whole_and_the_surplus_goes_after_it(tmp_path):
    for step in (2, 4):
        checkpoint(tmp_path, step)
    with drafted(tmp_path / CHECKPOINTS, 6, 2) as draft:
        draft.mkdir(parents=True)
        (draft / "weights.bin").write_text("6")
        assert last_checkpoint(tmp_path).name == "checkpoint-4"
        assert names(tmp_path) == [".draft-6", "checkpoint-2", "checkpoint-4"]
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-6"]
    assert fault_of(last_checkpoint(tmp_path)) is None


def test_a_run_without_checkpoints_has_no_last_one(tmp_path):
    assert last_checkpoint(tmp_path) is None and newest_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.unlink(), "part/weights.bin is missing"),
        (lambda file: file.write_text("we"), "part/weights.bin has 2 bytes and not 7"),
        (lambda file: file.write_text("wEights"), "the content of part/weights.bin has changed"),
        (lambda file: (file.parents[1] / "manifest.json").unlink(), "manifest.json is missing or cannot be read"),
        (lambda file: (file.parents[1] / "manifest.json").write_text('{"files": {'), "manifest.json is missing"),
        (lambda file: (file.parents[1] / "manifest.json").write_text("[]"), "manifest.json is missing"),
    ],
)
def test_of_a_damaged_checkpoint_the_next_older_one_is_taken_and_it_is_said(tmp_path, caplog, damage, said):
    checkpoint(tmp_path, 2)
    damage(checkpoint(tmp_path, 10) / "part" / "weights.bin")
    assert last_checkpoint(tmp_path).name == "checkpoint-2"
    assert said in caplog.text and "going on from checkpoint-2 instead" in caplog.text


def test_without_any_whole_checkpoint_the_user_decides(tmp_path):
    for step in (2, 4):
        (checkpoint(tmp_path, step) / "part" / "weights.bin").unlink()
    with pytest.raises(TrainingError, match=r"checkpoint-4: part/weights.bin is missing; none of the 2 .* delete"):
        last_checkpoint(tmp_path)


def test_what_a_run_that_went_back_writes_again_takes_the_place_of_what_was_there(tmp_path):
    for step in (2, 4, 6):
        checkpoint(tmp_path, step, keep=3)
    checkpoint(tmp_path, 4, keep=1, text="again")
    assert names(tmp_path) == ["checkpoint-4"]
    assert (tmp_path / CHECKPOINTS / "checkpoint-4" / "part" / "weights.bin").read_text() == "again"


def test_a_draft_that_cannot_be_written_leaves_the_last_checkpoint(tmp_path):
    checkpoint(tmp_path, 2)
    said = r"step 4 cannot be written \(\[Errno 28\].*MiB are free.*it goes on from .*checkpoint-2, which is whole"
    with pytest.raises(TrainingError, match=said), drafted(tmp_path / CHECKPOINTS, 4, 1) as draft:
        draft.mkdir(parents=True)
        Path("/dev/full").write_text("x" * 100_000)
    assert names(tmp_path) == ["checkpoint-2"] and fault_of(last_checkpoint(tmp_path)) is None


def test_torch_on_a_full_disk_is_told_in_our_words(tmp_path):
    said = r"step 4 cannot be written \(torch could not write a file to its end.*begins again, there was no"
    with pytest.raises(TrainingError, match=said), drafted(tmp_path / CHECKPOINTS, 4, 1):
        torch.save(torch.zeros(100_000), "/dev/full")


def test_an_error_of_another_kind_goes_through_and_leaves_no_draft(tmp_path):
    with pytest.raises(RuntimeError, match="device-side"), drafted(tmp_path / CHECKPOINTS, 4, 1) as draft:
        draft.mkdir(parents=True)
        raise RuntimeError("device-side assert")
    assert names(tmp_path) == []


def test_one_process_that_fails_fails_them_all(tmp_path):
    """Process 1 wrote well and hears of process 0; it neither renames nor deletes."""
    with pytest.raises(TrainingError, match="no space on process 0"):
        checkpoint(tmp_path, 2, rank=1, processes=2, first_of_all=lambda problem: problem or "no space on process 0")
    assert names(tmp_path) == [".draft-2"]
    remove_leftovers(tmp_path)
    assert names(tmp_path) == []


def test_as_many_processes_go_on_as_wrote(tmp_path):
    written = checkpoint(tmp_path, 2, processes=2)
    require_same_processes(written, 2)
    with pytest.raises(TrainingError, match="was written by 2 processes and there are 1; start 2"):
        require_same_processes(written, 1)


def test_leftovers_of_a_killed_run_go_and_nothing_else(tmp_path):
    whole = checkpoint(tmp_path, 2)
    for name in (".draft-4/checkpoint-4", ".old-1"):
        (tmp_path / CHECKPOINTS / name).mkdir(parents=True)
    (tmp_path / ".adapter-ab12cd34").mkdir()
    (tmp_path / ".result.json.0a1b2c3d.tmp").write_text("{")
    (tmp_path / ".notes.tmp").write_text("mine")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["checkpoint-2"] and fault_of(whole) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [".notes.tmp", CHECKPOINTS]


class Buffer:
    """What a replay buffer would keep."""

    def __init__(self) -> None:
        self.scores, self.rows, self.seen = torch.zeros(0), [], 0

    def state_dict(self):
        return {"scores": self.scores, "rows": self.rows, "seen": self.seen}

    def load_state_dict(self, state):
        self.scores, self.rows, self.seen = state["scores"], state["rows"], state["seen"]


def test_named_states_come_back_bit_for_bit_and_without_pickle(tmp_path):
    buffer, counts = Buffer(), SimpleNamespace(tokens=7)
    buffer.scores, buffer.rows, buffer.seen = torch.rand(3, dtype=torch.bfloat16), [{"text": "Zürich"}], 2**60
    write_states(tmp_path, {"buffer": buffer, "counts": Attributes(counts, "tokens")}, rank=1)
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    assert found == ["state/rank-1/buffer.json", "state/rank-1/buffer.safetensors", "state/rank-1/counts.json"]
    other, fresh = Buffer(), SimpleNamespace(tokens=0)
    read_states(tmp_path, {"buffer": other, "counts": Attributes(fresh, "tokens")}, rank=1)
    assert torch.equal(other.scores, buffer.scores) and other.scores.dtype == torch.bfloat16
    assert (other.rows, other.seen, fresh.tokens) == (buffer.rows, buffer.seen, 7)


def adapter(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def stopping_at(step: int):
    def tell(label, done, total, detail=""):
        if label == "train" and done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return tell


@pytest.fixture(scope="module")
def five_rows():
    return "".join(json.dumps(conversation(word, str(n))) + "\n" for n, word in enumerate(["a", "be", "c", "de", "e"]))


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 1, "gradient_accumulation_steps": 2},  # three steps an epoch, the last of a single batch
        {"lora_dropout": 0.3},
        {"use_lora": False, "use_lora_plus": False, "learning_rate": 1e-3},
        {"use_dora": True, "use_lora_plus": True, "row_order": "grouped", "lr_scheduler_type": "cosine"},
        {"lora_dropout": 0.3, "eval_steps": 2, "eval_rows": 2, "init_lora_weights": "pissa"},
    ],
)
def test_stopped_by_sigterm_in_an_epoch_and_resumed_is_as_if_never_stopped(make_config, rows_file, five_rows, settings):
    rows_file.write_text(five_rows)
    settings = {"max_steps": 8, **settings, "eval_data": str(rows_file) if "eval_steps" in settings else None}
    straight = AgentSFTTrainer(make_config("straight", **settings)).train()
    config = make_config("stopped", **settings)
    stopped = AgentSFTTrainer(config, stopping_at(4)).train()
    assert stopped.interrupted and stopped.steps in (4, 5)  # in the evaluation after the step, or in the next step
    np.random.rand(), torch.rand(1)  # the state of the process that goes on is another one
    resumed = AgentSFTTrainer(config).train(resume=True)
    assert (resumed.losses, resumed.tokens_seen, resumed.tokens_trained) == (
        straight.losses, straight.tokens_seen, straight.tokens_trained,
    )  # fmt: skip
    weights = "model/model.safetensors" if config.use_lora is False else "adapter/adapter_model.safetensors"
    assert (config.output_dir / weights).read_bytes() == (straight.output_dir / weights).read_bytes()


def test_a_run_goes_back_to_the_whole_checkpoint_and_ends_the_same(make_config, caplog):
    config = make_config("damaged", save_steps=2)
    straight = AgentSFTTrainer(make_config("straight", save_steps=2)).train()
    AgentSFTTrainer(config).train()
    with (last_checkpoint(config.output_dir) / "optimizer.pt").open("r+b") as file:
        file.truncate(100)
    resumed = AgentSFTTrainer(config).train(resume=True)
    assert "checkpoint-6: optimizer.pt has 100 bytes" in caplog.text
    assert adapter(resumed.output_dir) == adapter(straight.output_dir) and resumed.losses == straight.losses
    assert resumed.tokens_seen == straight.tokens_seen
    assert names(config.output_dir) == ["checkpoint-4", "checkpoint-6"]
    assert fault_of(newest_checkpoint(config.output_dir)) is None


def test_a_finished_run_resumed_tells_the_same_again(make_config):
    config = make_config()
    first = AgentSFTTrainer(config).train()
    again = AgentSFTTrainer(config).train(resume=True)
    assert (again.steps, again.losses, again.tokens_seen) == (first.steps, first.losses, first.tokens_seen)


def test_no_file_of_a_checkpoint_can_run_code(make_config):
    AgentSFTTrainer(make_config("run", max_steps=2)).train()
    folder = newest_checkpoint(make_config("run").output_dir)
    with torch.serialization.safe_globals(_numpy_state()):
        for path in [path for path in folder.rglob("*") if path.suffix in {".pt", ".pth", ".bin", ".pkl"}]:
            torch.load(path, weights_only=True)
    assert sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".pkl"}) == []


def _numpy_state() -> list:
    state = np.random.get_state()[1]
    rebuild = state.__reduce__()[0]
    return [rebuild, np.ndarray, np.dtype, type(state.dtype)]


@pytest.mark.parametrize("limit", [20_000, 60_000])  # stops the adapter's safetensors, and torch's optimizer.pt
def test_a_disk_that_fills_up_leaves_the_last_checkpoint_and_the_way_on(make_config, limit):
    config, before = make_config("full", save_steps=2), resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(label, done, total, detail=""):
        if label == "train" and done == 3:  # as if the disk were full: no file can grow beyond this
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))

    try:
        with pytest.raises(TrainingError, match=r"step 4 cannot be written .*it goes on from .*checkpoint-2, which is"):
            AgentSFTTrainer(config, fill).train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(config.output_dir) == ["checkpoint-2"]
    straight = AgentSFTTrainer(make_config("straight", save_steps=2)).train()
    assert adapter(AgentSFTTrainer(config).train(resume=True).output_dir) == adapter(straight.output_dir)

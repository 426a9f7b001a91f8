import json
import math
import os
import signal

import pytest
import torch
from tests.unit.training.conftest import conversation

from sage.libs.finetune.agent import AgentSFTTrainer, ConfigError, DataError, ModelError, TrainingError
from sage.libs.finetune.agent.models.batches import rows_loss
from sage.libs.finetune.agent.models.losses import supervised_nll
from sage.libs.finetune.agent.tokenization.collate import collate
from sage.libs.finetune.agent.training.checkpoints import last_checkpoint
from sage.libs.finetune.agent.training.data import token_rows


def test_a_run_folder_holds_what_the_readme_promises(make_config):
    result = AgentSFTTrainer(make_config()).train()
    folder = result.output_dir
    for name in (
        "config.yaml", "data.json", "metrics.jsonl", "versions.json", "result.json", "README.md", "chat_template.jinja",
        "adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter/chat_template.jinja",
    ):  # fmt: skip
        assert (folder / name).stat().st_size > 0, name
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in lines] == result.losses
    assert result.steps == 6 and result.tokens_trained < result.tokens_seen
    assert "vllm serve" in (folder / "README.md").read_text()


def test_loss_is_the_plain_one_over_supervised_tokens(make_config):
    trainer = AgentSFTTrainer(make_config())
    model, tokenizer = trainer.loaded.model, trainer.loaded.tokenizer
    rows = token_rows(trainer.config.train_data, tokenizer, 512).rows
    batch = collate(rows, tokenizer.pad_token_id)
    named = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    plain = float(model(**named).loss)
    assert float(supervised_nll(model, batch).mean()) == pytest.approx(plain, rel=1e-5)
    for size in (1, 3, 8):
        assert rows_loss(model, rows, tokenizer.pad_token_id, size) == pytest.approx(plain, rel=1e-5)


def test_a_step_is_the_same_however_it_is_split(make_config):
    """Rows of different lengths: a mean of batch means would weigh tokens of short batches more."""
    whole = AgentSFTTrainer(make_config("a", batch_size=4, gradient_accumulation_steps=1, max_steps=4)).train()
    split = AgentSFTTrainer(make_config("b", batch_size=1, gradient_accumulation_steps=4, max_steps=4)).train()
    assert whole.losses == pytest.approx(split.losses, rel=1e-4)


def test_same_seed_same_losses_other_seed_others(make_config):
    first = AgentSFTTrainer(make_config("a")).train()
    again = AgentSFTTrainer(make_config("b")).train()
    other = AgentSFTTrainer(make_config("c", seed=1)).train()
    assert first.losses == again.losses != other.losses


def test_lora_plus_with_ratio_one_is_lora_bit_for_bit(make_config):
    plain = AgentSFTTrainer(make_config("a")).train()
    ratio_one = AgentSFTTrainer(make_config("b", use_lora_plus=True, lora_plus_lr_ratio=1.0)).train()
    ratio_four = AgentSFTTrainer(make_config("c", use_lora_plus=True, lora_plus_lr_ratio=4.0)).train()
    assert plain.losses == ratio_one.losses
    assert plain.losses[0] == ratio_four.losses[0] and plain.losses[2:] != ratio_four.losses[2:]


def test_dora_starts_where_lora_starts(make_config):
    lora = AgentSFTTrainer(make_config("a", max_steps=3)).train()
    dora = AgentSFTTrainer(make_config("b", max_steps=3, use_dora=True)).train()
    assert lora.losses[0] == pytest.approx(dora.losses[0], rel=1e-5)
    assert lora.losses[1:] != dora.losses[1:]
    assert "loads no DoRA adapters" in (dora.output_dir / "README.md").read_text()


def test_full_fine_tuning_saves_a_whole_model(make_config):
    result = AgentSFTTrainer(make_config(use_lora=False, learning_rate=1e-3)).train()
    assert (result.output_dir / "model" / "model.safetensors").exists()
    assert result.losses[-1] < result.losses[0]


def test_interrupted_and_resumed_is_as_if_never_interrupted(make_config):
    straight = AgentSFTTrainer(make_config("straight")).train()

    def interrupt(label, done, total, detail=""):
        if label == "train" and done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    config = make_config("stopped")
    stopped = AgentSFTTrainer(config, interrupt).train()
    assert stopped.interrupted and stopped.steps == 4  # the step after the signal is finished, then saved
    assert not (config.output_dir / "result.json").exists()
    resumed = AgentSFTTrainer(config).train(resume=True)
    assert not resumed.interrupted and resumed.losses == straight.losses
    lines = [json.loads(line) for line in (config.output_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("settings", [{}, {"init_lora_weights": "pissa"}])
def test_a_run_resumed_by_the_same_trainer_begins_from_its_checkpoint_alone(make_config, settings):
    straight = AgentSFTTrainer(make_config("a", **settings)).train()
    trainer = AgentSFTTrainer(make_config("b", **settings), progress=_failing_after(3))
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert last_checkpoint(trainer.run_folder) is None
    assert trainer.train(resume=True).losses == straight.losses


def _failing_after(step):
    def tell(label, done, total, detail=""):
        tell.calls += label == "train"
        if label == "train" and tell.calls == step + 1:
            raise ZeroDivisionError

    tell.calls = 0
    return tell


def test_a_share_of_one_warms_up_to_the_last_step(make_config):
    folder = AgentSFTTrainer(make_config(warmup_ratio=1.0, max_steps=4)).train().output_dir
    rates = [json.loads(line)["learning_rate"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rates == pytest.approx([0.0, 0.0025, 0.005, 0.0075])


def test_a_checkpoint_that_was_being_written_does_not_count(make_config):
    config = make_config(save_steps=2)
    AgentSFTTrainer(config).train()
    newest = last_checkpoint(config.output_dir)
    (newest / "trainer_state.json").unlink()
    assert last_checkpoint(config.output_dir).name == "checkpoint-4"


def test_a_run_is_not_overwritten_and_not_resumed_with_other_settings(make_config):
    AgentSFTTrainer(make_config(max_steps=1)).train()
    with pytest.raises(ConfigError, match="holds a run already"):
        AgentSFTTrainer(make_config(max_steps=1)).train()
    with pytest.raises(ConfigError, match="lora_r was 4 and is 8"):
        AgentSFTTrainer(make_config(max_steps=1, lora_r=8)).train(resume=True)
    with pytest.raises(ConfigError, match="holds no run to resume"):
        AgentSFTTrainer(make_config("nowhere")).train(resume=True)


def test_a_run_of_a_version_with_fewer_settings_is_resumed(make_config):
    folder = AgentSFTTrainer(make_config(max_steps=1)).train().output_dir
    lines = (folder / "config.yaml").read_text().splitlines(keepends=True)
    (folder / "config.yaml").write_text("".join(line for line in lines if not line.startswith("continual_strategy")))
    with pytest.raises(ConfigError, match="continual_strategy was 'reservoir' and is 'ring'"):
        AgentSFTTrainer(make_config(max_steps=1, continual_strategy="ring")).train(resume=True)
    assert AgentSFTTrainer(make_config(max_steps=1)).train(resume=True).steps == 1


def test_resume_refuses_other_rows(make_config, rows_file):
    AgentSFTTrainer(make_config(max_steps=1)).train()
    rows_file.write_text(json.dumps(conversation("door", "9")) + "\n")
    with pytest.raises(ConfigError, match="training rows have changed"):
        AgentSFTTrainer(make_config(max_steps=1)).train(resume=True)


def test_the_default_output_dir_gets_a_folder_per_run(make_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = make_config(max_steps=1, output_dir=".sage/finetune/")
    names = [AgentSFTTrainer(config).train().output_dir.name for _ in range(2)]
    assert names == ["run-0001", "run-0002"]


def test_what_was_learnt_is_measured(make_config, rows_file):
    rows_file.write_text(json.dumps(conversation("desk", "7")) + "\n")
    trainer = AgentSFTTrainer(make_config(max_steps=80, batch_size=1, use_lora=False, max_new_tokens=40))
    before = trainer.evaluate(str(rows_file))
    trainer.train()
    after = trainer.evaluate(str(rows_file))
    assert before.accuracy == 0.0 and after.accuracy == 1.0 and after.loss < before.loss
    assert after.n == 2 and after.calls_attempted == 1 and after.calls_valid == 1.0
    run = AgentSFTTrainer.from_pretrained(str(trainer.run_folder), dtype="float32", max_new_tokens=40)
    assert run.evaluate(str(rows_file)).accuracy == 1.0


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"use_lora": False}])
def test_a_saved_model_loaded_again_is_the_same_model(make_config, tmp_path, rows_file, settings):
    trainer = AgentSFTTrainer(make_config(**settings))
    before = trainer.evaluate(str(rows_file))
    trainer.train()
    after = trainer.evaluate(str(rows_file))
    assert after.loss < before.loss
    trainer.save_model(tmp_path / "saved")
    fresh = AgentSFTTrainer(make_config("other"))
    fresh.load_model(tmp_path / "saved")
    loaded = fresh.evaluate(str(rows_file))
    assert [r["reply"] for r in loaded.replies] == [r["reply"] for r in after.replies]
    assert loaded.loss == pytest.approx(after.loss, rel=1e-5)


def test_eval_data_gives_an_eval_loss(make_config, rows_file):
    result = AgentSFTTrainer(make_config(max_steps=2, eval_data=str(rows_file))).train()
    assert result.eval_loss is not None and math.isfinite(result.eval_loss)


def test_observations_and_untrained_turns_carry_no_label(make_config, rows_file):
    row = conversation("desk", "7")
    row["messages"][1]["weight"] = 0
    rows_file.write_text(json.dumps(row) + "\n")
    trainer = AgentSFTTrainer(make_config())
    tokenizer = trainer.loaded.tokenizer
    [tokens] = token_rows(str(rows_file), tokenizer, 512).rows
    assert tokenizer.decode([label for label in tokens["labels"] if label != -100]) == "7<|im_end|>"


def test_a_loss_that_is_no_number_stops_the_run(make_config):
    trainer = AgentSFTTrainer(make_config())
    with torch.no_grad():
        trainer.loaded.model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="step 1: the loss is nan"):
        trainer.train()


def test_bad_data_is_named_before_the_first_step(make_config, rows_file):
    rows_file.write_text(json.dumps(conversation("desk", "7")) + "\n{broken\n")
    with pytest.raises(DataError, match=r"rows.jsonl:2: not JSON"):
        AgentSFTTrainer(make_config()).train()
    untrained = conversation("desk", "7")
    for message in untrained["messages"]:
        message["weight"] = 0
    rows_file.write_text(json.dumps(untrained) + "\n")
    with pytest.raises(DataError, match=r"untrained \(1\); first .*rows.jsonl:1: every assistant turn has weight 0"):
        AgentSFTTrainer(make_config("b")).train()
    rows_file.write_text(json.dumps(conversation("desk " * 300, "7")) + "\n")
    with pytest.raises(DataError, match=r"too_long \(1\); first .*rows\.jsonl:1: .*tokens"):
        AgentSFTTrainer(make_config("c")).train()


def test_a_model_that_is_not_there_is_one_line(make_config, tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        AgentSFTTrainer(make_config(base_model=str(tmp_path / "nothing"))).train()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no model folder"):
        AgentSFTTrainer(make_config(base_model=str(tmp_path / "empty"))).train()


def test_the_rate_of_full_fine_tuning_is_called_low_for_lora_and_left_alone(make_config, caplog):
    AgentSFTTrainer(make_config("a", max_steps=1, learning_rate=2e-5)).train()
    assert "learning_rate 2e-05 is low for LoRA" in caplog.text and "'auto' would take 0.001" in caplog.text
    caplog.clear()
    AgentSFTTrainer(make_config("b", max_steps=1, learning_rate=2e-5, use_lora=False)).train()
    assert "low for LoRA" not in caplog.text


def test_an_adapter_as_base_is_trained_further_with_its_own_settings_only(make_config):
    first = AgentSFTTrainer(make_config("a")).train()
    adapter = str(first.output_dir / "adapter")
    further = AgentSFTTrainer(make_config("b", base_model=adapter)).train()
    assert further.losses[-1] < first.losses[0]
    for settings in ({"lora_r": 8}, {"use_dora": True}, {"use_lora": False}):
        with pytest.raises(ConfigError, match="base_model is an adapter with"):
            AgentSFTTrainer(make_config("c", base_model=adapter, **settings)).train()


def test_a_save_replaces_a_save_and_nothing_else(make_config, tmp_path, tiny_folder):
    trainer = AgentSFTTrainer(make_config(max_steps=1))
    trainer.train()
    for _ in range(2):
        trainer.save_model(tmp_path / "saved")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for folder in (tmp_path / "mine", tiny_folder):
        with pytest.raises(ConfigError, match="holds no earlier save"):
            trainer.save_model(folder)
    assert (tmp_path / "mine" / "thesis.tex").exists() and (tiny_folder / "model.safetensors").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".saved")]


def test_weights_that_are_no_numbers_are_not_saved(make_config):
    config = make_config(max_steps=3, learning_rate=1e30, max_grad_norm=1e30)
    with pytest.raises(TrainingError):
        AgentSFTTrainer(config).train()
    assert not (config.output_dir / "adapter").exists() and not (config.output_dir / "result.json").exists()


def test_a_start_that_fails_leaves_no_run_behind(make_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"max_steps": 1, "output_dir": ".sage/finetune/"}
    assert AgentSFTTrainer(make_config(**settings)).train().output_dir.name == "run-0001"
    with pytest.raises(DataError):
        AgentSFTTrainer(make_config(**settings, train_data="typo.jsonl")).train()
    assert AgentSFTTrainer(make_config(**settings)).train(resume=True).output_dir.name == "run-0001"


def test_a_truncated_trainer_state_is_no_checkpoint(make_config):
    config = make_config(save_steps=2)
    AgentSFTTrainer(config).train()
    state = last_checkpoint(config.output_dir) / "trainer_state.json"
    state.write_text(state.read_text()[:100])
    assert last_checkpoint(config.output_dir).name == "checkpoint-4"


def test_a_full_disk_is_one_line_and_the_run_resumes(make_config, monkeypatch):
    config = make_config(save_steps=2)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(AgentSFTTrainer, "save_model", full)
        with pytest.raises(TrainingError, match=r"cannot be written .*No space left.*resume"):
            AgentSFTTrainer(config).train()
    straight = AgentSFTTrainer(make_config("straight", save_steps=2))
    resumed = AgentSFTTrainer(config)
    assert resumed.train(resume=True).losses == straight.train().losses
    weights = [dict(t.loaded.model.named_parameters()) for t in (resumed, straight)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_idle_settings_are_told(make_config, caplog):
    AgentSFTTrainer(make_config(lora_plus_lr_ratio=4.0, coreset_target_size=10))
    assert "lora_plus_lr_ratio: no effect while use_lora_plus is false" in caplog.text
    assert "coreset_target_size: no effect while use_coreset_selection is false" in caplog.text


def test_packing_takes_rows_from_anywhere_and_counts_bins(make_config, caplog):
    folder = AgentSFTTrainer(make_config(packing=True, row_order="grouped", max_steps=1)).train().output_dir
    assert "row_order: no effect while packing is true" in caplog.text
    assert "1 optimiser steps of 2 bins of 512 tokens" in (folder / "README.md").read_text()


def test_targets_that_match_nothing_are_a_configuration_error(make_config):
    with pytest.raises(ConfigError, match="lora_target_modules"):
        AgentSFTTrainer(make_config(lora_target_modules="no_such_layer")).train()

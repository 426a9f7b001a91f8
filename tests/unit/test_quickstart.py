import json
import os
import signal

import pytest
from tests.tiny import save_tiny

from sage.libs.finetune.agent import ConfigError, load_trajectories
from sage.libs.finetune.agent.quickstart import QuickstartConfig, run_quickstart


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny(folder)
    return folder


def config(tiny_folder, output, **settings) -> QuickstartConfig:
    small = {"train_tasks": 15, "test_tasks": 3, "compose_tasks": 2, "train_steps": 3, "max_new_tokens": 8}
    return QuickstartConfig(base_model=str(tiny_folder), output_dir=output, **{**small, **settings})


def test_the_main_job_leaves_a_whole_run_folder(tiny_folder, tmp_path):
    result = run_quickstart(config(tiny_folder, tmp_path))
    folder = result.run_folder
    for name in (
        "trajectories.jsonl", "train.jsonl", "config.yaml", "data.json", "metrics.jsonl", "versions.json",
        "result.json", "README.md", "chat_template.jinja", "adapter/adapter_model.safetensors", "episodes/tuned.jsonl",
    ):  # fmt: skip
        assert (folder / name).stat().st_size > 0, name
    assert [(row["model"], row["split"], row["n"]) for row in result.rows[:4]] == [
        ("base zero-shot", "test_iid", 3),
        ("base zero-shot", "test_wording", 3),
        ("base zero-shot", "held-out", 6),
        ("base zero-shot", "test_compose", 2),
    ]
    assert result.collected["total"] == 15 and 0 < result.collected["kept"] < 15
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    assert len(rows) == result.collected["kept"] == json.loads((folder / "data.json").read_text())["train"]["rows"]
    card = (folder / "README.md").read_text()
    assert "| tuned | held-out |" in card and "vllm serve" in card and "llama3_json" in card
    assert not {t.instruction for t in load_trajectories(folder / "trajectories.jsonl")} & {
        t.instruction for t in load_trajectories(folder / "episodes" / "tuned.jsonl")
    }


def test_same_seed_same_table(tiny_folder, tmp_path):
    first, second = (run_quickstart(config(tiny_folder, tmp_path)) for _ in range(2))
    assert first.run_folder.name == "run-0001" and second.run_folder.name == "run-0002"
    assert first.rows == second.rows and first.train["losses"] == second.train["losses"]


@pytest.mark.parametrize(("label", "at"), [("base few-shot", 2), ("train", 1), ("tuned", 3)])
def test_interrupted_anywhere_it_resumes_to_the_same_table(tiny_folder, tmp_path, label, at):
    straight = run_quickstart(config(tiny_folder, tmp_path / "straight"))

    def interrupt(name, done, total, detail=""):
        if name == label and done == at:
            os.kill(os.getpid(), signal.SIGINT)

    settings = config(tiny_folder, tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        run_quickstart(settings, interrupt)
    resumed = run_quickstart(config(tiny_folder, tmp_path / "stopped", resume=True))
    assert resumed.run_folder.name == "run-0001"
    assert resumed.rows == straight.rows and resumed.train["losses"] == straight.train["losses"]


def test_resume_refuses_other_settings_and_nothing(tiny_folder, tmp_path):
    with pytest.raises(ConfigError, match="holds no run to resume"):
        run_quickstart(config(tiny_folder, tmp_path, resume=True))
    run_quickstart(config(tiny_folder, tmp_path))
    with pytest.raises(ConfigError, match="another seed"):
        run_quickstart(config(tiny_folder, tmp_path, resume=True, seed=1))

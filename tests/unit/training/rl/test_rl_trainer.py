"""The one door: models in every form, tasks from everywhere, a run folder that the rest of the package can use."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sage.libs.finetune.agent import AgentSFTConfig, AgentSFTTrainer, AgentTrajectory
from sage.libs.finetune.agent.environments.desk import DeskEnvironment, desk_tasks
from sage.libs.finetune.agent.errors import ConfigError, DataError, TrainingError
from sage.libs.finetune.agent.models.load import load_model
from sage.libs.finetune.agent.progress import silent
from sage.libs.finetune.agent.rl_config import RLTrainingConfig
from sage.libs.finetune.agent.training.rl.ppo import PPO
from sage.libs.finetune.agent.training.rl.trainer import AgentRLTrainer
from sage.libs.finetune.agent.types import StepResult, TrainingResult

Make = Callable[..., RLTrainingConfig]
WORDS = [{"task_id": word, "instruction": f"Say {word}."} for word in ("tea", "milk", "salt")]

OWN = '''
def double(a: int) -> int:
    """Double.

    Args:
        a: What.
    """
    return 2 * a


TOOLS = [double]


def tasks(split, n, seed):
    return [{"instruction": f"{split} {i}", "answer": i} for i in range(n)]
'''


class Echo:
    """One turn, whatever is said; for `worth`."""

    def reset(self, task: dict[str, Any]) -> None:
        pass

    def step(self, action: str, action_input: dict[str, Any]) -> StepResult:
        return StepResult("", done=True)


def worth(trajectory: AgentTrajectory) -> float:
    """The share of letters in what was said."""
    said = "".join(step.reply or "" for step in trajectory.steps)
    return sum(map(str.isalpha, said)) / max(len(said), 1)


def settings_in(folder: Path, model: Path, **settings: Any) -> RLTrainingConfig:
    defaults = {
        "base_model": str(model), "output_dir": folder, "num_tasks": 2, "iterations": 2,
        "episodes_per_iteration": 4, "minibatch_episodes": 2, "num_epochs": 1, "max_steps": 2, "max_new_tokens": 6,
        "learning_rate": 1e-2, "dtype": "float32", "lora_r": 4, "lora_alpha": 8, "save_steps": 1, "max_kl": None,
    }  # fmt: skip
    return RLTrainingConfig(**{**defaults, **settings})


@pytest.fixture
def make(tiny_folder: Path, tmp_path: Path) -> Make:
    return lambda name="run", **settings: settings_in(tmp_path / name, tiny_folder, **settings)


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[AgentRLTrainer, TrainingResult]:
    """A run that has come to its end; to be looked at only."""
    one = echo(settings_in(tmp_path_factory.mktemp("finished") / "run", tiny_folder))
    return one, one.train()


def trainer(config: RLTrainingConfig, model: Any = None, **given: Any) -> AgentRLTrainer:
    return AgentRLTrainer(config, model, **{"progress": silent, **given})


def echo(config: RLTrainingConfig, model: Any = None) -> AgentRLTrainer:
    return trainer(config, model, tasks=WORDS, environment=Echo, reward=worth)


def weights(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def test_the_run_folder_is_one_as_of_supervised_training(
    finished: tuple[AgentRLTrainer, TrainingResult], rows_file: Path, tiny_folder: Path
) -> None:
    one, result = finished
    folder = one.config.output_dir
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "adapter", "chat_template.jinja", "checkpoints", "config.yaml", "data.json", "metrics.jsonl",
        "result.json", "rl_curve.png", "samples", "versions.json",
    ]  # fmt: skip
    assert (result.output_dir, result.interrupted, len(result.losses), result.steps) == (folder, False, 2, 4)
    assert all(result.losses) and 0 < result.tokens_trained < result.tokens_seen
    written = json.loads((folder / "result.json").read_text())
    assert (written["kind"], written["algorithm"], written["steps"]) == ("rl", "ppo", 4)
    assert yaml.safe_load((folder / "config.yaml").read_text())["base_model"] == str(tiny_folder)
    card = (folder / "README.md").read_text()
    for piece in (
        "tags: [agent, tool-calling, ppo]", f"base_model: {tiny_folder}", "KL coefficient 0.1, gamma 0.99 a turn",
        "- 2 tasks, reward: a function\n", "- reward: ", f"sage-finetune export {folder} --merge",
    ):  # fmt: skip
        assert piece in card, piece
    assert (folder / "adapter" / "README.md").read_text() == card
    again = AgentSFTTrainer.from_pretrained(str(folder), silent, max_new_tokens=4, dtype="float32")
    assert again.evaluate(rows_file).loss == pytest.approx(one.evaluate(rows_file).loss, rel=1e-6)


def test_every_form_of_a_model_is_the_same_model(make: Make, tiny_folder: Path) -> None:
    sft = AgentSFTConfig(base_model=str(tiny_folder), train_data="d", lora_r=4, lora_alpha=8, dtype="float32")
    loaded = load_model(str(tiny_folder), dtype="float32")
    said = []
    for form in (str(tiny_folder), tiny_folder, sft, AgentSFTTrainer(sft, silent), loaded, None):
        one = echo(make(base_model=None if form else str(tiny_folder)), form)
        assert one.config == make()
        said.append([step.reply for trajectory in one.play() for step in trajectory.steps])
    assert all(each == said[0] for each in said) and any(said[0])


def test_an_adapter_is_trained_on_and_the_reference_is_what_it_was(
    make: Make, tiny_folder: Path, finished: tuple[AgentRLTrainer, TrainingResult]
) -> None:
    first = str(finished[1].output_dir)
    config = make(base_model=first, iterations=1, lora_r=64)
    echo(config).train()
    [line] = map(json.loads, (config.output_dir / "metrics.jsonl").read_text().splitlines())
    assert abs(line["kl_per_episode"]) < 1e-6  # and not what the first run has come to
    adapter = json.loads((config.output_dir / "adapter" / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["base_model_name_or_path"]) == (4, str(tiny_folder))
    with pytest.raises(ConfigError, match=r"^'use_lora' is false but .*run is an adapter; merge it first \(sage-finet"):
        echo(make("full", base_model=first, use_lora=False)).train()
    assert not make("full").output_dir.exists()


def test_a_trainer_is_taken_with_what_it_has_learned(make: Make, make_config: Any) -> None:
    sft = AgentSFTTrainer(make_config("sft", max_steps=1), silent)
    sft.train()
    one = echo(make(), sft)
    assert one.loaded is sft.loaded and one.config.base_model == str(make("sft").output_dir)


def test_the_settings_of_a_given_model_are_those_that_count(make: Make, tiny_folder: Path) -> None:
    sft = AgentSFTConfig(base_model=str(tiny_folder), train_data="d", use_lora=False, dtype="float32")
    one = echo(make(iterations=1, learning_rate="auto"), sft)
    assert (one.config.use_lora, one.config.base_model) == (False, str(tiny_folder))
    one.train()
    assert (one.config.output_dir / "model" / "model.safetensors").is_file()


def test_a_pissa_adapter_ends_as_one_for_the_original_base(make: Make, tiny_folder: Path) -> None:
    sft = AgentSFTConfig(
        base_model=str(tiny_folder), train_data="d", init_lora_weights="pissa", lora_r=4, dtype="float32"
    )
    one = echo(make(iterations=1), sft)
    one.train()
    again = load_model(str(one.config.output_dir), dtype="float32").model
    ids = torch.arange(8).unsqueeze(0)
    with torch.no_grad():
        assert torch.allclose(again(ids).logits, one.loaded.model(ids).logits, atol=1e-4)


def test_killed_and_resumed_it_is_the_same_run(
    make: Make, monkeypatch: pytest.MonkeyPatch, finished: tuple[AgentRLTrainer, TrainingResult]
) -> None:
    whole, step = finished[1], PPO.step

    def dies(ppo: PPO) -> Any:
        if ppo.iteration == 1:
            raise RuntimeError("killed")
        return step(ppo)

    one = echo(make())
    monkeypatch.setattr(PPO, "step", dies)
    with pytest.raises(RuntimeError, match="killed"):
        one.train()
    monkeypatch.setattr(PPO, "step", step)
    resumed = one.train(resume=True)  # the model in hand was trained; it counts for nothing
    assert resumed.losses == whole.losses
    assert weights(resumed.output_dir) == weights(whole.output_dir)
    again = echo(make(save_steps=7)).train(resume=True)
    assert (again.losses, again.steps) == (whole.losses, whole.steps)
    assert weights(resumed.output_dir) == weights(whole.output_dir)


def test_what_began_otherwise_is_not_resumed(
    make: Make, make_config: Any, tiny_folder: Path, finished: tuple[AgentRLTrainer, TrainingResult]
) -> None:
    folder = finished[1].output_dir

    def same(**settings: Any) -> RLTrainingConfig:
        return settings_in(folder, tiny_folder, **settings)

    with pytest.raises(ConfigError, match=r"holds a run already; resume it \(--resume\)"):
        echo(same()).train()
    with pytest.raises(ConfigError, match=r"cannot be resumed with other settings: kl_coef was 0\.1 and is 0\.2$"):
        echo(same(kl_coef=0.2)).train(resume=True)
    with pytest.raises(ConfigError, match=r"data\.json: the tasks have changed since the run began \(sha256"):
        trainer(same(), tasks=WORDS[1:], environment=Echo, reward=worth).train(resume=True)
    with pytest.raises(ConfigError, match="the run there is of another kind; give another output_dir"):
        AgentSFTTrainer(make_config(output_dir=folder), silent).train(resume=True)
    with pytest.raises(ConfigError, match="holds no run to resume"):
        echo(make("nowhere")).train(resume=True)


def test_tasks_come_from_a_list_a_file_or_the_environment(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(task) + "\n" for task in WORDS))
    (tmp_path / "own.py").write_text(OWN)
    python = f"python:{tmp_path / 'own.py'}:TOOLS"

    def played(config: RLTrainingConfig, **given: Any) -> list[AgentTrajectory]:
        return trainer(config, **given).play()

    assert [one.task_id for one in played(make(), tasks=WORDS, environment=Echo)] == ["tea", "milk"]
    assert len(played(make(tasks=path, num_tasks=None), environment=Echo)) == 3
    own = played(make(environment=python, split="test"))
    assert [one.instruction for one in own] == ["test 0", "test 1"]
    assert [tool["function"]["name"] for one in own for tool in one.tools] == ["double", "double"]
    from_file = played(make(environment=python, tasks=path))
    assert [tool["function"]["name"] for one in from_file for tool in one.tools] == ["double", "double"]
    desk = played(make(split="test_iid", seed=3))
    assert [one.task_id for one in desk] == [task["task_id"] for task in desk_tasks("test_iid", 2, 3)]
    assert trainer(make(), environment=DeskEnvironment, tasks=desk_tasks("train", 2, 0)).evaluate().n == 2


@pytest.mark.parametrize(
    ("settings", "given", "error", "line"),
    [
        ({"base_model": None}, {}, ConfigError, "no model: give one, or base_model in the settings"),
        ({"environment": "dsek"}, {}, ConfigError, "unknown environment 'dsek'; did you mean 'desk'?"),
        ({"split": "trian"}, {}, ConfigError, "environment 'desk' has no split 'trian'; did you mean 'train'?"),
        ({"num_tasks": 9}, {"tasks": WORDS}, ConfigError, "tasks: 3 tasks; ask for at most as many, not 9"),
        ({}, {"tasks": [{"instruction": 3}]}, DataError, "tasks[0]: field 'instruction'"),
        ({}, {"environment": Echo}, ConfigError, "an environment of your own needs tasks"),
        ({}, {"environment": "desk"}, ConfigError, "environment: str makes none; give a callable"),
        ({}, {"reward": 0.5}, ConfigError, "reward=0.5: expected a function of a trajectory"),
        ({"algorithm": "dpo", "preferences": "no.jsonl"}, {}, DataError, "no.jsonl: cannot be read (No such file"),
        ({"report_to": "wandb"}, {}, ConfigError, "report_to: wandb is not installed"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_folder(
    make: Make, settings: dict[str, Any], given: dict[str, Any], error: type[Exception], line: str
) -> None:
    with pytest.raises(error, match=re.escape(line)) as told:
        trainer(make(**settings), **given).train()
    assert "\n" not in str(told.value)
    assert not make().output_dir.exists()


def test_what_cannot_run_here_is_said_first(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage.libs.finetune.agent.training.rl.start.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^algorithm dpo: trl and datasets not installed; run `pip install 'sage"):
        trainer(make(algorithm="dpo", base_model="nowhere/model")).train()
    monkeypatch.setattr("sage.libs.finetune.agent.training.processes.count", lambda: 2)
    with pytest.raises(ConfigError, match="reinforcement learning runs in one process; start it without `--`"):
        trainer(make(base_model="nowhere/model")).train()


def test_a_setting_without_effect_is_a_warning(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        trainer(make(samples_per_task=2))
    assert caplog.messages == ["samples_per_task: no effect with algorithm ppo"]


def test_a_reward_that_is_no_number_ends_it(make: Make) -> None:
    config = make()
    one = trainer(config, tasks=WORDS, environment=Echo, reward=lambda trajectory: float("nan"))
    with pytest.raises(TrainingError, match=r"the reward of task '(tea|milk)', sample \d, is nan"):
        one.train()
    assert not (config.output_dir / "adapter").exists()


def test_a_model_given_loaded_cannot_be_had_anew(make: Make, tiny_folder: Path) -> None:
    one = echo(make(iterations=1), load_model(str(tiny_folder), dtype="float32"))
    one.train()
    with pytest.raises(ConfigError, match="the model was given loaded and has been trained since"):
        one.train(resume=True)


def test_it_measures_on_rows_and_on_tasks(make: Make, rows_file: Path) -> None:
    one = echo(make())
    assert one.evaluate(rows_file).rows == 8
    assert one.evaluate([json.loads(line) for line in rows_file.read_text().splitlines()[:2]]).rows == 2
    assert one.evaluate().n == 2
    assert one.evaluate(tasks=["Say salt."]).n == 1
    with pytest.raises(ConfigError, match="rows and tasks were given"):
        one.evaluate(rows_file, tasks=WORDS)  # type: ignore[call-overload]


def test_saved_and_loaded_it_is_the_same(
    make: Make, tmp_path: Path, rows_file: Path, finished: tuple[AgentRLTrainer, TrainingResult]
) -> None:
    one = finished[0]
    loss = one.evaluate(rows_file).loss
    one.save_model(tmp_path / "saved")
    other = echo(make())
    assert other.evaluate(rows_file).loss != loss
    other.load_model(tmp_path / "saved")
    assert other.evaluate(rows_file).loss == pytest.approx(loss, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["dpo", "grpo", "rloo"])
def test_the_other_algorithms_come_through_the_same_door(make: Make, tmp_path: Path, algorithm: str) -> None:
    """TRL alone takes seconds to import; what it computes is tested with the algorithms."""
    user = [{"role": "user", "content": "Say tea."}]
    sides = {
        side: [{"role": "assistant", "content": f"{word}."}] for side, word in (("chosen", "Tea"), ("rejected", "No"))
    }
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": user, **sides}) + "\n")
    own: dict[str, Any] = {"preferences": str(tmp_path / "pairs.jsonl"), "batch_size": 1, "num_epochs": 2}
    if algorithm != "dpo":
        own = {"samples_per_task": 2}

    def config(**settings: Any) -> RLTrainingConfig:
        return make(**{"algorithm": algorithm, "report_to": "tensorboard", **own, **settings})

    result = echo(config()).train()
    folder = result.output_dir
    assert (folder / "adapter" / "adapter_model.safetensors").is_file() and (folder / "rl_curve.png").is_file()
    assert result.steps == len(result.losses) * (1 if algorithm == "dpo" else 2) and not result.interrupted
    assert f"tags: [agent, tool-calling, {algorithm}]" in (folder / "README.md").read_text()
    before = weights(folder)
    assert echo(config()).train(resume=True).losses == result.losses
    assert weights(folder) == before
    if algorithm == "dpo":
        (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": user, **dict(reversed(sides.items()))}) + "\n")
        with pytest.raises(ConfigError, match=r"the preferences have changed since the run began"):
            echo(config()).train(resume=True)

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.rl_tasks import (
    BANDIT,
    TOOL_TASKS,
    Lines,
    OneTurn,
    Shop,
    arm,
    bandit_reward,
    context,
    random_policy,
    tool_policy,
)
from tests.tiny import save_tiny
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from sage.libs.finetune.agent.environments.functions import FunctionEnvironment
from sage.libs.finetune.agent.errors import TrainingError
from sage.libs.finetune.agent.rl_config import RLTrainingConfig
from sage.libs.finetune.agent.training.checkpoints import last_checkpoint
from sage.libs.finetune.agent.training.rl.grpo import GroupTrainer, train_grpo
from sage.libs.finetune.agent.training.rl.trainer import AgentRLTrainer

TIMES = ("seconds", "tokens_per_second")


@pytest.fixture(autouse=True)
def silence(monkeypatch, capfd):
    """TRL would tell its authors of each trainer; and stdout is for results."""

    def sent(**_: Any) -> None:
        raise AssertionError("telemetry was sent")

    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", sent)
    yield
    assert capfd.readouterr().out == ""


def settings(folder: Path, **changed: Any) -> RLTrainingConfig:
    known = {
        "algorithm": "grpo", "output_dir": folder, "use_lora": False, "iterations": 1, "episodes_per_iteration": 8,
        "minibatch_episodes": 8, "samples_per_task": 4, "num_epochs": 1, "max_new_tokens": 24, "max_steps": 3,
        "learning_rate": 1e-3, "kl_coef": 0.0, "save_steps": 1, "max_seq_length": 256,
    }  # fmt: skip
    return RLTrainingConfig(**{**known, **changed})


def prepared(tmp_path: Path, environment: Any = Shop, **changed: Any) -> tuple[GroupTrainer, dict[str, Any]]:
    """A trainer before its first step, and TRL's batch of the first iteration."""
    config = settings(tmp_path, **changed)
    trainer = GroupTrainer(tool_policy(), config, context(tmp_path, TOOL_TASKS, environment))
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    with trainer._form.attention():
        batch = trainer._generate_and_score_completions([{"prompt": "1"} for _ in range(config.episodes_per_iteration)])
    return trainer, batch


def episodes_in(batch: dict[str, Any]) -> list[tuple[list[int], list[int], float]]:
    """Ids, which of them the policy wrote, and the advantage, of each."""
    found = []
    for at in range(len(batch["advantages"])):
        prompt = batch["prompt_ids"][at][batch["prompt_mask"][at].bool()].tolist()
        real = batch["completion_mask"][at].bool()
        completion, written = batch["completion_ids"][at][real].tolist(), batch["tool_mask"][at][real].tolist()
        found.append((prompt + completion, [0] * len(prompt) + written, float(batch["advantages"][at])))
    return found


def plain_logps(model: Any, ids: list[int]) -> torch.Tensor:
    """[tokens - 1], one by one from the logits."""
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None]).squeeze(1)


def gradient(model: Any) -> torch.Tensor:
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_the_first_step_is_the_policy_gradient_of_its_closed_form(tmp_path, algorithm) -> None:
    trainer, batch = prepared(tmp_path, algorithm=algorithm)
    with trainer._form.attention():
        trainer.compute_loss(trainer.model, batch).backward()
    found = gradient(trainer.model)

    trainer.model.zero_grad()
    trajectories = trainer._context.log.played[1]
    rewards = torch.tensor([one.total_reward for one in trajectories]).view(2, 4)
    assert rewards.std(dim=1).gt(0).all(), "the groups must teach something"
    if algorithm == "grpo":
        expected = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    else:
        expected = rewards - (rewards.sum(1, keepdim=True) - rewards) / 3
    episodes = episodes_in(batch)
    assert [advantage for *_, advantage in episodes] == pytest.approx(expected.flatten().tolist(), abs=1e-5)
    tokens = sum(sum(written) for _, written, _ in episodes)
    trainer.model.eval()
    for ids, written, advantage in episodes:
        mask = torch.tensor(written[1:])
        (-advantage * (plain_logps(trainer.model, ids) * mask).sum() / tokens).backward()
    torch.testing.assert_close(found, gradient(trainer.model), atol=1e-5, rtol=1e-4)


def test_the_forward_pass_is_that_of_trl(tmp_path) -> None:
    trainer, batch = prepared(tmp_path)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    kept = batch["completion_ids"].shape[1]
    asked = (trainer.model, ids, mask, kept, 3, True)
    with torch.no_grad():
        with trainer._form.attention():
            ours = trainer._get_per_token_logps_and_entropies(*asked)
        add_fused_lm_head(trainer.model, outputs=("log_probs", "entropy"))
        theirs = GRPOTrainer._get_per_token_logps_and_entropies(trainer, *asked[:5], compute_entropy=True)
    for one, other in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(one * batch["completion_mask"], other * batch["completion_mask"], atol=1e-5, rtol=0)


def test_what_the_environment_wrote_is_in_no_loss_and_no_kl(tmp_path) -> None:
    trainer, batch = prepared(tmp_path, kl_coef=0.5)
    batch["ref_per_token_logps"] = batch["ref_per_token_logps"] - 0.1
    added = torch.zeros(batch["completion_ids"].shape, requires_grad=True)
    own = trainer._get_per_token_logps_and_entropies

    def moved(*given: Any, **options: Any) -> Any:
        logps, entropies, rest = own(*given, **options)
        return logps + added, entropies, rest

    trainer._get_per_token_logps_and_entropies = moved
    with trainer._form.attention():
        trainer.compute_loss(trainer.model, batch).backward()
    written = (batch["completion_mask"] * batch["tool_mask"]).bool()
    assert added.grad[~written].eq(0).all() and added.grad[written].ne(0).all()
    assert (batch["completion_mask"].bool() & ~written).any(), "there were observations"


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_a_minibatch_is_one_step_whatever_it_is_split_into(tmp_path, algorithm) -> None:
    lines = []
    for longest in (256, 4096):  # eight episodes at once, and two
        config = settings(tmp_path / str(longest), algorithm=algorithm, max_seq_length=longest, kl_coef=0.1)
        given = context(config.output_dir, TOOL_TASKS, Shop)
        train_grpo(tool_policy(), replace(config, iterations=2), given)
        lines.append(given.log.lines)
    for one, other in zip(*lines, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


class BreaksOnce(Shop):
    """Breaks off in the third sample of a task."""

    def reset(self, task: dict[str, Any]) -> None:
        super().reset(task)
        if task["metadata"]["sample"] == 2:
            raise RuntimeError("no shop today")


def test_an_episode_that_broke_off_is_in_no_mean_and_moves_nothing(tmp_path) -> None:
    trainer, batch = prepared(tmp_path, BreaksOnce, algorithm="rloo")
    advantages = batch["advantages"].view(2, 4)
    assert advantages[:, 2].eq(0).all()
    assert batch["tool_mask"].view(2, 4, -1)[:, 2, 0].eq(0).all()
    assert trainer.figures["episodes"] == 6 and trainer.figures["broken"] == 2
    rewards = iter(one.total_reward for one in trainer._context.log.played[1])
    for group in advantages:
        present = torch.tensor([next(rewards) for _ in range(3)])
        expected = present - (present.sum() - present) / 2
        assert group[[0, 1, 3]].tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_groups_in_which_all_were_worth_the_same_are_counted_and_teach_nothing(tmp_path) -> None:
    policy = random_policy()
    before = [weight.clone() for weight in policy.model.parameters()]
    config = settings(tmp_path, max_new_tokens=2, max_steps=1)
    given = context(tmp_path, BANDIT, OneTurn, lambda trajectory: 0.3)  # in float32 not its own mean
    outcome = train_grpo(policy, config, given)
    assert given.log.lines[0]["groups_without_variance"] == given.log.lines[0]["groups"] == 2
    assert outcome.losses == [0.0]
    assert all(torch.equal(*pair) for pair in zip(before, policy.model.parameters(), strict=True))


def test_the_reference_is_the_adapter_that_reinforcement_found(tmp_path) -> None:
    policy = tool_policy()
    base = policy.model.requires_grad_(False)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear"))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))), alpha=0.02)
    policy.model = adapted
    config = settings(tmp_path, use_lora=True, kl_coef=0.1, iterations=2, num_epochs=2, minibatch_episodes=4)
    given = context(tmp_path, TOOL_TASKS, Shop)
    train_grpo(policy, config, given)
    first, second = given.log.lines
    assert first["kl_per_episode"] == 0.0 and second["kl_per_episode"] != 0.0
    assert list(adapted.peft_config) == ["default"]
    assert "forward" not in vars(base)


def test_the_bandit_is_learned(tmp_path) -> None:
    given = bandit(tmp_path, "grpo")
    assert given.log.lines[0]["reward"] < 0.3
    assert given.log.lines[-1]["reward"] > 0.9
    assert sum(arm(one.steps[0].reply) == 0 for one in given.log.played[20]) > 0.9 * 64
    assert set(given.log.lines[-1]) >= {
        "step", "loss", "reward", "success", "kl_per_episode", "kl_per_token", "entropy", "clip_share",
        "steps_per_episode", "tokens_per_second", "learning_rate", "groups_without_variance", "seconds",
    }  # fmt: skip


@pytest.mark.parametrize("algorithm", ["grpo", pytest.param("rloo", marks=pytest.mark.slow)])
def test_the_right_one_of_two_tools_is_learned(tmp_path, algorithm) -> None:
    given = context(tmp_path, TOOL_TASKS, Shop)
    config = settings(
        tmp_path, algorithm=algorithm, iterations=8, episodes_per_iteration=32, minibatch_episodes=16,
        samples_per_task=8, num_epochs=2, learning_rate=3e-4, kl_coef=0.05, save_steps=100,
    )  # fmt: skip
    train_grpo(tool_policy(), config, given)
    rewards = [line["reward"] for line in given.log.lines]
    assert rewards[0] < 0.7 and sum(rewards[-2:]) / 2 > 0.9
    assert given.log.lines[-1]["kl_per_episode"] < 10


@pytest.mark.slow
def test_the_bandit_is_learned_by_leaving_one_out(tmp_path) -> None:
    assert bandit(tmp_path, "rloo").log.lines[-1]["reward"] > 0.9


def bandit(folder: Path, algorithm: str) -> Any:
    config = settings(
        folder, algorithm=algorithm, iterations=20, episodes_per_iteration=64, minibatch_episodes=16,
        samples_per_task=8, num_epochs=2, max_new_tokens=2, max_steps=1, learning_rate=3e-3, save_steps=100,
    )  # fmt: skip
    given = context(folder, BANDIT, OneTurn, bandit_reward)
    train_grpo(random_policy(), config, given)
    return given


class Killed(Exception):
    pass


def killed(_: Any) -> list[float]:
    raise Killed


def resumable(folder: Path, **changed: Any) -> RLTrainingConfig:
    return settings(
        folder, iterations=4, minibatch_episodes=4, num_epochs=2, max_new_tokens=2, max_steps=1, kl_coef=0.1, **changed
    )


def test_a_run_that_goes_on_from_a_checkpoint_takes_the_same_steps(tmp_path) -> None:
    whole, given = random_policy(), context(tmp_path / "whole", BANDIT, OneTurn, bandit_reward)
    expected = train_grpo(whole, resumable(tmp_path / "whole"), given)

    config, log = resumable(tmp_path / "halves"), Lines()
    begun = context(tmp_path / "halves", BANDIT, OneTurn, bandit_reward, log)
    begun.stop = lambda: len(log.lines) >= 1  # asked for in the second iteration
    first = train_grpo(random_policy(), config, begun)
    assert first.interrupted and len(first.losses) == 2
    torch.manual_seed(99)  # nothing may depend on it
    begun.stop = lambda: False
    again = random_policy()
    checkpoint = last_checkpoint(tmp_path / "halves")
    resumed = train_grpo(again, config, begun, checkpoint)
    assert resumed == replace(expected, figures=resumed.figures)
    assert without_times(log.lines) == without_times(given.log.lines)
    assert same_weights(whole, again)

    with pytest.raises(Killed):  # before its first checkpoint, then begun again
        begun.reward = SimpleNamespace(score=killed)
        train_grpo(random_policy(), config, begun)
    assert log.lines == []

    done = random_policy()
    finished = train_grpo(done, config, begun, last_checkpoint(tmp_path / "halves"))
    assert finished == resumed and same_weights(whole, done)


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def same_weights(one: Any, other: Any) -> bool:
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_a_run_folder_on_the_desk_is_resumed_to_the_same_adapter(tmp_path, algorithm, monkeypatch) -> None:
    save_tiny(tmp_path / "model")

    def trainer(name: str) -> AgentRLTrainer:
        return AgentRLTrainer(RLTrainingConfig(
            algorithm=algorithm, base_model=str(tmp_path / "model"), output_dir=tmp_path / name, num_tasks=8,
            iterations=3, episodes_per_iteration=8, minibatch_episodes=4, samples_per_task=4, num_epochs=2,
            max_new_tokens=12, max_steps=3, save_steps=1, learning_rate=1e-2, dtype="float32",
        ), reward=lambda one: float(len(one.steps[0].reply)))  # fmt: skip

    whole = trainer("whole").train()
    played = GroupTrainer._play

    def killed_at_3(self: GroupTrainer, number: int) -> Any:
        if number == 3:
            raise Killed
        return played(self, number)

    monkeypatch.setattr(GroupTrainer, "_play", killed_at_3)
    with pytest.raises(Killed):
        trainer("halves").train()
    monkeypatch.setattr(GroupTrainer, "_play", played)
    resumed = trainer("halves").train(resume=True)
    assert resumed.losses == whole.losses and len(whole.losses) == 3
    weights = [(tmp_path / name / "adapter/adapter_model.safetensors").read_bytes() for name in ("whole", "halves")]
    assert weights[0] == weights[1]
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "halves")
    ]
    assert without_times(lines[0]) == without_times(lines[1])
    assert (tmp_path / "halves/rl_curve.png").exists() and not (tmp_path / "halves/checkpoints/README.md").exists()


def test_python_functions_can_be_the_tools(tmp_path) -> None:
    def find() -> str:
        """Find the price."""
        asked.append(1)
        return "12"

    def add() -> str:
        """Add nothing."""
        return "nothing"

    asked: list[int] = []
    tasks = [{**task, "answer": "12"} for task in TOOL_TASKS]
    given = context(tmp_path, tasks, lambda: FunctionEnvironment([find, add]))
    train_grpo(tool_policy(), settings(tmp_path), given)
    played = given.log.played[1]
    calls = [step for one in played for step in one.steps if step.action == "find"]
    assert len(asked) == len(calls) > 0 and {step.observation for step in calls} == {"12"}
    assert given.log.lines[0]["reward"] == sum(one.success for one in played) / 8 > 0


def test_a_reward_that_is_no_number_names_its_episode(tmp_path) -> None:
    given = context(tmp_path, TOOL_TASKS, Shop, lambda one: float("nan") if one.metadata["sample"] == 3 else 1.0)
    with pytest.raises(TrainingError, match="sample 3, is nan"):
        train_grpo(tool_policy(), settings(tmp_path), given)


def test_a_loss_that_is_no_number_is_not_applied(tmp_path, monkeypatch) -> None:
    own, policy = GroupTrainer.compute_loss, random_policy()
    monkeypatch.setattr(GroupTrainer, "compute_loss", lambda self, *given, **options: own(self, *given, **options))
    config = settings(tmp_path, max_new_tokens=2, max_steps=1)
    monkeypatch.setattr(GRPOTrainer, "compute_loss", lambda *_, **__: next(policy.model.parameters()).sum() * torch.nan)
    with pytest.raises(TrainingError, match="step 1: the loss is nan in batch 1 of 1"):
        train_grpo(policy, config, context(tmp_path, BANDIT, OneTurn, bandit_reward))
    assert all(weight.isfinite().all() for weight in policy.model.parameters())

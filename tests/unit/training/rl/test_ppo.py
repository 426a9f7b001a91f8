import os
import random
import signal
import subprocess
import sys
import time
from statistics import fmean

import pytest
import torch
from tests.rl_tasks import (
    BANDIT,
    TOOL_TASKS,
    Lines,
    OneTurn,
    Shop,
    bandit_reward,
    context,
    random_policy,
    tool_policy,
)
from tests.tiny import save_tiny

from sage.libs.finetune.agent.errors import TrainingError
from sage.libs.finetune.agent.jsonl import read_jsonl
from sage.libs.finetune.agent.rl_config import RLTrainingConfig
from sage.libs.finetune.agent.training.checkpoints import last_checkpoint
from sage.libs.finetune.agent.training.rl import ppo as module
from sage.libs.finetune.agent.training.rl.ppo import PPO, train_ppo
from sage.libs.finetune.agent.training.rl.rewards import reward_of
from sage.libs.finetune.agent.training.rl.rollouts import play

NO_CLIPPING = {"clip_range": 1e9, "value_coef": 0.0, "max_grad_norm": 1e9, "max_kl": None, "warmup_iterations": 0}


def a_config(**settings):
    return RLTrainingConfig(
        **{
            "use_lora": False, "iterations": 2, "episodes_per_iteration": 8, "minibatch_episodes": 8, "num_epochs": 1,
            "max_new_tokens": 10, "max_steps": 3, "learning_rate": 1e-3, "whiten_advantages": False, **settings,
        }
    )  # fmt: skip


def an_episode_reward(trajectory):
    """Something that differs from episode to episode."""
    return fmean(ord(letter) for step in trajectory.steps for letter in f"{step.reply}.") / 100


def begun(tmp_path, reward=an_episode_reward, **settings):
    """PPO on the shop before its first optimiser step, and the lessons of its first iteration."""
    learner = PPO(random_policy(), a_config(**settings), context(tmp_path, TOOL_TASKS, Shop, reward))
    with learner._form.attention():
        return learner, learner._prepare(learner._play(1).rollouts)


def plain_logps(model, rollout, temperature=1.0):
    """Of the policy's own tokens, by the model's own forward."""
    logs = (model(input_ids=torch.tensor([rollout.ids])).logits[0].float() / temperature).log_softmax(-1)
    return torch.stack([logs[at - 1, rollout.ids[at]] for turn in rollout.turns for at in range(turn.start, turn.stop)])


def gradients(learner):
    return [torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in learner._trained]


@pytest.mark.parametrize(("level", "temperature"), [("turn", 1.0), ("token", 1.0), ("turn", 0.7)])
def test_one_epoch_without_clipping_is_the_policy_gradient(tmp_path, level, temperature):
    learner, lessons = begun(tmp_path, gae_level=level, temperature=temperature, **NO_CLIPPING)
    total, tokens = 0.0, 0
    for one in lessons:
        logps = plain_logps(learner._model, one.rollout, temperature)
        torch.testing.assert_close(one.logps, logps.detach(), atol=1e-5, rtol=1e-5)
        total = total - (one.advantages[one.steps] * logps).sum()
        tokens += len(logps)
    (total / tokens).backward()
    expected = gradients(learner)
    with learner._form.attention():
        figures = learner._optimise(lessons)
    for ours, plain in zip(gradients(learner), expected, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)
    assert max(float(gradient.abs().max()) for gradient in expected) > 1e-2
    mean = fmean(float(one.advantages[step]) for one in lessons for step in one.steps)
    assert figures["policy_loss"] == pytest.approx(-mean, abs=1e-5)  # all ratios are 1
    assert figures["clip_share"] == 0 and abs(figures["approx_kl"]) < 1e-9 and abs(figures["moved"]) < 1e-7


@pytest.mark.parametrize("level", ["turn", "token"])
def test_values_are_drawn_to_the_returns_of_their_steps(tmp_path, level):
    learner, lessons = begun(tmp_path, gae_level=level, max_grad_norm=1e9, detach_value_trunk=True)
    states, returns = [], torch.cat([one.returns for one in lessons])
    for one in lessons:
        with torch.no_grad():
            hidden = learner._model.model(input_ids=torch.tensor([one.rollout.ids])).last_hidden_state[0]
        before = [at - 1 for at, label in enumerate(one.rollout.labels) if label != -100]
        states += [hidden[turn.start - 1] for turn in one.rollout.turns] if level == "turn" else [*hidden[before]]
    with learner._form.attention():
        figures = learner._optimise(lessons)
    # All values are 0 at first, so that the gradient of half the squared error is the mean of -R times the state.
    gradient = -(returns[:, None] * torch.stack(states)).mean(0) * learner._config.value_coef
    torch.testing.assert_close(learner.value_head.map.weight.grad[0], gradient, atol=1e-5, rtol=1e-4)
    assert figures["value_loss"] == pytest.approx(float((returns**2).mean()) / 2, rel=1e-5)


def test_only_the_states_before_the_policys_own_tokens_are_in_the_loss(tmp_path):
    learner, lessons = begun(tmp_path, entropy_coef=0.1)
    config, lesson = learner._config, next(one for one in lessons if len(one.rollout.turns) > 1)
    kept = []

    def keep(module, inputs, states):
        states.retain_grad()
        kept.append(states)

    hook = learner._model.model.norm.register_forward_hook(keep)
    with learner._form.attention():
        outputs = learner._forward([lesson.rollout], entropy=True)
        loss, _ = module._loss(outputs, [lesson], len(lesson.logps), len(lesson.rewards), config)
        loss.backward()
    hook.remove()
    read = kept[0].grad[0].abs().sum(-1).nonzero().flatten().tolist()
    own = [at - 1 for at, label in enumerate(lesson.rollout.labels) if label != -100]
    assert read == own and len(own) < len(lesson.rollout.ids) / 2
    assert len(lesson.logps) == len(lesson.reference) == len(lesson.steps) == len(own)


def test_the_gradient_is_the_same_in_whatever_parts_it_is_computed(tmp_path, monkeypatch):
    learner, lessons = begun(tmp_path, entropy_coef=0.01, max_grad_norm=1e9)
    with torch.no_grad():
        for weight in learner._trained:
            weight.add_(0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    begin = [weight.clone() for weight in learner._trained]
    found = []
    for size in (1, 500, 10**6):
        monkeypatch.setattr(module, "_BATCH_TOKENS", size)
        assert len(list(module._batches([one.rollout.ids for one in lessons]))) == {1: 8, 10**6: 1}.get(size, 4)
        with learner._form.attention():
            figures = learner._optimise(lessons)
        found.append((gradients(learner), figures, [p.grad.clone() for p in learner.value_head.parameters()]))
        for weight, value in zip(learner._trained, begin, strict=True):
            weight.data.copy_(value)
        for weight in learner.value_head.parameters():
            torch.nn.init.zeros_(weight)
    for other in found[1:]:
        for part in (0, 2):
            for one, another in zip(found[0][part], other[part], strict=True):
                torch.testing.assert_close(one, another, atol=1e-5, rtol=1e-4)
        assert other[1] == pytest.approx(found[0][1], abs=1e-5, rel=1e-4)


def test_whitening_counts_tokens_and_leaves_the_targets_of_the_values_alone(tmp_path):
    _, plain = begun(tmp_path)
    _, white = begun(tmp_path, whiten_advantages=True)
    each = torch.cat([one.advantages[one.steps] for one in white])
    assert float(each.mean()) == pytest.approx(0, abs=1e-5)
    assert float(each.std(correction=0)) == pytest.approx(1, abs=1e-5)
    raw = torch.cat([one.advantages[one.steps] for one in plain])
    torch.testing.assert_close(each, (raw - raw.mean()) / raw.std(correction=0), atol=1e-4, rtol=1e-4)
    for one, other in zip(plain, white, strict=True):
        assert torch.equal(one.returns, other.returns)


def test_where_all_do_alike_the_errors_of_the_values_are_not_blown_up(tmp_path):
    learner, lessons = begun(tmp_path, whiten_advantages=True)
    before = learner._spread
    learner._context.reward = reward_of(lambda trajectory: 1.0 + 1e-3 * an_episode_reward(trajectory))
    with learner._form.attention():
        again = learner._prepare([one.rollout for one in lessons])
    each = torch.cat([one.advantages[one.steps] for one in again])
    assert learner._spread == 0.9 * before
    assert float(each.abs().max()) < 0.1


def test_the_kl_penalty_is_nothing_at_first_and_later_what_the_reference_says(tmp_path):
    learner, lessons = begun(tmp_path, kl_coef=0.5, gae_level="token")
    assert all(torch.equal(one.logps, one.reference) for one in lessons)
    before = [plain_logps(learner._model, one.rollout).detach() for one in lessons]
    with torch.no_grad():
        for weight in learner._trained:
            weight.mul_(1.1)
    with learner._form.attention():
        again = learner._prepare([one.rollout for one in lessons])
    for one, old in zip(again, before, strict=True):
        torch.testing.assert_close(one.reference, old, atol=1e-5, rtol=1e-5)
        paid = one.rewards + 0.5 * (one.logps - one.reference)
        assert float(paid.sum()) == pytest.approx(one.score, abs=1e-4)
        assert float((one.logps - one.reference).abs().max()) > 1e-3


def test_an_episode_cut_off_pays_for_it_at_its_last_turn(tmp_path):
    # Seldom does a random policy come to its end.
    _, plain = begun(tmp_path, episodes_per_iteration=48)
    _, fined = begun(tmp_path, episodes_per_iteration=48, unfinished_penalty=0.5)
    assert {one.rollout.truncated for one in plain} == {True, False}
    for one, other in zip(plain, fined, strict=True):
        fine = torch.zeros_like(one.rewards)
        fine[-1] = 0.5 * one.rollout.truncated
        torch.testing.assert_close(other.rewards, one.rewards - fine)


def test_learning_from_an_iteration_ends_before_a_step_on_a_policy_that_moved_too_far(tmp_path):
    learner, lessons = begun(tmp_path, num_epochs=5, learning_rate=1e-2, max_kl=0.5, minibatch_episodes=4)
    weights = []
    take = learner._optimise

    def watched(part):
        weights.append([weight.clone() for weight in learner._trained])
        return take(part)

    learner._optimise = watched
    with learner._form.attention():
        figures = learner._learn(lessons, random.Random(0))
    assert figures["stopped_early"] == 1
    assert figures["optimizer_steps"] == learner.optimizer_steps == len(weights) - 1 < 10
    assert all(torch.equal(now, then) for now, then in zip(learner._trained, weights[-1], strict=True))


def test_a_loss_that_is_no_number_stops_with_an_episode(tmp_path):
    learner, lessons = begun(tmp_path)
    lessons[0].advantages[:] = float("nan")
    with learner._form.attention(), pytest.raises(TrainingError, match=r"iteration 1: the loss is not.*tea-\d, sample"):
        learner._optimise(lessons)


@pytest.mark.parametrize("level", ["turn", "token"])
def test_ppo_finds_the_best_arm(tmp_path, level):
    log, policy = Lines(), random_policy()
    config = a_config(
        iterations=25, episodes_per_iteration=32, num_epochs=2, max_new_tokens=2, max_steps=1, learning_rate=3e-3,
        kl_coef=0.0, whiten_advantages=True, gae_level=level,
    )  # fmt: skip
    outcome = train_ppo(policy, config, context(tmp_path, BANDIT, OneTurn, bandit_reward, log))
    assert log.lines[0]["reward"] < 0.3
    assert fmean(line["reward"] for line in log.lines[-3:]) >= 0.9
    assert outcome.steps == 25 * 2 * 4 and not outcome.interrupted and len(outcome.losses) == 25
    assert 25 * 2 * 32 < outcome.tokens_trained <= 25 * 2 * 32 * 2 < outcome.tokens_seen
    assert log.lines[0]["kl_per_episode"] == pytest.approx(0, abs=1e-5) and log.lines[-1]["kl_per_episode"] > 1
    assert log.lines[-1]["entropy"] < log.lines[0]["entropy"] / 2


def test_a_penalty_on_kl_keeps_the_policy_near_its_beginning(tmp_path):
    def kl(coefficient):
        log = Lines()
        config = a_config(
            iterations=14, episodes_per_iteration=16, num_epochs=2, max_new_tokens=2, max_steps=1, learning_rate=3e-3,
            kl_coef=coefficient, whiten_advantages=True,
        )  # fmt: skip
        train_ppo(random_policy(), config, context(tmp_path, BANDIT, OneTurn, bandit_reward, log))
        return fmean(line["kl_per_episode"] for line in log.lines[-2:])

    assert abs(kl(3.0)) < kl(0.0) / 3


class Stopped(Exception):
    pass


@pytest.mark.parametrize(("after", "settings"), [(1, {}), (3, {"gae_level": "token", "kl_estimator": "k3"})])
def test_a_run_that_was_stopped_goes_on_as_if_it_never_had_been(tmp_path, monkeypatch, after, settings):
    config = a_config(
        iterations=4, minibatch_episodes=4, num_epochs=2, save_steps=1, kl_control="adaptive", target_kl=0.5,
        entropy_coef=0.01, whiten_advantages=True, **settings,
    )  # fmt: skip

    def run(name, checkpoint=None, log=None):
        around, policy = context(tmp_path / name, TOOL_TASKS, Shop, an_episode_reward, log), random_policy()
        return train_ppo(policy, config, around, checkpoint), policy, around.log.lines

    whole, expected, lines = run("whole")
    log, step = Lines(), PPO.step

    def stops(self):
        if self.iteration == after:
            raise Stopped
        return step(self)

    monkeypatch.setattr(PPO, "step", stops)
    with pytest.raises(Stopped):
        run("parts", log=log)
    monkeypatch.setattr(PPO, "step", step)
    log.lines.append({"step": after + 1})  # it was killed after this line was written, and before its checkpoint
    torch.manual_seed(99)  # the global random state is nobody's business
    parts, found, again = run("parts", last_checkpoint(tmp_path / "parts"), log)
    assert parts == whole and len(set(whole.losses)) == 4
    assert [untimed(line) for line in again] == [untimed(line) for line in lines]
    assert len({line["kl_coef"] for line in lines}) == 4
    for one, other in zip(found.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(one, other)


def untimed(line):
    return {name: value for name, value in line.items() if name not in ("seconds", "tokens_per_second")}


def test_a_checkpoint_has_all_that_changes(tmp_path):
    settings = a_config(kl_control="adaptive", target_kl=0.1, iterations=2, save_steps=2, value_coef=0.5)
    learner = PPO(random_policy(), settings, context(tmp_path, TOOL_TASKS, Shop, an_episode_reward))
    learner.run(None)
    other = PPO(random_policy(seed=5), settings, context(tmp_path, TOOL_TASKS, Shop, an_episode_reward))
    other.run(last_checkpoint(tmp_path))
    mine, its = learner.state_dict(), other.state_dict()
    assert mine.keys() == its.keys()
    for name, value in mine.items():
        assert torch.equal(value, its[name]) if torch.is_tensor(value) else value == its[name], name
    assert mine["kl_coef"] != settings.kl_coef and mine["counts"][0] == 2
    assert mine["losses"] == learner.losses and mine["spread"] == 0.0  # nothing was whitened
    assert mine["value.map.weight"].abs().sum() > 0
    assert {name.rpartition(".")[2] for name in mine if name.startswith("optimizer.")} == {
        "step", "exp_avg", "exp_avg_sq",
    }  # fmt: skip
    now = {f"reference.{name}": weight for name, weight in random_policy().model.named_parameters()}
    assert all(torch.equal(mine[name], weight) for name, weight in now.items())


def test_asked_to_stop_it_leaves_a_checkpoint_and_says_so(tmp_path):
    around = context(tmp_path, TOOL_TASKS, Shop, an_episode_reward)
    around.stop = lambda: len(around.log.lines) >= 1
    outcome = train_ppo(random_policy(), a_config(iterations=5), around)
    assert outcome.interrupted and len(outcome.losses) == 1
    assert last_checkpoint(tmp_path).name == "checkpoint-1"


@pytest.mark.slow
def test_ppo_learns_which_tool_to_call(tmp_path):
    log, policy = Lines(), tool_policy()
    config = a_config(
        iterations=12, episodes_per_iteration=32, num_epochs=2, max_new_tokens=40, learning_rate=2e-4, kl_coef=0.0,
        whiten_advantages=True,
    )  # fmt: skip
    train_ppo(policy, config, context(tmp_path, TOOL_TASKS, Shop, log=log))
    right = [fmean(one.steps[0].action == "find" for one in log.played[number]) for number in range(1, 13)]
    assert right[0] < 0.6 and fmean(right[-4:]) >= 0.9
    assert log.lines[0]["success"] < 0.6 and fmean(line["success"] for line in log.lines[-4:]) >= 0.9
    greedy = play(policy, TOOL_TASKS, Shop, temperature=0.0, max_new_tokens=40).rollouts
    assert all(one.trajectory.success and len(one.turns) == 2 for one in greedy)


@pytest.mark.slow
def test_killed_and_resumed_the_command_gives_the_adapter_of_a_run_that_was_not(tmp_path):
    save_tiny(tmp_path / "model")
    settings = {
        "base_model": str(tmp_path / "model"), "num_tasks": 6, "iterations": 12, "episodes_per_iteration": 6,
        "minibatch_episodes": 4, "max_steps": 2, "max_new_tokens": 8, "num_epochs": 2, "save_steps": 1,
        "learning_rate": 0.01, "dtype": "float32", "lora_r": 4, "lora_alpha": 8, "entropy_coef": 0.01,
        "kl_control": "adaptive", "target_kl": 0.5,
    }  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    start = "import sys; from sage.libs.finetune.agent.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", start, "rl", *options, "--output-dir", str(killed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
        until = time.monotonic() + 120
        while not (killed / "checkpoints" / "checkpoint-2").exists():
            assert process.poll() is None and time.monotonic() < until, (tmp_path / "said").read_text()
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert subprocess.run([*command, "--resume"], stdout=said, stderr=said, env=environment).returncode == 0
        done = subprocess.run([*command[:-1], str(whole)], stdout=said, stderr=said, env=environment)  # as many threads
        assert done.returncode == 0, (tmp_path / "said").read_text()
    adapters = [folder / "adapter" / "adapter_model.safetensors" for folder in (whole, killed)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    lines = [[untimed(line) for _, line in read_jsonl(folder / "metrics.jsonl")] for folder in (whole, killed)]
    assert lines[0] == lines[1] and len(lines[0]) == 12

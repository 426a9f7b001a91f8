from __future__ import annotations

import pytest

from sage.libs.finetune.agent.rl_config import RLTrainingConfig
from sage.libs.finetune.agent.training.rl.groups import beyond_the_group, group_arguments, grouped_episodes


def test_leaving_one_out_is_the_reward_less_the_mean_of_the_others() -> None:
    rewards = [0.25, -1.0, 3.0, 0.5]
    found = beyond_the_group(rewards, 4, leave_one_out=True)
    for at, reward in enumerate(rewards):
        others = [other for place, other in enumerate(rewards) if place != at]
        assert found[at] == pytest.approx(reward - sum(others) / 3)
    assert beyond_the_group([1.0, None, None, None], 4, leave_one_out=True) == [0.0, None, None, None]


def test_equal_rewards_are_beyond_their_mean_by_nothing() -> None:
    for reward in (0.1, 0.3, 1 / 3):
        assert beyond_the_group([reward, reward, None, reward, None, None], 3) == [0.0, 0.0, None, 0.0, None, None]


def test_a_task_that_comes_twice_has_a_group_each_time() -> None:
    config = RLTrainingConfig(algorithm="grpo", episodes_per_iteration=8, minibatch_episodes=8, samples_per_task=2)
    tasks = [{"task_id": name, "metadata": {"level": 1}} for name in "ab"]
    found = [(task["task_id"], task["metadata"]["sample"]) for task in grouped_episodes(tasks, config, 3)]
    assert sorted(found) == [(name, sample) for name in "ab" for sample in range(4)]
    assert found[0][0] == found[1][0] and found[2][0] == found[3][0]
    assert [task["task_id"] for task in tasks] == ["a", "b"] and tasks[0]["metadata"] == {"level": 1}


@pytest.mark.parametrize(("longest", "at_once"), [(512, 16), (2048, 4), (1500, 4), (8192, 1), (20000, 1)])
def test_a_minibatch_is_computed_in_parts_that_fit(longest, at_once) -> None:
    config = RLTrainingConfig("grpo", max_seq_length=longest, episodes_per_iteration=64, minibatch_episodes=16)
    arguments = group_arguments(config)
    assert arguments.per_device_train_batch_size == at_once
    assert arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps == 16
    assert arguments.steps_per_generation * at_once == 64
    assert arguments.save_steps == config.save_steps * 16 and arguments.max_steps == config.iterations * 16

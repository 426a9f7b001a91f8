import pytest
import torch

from sage.libs.finetune.agent.models.policy import PolicyOutputs
from sage.libs.finetune.agent.rl_config import RLTrainingConfig
from sage.libs.finetune.agent.training.rl.lessons import episodes_of, lesson
from sage.libs.finetune.agent.training.rl.rollouts import Rollout, Turn
from sage.libs.finetune.agent.types import AgentTrajectory, TrajectoryStep

PENALTY = torch.tensor([0.1, 0.2, 0.0, 0.3, -0.1])
VALUES = torch.tensor([0.5, 9.0, 9.0, 1.0, 9.0])  # the turns' are those before their first tokens


def a_rollout():
    """Prompt of 4, a turn of 3, an observation of 5, a turn of 2."""
    steps = [TrajectoryStep("", "find"), TrajectoryStep("", "finish")]
    trajectory = AgentTrajectory("a", "Do it.", steps)
    return Rollout(list(range(14)), 4, [Turn(4, 7), Turn(12, 14)], trajectory)


def learned(level, gamma=0.9, lam=0.8, penalty=PENALTY, values=VALUES):
    config = RLTrainingConfig(gae_level=level, gamma=gamma, gae_lambda=lam)
    now = PolicyOutputs(torch.full((5,), -1.0), values, torch.full((5,), 0.5))
    return lesson(a_rollout(), now, torch.full((5,), -1.5), [0.25, 1.0], penalty, config)


def test_only_what_the_policy_wrote_is_labelled():
    assert a_rollout().labels == [-100] * 4 + [4, 5, 6] + [-100] * 5 + [12, 13]


def test_a_turn_is_paid_once_and_pays_for_all_its_tokens():
    found = learned("turn")
    assert found.steps.tolist() == [0, 0, 0, 1, 1]
    assert found.rewards.tolist() == pytest.approx([0.25 - 0.3, 1.0 - 0.2])
    assert found.values.tolist() == [0.5, 1.0]
    second = 0.8 - 1.0
    first = -0.05 + 0.9 * 1.0 - 0.5 + 0.9 * 0.8 * second
    assert found.advantages.tolist() == pytest.approx([first, second])
    assert found.returns.tolist() == pytest.approx([first + 0.5, second + 1.0])
    assert found.score == 1.25 and found.entropy == 2.5


def test_a_token_is_a_step_that_pays_for_itself_and_is_paid_at_the_end_of_its_turn():
    found = learned("token")
    assert found.steps.tolist() == [0, 1, 2, 3, 4]
    assert found.rewards.tolist() == pytest.approx([-0.1, -0.2, 0.25, -0.3, 1.1])
    assert found.values.tolist() == VALUES.tolist()
    after = 0.0
    expected = []
    for at in reversed(range(5)):
        following = float(VALUES[at + 1]) if at < 4 else 0.0
        after = float(found.rewards[at]) + 0.9 * following - float(VALUES[at]) + 0.72 * after
        expected.insert(0, after)
    assert found.advantages.tolist() == pytest.approx(expected)


def test_the_discount_is_of_turns_or_of_tokens():
    nothing, zeros = torch.zeros(5), torch.zeros(5)
    turn, token = (learned(level, 0.5, 1.0, nothing, zeros).returns.tolist() for level in ("turn", "token"))
    assert turn == [0.25 + 0.5 * 1.0, 1.0]
    assert token == [0.25 * 0.25 + 0.0625, 0.5 * 0.25 + 0.125, 0.25 + 0.25, 0.5, 1.0]


def test_without_a_discount_both_levels_expect_the_same_of_a_turn():
    zeros = torch.zeros(5)
    turn, token = (learned(level, 1.0, 1.0, values=zeros).returns.tolist() for level in ("turn", "token"))
    assert turn == pytest.approx([token[0], token[3]])
    assert turn[0] == pytest.approx(1.25 - float(PENALTY.sum()))


def named(*names):
    return [{"task_id": name, "instruction": "Do it."} for name in names]


def test_tasks_go_round_each_round_in_an_order_of_its_own():
    tasks = named(*"abcdefg")
    played = [task["task_id"] for number in range(1, 8) for task in episodes_of(tasks, 3, number, 0)]
    rounds = [played[start : start + 7] for start in range(0, 21, 7)]
    assert all(sorted(one) == list("abcdefg") for one in rounds)
    assert len({tuple(one) for one in rounds}) == 3
    other = [task["task_id"] for number in range(1, 8) for task in episodes_of(tasks, 3, number, 1)]
    assert other != played


def test_a_task_that_comes_twice_in_an_iteration_is_two_samples_and_the_tasks_given_stay_as_they_are():
    tasks = [{**task, "metadata": {"kind": "x"}} for task in named("a", "b")]
    chosen = episodes_of(tasks, 5, 1, 0)
    keys = [(task["task_id"], task["metadata"]["sample"]) for task in chosen]
    assert len(set(keys)) == 5 and {sample for _, sample in keys} == {0, 1, 2}
    assert all(task["metadata"]["kind"] == "x" for task in chosen)
    assert tasks[0]["metadata"] == {"kind": "x"}

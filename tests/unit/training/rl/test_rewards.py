import math

import pytest
import torch

from sage.libs.finetune.agent.errors import ConfigError, ModelError, TrainingError
from sage.libs.finetune.agent.training.rl.rewards import reward_of
from sage.libs.finetune.agent.types import AgentTrajectory, TrajectoryStep


def episode(name="a", rewards=(0.5, -0.25), sample=None):
    steps = [TrajectoryStep("", "find", reward=reward) for reward in rewards]
    return AgentTrajectory(name, "Do it.", steps, metadata={} if sample is None else {"sample": sample})


def test_without_a_source_the_environment_pays_step_by_step():
    reward = reward_of(None)
    assert reward.by_turn([episode(), episode(rewards=(1.0,))]) == [[0.5, -0.25], [1.0]]
    assert reward.score([episode()]) == [0.25]


def test_a_function_pays_at_the_end_in_place_of_the_environment():
    reward = reward_of(lambda trajectory: len(trajectory.steps))
    assert reward.by_turn([episode(), episode(rewards=(1.0,))]) == [[0.0, 2.0], [1.0]]
    assert reward.score([episode()]) == [2.0]


def test_a_list_is_a_weighted_sum():
    reward = reward_of([(lambda trajectory: 1.0, 2), (lambda trajectory: trajectory.steps[0].reward, -0.5)])
    assert reward.by_turn([episode()]) == [[0.0, 1.75]]


def test_numbers_of_any_kind_are_rewards():
    for value in (True, 1, torch.tensor(1.0)):
        assert reward_of(lambda trajectory, value=value: value).score([episode()]) == [1.0]


def raises(trajectory):
    raise RuntimeError("no\nluck")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (raises, "raised RuntimeError: no luck"),
        (lambda trajectory: math.nan, "is nan; expected a finite number"),
        (lambda trajectory: -math.inf, "is -inf; expected a finite number"),
        (lambda trajectory: None, "is None; expected a finite number"),
        (lambda trajectory: "0.5", "is '0.5'; expected a finite number"),
        (lambda trajectory: [1.0], r"is \[1.0\]; expected a finite number"),
    ],
)
def test_a_reward_that_is_none_stops_with_task_and_sample(function, said):
    fails = lambda trajectory: function(trajectory) if trajectory.task_id == "b" else 1.0  # noqa: E731
    with pytest.raises(TrainingError, match=f"^the reward of task 'b', sample 3, {said}$"):
        reward_of([(lambda trajectory: 0.0, 1.0), (fails, 1.0)]).by_turn([episode("a"), episode("b", sample=3)])


def test_an_environment_that_pays_nan_is_named():
    with pytest.raises(TrainingError, match=r"^the reward of task 'a', sample 0, is nan; expected a finite number$"):
        reward_of(None).score([episode(rewards=(0.0, math.nan))])


@pytest.mark.parametrize(
    "source", [5, [], [len], [(len, "much")], [(len, True)], [(len, math.nan)], [("name", 1.0, 2.0)], {"a": 1.0}]
)
def test_what_is_no_reward_is_refused(source):
    with pytest.raises(ConfigError, match="expected a function of a trajectory"):
        reward_of(source)


def test_a_reward_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"reward model .*nowhere: there is no such folder"):
        reward_of(str(tmp_path / "nowhere"))

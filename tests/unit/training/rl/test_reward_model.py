"""Reward models: what they learn from pairs, and that they read conversations as they were trained to."""

import json
import shutil

import pytest
import torch
from tests import rl_tasks
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer
from tests.unit.training.rl.test_pairs import episode, pair

from sage.libs.finetune.agent import AgentSFTConfig
from sage.libs.finetune.agent.errors import ConfigError, DataError, ModelError
from sage.libs.finetune.agent.models.adapters import add_adapter
from sage.libs.finetune.agent.training.rl.reward_model import RewardModel
from sage.libs.finetune.agent.training.rl.reward_training import scorer_from, train_reward_model
from sage.libs.finetune.agent.training.rl.rewards import reward_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A reward model from separable pairs: calling `find` is right, calling `add` is wrong."""
    folder = tmp_path_factory.mktemp("reward")
    save_tiny(folder / "base")
    report = train_reward_model(
        [pair(number % 2) for number in range(50)], str(folder / "base"), folder / "reward", num_epochs=2,
        learning_rate=1e-3,
    )  # fmt: skip
    return folder / "reward", report


def test_it_learns_to_tell_what_can_be_told_apart(trained):
    folder, report = trained
    assert (report.pairs, report.held_out, report.too_long) == (45, 5, 0)
    assert report.losses[-1] < 0.1 < report.losses[0]
    assert report.accuracy == 1.0
    assert json.loads((folder / "reward_model.json").read_text())["accuracy"] == 1.0


def test_it_is_a_reward_like_any_other(trained):
    folder, _ = trained
    task = rl_tasks.TOOL_TASKS[0]
    reward = reward_of(str(folder))
    good, bad = reward.score([episode(task, "find"), episode(task, "add", "It is 12.")])
    assert good > bad + 1
    assert [each.suffix for each in folder.iterdir() if "model" in each.name and each.suffix != ".json"] == [
        ".safetensors"
    ]


def test_it_scores_a_batch_as_it_scores_one_alone(trained):
    model = RewardModel.from_pretrained(str(trained[0]))
    episodes = [
        episode(task, tool, "12" * n) for task in rl_tasks.TOOL_TASKS for tool in ("find", "add") for n in (1, 9)
    ]
    alone = [model.score([one])[0] for one in episodes]
    assert model.score(episodes) == pytest.approx(alone, abs=1e-4)


def test_the_trunk_is_that_of_the_language_model_with_its_adapter():
    adapted = add_adapter(tiny_model(), AgentSFTConfig("tiny", "rows.jsonl", lora_r=4, lora_dropout=0.0)).eval()
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data = torch.full_like(weight, 0.02)
    ids = torch.tensor([tiny_tokenizer()("The price of the tea")["input_ids"]])
    with torch.no_grad():
        expected = adapted.get_base_model().model(input_ids=ids).last_hidden_state
        found = scorer_from(adapted, seed=0).eval().model(input_ids=ids).last_hidden_state
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_folder_in_use_and_pairs_that_do_not_fit_are_refused(trained, tmp_path):
    folder, _ = trained
    with pytest.raises(ConfigError, match="is in use; give a new folder"):
        train_reward_model([pair()], str(folder.parent / "base"), folder)
    with pytest.raises(DataError, match="pairs: none of 1 pairs fits max_seq_length"):
        train_reward_model([pair()], str(folder.parent / "base"), tmp_path / "new", max_seq_length=16)


def test_a_language_model_is_no_reward_model(trained):
    folder, _ = trained
    with pytest.raises(ModelError, match="expected a sequence-classification model, found LlamaForCausalLM"):
        RewardModel.from_pretrained(str(folder.parent / "base"))


def test_a_reward_model_has_one_output_and_is_called_one_when_it_is_missing(trained, tmp_path):
    two = tmp_path / "two"
    shutil.copytree(trained[0], two)
    config = json.loads((two / "config.json").read_text())
    names = {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}
    (two / "config.json").write_text(json.dumps({**config, **names}))
    with pytest.raises(ModelError, match=r"^reward model .*two: expected one output, found 2$"):
        RewardModel.from_pretrained(str(two))
    with pytest.raises(ModelError, match=r"^reward model ./none: there is no such folder; give the folder or hub id"):
        RewardModel.from_pretrained("./none")

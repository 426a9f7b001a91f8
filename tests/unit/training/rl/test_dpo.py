"""DPO: masks, loss and reference against plain computation, checkpoints, and what is left of TRL afterwards."""

import math
from dataclasses import replace

import pytest
import torch
from tests import rl_tasks
from tests.tiny import tiny_model, tiny_tokenizer
from tests.unit.training.rl.test_pairs import config, pair
from torch import nn
from torch.nn.functional import logsigmoid
from trl.trainer.dpo_trainer import DataCollatorForPreference

from sage.libs.finetune.agent import AgentSFTConfig
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.jsonl import write_jsonl
from sage.libs.finetune.agent.models.adapters import add_adapter
from sage.libs.finetune.agent.models.lora_linear import replace_forwards
from sage.libs.finetune.agent.tokenization.render import IGNORED
from sage.libs.finetune.agent.training.checkpoints import last_checkpoint
from sage.libs.finetune.agent.training.rl import pair_trainer
from sage.libs.finetune.agent.training.rl.dpo import train_dpo
from sage.libs.finetune.agent.training.rl.pair_trainer import Course, PairTrainer, as_found, collate_pairs
from sage.libs.finetune.agent.training.rl.pairs import token_pairs

BETA = 0.3


def policy(kind="full", seed=0):
    """All weights trained, or an adapter (LoRA, DoRA) that has learned something before."""
    loaded = rl_tasks.random_policy(seed)
    if kind == "full":
        return loaded
    settings = AgentSFTConfig("tiny", "rows.jsonl", lora_r=4, lora_alpha=8, lora_dropout=0.0, use_dora=kind == "dora")
    loaded.model = add_adapter(tiny_model(seed=seed), settings).eval()
    replace_forwards(loaded.model)
    generator = torch.Generator().manual_seed(1)
    for name, weight in loaded.model.named_parameters():
        if "lora_B" in name and kind != "fresh":
            weight.data = torch.randn(weight.shape, generator=generator) * 0.05
    return loaded


def settings(tmp_path, **changes):
    defaults = {"kl_coef": BETA, "batch_size": 2, "num_epochs": 3, "learning_rate": 1e-3, "save_steps": 1}
    return config(tmp_path, **{**defaults, **changes})


def trainer_of(loaded, tmp_path, **changes):
    found, _ = token_pairs([pair(0), pair(1)], tiny_tokenizer(), 512)
    trainer = PairTrainer(loaded, settings(tmp_path, **changes), tmp_path, found, Course())
    trainer.remember_reference(tmp_path / "reference.json")
    loaded.model.train()  # as it is in a step; nothing of it is dropped out
    return trainer, found


def plain_logp(model, side):
    """Sum over the labelled tokens, one conversation alone, from the model's own logits."""
    ids = torch.tensor([side["input_ids"]])
    logs = torch.log_softmax(model(input_ids=ids).logits[0, :-1].float(), dim=-1)
    return sum(logs[at, label] for at, label in enumerate(side["labels"][1:]) if label != IGNORED)


def move(model):
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.02 * torch.randn(weight.shape, generator=generator)


def learned(tmp_path, loaded=None, context=None, checkpoint=None, **changes):
    """A run on four pairs of a file: 6 steps."""
    tmp_path.mkdir(exist_ok=True)
    file = tmp_path / "given.jsonl"
    write_jsonl(file, [pair(0), pair(1)] * 2)
    context = context or rl_tasks.context(tmp_path, rl_tasks.TOOL_TASKS, rl_tasks.Shop)
    loaded = loaded or policy("lora")
    asked = settings(tmp_path, preferences="given.jsonl", **changes)
    return loaded, context, train_dpo(loaded, replace(asked, preferences=str(file)), context, checkpoint)


@pytest.mark.parametrize("kind", ["full", "fresh", "lora", "dora"])
def test_loss_is_that_of_the_formula_on_the_assistants_own_tokens(kind, tmp_path):
    loaded = policy(kind)
    trainer, found = trainer_of(loaded, tmp_path)
    with torch.no_grad():
        before = [[plain_logp(loaded.model, side) for side in (one.chosen, one.rejected)] for one in found]
        assert torch.allclose(torch.tensor(trainer._reference), torch.tensor(before), atol=1e-4)
        move(loaded.model)
        now = [[plain_logp(loaded.model, side) for side in (one.chosen, one.rejected)] for one in found]
    margins = [(c - rc) - (r - rr) for (c, r), (rc, rr) in zip(now, before, strict=True)]
    by_hand = -sum(logsigmoid(BETA * margin) for margin in margins) / len(margins)
    batch = trainer._batch([{"pair": 0}, {"pair": 1}])
    assert trainer.compute_loss(trainer.model, batch, num_items_in_batch=2).item() == pytest.approx(
        by_hand.item(), abs=1e-5
    )
    assert trainer.compute_loss(trainer.model, batch, num_items_in_batch=8).item() == pytest.approx(
        by_hand.item() / 4, abs=1e-5
    )


def test_masks_are_narrower_than_trls_own():
    found, _ = token_pairs([pair(0)], tiny_tokenizer(), 512)
    ours = collate_pairs(found, [(0.0, 0.0)], 0)
    start = next(at for at, label in enumerate(found[0].chosen["labels"]) if label != IGNORED)
    ids = [found[0].chosen["input_ids"], found[0].rejected["input_ids"]]
    [(chosen, rejected)] = [(ids[0][start:], ids[1][start:])]
    theirs = DataCollatorForPreference(0)(
        [{"prompt_ids": ids[0][:start], "chosen_ids": chosen, "rejected_ids": rejected}]
    )
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert torch.equal(ours["attention_mask"], theirs["attention_mask"])
    only_theirs = theirs["completion_mask"].bool() & ~ours["completion_mask"].bool()
    assert not (ours["completion_mask"].bool() & ~theirs["completion_mask"].bool()).any()
    assert "nothing" in tiny_tokenizer().decode(ours["input_ids"][1][only_theirs[1]])  # what the environment said


def test_no_gradient_comes_from_where_the_environment_speaks(tmp_path):
    loaded = policy("lora")
    trainer, _ = trainer_of(loaded, tmp_path)
    read = []
    backbone = loaded.model.get_base_model().model
    hook = backbone.register_forward_hook(lambda _, __, out: read.append(out.last_hidden_state))
    batch = trainer._batch([{"pair": 0}, {"pair": 1}])
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=2)
    hook.remove()
    size = torch.autograd.grad(loss, read[0])[0].abs().sum(dim=-1)[:, :-1]  # the state before a token makes its logits
    own = batch["completion_mask"][:, 1:].bool()
    assert (size[own] > 0).all()
    assert (size[~own] == 0).all()


@pytest.mark.parametrize("kind", ["full", "fresh", "lora", "dora"])
def test_the_first_step_knows_nothing_and_then_the_chosen_gain(kind, tmp_path):
    _, context, outcome = learned(tmp_path, policy(kind))
    assert outcome.losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert outcome.losses[-1] < outcome.losses[0]
    assert (outcome.steps, outcome.interrupted) == (6, False)
    first, last = context.log.lines[0], context.log.lines[-1]
    assert abs(first["kl_on_pairs"]) < 1e-4
    assert last["margin"] > 0
    assert last["accuracy"] == 1.0
    sides = [side for one in token_pairs([pair(0), pair(1)], tiny_tokenizer(), 512)[0] for side in vars(one).values()]
    tokens = [side for side in sides if isinstance(side, dict)]
    assert outcome.tokens_seen == 6 * sum(len(side["input_ids"]) for side in tokens)
    assert outcome.tokens_trained == 6 * sum(label != IGNORED for side in tokens for label in side["labels"])


def test_a_step_is_the_same_whatever_it_is_split_into(tmp_path, monkeypatch):
    whole = learned(tmp_path / "whole", batch_size=4)
    monkeypatch.setattr(pair_trainer, "_BATCH_TOKENS", 1)
    split = learned(tmp_path / "split", batch_size=4)
    assert split[2].losses == pytest.approx(whole[2].losses, abs=1e-5)
    assert split[2].tokens_trained == whole[2].tokens_trained


def weights(loaded):
    return {name: weight.clone() for name, weight in loaded.model.state_dict().items()}


def stopping(folder, after):
    """A context that asks to stop in the step after so many, or where a round ended with them."""
    context = rl_tasks.context(folder, rl_tasks.TOOL_TASKS, rl_tasks.Shop)
    context.stop = lambda: len(context.log.lines) >= after
    return context


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_run_that_was_stopped_goes_on_to_the_same_end(kind, tmp_path):
    unbroken, _, expected = learned(tmp_path / "a", policy(kind))
    stopped = stopping(tmp_path / "b", 1)
    _, context, first = learned(tmp_path / "b", policy(kind), stopped)
    assert (first.interrupted, first.steps) == (True, 2)
    context.stop = lambda: False
    again, _, outcome = learned(tmp_path / "b", policy(kind), context, last_checkpoint(tmp_path / "b"))
    assert outcome.losses == expected.losses
    assert (outcome.tokens_seen, outcome.interrupted) == (expected.tokens_seen, False)
    assert [line["step"] for line in context.log.lines] == [1, 2, 3, 4, 5, 6]
    for name, weight in weights(unbroken).items():
        assert torch.equal(weight, weights(again)[name]), name
    finished, _, same = learned(tmp_path / "b", policy(kind), context, last_checkpoint(tmp_path / "b"))
    assert same.losses == expected.losses  # nothing more is done
    assert torch.equal(*(next(iter(weights(one).values())) for one in (again, finished)))


@pytest.mark.slow
def test_rounds_explore_anew_and_go_on_where_they_were_stopped(tmp_path):
    changes = {"rounds": 2, "samples_per_task": 4, "use_lora": False, "num_epochs": 2, "learning_rate": 1e-4}
    tmp_path.joinpath("a").mkdir()
    context = rl_tasks.context(tmp_path / "a", rl_tasks.TOOL_TASKS, rl_tasks.Shop)
    expected = train_dpo(rl_tasks.tool_policy(), settings(tmp_path / "a", **changes), context)
    rounds = [line["round"] for line in context.log.lines]
    assert set(rounds) == {1, 2}
    begin = rounds.index(2)
    assert expected.losses[begin] == pytest.approx(math.log(2), abs=1e-6)  # the reference is the policy as it was then
    assert {"reward", "success"} <= context.log.lines[begin].keys()
    assert [found["round"] for found in expected.figures["rounds"]] == [1, 2]
    for after in (begin, begin + 1):  # between the rounds, and within the second
        folder = tmp_path / f"b{after}"
        folder.mkdir()
        stopped = stopping(folder, after)
        assert train_dpo(rl_tasks.tool_policy(), settings(folder, **changes), stopped).interrupted
        stopped.stop = lambda: False
        resumed = train_dpo(rl_tasks.tool_policy(), settings(folder, **changes), stopped, last_checkpoint(folder))
        assert (resumed.losses, resumed.interrupted) == (expected.losses, False)


def test_nothing_of_trl_is_left_on_the_model(tmp_path, capsys):
    loaded = policy("lora")
    inner = loaded.model.get_base_model()
    inner.dropout = nn.Dropout(0.1)
    trainable = {name for name, weight in loaded.model.named_parameters() if weight.requires_grad}
    learned(tmp_path, loaded)
    assert "forward" not in vars(inner)
    assert list(loaded.model.peft_config) == ["default"]
    assert (inner.dropout.p, loaded.model.training) == (0.1, False)
    assert {name for name, weight in loaded.model.named_parameters() if weight.requires_grad} == trainable
    prompt = torch.tensor([token_pairs([pair()], tiny_tokenizer(), 512)[0][0].chosen["input_ids"][:20]])
    assert loaded.model.generate(input_ids=prompt, max_new_tokens=2, do_sample=False).shape == (1, 22)
    assert capsys.readouterr().out == ""


def test_an_own_forward_is_put_back():
    model = tiny_model()
    model.forward = own = model.forward
    with as_found(model):
        model.forward = None
    assert model.forward is own


def test_without_a_pair_there_is_an_error_that_says_why(tmp_path):
    context = rl_tasks.context(tmp_path, rl_tasks.BANDIT, rl_tasks.OneTurn)
    counted = r"\(0 pairs found, 4 episodes played, 4 without one turn that can be read\)"
    with pytest.raises(DataError, match=f"round 1: no pair to learn from {counted}; raise samples_per_task"):
        train_dpo(policy(), settings(tmp_path, max_steps=1, max_new_tokens=4), context)

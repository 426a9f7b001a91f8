"""Losses and features of samples: equal to each row by itself, for every kind of model and sample."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.tiny import new_tokenizer, save_tiny, tiny_model, tiny_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from sage.libs.finetune.agent.errors import ConfigError, DataError, ModelError
from sage.libs.finetune.agent.models.batches import BatchForm
from sage.libs.finetune.agent.models.load import load_model
from sage.libs.finetune.agent.selection import shards
from sage.libs.finetune.agent.selection.scoring import (
    assistant_header,
    score_rows,
    score_samples,
    without_prompt,
)
from sage.libs.finetune.agent.tokenization.render import IGNORED, render
from sage.libs.finetune.agent.types import TaskSample

FIND = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Find a thing.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}


def make_rows(seed: int = 0) -> list[dict[str, Any]]:
    """Nested prefixes, a twin, a row that is another one's beginning, one on its own, a short one; weights in some."""
    draw = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [draw.randrange(3, 300) for _ in range(count)]

    system, task = tokens(40), tokens(30)
    ids = [system + tokens(n) for n in (5, 33, 17)] + [system + task + tokens(n) for n in (9, 21)]
    ids += [tokens(50), system + task, tokens(2)]
    ids.append(list(ids[3]))
    rows = []
    for one in ids:
        trained = [draw.random() < 0.4 for _ in one[:-1]] + [True]
        row = {"input_ids": one, "labels": [t if yes else IGNORED for t, yes in zip(one, trained, strict=True)]}
        if draw.random() < 0.5:
            row["weights"] = [draw.choice([0.25, 1.0, 2.0]) if yes else 0.0 for yes in trained]
        rows.append(row)
    return rows


def conversation(question: str, *, lines: int = 1, weight: float = 1.0) -> dict[str, Any]:
    """Several exchanges with a call among them."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "You find things and say what they cost."}]
    for number in range(lines):
        call = {"id": "call00001", "type": "function", "function": {"name": "find", "arguments": {"query": question}}}
        messages += [
            {"role": "user", "content": f"{question} {number}?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "12", "tool_call_id": "call00001"},
            {"role": "assistant", "content": f"The price is {number}.", "weight": weight},
        ]
    return {"messages": messages, "tools": [FIND]}


def one_by_one(model: Any, rows: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Losses and RDS+ features by the model's own attention, a row at a time."""
    losses, features = [], []
    with torch.no_grad():
        for row in rows:
            output = model(input_ids=torch.tensor([row["input_ids"]]), output_hidden_states=True)
            labels = torch.tensor(row["labels"][1:])
            nll = torch.nn.functional.cross_entropy(
                output.logits[0, :-1].float(), labels, reduction="none", ignore_index=IGNORED
            )
            weights = torch.tensor(row.get("weights") or [1.0] * len(row["labels"]))[1:]
            kept = labels != IGNORED
            losses.append(float((nll * weights)[kept].sum() / kept.sum()))
            states = output.hidden_states[-1][0].double()
            place = torch.arange(1, len(states) + 1, dtype=torch.float64)
            pooled = (place[:, None] * states).sum(0) / place.sum()
            features.append((pooled / pooled.norm()).numpy())
    return np.array(losses), np.stack(features)


def adapted(kind: str, dropout: float = 0.0) -> Any:
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", lora_dropout=dropout)
    model = get_peft_model(tiny_model(kind=kind), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("batch_size", [2, 32])
def test_rows_score_as_each_by_itself(kind: str, batch_size: int) -> None:
    model, rows = tiny_model(kind=kind), make_rows()
    losses, features = one_by_one(model, rows)
    found = score_rows(model, 0, rows, batch_size=batch_size, features=True)
    assert found.features is not None and found.alone is None
    np.testing.assert_allclose(found.losses, losses, atol=1e-5)
    np.testing.assert_allclose(found.features, features, atol=1e-5)
    assert found.losses.dtype == np.float64 and found.features.dtype == np.float32
    assert found.tokens.tolist() == [sum(label != IGNORED for label in row["labels"][1:]) for row in rows]
    np.testing.assert_allclose(found.features[3], found.features[8], atol=1e-6)  # twins


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_adapters_count_and_dropout_does_not(dropout: float) -> None:
    model, rows = adapted("qwen2", dropout).train(), make_rows()
    found = score_rows(model, 0, rows, features=True)
    assert model.training and all(module.training for module in model.modules())
    losses, features = one_by_one(model.eval(), rows)
    np.testing.assert_allclose(found.losses, losses, atol=1e-5)
    np.testing.assert_allclose(found.features, features, atol=1e-5)
    with model.disable_adapter():
        assert abs(score_rows(model, 0, rows).losses - losses).max() > 1e-3


def padded_model(kind: str) -> Any:
    sizes = {"vocab_size": 381, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config: Any = GPT2Config(**sizes)
    if kind == "windows":
        config = Qwen2Config(
            **sizes, intermediate_size=32, num_key_value_heads=1, use_sliding_window=True, sliding_window=8,
            max_window_layers=1,
        )  # fmt: skip
    torch.manual_seed(0)
    return (GPT2LMHeadModel if kind == "gpt2" else Qwen2ForCausalLM)(config).eval()


@pytest.mark.parametrize("kind", ["gpt2", "windows"])
def test_models_that_must_be_padded_give_the_same(kind: str) -> None:
    model, rows = padded_model(kind), make_rows()
    assert not BatchForm(model, 0).packed
    losses, features = one_by_one(model, rows)
    found = score_rows(model, 0, rows, batch_size=4, features=True)
    np.testing.assert_allclose(found.losses, losses, atol=1e-5)
    np.testing.assert_allclose(found.features, features, atol=1e-5)


def test_batches_are_bounded_by_tokens_and_no_row_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_BATCH_TOKENS", {"cpu": 90})
    rows = make_rows()
    plan = [batch for shard in shards.plan_shards(rows, 32, True, "cpu") for batch in shard]
    assert sorted(number for batch in plan for number in batch) == list(range(len(rows)))
    lengths = [sum(len(rows[number]["input_ids"]) for number in batch) for batch in plan]
    assert max(lengths) > 90 and len(plan) > 2  # shared tokens count once
    np.testing.assert_allclose(score_rows(tiny_model(), 0, rows).losses, one_by_one(tiny_model(), rows)[0], atol=1e-5)


def test_alone_is_each_reply_behind_its_header_and_nothing_else() -> None:
    tokenizer, model = tiny_tokenizer(), tiny_model()
    header = assistant_header(tokenizer)
    assert tokenizer.decode(header) == "<|im_start|>assistant\n"
    sample = conversation("tea", lines=2, weight=0.5)
    row = dict(render(sample, tokenizer).row())
    stripped = without_prompt(row, header)
    turns = [row["input_ids"][start:end] for start, end in render(sample, tokenizer).turns]
    assert stripped["input_ids"] == [token for turn in turns for token in [*header, *turn]]
    assert sum(label != IGNORED for label in stripped["labels"]) == sum(label != IGNORED for label in row["labels"])
    found = score_samples([sample, "plain words"], model, tokenizer=tokenizer, alone=True)
    assert found.alone is not None
    np.testing.assert_allclose(found.alone[0], one_by_one(model, [stripped])[0][0], atol=1e-5)
    assert found.alone[1] == found.losses[1] and found.alone[0] != found.losses[0]


def test_without_a_header_the_first_token_is_not_counted() -> None:
    row = {"input_ids": [7, 8, 9, 10], "labels": [IGNORED, IGNORED, 9, 10], "weights": [0.0, 0.0, 2.0, 0.5]}
    model = tiny_model()
    bare = {"input_ids": [9, 10], "labels": [9, 10], "weights": [2.0, 0.5]}
    assert without_prompt(row, ()) == bare
    np.testing.assert_allclose(score_rows(model, 0, [row], alone=True).alone, one_by_one(model, [bare])[0], atol=1e-5)
    with pytest.raises(DataError, match="row 0 without its prompt: no token"):
        score_rows(model, 0, [{"input_ids": [7, 8], "labels": [IGNORED, 8]}], alone=True)


def test_every_form_of_sample_and_of_model_gives_the_same(tmp_path: Any) -> None:
    folder = save_tiny(tmp_path / "model")
    chat = {"messages": [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "5"}]}
    samples = [
        chat,
        {"instruction": "2 + 3?", "output": "5"},
        {"prompt": "2 + 3?", "completion": "5"},
        TaskSample("sums", chat),
        {"text": "The price of the tea"},
        "The price of the tea",
    ]
    loaded = load_model(str(folder), dtype="float32")
    found = score_samples(samples, loaded).losses
    assert len(set(found[:4])) == 1 and found[4] == found[5]
    for model in (str(folder), folder, SimpleNamespace(loaded=loaded)):
        assert score_samples(samples, model, dtype="float32").losses.tolist() == found.tolist()
    bare = new_tokenizer()
    assert score_samples(samples, loaded.model, tokenizer=bare).losses.tolist() == found.tolist()
    assert bare.chat_template is None
    text = tiny_tokenizer().encode("The price of the tea")
    losses, _ = one_by_one(loaded.model, [{"input_ids": text, "labels": text}])
    np.testing.assert_allclose(found[4], losses[0], atol=1e-5)


def test_long_samples_lose_their_oldest_exchanges_and_texts_their_end() -> None:
    tokenizer, model = tiny_tokenizer(), tiny_model()
    long, short = conversation("tea", lines=4), conversation("tea", lines=1)
    room = len(render(short, tokenizer).input_ids) + 10
    found = score_samples([long, "tea " * 500], model, tokenizer=tokenizer, max_length=room)
    assert found.tokens[0] < score_samples([long], model, tokenizer=tokenizer).tokens[0]
    assert found.tokens[1] == room - 1
    with pytest.raises(DataError, match=r"sample 1: a row needs \d+ tokens"):
        score_samples(["tea", short], model, tokenizer=tokenizer, max_length=20)


def test_a_sample_without_a_supervised_token_is_named() -> None:
    unsupervised = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}
    for sample in (unsupervised, ""):
        with pytest.raises(DataError, match="sample 1: no token of it is supervised"):
            score_samples(["tea time", sample], tiny_model(), tokenizer=tiny_tokenizer())


def test_a_loss_that_is_no_number_is_an_error_that_names_the_row() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[5] = float("nan")
    rows = [{"input_ids": ids, "labels": ids} for ids in ([7, 8, 9], [6, 5, 7])]
    with pytest.raises(ModelError, match="row 1: the model's loss is nan"):
        score_rows(model, 0, rows)


def test_an_object_with_sample_losses_gives_losses_only() -> None:
    model = SimpleNamespace(sample_losses=lambda samples: [float(len(sample)) for sample in samples])
    found = score_samples(["tea", "a"], model)
    assert found.losses.tolist() == [3.0, 1.0] and found.tokens.tolist() == [-1, -1]
    for more in ({"alone": True}, {"features": True}):
        with pytest.raises(ConfigError, match="gives losses only"):
            score_samples(["tea"], model, **more)
    with pytest.raises(ConfigError, match="executor 'ray'"):
        score_samples(["tea"], model, executor="ray")
    for wrong, problem in (
        ([1.0], "numbers for 2 samples"),
        ([1.0, float("inf")], "sample 1: the model's loss is inf"),
    ):
        with pytest.raises(ModelError, match=problem):
            score_samples(["tea", "a"], SimpleNamespace(sample_losses=lambda _, wrong=wrong: wrong))


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs its tokenizer"):
        score_samples(["tea"], tiny_model())
    with pytest.raises(ConfigError, match="found int"):
        score_samples(["tea"], 3)
    with pytest.raises(ConfigError, match="executor 'threads' is unknown"):
        score_samples(["tea"], tiny_model(), tokenizer=tiny_tokenizer(), executor="threads")
    with pytest.raises(ConfigError, match="by its name"):
        score_samples(["tea"], tiny_model(), tokenizer=tiny_tokenizer(), executor="ray")


def test_progress_counts_rows_and_none_is_nothing() -> None:
    told: list[tuple[str, int, int]] = []

    def listen(label: str, done: int, total: int, detail: str = "") -> None:
        told.append((label, done, total))

    samples = ["tea time", "tea time", "more tea"]
    score_samples(samples, tiny_model(), tokenizer=tiny_tokenizer(), progress=listen)
    assert told == [("score", 0, 3), ("score", 3, 3)]
    empty = score_samples([], tiny_model(), tokenizer=tiny_tokenizer(), features=True)
    assert empty.losses.shape == (0,) and empty.features is not None and len(empty.features) == 0

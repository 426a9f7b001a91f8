"""Rows in a model's own words: what is kept, what is left out, and that every draw is the row's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.tiny import tiny_model, tiny_tokenizer
from tests.unit.training.conftest import conversation

from sage.libs.finetune.agent.errors import ConfigError, DataError, ModelError
from sage.libs.finetune.agent.models.load import LoadedModel
from sage.libs.finetune.agent.sources.rows import read_sample
from sage.libs.finetune.agent.tokenization.parse import parse_reply
from sage.libs.finetune.agent.tokenization.template import TemplateChoice
from sage.libs.finetune.agent.training.own_rows import (
    _message,
    _opening_of_a_user_turn,
    _replaced,
    _Reply,
    on_policy_rows,
    self_replies,
    self_rows,
)

ANSWER = {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}], "tools": []}


@pytest.fixture(scope="module")
def talker() -> LoadedModel:
    """A random model that ends a turn at every fifth token, so that some of its turns come to an end."""
    model = tiny_model(seed=3)
    model.generation_config.eos_token_id = list(range(5, 400, 5))
    return LoadedModel(model, tiny_tokenizer(), TemplateChoice("chatml_tools", "compact", "test"), "tiny")


def test_rows_are_whole_conversations_and_every_draw_is_accounted_for(talker: LoadedModel) -> None:
    own = self_rows(talker, 12, max_new_tokens=12, batch_size=8)
    assert len(own.rows) == own.counts["kept"] == 12
    for row in own.rows:
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert user["content"].strip() and (assistant["content"].strip() or assistant.get("tool_calls"))
        assert row["metadata"] == {"task_type": "self"}
        assert read_sample(row, "row") == row
    assert len({row["messages"][0]["content"] for row in own.rows}) == 12
    left_out = sum(own.counts.get(name, 0) for name in ("empty", "unfinished", "unreadable", "repeated"))
    assert own.counts["unfinished"] > 0 and left_out <= own.counts["drawn"] - 12


def test_rows_depend_on_the_seed_and_not_on_the_batch(talker: LoadedModel) -> None:
    made = [
        self_rows(talker, 6, max_new_tokens=10, batch_size=size, seed=seed).rows
        for size, seed in ((3, 0), (16, 0), (3, 1))
    ]
    assert made[0] == made[1] != made[2]


def test_a_model_that_ends_no_turn_gives_fewer_rows_and_says_so() -> None:
    silent = LoadedModel(tiny_model(), tiny_tokenizer(), TemplateChoice("chatml_tools", "compact", "test"), "tiny")
    own = self_rows(silent, 2, max_new_tokens=2, batch_size=4)
    assert own.rows == [] and own.counts == {"drawn": 8, "kept": 0, "unfinished": 8}


def test_replies_to_prompts_and_to_conversations(talker: LoadedModel) -> None:
    sample = conversation("desk", "1")
    own = self_replies(talker, ["Hello", sample, "Hello"] + [f"Number {n}" for n in range(9)], max_new_tokens=16)
    assert own.counts["drawn"] == 12 and own.counts["repeated"] == 1
    assert own.counts["kept"] == len(own.rows) > 3
    of_sample = [row for row in own.rows if row["tools"]]
    assert all(row["messages"][:-1] == sample["messages"][:-1] for row in of_sample)
    assert {row["messages"][0]["content"] for row in own.rows} <= {
        "Hello", "Find desk.", *(f"Number {n}" for n in range(9))}  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "said"),
    [(" ", r"prompts\[1\]: is empty"), ({"messages": []}, r"prompts\[1\]: field 'messages'"),
     ({"messages": [{"role": "assistant", "content": "x"}]}, r"prompts\[1\]: messages\[0\] is the assistant's")],
)  # fmt: skip
def test_a_prompt_that_is_none_is_named(talker: LoadedModel, prompt: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        self_replies(talker, ["Hello", prompt])


def test_settings_that_draw_nothing_are_refused(talker: LoadedModel) -> None:
    with pytest.raises(ConfigError, match="size is 0"):
        self_rows(talker, 0)
    with pytest.raises(ConfigError, match="temperature is 0"):
        self_rows(talker, 1, temperature=0)


def test_the_opening_is_what_the_template_writes_before_a_user(talker: LoadedModel) -> None:
    assert talker.tokenizer.decode(_opening_of_a_user_turn(talker)) == "<|im_start|>user\n"


def test_a_template_without_an_opening_is_refused(talker: LoadedModel) -> None:
    from tests.tiny import new_tokenizer

    tokenizer = new_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    bare = LoadedModel(talker.model, tokenizer, TemplateChoice("model", "model", "test"), "tiny")
    with pytest.raises(ModelError, match="writes nothing before a user's turn"):
        self_rows(bare, 1)


def test_a_right_answer_in_the_models_own_words_takes_the_stored_ones_place(talker: LoadedModel) -> None:
    row, outcome = _replaced(ANSWER, _Reply("Two and two.\nAnswer: 4", True), talker)
    assert outcome == "replaced" and row["messages"][-1]["content"] == "Two and two.\nAnswer: 4"
    assert ANSWER["messages"][-1]["content"] == "4"


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [(_Reply("5", True), "wrong"), (_Reply("4", False), "unfinished"), (_Reply(" ", True), "empty"),
     (_Reply("4<|im_start|>", True), "unreadable"), (_Reply('{"name": "add", "arguments": [', True), "wrong")],
)  # fmt: skip
def test_another_reply_leaves_the_row_as_it_was(talker: LoadedModel, reply: _Reply, outcome: str) -> None:
    assert _replaced(ANSWER, reply, talker) == (ANSWER, outcome)


def test_right_calls_become_calls_again_and_the_weight_stays(talker: LoadedModel) -> None:
    sample = conversation("desk", "1")
    sample["messages"] = sample["messages"][:2]
    sample["messages"][1]["weight"] = 0.5
    row, outcome = _replaced(sample, _Reply('Look.\n{"name": "find", "arguments": {"q": "desk"}}', True), talker)
    said = row["messages"][1]
    assert outcome == "replaced" and (said["content"], said["weight"]) == ("Look.", 0.5)
    assert said["tool_calls"][0]["function"] == {"name": "find", "arguments": {"q": "desk"}}
    assert read_sample(row, "row") == row


def test_calls_are_numbered_on_and_thoughts_kept_apart() -> None:
    before = conversation("desk", "1")["messages"][:3]
    said = _message(parse_reply('<think>\nhm\n</think>\n\n{"name": "find", "arguments": {}}'), before)
    assert said["reasoning_content"] == "hm" and said["tool_calls"][0]["id"] == "call00002"


def test_on_policy_rows_keep_number_and_order_and_count_each_row_once(talker: LoadedModel) -> None:
    unasked = {"messages": [*ANSWER["messages"], {"role": "user", "content": "Thanks."}], "tools": []}
    untrained = {"messages": [ANSWER["messages"][0], {"role": "assistant", "content": "4", "weight": 0}], "tools": []}
    long = {"messages": [{"role": "user", "content": "x " * 200}, {"role": "assistant", "content": "4"}], "tools": []}
    samples = [ANSWER, unasked, conversation("desk", "1"), untrained, long]
    own = on_policy_rows(talker, samples, max_new_tokens=8, max_length=150)
    assert own.rows == samples and sum(own.counts.values()) == 5
    assert (own.counts["not asked"], own.counts["too long"], own.counts["replaced"]) == (2, 1, 0)


def test_on_policy_replaces_what_the_model_truly_says() -> None:
    model = tiny_model()  # it says the last token again; with the head moved by one it counts, and stops at the fifth
    model.lm_head.weight = torch.nn.Parameter(model.get_input_embeddings().weight.detach().roll(1, 0))
    newline = tiny_tokenizer().encode("\n")[0]
    model.generation_config.eos_token_id = [newline + 5]
    counter = LoadedModel(model, tiny_tokenizer(), TemplateChoice("chatml_tools", "compact", "test"), "tiny")
    said = self_replies(counter, ["One", "Two"], max_new_tokens=8, temperature=1e-4).rows
    stored = [{**row, "messages": [row["messages"][0], {**row["messages"][1], "weight": 1}]} for row in said]
    wrong = {**stored[0], "messages": [stored[0]["messages"][0], {"role": "assistant", "content": "six"}]}
    own = on_policy_rows(counter, [*stored, wrong], max_new_tokens=8, temperature=1e-4)
    assert own.counts == {"replaced": 2, "wrong": 1}
    assert own.rows == [*stored, wrong]
    assert on_policy_rows(counter, stored, max_new_tokens=3).counts == {"replaced": 0, "unfinished": 2}

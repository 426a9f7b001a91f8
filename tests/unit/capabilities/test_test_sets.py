from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from tests.tiny import tiny_tokenizer

from sage.libs.finetune.agent.capabilities import test_sets as sets
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.evaluation.known import CAPABILITIES
from sage.libs.finetune.agent.evaluation.score import Item
from sage.libs.finetune.agent.pipeline import desk_samples
from sage.libs.finetune.agent.sources.rows import read_sample
from sage.libs.finetune.agent.tokenization.render import render


def asked(row: Any) -> str:
    """What the user says in a row; the prompt but for its system message and what tools say."""
    return json.dumps([message["content"] for message in row["messages"] if message["role"] == "user"])


@pytest.mark.parametrize("capability", sets.BUILT_IN)
def test_a_longer_set_begins_with_a_shorter_and_ids_are_unique(capability: str) -> None:
    items = sets.test_set(capability, 40)
    assert sets.test_set(capability, 11) == items[:11]
    assert len({item["id"] for item in items}) == 40
    assert json.loads(json.dumps(items)) == items


@pytest.mark.parametrize("capability", sets.BUILT_IN)
def test_every_item_has_a_reply_that_scores_1(capability: str) -> None:
    known = CAPABILITIES[capability]
    assert known.gold_reply is not None
    for item in sets.test_set(capability, 40):
        assert known.score(known.gold_reply(item), item).value == 1.0, item


def test_nothing_a_test_asks_is_asked_in_training() -> None:
    trained = {asked(row) for seed in range(2) for row in sets.training_rows(300, seed)}
    trained |= {asked(row) for row in desk_samples("train")}
    tested = {
        asked(item)
        for seed in range(2)
        for capability in sets.BUILT_IN
        for item in sets.test_set(capability, 48, seed=seed)
    }
    assert len(trained) > 500 and len(tested) > 400
    assert not trained & tested


def test_training_rows_are_balanced_and_end_in_a_right_turn() -> None:
    rows = sets.training_rows(52, split="dev")
    counts = Counter(row["metadata"]["task_type"] for row in rows)
    assert dict(counts) == {"tool_use": 11, "planning": 11, "reasoning": 10, "instruction_following": 10, "timing": 10}
    for row in rows:
        assert row["messages"][-1]["role"] == "assistant" and "turn" not in row["metadata"]
        assert read_sample(row, "row")["messages"] == row["messages"]
        assert render(row, tiny_tokenizer()).turns


def test_rows_of_test_answer_the_items_of_the_test_sets() -> None:
    rows = sets.capability_samples("test")
    assert len(rows) == 320
    items: list[Item] = sets.test_set("timing")
    answered = [row for row in rows if row["metadata"]["task_type"] == "timing"]
    assert [row["messages"][:-1] for row in answered] == [item["messages"] for item in items]


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"no built-in test set of 'tool_uses'; did you mean 'tool_use'\? there are: "
    ):
        sets.test_set("tool_uses")
    with pytest.raises(ConfigError, match="n=0: expected a whole number of at least 1"):
        sets.test_set("timing", 0)
    with pytest.raises(DataError, match="agent_capabilities has no split 'all'; it has train, dev, test"):
        sets.capability_samples("all")

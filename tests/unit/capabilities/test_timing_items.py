from __future__ import annotations

import json
from collections import Counter

import pytest
from tests.unit.capabilities.test_desk_items import written

from sage.libs.finetune.agent.capabilities.timing_items import SYSTEM_PROMPT, timing_items
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.evaluation.scorers.timing import CAPABILITY

ITEMS = timing_items("test", 160)


def test_half_want_a_call_and_every_category_is_there() -> None:
    assert [item["gold"]["call"] for item in ITEMS] == [True, False] * 80
    assert Counter(item["metadata"]["category"] for item in ITEMS) == {
        "first_call": 20, "complete": 20, "later_call": 20, "answered_question": 20,
        "answered": 20, "missing": 20, "no_tool": 20, "small_talk": 10, "said": 10,
    }  # fmt: skip


def test_a_longer_list_begins_with_a_shorter_and_no_prompt_comes_twice() -> None:
    assert timing_items("test", 31) == ITEMS[:31]
    assert len({json.dumps(item["messages"]) for item in ITEMS}) == 160


def test_the_turn_is_right_and_the_other_decision_is_wrong() -> None:
    for item in ITEMS:
        assert CAPABILITY.score(written(item["metadata"]["turn"]), item).value == 1.0, item
        name = item["gold"].get("name", item["tools"][0]["function"]["name"])
        other = "I think so." if item["gold"]["call"] else json.dumps({"name": name, "arguments": {}})
        assert CAPABILITY.score(other, item).value == 0.0, item


def test_always_calling_and_never_calling_are_worth_a_half() -> None:
    never = [CAPABILITY.score("Yes.", item).value for item in ITEMS]
    assert sum(value or 0.0 for value in never) == 80


def test_no_sum_is_asked_for_as_a_call() -> None:
    names = {item["gold"].get("name") for item in ITEMS}
    assert not names & {"add", "subtract", "multiply", "convert"}


def test_prompts_hold_one_system_message_and_end_with_what_is_to_be_answered() -> None:
    for item in ITEMS:
        roles = [message["role"] for message in item["messages"]]
        assert roles.count("system") == 1 and item["messages"][0]["content"] == SYSTEM_PROMPT
        assert roles[-1] in ("user", "tool")


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown split 'all'"):
        timing_items("all", 1)

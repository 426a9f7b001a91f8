from __future__ import annotations

import copy
import json
from collections import Counter
from typing import Any

import pytest

from sage.libs.finetune.agent.capabilities.desk_items import desk_stream, desk_turns, gold_call, tool_use_items
from sage.libs.finetune.agent.environments.desk import desk_tasks
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.evaluation.scorers.tool_use import CAPABILITY, score_tool_use

ITEMS = tool_use_items("test", 200)


def written(message: Any) -> str:
    calls = [json.dumps(call["function"]) for call in message.get("tool_calls", [])]
    return "\n".join(filter(None, [message["content"], *calls]))


def changed(call: dict[str, Any]) -> dict[str, Any]:
    return {**call, "arguments": {**call["arguments"], next(iter(call["arguments"]), "more"): "something else"}}


def test_a_longer_list_begins_with_a_shorter_and_no_prompt_comes_twice() -> None:
    assert tool_use_items("test", 33) == ITEMS[:33]
    assert len({json.dumps(item["messages"]) for item in ITEMS}) == len({item["id"] for item in ITEMS}) == 200
    assert tool_use_items("test", 5, seed=1) != ITEMS[:5]


def test_every_category_is_there() -> None:
    found = Counter(item["metadata"]["category"] for item in ITEMS)
    wanted = {"first_call", "later_call", "irrelevance", "finished", "parallel", "parallel_multiple", "typed"}
    assert found.keys() == wanted and min(found.values()) >= 10
    assert sum(not item["gold"]["calls"] for item in ITEMS) == 40


def test_every_rule_of_the_scorer_has_items() -> None:
    allowed = [values for item in ITEMS for call in item["gold"]["calls"] for values in call["arguments"].values()]
    kinds = {type(values[0]) for values in allowed}
    assert kinds == {str, int, float, bool, list, dict}
    assert any(isinstance(values[0], list) and isinstance(values[0][0], dict) for values in allowed)
    assert any("" in values for values in allowed)


def test_gold_and_the_experts_turn_score_1() -> None:
    assert CAPABILITY.gold_reply is not None
    for item in ITEMS:
        assert score_tool_use(CAPABILITY.gold_reply(item), item).value == 1.0, item
        assert score_tool_use(written(item["metadata"]["turn"]), item).value == 1.0, item


def test_a_changed_call_a_call_less_and_a_call_too_many_score_0() -> None:
    for item in ITEMS:
        turn = copy.deepcopy(item["metadata"]["turn"])
        calls = [call["function"] for call in turn.get("tool_calls", [])]
        spare = {"name": item["tools"][0]["function"]["name"], "arguments": {}}
        wrong = [[*calls, spare]] + ([[changed(calls[0]), *calls[1:]], calls[1:]] if calls else [])
        for attempt in wrong:
            assert score_tool_use("\n".join(map(json.dumps, attempt)), item).value == 0.0, (item, attempt)


def test_sums_may_be_called_either_way_and_of_two_files_either_may_be_read_first() -> None:
    tasks = {task["metadata"]["kind"]: task for task in desk_tasks("test_iid", 15)}
    total = gold_call(desk_turns(tasks["order_total"])[3])
    a, b = total["arguments"]["a"]
    assert total["name"] == "multiply" and total["arguments"]["b"] == [b, a]
    pages = desk_turns(tasks["file_pages"])
    first, second = gold_call(pages[1])["arguments"]["file"], gold_call(pages[2])["arguments"]["file"]
    assert len(first) == 2 and second == first[1:]


def test_requests_that_two_tools_can_begin_are_asked_for_later() -> None:
    kinds = {item["metadata"]["kind"] for item in ITEMS if item["metadata"]["category"] == "first_call"}
    assert not kinds & {"order_resize", "unit_times"} and len(kinds) >= 10


def test_no_tool_of_an_irrelevance_item_belongs_to_the_request() -> None:
    fitting = {"order": "get_order", "event": "list_events", "file": "read_file"}
    for item in ITEMS:
        if item["metadata"]["category"] == "irrelevance":
            shown = [tool["function"]["name"] for tool in item["tools"]]
            assert fitting.get(item["metadata"]["kind"].split("_")[0]) not in shown


def test_a_finished_item_holds_the_whole_episode_and_its_turn_answers() -> None:
    for item in ITEMS:
        if item["metadata"]["category"] == "finished":
            assert item["messages"][-1]["role"] == "tool" and "tool_calls" not in item["metadata"]["turn"]


def test_every_fourth_desk_task_of_test_has_a_wording_of_its_own() -> None:
    splits = [task["metadata"]["split"] for task in desk_stream("test", 9, 0)]
    assert splits == ["test_iid", "test_iid", "test_iid", "test_wording"] * 2 + ["test_iid"]
    many = [task["task_id"] for task in desk_stream("test", 1100, 0)]
    assert many[:1000] == [task["task_id"] for task in desk_stream("test", 1000, 0)] and len(set(many)) == 1100


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown split 'tset'; did you mean 'test'\? known: train, dev, test"):
        tool_use_items("tset", 1)

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent.errors import DataError, ScoringError
from sage.libs.finetune.agent.evaluation.items import read_items
from sage.libs.finetune.agent.evaluation.planning import planning_items
from sage.libs.finetune.agent.evaluation.planning.strips import read_domain
from sage.libs.finetune.agent.evaluation.scorers.planning import CAPABILITY, gold_reply, read_gold, score_planning

ITEMS = planning_items("test", 54)
IDS = [f"{item['metadata']['kind']}-{item['metadata']['level']}-{index}" for index, item in enumerate(ITEMS)]
BLOCKS = ITEMS[0]
TRIP: dict[str, Any] = {
    "id": "trip",
    "gold": {
        "plan": [
            {"name": "find_flight", "arguments": {"from": "Bonn", "to": "Oslo"}},
            {"name": "book_hotel", "arguments": {"city": "Oslo", "nights": 2}},
            {"name": "send_mail", "arguments": {"to": "Ana"}},
        ],
        "edges": [[0, 2], [1, 2]],
    },
}
ERRANDS: dict[str, Any] = {"id": "errands", "gold": {"plan": ["Find the invoice", "Pay it; keep the bill", "File it"]}}


def value(plan: list[str], item: dict[str, Any]) -> float:
    score = score_planning("\n".join(plan), item)
    assert score.value is not None
    return score.value


@pytest.mark.parametrize("item", [*ITEMS, TRIP, ERRANDS], ids=[*IDS, "trip", "errands"])
def test_the_gold_reply_scores_one(item: dict[str, Any]) -> None:
    score = score_planning(gold_reply(item), item)
    assert score.value == 1.0, score
    json.dumps([score.extracted, score.details])
    if "domain" in item["gold"]:
        expected = {"valid": True, "executable_prefix": 1.0, "goal_share": 1.0, "cost_ratio": 1.0}
        assert expected.items() <= score.details.items()


def dependent(item: dict[str, Any], plan: list[str]) -> tuple[int, int]:
    """Two steps of which the second needs what only the first provides."""
    domain = read_domain(item["gold"]["domain"])
    true = set(item["gold"]["problem"]["init"])

    def atoms(step: str, part: str) -> set[str]:
        action = domain.actions[step.split()[0]]
        values = dict(zip(action.parameters, step.split()[1:], strict=True))
        return {" ".join(values.get(word, word) for word in atom) for atom in getattr(action, part)}

    for first, step in enumerate(plan):
        for second in range(first + 1, len(plan)):
            if (atoms(step, "add") & atoms(plan[second], "pre")) - true:
                return first, second
        true |= atoms(step, "add")
    raise AssertionError("no step needs another")


@pytest.mark.parametrize("item", ITEMS, ids=IDS)
def test_each_fault_makes_a_plan_invalid_and_its_f1_lower(item: dict[str, Any]) -> None:
    plan, rng = item["metadata"]["plan"], random.Random(item["id"])
    index = rng.randrange(len(plan))
    name, *arguments = plan[index].split()
    place = rng.randrange(len(arguments))
    things = {word for step in plan for word in step.split()[1:]} - {arguments[place]} or {"elsewhere"}
    first, second = dependent(item, plan)
    swapped = list(plan)
    swapped[first], swapped[second] = plan[second], plan[first]
    faulty = {
        "drop": plan[:index] + plan[index + 1 :],
        "repeat": [*plan[: index + 1], *plan[index:]],
        "swap": swapped,
        "thing": [
            *plan[:index],
            " ".join((name, *arguments[:place], "nowhere", *arguments[place + 1 :])),
            *plan[index + 1 :],
        ],
        "another": [
            *plan[:index],
            " ".join((name, *arguments[:place], min(things), *arguments[place + 1 :])),
            *plan[index + 1 :],
        ],
        "action": [*plan[:index], f"lift {arguments[0]}", *plan[index + 1 :]],
        "missing": [*plan[:index], " ".join((name, *arguments[1:])), *plan[index + 1 :]],
        "reverse": plan[::-1],
    }
    reference = {"id": "matched", "gold": {"plan": plan}}
    graph = {"id": "graph", "gold": {"plan": plan, "edges": [[n, n + 1] for n in range(len(plan) - 1)]}}
    assert value(plan, item) == value(plan, reference) == value(plan, graph) == 1.0
    for fault, steps in faulty.items():
        assert value(steps, item) == 0.0, (fault, steps)
        assert 0.0 <= value(steps, reference) < 1.0, (fault, steps)
        assert value(steps, graph) == pytest.approx(value(steps, reference), abs=1e-4), (fault, steps)


def test_a_longer_plan_that_works_is_right_and_costs_more() -> None:
    plan = [*BLOCKS["metadata"]["plan"]]
    lifted = plan[-1].split()[1:]
    longer = [*plan, "unstack {} {}".format(*lifted), "stack {} {}".format(*lifted)]
    score = score_planning("\n".join(longer), BLOCKS)
    assert score.value == 1.0 and score.details["cost_ratio"] == len(longer) / len(plan)


def test_details_say_how_far_an_invalid_plan_came() -> None:
    item = ITEMS[3]
    plan = item["metadata"]["plan"]
    assert len(plan) > 3
    score = score_planning("\n".join([*plan[:2], "fly away", *plan[2:]]), item)
    assert score.value == 0.0 and score.extracted == [*plan[:2], "fly away", *plan[2:]]
    assert score.details == {
        "valid": False, "steps": len(plan) + 1, "executable_prefix": 2 / (len(plan) + 1), "goal_share": 0.0,
        "cost_ratio": None, "failed_at": 2, "why": "'fly away' is none of the actions",
    }  # fmt: skip
    assert score.reason == "step 3: 'fly away' is none of the actions"
    assert score_planning("Sorry.", BLOCKS).reason == "no step of a plan found"
    assert "unreadable call" in score_planning('{"name": "stack", "arguments": {', BLOCKS).reason


@pytest.mark.parametrize("item", ITEMS[:9], ids=IDS[:9])
def test_calls_and_plain_words_are_the_same_plan(item: dict[str, Any]) -> None:
    parameters = {action["name"]: action["parameters"] for action in item["gold"]["domain"]["actions"]}
    calls, words = [], []
    for step in item["metadata"]["plan"]:
        name, *arguments = step.split()
        named = {key.removeprefix("?"): each for key, each in zip(parameters[name], arguments, strict=True)}
        calls.append(json.dumps({"name": name.replace("-", "_"), "arguments": dict(reversed(named.items()))}))
        words.append(f"{name.replace('-', ' ').capitalize()} the {' to the '.join(arguments).upper()}.")
    assert value(calls, item) == 1.0
    assert value(words, item) == 1.0
    assert score_planning("\n".join(words), item).extracted == item["metadata"]["plan"]


def test_matched_plans_report_precision_recall_and_edges() -> None:
    calls = [json.dumps(step) for step in TRIP["gold"]["plan"]]
    assert value([calls[1], calls[0], calls[2]], TRIP) == 1.0
    score = score_planning("\n".join([calls[2], calls[0], calls[1]]), TRIP)
    assert score.details == {
        "precision": pytest.approx(2 / 3), "recall": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3), "steps": 3,
        "matched": 3, "edge_f1": 0.0,
    }  # fmt: skip
    assert value(["find_flight(from=Bonn, to=Oslo)", "book hotel Oslo 2", "send mail Ana"], TRIP) == 1.0
    assert value(['find_flight(from="Oslo", to="Bonn")', "book hotel Oslo 2", "send mail Ana"], TRIP) == pytest.approx(
        2 / 3
    )
    assert value(["wave", "shout", "leave"], TRIP) == value(["wave", "shout", "leave"], ERRANDS) == 0.0


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"expected": BLOCKS["gold"]}, BLOCKS["gold"]),
        (dict(BLOCKS["gold"]), BLOCKS["gold"]),
        ({"answer": {"plan": ["a b"], "edges": []}}, {"plan": ["a b"], "edges": []}),
        ({"plan": ["a", "b"], "edges": [[0, 1]]}, {"plan": ["a", "b"], "edges": [[0, 1]]}),
        ({"answer": "Do this:\n1. a\n2. b"}, {"plan": ["a", "b"]}),
        ({"messages": [{"role": "assistant", "content": "- a\n- b"}]}, {"plan": ["a", "b"]}),
        ({"messages": [{"role": "assistant", "content": '["a", "b"]'}]}, {"plan": ["a", "b"]}),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}] * 2}
                ]
            },
            {"plan": [{"name": "f", "arguments": {"x": 1}}] * 2},
        ),
    ],
)
def test_gold_is_read_from_rows(row: dict[str, Any], expected: dict[str, Any]) -> None:
    assert read_gold(row, "row 1") == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "?"}, r"^row 1: no plan; expected"),
        ({"messages": [{"role": "user", "content": "?"}]}, r"^row 1: no plan; expected"),
        ({"expected": 5}, r"^row 1: expected: expected a plan"),
        ({"expected": []}, r"^row 1: expected\.plan: expected a list of at least one step"),
        ({"expected": {"steps": []}}, r"^row 1: expected: expected 'domain' and 'problem', or 'plan'"),
        ({"plan": ["a", 5]}, r"^row 1: plan\.plan\[1\]: expected text or"),
        ({"plan": ["a", "b"], "edges": [[0, 2]]}, r"^row 1: plan\.edges: expected pairs of indices of the 2 steps"),
        ({"plan": ["a", "b"], "edges": [[0, 1], [1, 0]]}, r"^row 1: plan\.edges: step 0 comes before itself"),
        ({"domain": {}, "problem": {}}, r"^row 1: the world\.domain: expected"),
        ({"messages": [{"role": "assistant", "content": ""}]}, r"^row 1: messages\[0\]\.plan: expected a list"),
    ],
)
def test_a_row_without_a_usable_plan_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_gold(row, "row 1")


def test_an_item_that_cannot_be_scored_against_is_named() -> None:
    broken = copy.deepcopy(BLOCKS)
    broken["gold"]["domain"]["actions"][0]["pre"] = ["clear ?z"]
    with pytest.raises(ScoringError, match=r"item 'planning-test-0-0000': gold\.domain\.actions\[0\]\.pre"):
        score_planning("pick-up red", broken)
    with pytest.raises(ScoringError, match=r"item 'x': gold: expected 'domain' and 'problem', or 'plan'"):
        score_planning("pick-up red", {"id": "x", "gold": ["a"]})
    with pytest.raises(ScoringError, match=r"item 'x': gold\.plan"):
        score_planning("pick-up red", {"id": "x", "gold": {"plan": []}})
    with pytest.raises(ScoringError, match=r"metadata\.optimal"):
        score_planning("pick-up red", {**BLOCKS, "metadata": {"optimal": "four"}})


def test_rows_written_to_a_file_are_the_same_items() -> None:
    items = read_items(CAPABILITY, json.loads(json.dumps(ITEMS[:9])), "items.json")
    assert items == ITEMS[:9]
    rows = [{"prompt": item["messages"][0]["content"], **item["gold"]} for item in ITEMS[:9]]
    for item in read_items(CAPABILITY, rows, "rows.jsonl"):
        assert score_planning(gold_reply(item), item).value == 1.0


def test_figures_are_means_over_the_replies_that_have_them() -> None:
    plan = BLOCKS["metadata"]["plan"]
    scores = [
        score_planning(gold_reply(BLOCKS), BLOCKS),
        score_planning("\n".join([*plan[:-1], "nonsense(red)"]), BLOCKS),
        score_planning("1. File it", ERRANDS),
    ]
    assert CAPABILITY.summarise(scores) == {
        "validity": 0.5,
        "executable_prefix": pytest.approx((1 + (len(plan) - 1) / len(plan)) / 2),
        "goal_share": (1 + scores[1].details["goal_share"]) / 2,
        "cost_ratio": 1.0, "precision": 1.0, "recall": pytest.approx(1 / 3), "f1": 0.5,
    }  # fmt: skip
    assert CAPABILITY.summarise([]) == {}


WORDS = st.sampled_from(
    ["pick-up", "stack", "red", "blue", "(", ")", "[", "]", "{", "}", '"', ",", ":", ";", "\n", " ", "1.", "- ", "then",
     "Plan:", "Find", "it", '{"name": "stack", "arguments": {"x": "red"}}', '{"action": ', "<tool_call>", "<think>",
     "\ud800", "=", "**", "```", "->"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200), st.lists(WORDS, max_size=30).map("".join), st.lists(WORDS, max_size=30).map(" ".join)
    )
)
@example("[" * 100_000)
@example('{"a":' * 1_000)
@example("a" + " " * 50_000 + "b")
@example("_" * 50_000)
@example(". " * 50_000)
@example("(" * 20_000 + "a" * 20_000)
@example("pick-up " * 20_000)
@example("1. " * 20_000)
@example("- \n" * 20_000)
def test_no_reply_raises(reply: str) -> None:
    for item in (BLOCKS, TRIP, ERRANDS):
        score = score_planning(reply, item)
        assert score.value is not None and 0.0 <= score.value <= 1.0
        json.dumps([score.extracted, score.details, score.reason], allow_nan=False)

from __future__ import annotations

from typing import Any

import pytest

from sage.libs.finetune.agent.evaluation.planning.plan_text import name_key, read_plan

NAMES = {name_key(name): name for name in ("pick-up", "put-down", "stack")}
THINGS = ("red", "blue", "big_box")
TWO = [("pick-up", ("red",)), ("stack", ("red", "blue"))]


def read(reply: str, things: tuple[str, ...] | None = THINGS) -> list[tuple[str, Any]]:
    plan = read_plan(reply, NAMES, None if things is None else {name_key(thing) for thing in things})
    return [(step.name, step.arguments) for step in plan.steps]


@pytest.mark.parametrize(
    "reply",
    [
        "pick-up red\nstack red blue",
        "pick-up red\nstack red blue<|im_end|>",
        "1. pick-up red\n2. stack red blue",
        "1) Pick up red.\n2) Stack red, blue.",
        "Step 1: pick_up red\nStep 2: stack red blue",
        "0: (pick-up red) [1]\n1: (stack red blue) [1]",
        "0.000: (pick-up red)\n1.000: (stack red blue)",
        "- pick-up red\n- stack red blue",
        "* **pick-up red**\n* **stack red blue**",
        "**1.** `pick-up red`\n**2.** `stack red blue`",
        "(pick-up red)\n(stack red blue)",
        "(pick-up red) (stack red blue)",
        "pick-up(red), stack(red, blue)",
        "PickUp(red)\nSTACK(red, blue)",
        "pick-up red; stack red blue",
        "First pick up red, then stack red blue",
        "pick-up red - it is free\nstack red blue  # done",
        "pick-up red (from the table)\nstack(red, blue) reaches the goal",
        "Here is the plan:\n\n```\npick-up red\nstack red blue\n```\nThis reaches the goal.",
        "I take red.\npick-up red\n(the arm holds red)\nIt can go on blue.\nstack red blue\nGoal: red on blue\nDone",
        "1. pick-up red\n   - so that it can move\n2. stack red blue\n   - which is the goal",
        "put-down would be wrong first.\nPlan:\npick-up red\nstack red blue",
        "1. Look at the blocks\n2. Think\n**Final plan:**\n1. pick-up red\n2. stack red blue",
        "<think>\n1. lift red\n</think>\n\npick-up red\nstack red blue",
        '["pick-up red", "stack red blue"]',
        'Plan: ["pick-up red", "stack(red, blue)"]',
        '```json\n[["pick-up", "red"], ["stack", "red", "blue"]]\n```',
        '{"plan": ["pick-up red", "stack red blue"]}',
        '[{"step": 1, "action": "pick-up", "args": ["red"]}, {"step": 2, "action": "stack red blue"}]',
        '{"name": "pick-up", "arguments": ["red"]}\n{"name": "stack", "arguments": ["red", "blue"]}',
    ],
)
def test_one_plan_in_many_notations(reply: str) -> None:
    assert read(reply) == TWO


@pytest.mark.parametrize(
    "reply",
    [
        '{"name": "pick_up", "arguments": {"x": "red"}}\n{"name": "stack", "arguments": {"x": "red", "y": "blue"}}',
        '<tool_call>\n{"name": "pick-up", "arguments": {"x": "red"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "stack", "arguments": {"x": "red", "y": "blue"}}\n</tool_call>',
        "pick-up(x=red)\nstack(x='red', y='blue')",
    ],
)
def test_calls_keep_the_names_of_their_arguments(reply: str) -> None:
    assert read(reply) == [("pick-up", {"x": "red"}), ("stack", {"x": "red", "y": "blue"})]


@pytest.mark.parametrize(
    ("reply", "wrong"),
    [
        ("1. pick-up red\n2. wave\n3. stack red blue", ("wave",)),
        ("- pick-up red\n- lift blue\n- stack red blue", ("lift", "blue")),
        ("pick-up red\nlift blue\nstack red blue", ("lift", "blue")),
        ("pick-up red\nteleport it to Mars\nstack red blue", ("teleport", "it", "to", "Mars")),
        ("pick-up red\nlift(the moon)\nstack red blue", ("lift", "the", "moon")),
        ("pick-up red\n(lift blue)\nstack red blue", ("lift", "blue")),
        ('["pick-up red", "wave", "stack red blue"]', ("wave",)),
    ],
)
def test_a_step_that_names_no_action_is_kept(reply: str, wrong: tuple[str, ...]) -> None:
    assert read(reply) == [TWO[0], ("", wrong), TWO[1]]


@pytest.mark.parametrize(
    "reply", ["", "I cannot do that.", "Here is what I would do:", "The red block is free.", "[1, 2]", "{}", "1.", "- "]
)
def test_words_are_no_plan(reply: str) -> None:
    assert read(reply) == []


def test_a_last_step_that_names_no_action_is_kept() -> None:
    assert read("pick-up red\nPut the red block on the blue block") == [
        TWO[0], ("", ("Put", "the", "red", "block", "on", "the", "blue", "block")),
    ]  # fmt: skip
    assert read("pick-up red\nRed is on blue") == read("pick-up red\nGoal: red on blue") == TWO[:1]


def test_a_call_that_cannot_be_read_is_said() -> None:
    plan = read_plan('{"name": "stack", "arguments": {"x": "red"', NAMES, THINGS)
    assert plan.steps == [] and plan.error is not None and "unreadable call" in plan.error


def test_without_known_things_every_line_of_a_bare_list_is_a_step() -> None:
    assert read("My plan is this:\npick-up red\nwave to all", None) == [TWO[0], ("", ("wave", "to", "all"))]
    assert read("1. pick-up red\nGood luck!", None) == [TWO[0]]

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from sage.libs.finetune.agent.capabilities.office_forms import FORMS
from sage.libs.finetune.agent.capabilities.office_requests import draw_gap, draw_parallel, draw_typed
from sage.libs.finetune.agent.evaluation.replies import call_fault

DRAWS = {"parallel": draw_parallel, "typed": draw_typed, "gap": draw_gap}


@pytest.mark.parametrize("name", list(DRAWS))
def test_no_words_are_in_two_splits_whatever_the_seed(name: str) -> None:
    draw: Callable[..., Any] = DRAWS[name]
    said = {
        split: {draw(split, rng).text for rng in map(random.Random, range(5)) for _ in range(150)}
        for split in ("train", "dev", "test")
    }
    assert all(len(texts) > 80 for texts in said.values())
    assert not said["train"] & said["test"] and not said["train"] & said["dev"] and not said["dev"] & said["test"]


@pytest.mark.parametrize("draw", [draw_parallel, draw_typed])
def test_plain_calls_fit_the_tools_shown_and_are_among_the_right_values(draw: Callable[..., Any]) -> None:
    rng = random.Random(0)
    for _ in range(200):
        request = draw("test", rng)
        for plain, gold in zip(request.plain, request.calls, strict=True):
            assert call_fault(plain["name"], plain["arguments"], request.tools) is None
            assert plain["name"] == gold["name"] and plain["arguments"].keys() <= gold["arguments"].keys()
            left_out = gold["arguments"].keys() - plain["arguments"].keys()
            assert all("" in gold["arguments"][parameter] for parameter in left_out)


def test_parallel_calls_are_about_different_things() -> None:
    rng = random.Random(1)
    for _ in range(200):
        request = draw_parallel("train", rng)
        values = [
            value
            for call in request.plain
            for key, value in call["arguments"].items()
            if key in ("order", "file", "day", "name", "folder")
        ]
        assert len(values) == len(set(values)), request.text
        assert len({call["name"] for call in request.plain}) == (
            1 if request.kind == "parallel" else len(request.calls)
        )


def test_every_value_that_is_said_is_in_the_words() -> None:
    rng = random.Random(2)
    for _ in range(300):
        request = draw_typed("test", rng)
        for value in _leaves(request.plain[0]["arguments"]):
            assert isinstance(value, bool) or str(value) in request.text, (value, request.text)


def test_a_gap_lacks_one_required_value_and_the_answer_gives_it() -> None:
    rng = random.Random(3)
    for _ in range(200):
        gap = draw_gap("test", rng, answered=True)
        assert gap.answer is not None
        form, said = FORMS[gap.whole.kind], gap.whole.plain[0]["arguments"]
        [missing] = [name for name, question in form.ask.items() if question == gap.question]
        values = [str(value) for value in _leaves(said[missing])]
        assert all(value in gap.answer for value in values)
        assert not all(f" {value}" in gap.text for value in values), gap


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]

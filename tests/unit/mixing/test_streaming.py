"""Mixing what fits no memory: shares in expectation, rows as they are."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.mixing.config import MixerConfig
from sage.libs.finetune.agent.mixing.mixer import MultiTaskMixer
from sage.libs.finetune.agent.types import TaskSample

CALL = {"function": {"name": "find", "arguments": {"limit": 3, "query": None}}}


def endless(task: str) -> Iterator[Any]:
    for number in itertools.count():
        yield {"n": number, "calls": [CALL]} if task == "a" else TaskSample("old", {"text": str(number)}, "b.jsonl")


def streamed(stop: str = "first_exhausted", rows: Any = None, **settings: Any) -> Iterator[TaskSample]:
    mixer = MultiTaskMixer(MixerConfig({"a": 0.25, "b": 0.75}, **settings))
    return mixer.stream(rows or {"a": endless("a"), "b": endless("b")}, stop)


def test_rows_come_in_order_as_they_are_in_about_their_shares() -> None:
    found = list(itertools.islice(streamed(), 800))
    count = Counter(sample.task_type for sample in found)
    assert abs(count["a"] - 200) < 4 * (800 * 0.25 * 0.75) ** 0.5  # four standard deviations
    assert [sample.data for sample in found if sample.task_type == "a"] == [
        {"n": number, "calls": [CALL]} for number in range(count["a"])
    ]
    assert {(sample.source, *sample.data) for sample in found if sample.task_type == "b"} == {("b.jsonl", "text")}


def test_a_stream_goes_on_after_the_rows_that_were_taken() -> None:
    whole = [sample.data for sample in itertools.islice(streamed(seed=3), 40)]
    assert [sample.data for sample in itertools.islice(streamed(seed=3), 25, 40)] == whole[25:]


@pytest.mark.parametrize(
    ("stop", "least"), [("all_exhausted", 30), ("all_exhausted_without_replacement", 33), ("first_exhausted", 3)]
)
def test_when_it_ends(stop: str, least: int) -> None:
    rows = {"a": [{"n": number} for number in range(3)], "b": [{"n": number} for number in range(30)]}
    found = Counter(sample.task_type for sample in streamed(stop, rows))
    assert sum(found.values()) >= least and (found["b"] == 30) == (stop != "first_exhausted")
    assert (found["a"] > 3) == (stop == "all_exhausted")


@pytest.mark.parametrize(
    ("stop", "settings", "message"),
    [
        ("all_exhausted", {}, "data set 'a' can be gone through once only"),
        ("al_exhausted", {}, "did you mean 'all_exhausted'"),
        ("first_exhausted", {"strategy": "temperature"}, "temperature cannot be streamed"),
        ("first_exhausted", {"total_size": 7}, "'total_size': a stream has none"),
    ],
)
def test_what_a_stream_cannot_do(stop: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        streamed(stop, **settings)


def test_names_must_agree_here_too() -> None:
    with pytest.raises(ConfigError, match="there is no data set 'b'"):
        streamed(rows={"a": []})


@pytest.mark.parametrize("stop", ["first_exhausted", "all_exhausted"])
@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "holds no rows and has a weight"), (["x"], "row 0: expected a dict"), (None, "found NoneT")],
)
def test_what_is_no_rows_is_refused_on_the_way(stop: str, rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"data set 'a'.*{message}"):
        list(streamed(stop, {"a": rows, "b": [{"n": 1}] * 20}))


def test_rows_that_come_once_end_quietly() -> None:
    rows = {"a": iter([{"n": 1}]), "b": iter([{"n": 1}] * 9)}
    assert len(list(streamed("all_exhausted_without_replacement", rows))) == 10

"""`MultiTaskMixer`: exact shares, sizes, repeats, names and the report."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import tiny_tokenizer

from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.mixing.config import MixerConfig
from sage.libs.finetune.agent.mixing.mixer import MultiTaskMixer
from sage.libs.finetune.agent.types import TaskSample


def data(**sizes: int) -> dict[str, list[dict[str, Any]]]:
    return {name: [{"task": name, "row": row} for row in range(size)] for name, size in sizes.items()}


def mixed(weights: dict[str, float], rows: dict[str, Any], *args: Any, **settings: Any) -> tuple[Any, MultiTaskMixer]:
    mixer = MultiTaskMixer(MixerConfig(weights, *args, **settings))
    return mixer.mix(rows), mixer


def test_the_example_of_the_reference() -> None:
    weights = {"tool_selection": 0.35, "planning": 0.30, "timing": 0.20, "general": 0.15}
    samples, mixer = mixed(weights, data(tool_selection=700, planning=600, timing=400, general=300))
    found = mixer.get_task_distribution(samples)
    assert found == {"tool_selection": 700, "planning": 600, "timing": 400, "general": 300}
    assert list(found) == list(weights)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 80), st.floats(0.05, 20)), min_size=1, max_size=6),
    st.one_of(st.none(), st.integers(1, 500)),
    st.sampled_from(["weighted", "round_robin"]),
    st.floats(1, 6),
)
def test_shares_are_the_weights_within_one_row(
    tasks: list[tuple[int, float]], size: int | None, strategy: str, repeats: float
) -> None:
    weights = {f"t{number}": weight for number, (_, weight) in enumerate(tasks)}
    rows = data(**{f"t{number}": count for number, (count, _) in enumerate(tasks)})
    samples, mixer = mixed(weights, rows, strategy, total_size=size, max_repeats=repeats)
    assert mixer.report is not None and len(samples) == mixer.report.rows > 0
    for name, taken in mixer.get_task_distribution(samples).items():
        assert abs(taken - weights[name] / sum(weights.values()) * len(samples)) < 1 + 1e-9
        times = Counter(sample.data["row"] for sample in samples if sample.task_type == name)
        assert all(count <= repeats + 1 for count in times.values()) and taken <= repeats * len(rows[name])
        assert not times or max(times.values()) - min(times[row["row"]] for row in rows[name]) <= 1


def test_weights_of_a_half_and_a_small_task_are_kept() -> None:
    """Repeated four times, 50 rows make 200: half of a mix of 400."""
    samples, mixer = mixed({"a": 0.5, "b": 0.5}, data(a=1000, b=50))
    assert mixer.get_task_distribution(samples) == {"a": 200, "b": 200}
    assert mixer.report is not None and mixer.report.notes == [
        "b: its share of 2,000 rows is 1,000, 20 passes over its 50; max_repeats allows 4, so the mix has 400 rows",
        "a: 800 of 1,000 rows are not in the mix",
    ]
    one, two = mixer.report.tasks
    assert (one.epochs, two.epochs, one.capped, two.capped, two.wanted) == (0.2, 4.0, False, True, 1000)


def test_the_cap_is_said_aloud(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        mixed({"a": 1, "b": 1}, data(a=4, b=4), total_size=40)
    assert ["max_repeats allows 4, so the mix has 32 rows" in line for line in caplog.messages] == [True, True]


@pytest.mark.parametrize("weight", [1e-12, 1e-320])
def test_a_weight_too_small_for_a_row_is_said(weight: float, caplog: pytest.LogCaptureFixture) -> None:
    samples, mixer = mixed({"a": 1, "b": weight}, data(a=4, b=4))
    assert mixer.get_task_distribution(samples) == {"a": 16, "b": 0}
    assert "b: none of its rows is in the mix, its share of 16 rows being" in caplog.text
    assert max(map(len, caplog.messages)) < 200, "no numbers of 300 digits"


def test_a_mix_too_large_for_memory_is_said() -> None:
    with pytest.raises(
        ConfigError, match=r"a mix of 4,000,000,000,000,004 rows does not fit in memory; give total_size"
    ):
        mixed({"a": 1, "b": 1e-15}, data(a=4, b=4), max_repeats=1e18)


def test_every_row_is_in_the_mix_at_least_once_by_default() -> None:
    samples, mixer = mixed({"a": 2, "b": 1}, data(a=10, b=8))
    assert mixer.get_task_distribution(samples) == {"a": 16, "b": 8}
    assert {(sample.task_type, sample.data["row"]) for sample in samples} == {
        *(("a", row) for row in range(10)), *(("b", row) for row in range(8)),
    }  # fmt: skip


def test_data_is_the_very_object_and_a_sample_keeps_its_source() -> None:
    row = {"n": 1}
    given_sample = TaskSample("other", row, "file.jsonl")
    samples, _ = mixed({"a": 1, "b": 1}, {"a": [given_sample], "b": [row]})
    by_task = {sample.task_type: sample for sample in samples}
    assert by_task["a"].data is row and by_task["a"].source == "file.jsonl"
    assert by_task["b"].data is row and by_task["b"].source is None


def test_rows_may_come_from_anything_that_can_be_gone_through() -> None:
    samples, _ = mixed({"a": 1}, {"a": ({"n": n} for n in range(3))}, shuffle=False)
    assert [sample.data["n"] for sample in samples] == [0, 1, 2]


@pytest.mark.parametrize(
    ("weights", "names", "message"),
    [
        ({"planing": 1, "b": 1}, "b planning", "there is no data set 'planing'; did you mean 'planning'?"),
        ({"a": 1}, "a b", "data set 'b' has no weight"),
        ({"a": 1, "b": 0}, "a", "there is no data set 'b'"),
    ],
)
def test_names_must_agree(weights: dict[str, float], names: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        mixed(weights, data(**dict.fromkeys(names.split(), 3)))


@pytest.mark.parametrize("strategy", ["weighted", "proportional", "temperature", "balanced", "round_robin"])
def test_an_empty_data_set_is_an_error_unless_its_weight_is_zero(strategy: str) -> None:
    with pytest.raises(DataError, match="data set 'b': holds no rows and has a weight"):
        mixed({"a": 1, "b": 1}, data(a=3, b=0), strategy)
    samples, mixer = mixed({"a": 1, "b": 0}, data(a=3, b=0), strategy)
    assert mixer.get_task_distribution(samples) == {"a": 3, "b": 0}


@pytest.mark.parametrize("rows", ["text", {"n": 1}, [3], None])
def test_what_is_no_rows_is_refused(rows: Any) -> None:
    with pytest.raises(DataError, match="data set 'a'"):
        mixed({"a": 1}, {"a": rows})


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("proportional", {"a": 90, "b": 10}),
        ("temperature", {"a": 90, "b": 30}),
        ("balanced", {"a": 40, "b": 40}),
        ("round_robin", {"a": 90, "b": 30}),
    ],
)
def test_sizes_by_strategy(strategy: str, expected: dict[str, int]) -> None:
    samples, mixer = mixed({"a": 3, "b": 1}, data(a=90, b=10), strategy)
    assert mixer.get_task_distribution(samples) == expected


def test_round_robin_keeps_its_order_and_shuffles_the_rows() -> None:
    samples, _ = mixed({"a": 1, "b": 1}, data(a=20, b=20), "round_robin")
    assert [sample.task_type for sample in samples] == ["a", "b"] * 20
    numbers = [sample.data["row"] for sample in samples if sample.task_type == "a"]
    assert numbers != sorted(numbers) == list(range(20))


@pytest.mark.parametrize("eta", [0.0, 0.2, 0.37, 1.0])
def test_eta_is_the_share_of_agent_data(eta: float) -> None:
    weights = {"tools": 3, "plans": 1, "web": 1, "chat": 2, "news": 1}
    config: dict[str, Any] = {"eta": eta, "general_tasks": ["chat", "news"], "total_size": 997, "max_repeats": 99}
    samples, mixer = mixed(weights, data(**dict.fromkeys(weights, 100)), "eta", **config)
    found = mixer.get_task_distribution(samples)
    agent = [found[name] for name in ("tools", "plans", "web")]
    assert abs(sum(agent) - eta * 997) < 1
    assert all(abs(count - part * eta * 997) < 1 for count, part in zip(agent, (0.6, 0.2, 0.2), strict=True))


def test_eta_can_split_any_strategy() -> None:
    samples, mixer = mixed(
        {"a": 1, "b": 1, "c": 1}, data(a=30, b=10, c=10), "proportional", eta=0.8, general_tasks=["c"]
    )
    assert mixer.get_task_distribution(samples) == {"a": 30, "b": 10, "c": 10}


def test_a_curriculum_goes_stage_by_stage() -> None:
    stages = [
        {"weights": {"easy": 1}, "share": 0.25},
        {"share": 0.25},
        {"weights": {"hard": 3, "easy": 1}, "share": 0.5},
    ]
    samples, _ = mixed({"easy": 1, "hard": 1}, data(easy=100, hard=100), "curriculum", stages=stages, total_size=80)
    tasks = [sample.task_type for sample in samples]
    assert tasks[:20] == ["easy"] * 20
    assert Counter(tasks[20:40]) == {"easy": 10, "hard": 10} and Counter(tasks[40:]) == {"easy": 10, "hard": 30}
    assert len({id(sample.data) for sample in samples}) == 80


def test_the_sizes_of_a_curriculum_are_exact_too() -> None:
    stages = [{"weights": {"a": 1}, "share": 1}, {"weights": {"a": 1, "b": 2, "c": 1}, "share": 2.3}]
    rows = data(a=31, b=17, c=9)
    samples, mixer = mixed({"a": 1, "b": 1, "c": 1}, rows, "curriculum", stages=stages)
    assert all(taken >= len(rows[name]) for name, taken in mixer.get_task_distribution(samples).items())
    samples, mixer = mixed({"a": 1, "b": 1, "c": 1}, rows, "curriculum", stages=stages, max_repeats=1.0)
    assert all(taken <= len(rows[name]) for name, taken in mixer.get_task_distribution(samples).items())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=3, max_size=3),
    st.lists(
        st.tuples(st.lists(st.floats(0.01, 5), min_size=3, max_size=3), st.floats(0.01, 5)), min_size=1, max_size=4
    ),
    st.floats(1, 3),
)
def test_no_curriculum_repeats_more_than_it_may(counts: Any, stages: Any, repeats: float) -> None:
    names = ("a", "b", "c")
    listed = [{"weights": dict(zip(names, weights, strict=True)), "share": share} for weights, share in stages]
    config = MixerConfig(dict.fromkeys(names, 1.0), "curriculum", stages=listed, max_repeats=repeats)
    mixer = MultiTaskMixer(config)
    tasks, _ = mixer.mix_indices(dict(zip(names, counts, strict=True)))
    assert mixer.report is not None and 1 <= len(tasks) == mixer.report.rows <= mixer.report.wanted
    assert all(task.taken <= repeats * task.rows for task in mixer.report.tasks)
    assert all(abs(task.taken - task.target * len(tasks)) < 1 + len(stages) for task in mixer.report.tasks)


def test_same_seed_same_mix() -> None:
    def order(seed: int) -> list[Any]:
        samples, _ = mixed({"a": 1, "b": 2}, data(a=9, b=9), seed=seed)
        return [sample.data["row"] for sample in samples]

    assert order(1) == order(1) != order(2)


def test_tokens_are_reported_when_something_counts_them() -> None:
    rows = {"long": [{"text": "x" * 30}] * 2, "short": [{"text": "x" * 10}] * 2}
    calls = []

    def count(row: dict[str, Any]) -> int:
        calls.append(row)
        return len(row["text"])

    mixer = MultiTaskMixer(MixerConfig({"long": 1, "short": 1}, total_size=8), count)
    mixer.mix(rows)
    assert mixer.report is not None and len(calls) == 4, "a row that comes twice is counted once"
    assert [(task.share, task.tokens, task.token_share) for task in mixer.report.tasks] == [
        (0.5, 120, 0.75), (0.5, 40, 0.25),
    ]  # fmt: skip
    assert str(mixer.report).splitlines()[1] == "long       1    2     4 50.0%   2.00    120  75.0%"


def test_a_tokenizer_counts_what_carries_loss() -> None:
    row = {"messages": [{"role": "user", "content": "many " * 50}, {"role": "assistant", "content": "12"}]}
    mixer = MultiTaskMixer(MixerConfig({"a": 1}), tiny_tokenizer())
    mixer.mix({"a": [row]})
    assert mixer.report is not None and mixer.report.tasks[0].tokens is not None
    assert 2 <= mixer.report.tasks[0].tokens <= 5


def test_weights_that_are_not_read_are_said(caplog: pytest.LogCaptureFixture) -> None:
    MultiTaskMixer(MixerConfig({"a": 1, "b": 1, "c": 0}, "balanced"))
    assert not caplog.messages
    MultiTaskMixer(MixerConfig({"a": 1, "b": 2}, "balanced"))
    assert caplog.messages == ["task_weights: strategy balanced asks a weight only whether it is 0"]

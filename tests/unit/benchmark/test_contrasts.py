import math
import random

import pytest

from sage.benchmark.benchmark_agent.experiments.method_comparison.contrasts import contrasts
from sage.benchmark.benchmark_agent.experiments.method_comparison.results import RunRecord


def record(method: str, seed: int = 0, status: str = "ok", **items: list[float | None]) -> RunRecord:
    metrics = {
        name: {"score": 0.0, "n": len(values), "interval": None, "errors": 0, "items": dict(enumerate(values))}
        for name, values in items.items()
    }
    return RunRecord(method, {}, seed, "digest", status, {}, metrics=metrics)  # type: ignore[arg-type]


def drawn(chance: float, count: int, luck: str) -> list[float]:
    generator = random.Random(luck)
    return [float(generator.random() < chance) for _ in range(count)]


def overall(records: list[RunRecord]):
    return next(one for one in contrasts(records) if one.capability == "overall")


def test_one_seed_of_right_and_wrong_is_mcnemar_and_tango():
    # 6 items only the method got right, 1 only the baseline: p = 2 P(X <= 1 | 7, 1/2) = 0.125
    own = [1.0] * 6 + [0.0] + [1.0] * 14
    base = [0.0] * 6 + [1.0] + [1.0] * 14
    [found] = contrasts([record("A_baseline", t=base), record("M", t=own)])
    assert found.p == found.adjusted_p == 0.125 and found.verdict == "no difference shown"
    assert found.difference == pytest.approx(5 / 21) and (found.score, found.items) == (pytest.approx(20 / 21), 21)
    assert found.interval.low == pytest.approx(-0.007, abs=0.02) and found.interval.high == pytest.approx(
        0.47, abs=0.02
    )
    assert found.effect == pytest.approx(2 * math.asin((20 / 21) ** 0.5) - 2 * math.asin((15 / 21) ** 0.5))


def test_two_items_show_nothing_however_far_apart():
    found = contrasts([record("A_baseline", t=[0, 0], u=[0, 0]), record("M", t=[1, 1], u=[1, 1])])
    assert [one.verdict for one in found] == ["no difference shown"] * 3
    seeds = [
        record(name, seed, t=[value] * 3) for name, value in (("A_baseline", 0.0), ("M", 1.0)) for seed in range(3)
    ]
    [few] = contrasts(seeds)
    assert few.p > 0.2 and few.verdict == "no difference shown"


def test_capabilities_weigh_the_same_overall_however_many_items_they_have():
    base = record("A_baseline", many=[0.0] * 40, few=[0.5] * 10)
    own = record("M", many=[0.25] * 40, few=[1.0] * 10)
    found = overall([base, own])
    assert found.score == pytest.approx((0.25 + 1.0) / 2) and found.baseline == pytest.approx(0.25)
    assert found.difference == pytest.approx(0.375) and found.items == 50 and found.verdict == "better"


@pytest.mark.parametrize("seeds", [1, 3])
def test_what_differs_between_capabilities_is_no_chance(seeds: int):
    """+0.4 on every item of one and -0.2 on every item of the other is +0.1 overall, for certain."""
    records = [
        record(name, seed, t=[0.5 + up] * 30, u=[0.5 + down] * 60)
        for name, up, down in (("A_baseline", 0.0, 0.0), ("M", 0.4, -0.2))
        for seed in range(seeds)
    ]
    found = overall(records)
    assert found.interval.low == pytest.approx(0.1) and found.interval.high == pytest.approx(0.1)


def test_overall_interval_is_that_of_a_mean_of_independent_capabilities():
    names = ("A_baseline", "M")
    records = [
        record(name, seed, t=drawn(0.2, 40, f"{name}{seed}t"), u=drawn(0.8, 160, f"{name}{seed}u"))
        for name in names
        for seed in range(2)
    ]
    parts = {one.capability: one for one in contrasts(records)}
    width = {name: one.interval.high - one.interval.low for name, one in parts.items()}
    assert width["overall"] == pytest.approx(math.hypot(width["t"], width["u"]) / 2, rel=0.12)


def test_holm_is_over_methods_within_a_capability():
    own = [1.0] * 8 + [0.0] * 12
    base = [0.0] * 20
    records = [record("A_baseline", t=base), *(record(f"M{n}", t=own) for n in range(3))]
    assert [(one.p, one.adjusted_p) for one in contrasts(records)] == [(0.0078125, pytest.approx(3 * 0.0078125))] * 3


def test_luck_of_seeds_widens_the_interval():
    items = 100
    alike = [record(name, seed, t=[0.5] * 50 + [0.6] * 50) for name in ("A_baseline", "M") for seed in range(3)]
    lucky = [
        record(name, seed, t=[0.5 + 0.1 * (seed - 1)] * items) for name in ("A_baseline", "M") for seed in range(3)
    ]
    [same], [wide] = contrasts(alike), contrasts(lucky)
    assert same.interval.high - same.interval.low < 1e-9
    assert wide.interval.low < -0.05 and wide.interval.high > 0.05 and wide.detectable > 0.1
    assert wide.seeds == (3, 3)


def test_items_without_a_value_in_some_run_are_left_out_and_counted():
    base = record("A_baseline", t=[1.0, None, 0.0, 1.0, 1.0])
    own = record("M", t=[1.0, 1.0, 0.0, None, 1.0])
    del own.metrics["t"]["items"][4]
    assert len(contrasts([base, own])) == 1
    [found] = contrasts([base, own])
    assert (found.items, found.left_out, found.score) == (2, 3, 0.5)


def test_nothing_is_compared_without_a_finished_baseline_or_without_items():
    own = record("M", t=[1.0, 0.0])
    assert contrasts([]) == contrasts([own]) == []
    assert contrasts([own, record("A_baseline", status="failed", t=[1.0, 1.0])]) == []
    assert contrasts([own, record("A_baseline", t=[1.0])]) == []  # one item in common
    assert contrasts([own, record("A_baseline", u=[1.0, 1.0])]) == []
    assert contrasts([own, record("A_baseline", t=[])]) == []


def test_a_capability_that_a_method_lacks_is_not_compared():
    base = record("A_baseline", t=[1.0, 0.0], u=[1.0, 0.0])
    assert [one.capability for one in contrasts([base, record("M", t=[1.0, 1.0])])] == ["t"]


def test_equal_runs_show_no_difference_and_say_what_would_have_been_shown():
    values = drawn(0.5, 64, "x")
    [found] = contrasts([record("A_baseline", t=values), record("M", t=values)])
    assert (found.difference, found.p, found.effect) == (0.0, 1.0, 0.0)
    assert found.interval.low < 0 < found.interval.high and 0 < found.detectable < 0.2

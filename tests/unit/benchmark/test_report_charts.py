import itertools
import math
import re

import pytest

from sage.benchmark.benchmark_agent.experiments.method_comparison.report import charts, tables
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.figures import _signs
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.markdown import _text
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.markup import breaking, text
from sage.libs.finetune.agent.types import Interval


@pytest.mark.parametrize("low, high", [(0, 1), (-0.3, 0.7), (1e-5, 3e-5), (120, 160), (-3, -2), (0, 1.7e6)])
def test_ticks_are_on_the_axis_evenly_spaced_and_few(low: float, high: float):
    ticks = charts.Span(low, high).ticks()
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert 2 <= len(ticks) <= 6 and low - 1e-9 <= ticks[0] and ticks[-1] <= high + 1e-9
    assert max(steps) == pytest.approx(min(steps))


def test_an_axis_of_one_value_of_none_and_of_nan_has_a_width():
    for values in ([0.0], [], [math.nan], [2.0, math.nan]):
        axis = charts.span_of(values)
        assert axis.high > axis.low and math.isfinite(axis.low + axis.high)


def test_a_difference_is_drawn_where_it_is():
    drawn = charts.forest(charts.Span(-0.2, 0.2), 0.1, Interval(0.0, 0.2), "better")
    assert 'cx="75.00%"' in drawn and 'x1="50.00%" x2="100.00%"' in drawn and 'class="row better"' in drawn


def test_labels_of_equal_points_do_not_lie_on_each_other():
    marks = [charts.Mark(100.0, 0.5, 0.5, 0.5, f"M{n}", "same") for n in range(6)]
    drawn = charts.scatter(marks, "tokens", "six points")
    places = re.findall(r'dx="(-?\d+)" dy="(-?\d+)">M', drawn)
    assert len(set(places)) == 6


def test_texts_are_no_markup():
    assert text("<b>&\ud800") == "&lt;b&gt;&amp;?" and breaking("B1_coreset_loss<") == "B1_coreset_<wbr>loss&lt;"
    assert _text("a|b\n*c* D_x _y_ [z](w) <i>") == r"a\|b \*c\* D_x \_y\_ \[z](w) \<i>"


def test_signs_tell_methods_apart():
    assert _signs(["A_baseline", "B3_x", "mine_a", "mine_b"]) == {
        "A_baseline": "A", "B3_x": "B3", "mine_a": "mine3", "mine_b": "mine4",
    }  # fmt: skip


def test_numbers_that_are_not_there_are_dashes():
    assert tables.percent(None) == tables.count(math.nan) == tables.seconds(math.nan) == tables.memory(None) == "-"

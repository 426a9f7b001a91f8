"""Two models side by side, in a table and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from sage.libs.finetune.agent.evaluation.comparison import OVERALL, Compared, Comparison
from sage.libs.finetune.agent.reporting.tables import make_table, percent


def comparison_table(comparison: Comparison) -> Table:
    """Capability, score of A and B on the items that both were scored on, difference in points, p, verdict.

    The p-values are Holm-adjusted.
    """
    span = f"{comparison.confidence:.0%} CI"
    columns = ("capability", "n", "A", "B", "A - B", span, "p", "verdict")
    return make_table(columns, [_row(row) for row in comparison.rows])


def comparison_notes(comparison: Comparison) -> list[str]:
    """What the table does not say: what would have been shown, how it was tested, and what was left out."""
    notes = _power_notes([row for row in comparison.rows if row.verdict == "no difference shown"])
    tests = {row.test for row in comparison.rows}
    held = f", Holm over {len(comparison.rows)}" if len(comparison.rows) > 1 else ""
    notes.append(f"paired by item; {' and '.join(sorted(tests))}{held}; CI: of A - B, in points")
    for row in comparison.rows:
        if row.left_out:
            counts = ", ".join(f"{count} {reason}" for reason, count in row.left_out.items())
            notes.append(f"{row.name}: items without a pair are left out: {counts}")
    not_compared = {
        "only A has it": comparison.only_a,
        "only B has it": comparison.only_b,
        "no item was scored on both sides": comparison.unpaired,
    }
    notes += [f"not compared, {why}: {', '.join(names)}" for why, names in not_compared.items() if names]
    return notes


def regression_problem(regressions: Sequence[Compared], tolerance: float, confidence: float = 0.95) -> str:
    """One line that says what got worse, and by which rule.

    Args:
        regressions: The rows in question, at least one.
        tolerance: Drop that was accepted, as a share.
        confidence: Of the comparison.

    Example:
        >>> from sage.libs.finetune.agent.evaluation.comparison import compare
        >>> right = [{"id": str(n), "value": 1.0} for n in range(10)]
        >>> wrong = [{"id": str(n), "value": 0.0} for n in range(10)]
        >>> problem = regression_problem(compare({"timing": wrong}, {"timing": right}).regressions(), 0.02)
        >>> print(problem.split(";")[0])
        A is worse than B: timing -100.0 points (at least 44.5), p 0.002
    """
    found = ", ".join(
        f"{row.name} {points(row.difference)} points (at least {-100 * row.interval.high:.1f}), "
        f"p {p_value(row.adjusted_p)}"
        for row in regressions
    )
    return (
        f"A is worse than B: {found}; tolerated: {100 * tolerance:g} points (p < {1 - confidence:.2g} and the whole "
        "interval below)"
    )


def points(difference: float) -> str:
    """A difference of shares in points, with its sign.

    Example:
        >>> points(0.0312), points(-0.5), points(-0.0001), points(float("nan"))
        ('+3.1', '-50.0', '0.0', '?')
    """
    if math.isnan(difference):
        return "?"
    rounded = round(100 * difference, 1)
    return f"{rounded:+.1f}" if rounded else "0.0"


def p_value(p: float) -> str:
    """A p-value with three digits.

    Example:
        >>> p_value(0.00004), p_value(0.0312), p_value(1.0)
        ('<0.001', '0.031', '1.000')
    """
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _row(row: Compared) -> tuple[str, ...]:
    span = f"{points(row.interval.low)} to {points(row.interval.high)}"
    difference = points(row.difference)
    count = str(row.n) if row.name != OVERALL else ""
    return (
        row.name,
        count,
        percent(row.score_a),
        percent(row.score_b),
        difference,
        span,
        p_value(row.adjusted_p),
        row.verdict,
    )


def _power_notes(unshown: Sequence[Compared]) -> list[str]:
    """How large a difference would have had to be; below that nothing was found out."""
    notes = []
    if able := [f"{row.name} {100 * row.detectable:.0f}" for row in unshown if row.detectable <= 1]:
        found = ", ".join(able)
        notes.append(
            "no difference shown does not mean there is none; large enough to be shown 4 times in 5, in points: "
            f"{found}"
        )
    if unable := [f"{row.name} (n={row.n})" for row in unshown if row.detectable > 1]:
        notes.append(f"too few items to show any difference: {', '.join(unable)}")
    return notes

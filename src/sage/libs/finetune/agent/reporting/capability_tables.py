"""What a model can do, for a terminal."""

from __future__ import annotations

import math

from rich.table import Table
from rich.text import Text

from sage.libs.finetune.agent.capabilities.report import CapabilityReport, counts, score_text, title_of
from sage.libs.finetune.agent.reporting.tables import bar, interval, make_table


def capability_table(report: CapabilityReport, *, ascii_only: bool = True) -> Table:
    """One line a capability: its score as bar and number, its interval, and the replies it stands on.

    Args:
        report: Of any number of capabilities.
        ascii_only: Draw the bars with `#` and `.`.

    Example:
        >>> from sage.libs.finetune.agent.evaluation.report import CapabilityScore
        >>> details = {"interval": {"low": 0.89, "high": 0.94, "confidence": 0.95}}
        >>> report = CapabilityReport({"tool_use": CapabilityScore("tool_use", 0.92, 500, details)})
        >>> from sage.libs.finetune.agent.reporting.tables import write_out
        >>> write_out([capability_table(report)])
        capability       score        interval  replies
        -----------------------------------------------
        Tool Use    #########.  0.92    89-94%    n=500
        Overall                 0.92
    """
    rows: list[list[str | Text]] = []
    for name, score in report.scores.items():
        drawn = "" if math.isnan(score.score) else bar(score.score, ascii_only=ascii_only)
        known = score.interval
        between = "-" if known is None else interval(known.low, known.high, digits=0)
        rows.append([title_of(name), drawn, score_text(score.score), between, counts(score)])
    rows.append([Text("Overall", style="bold"), "", Text(score_text(report.overall), style="bold"), "", ""])
    return make_table(("capability", "score", "", "interval", "replies"), rows)

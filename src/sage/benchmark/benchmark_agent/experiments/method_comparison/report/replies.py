"""What the models said, as the data that the page's script shows and filters.

Runs are asked the same items, so prompts stand there once, and so does every other text that comes again. When it is
still too much, texts are cut in their middle, then right replies are left out, then wrong ones; the page says so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sage.benchmark.benchmark_agent.experiments.method_comparison.registry import BASELINE
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.grid import GridResults
from sage.benchmark.benchmark_agent.experiments.method_comparison.results import RunRecord
from sage.libs.finetune.agent.capabilities.report import CapabilityReport, title_of
from sage.libs.finetune.agent.reporting.capability_page import state_of
from sage.libs.finetune.agent.reporting.reply_text import conversation_text, valid, value_text, without_middle

MOST_BYTES = 3_500_000
STATES = ("error", "wrong", "skipped", "right")
"""In the order in which they are kept; a reply's state is its place in here."""
_LENGTHS = (1200, 600, 300, 150)
_REPORT = "report.json"


@dataclass
class Replies:
    """The replies of all runs.

    Attributes:
        data: What goes into the page.
        kept: Replies in it.
        total: Replies there are.
        longest: Longer texts were cut to so many characters.
        missing: Runs without a report.
    """

    data: dict[str, Any]
    kept: int
    total: int
    longest: int
    missing: list[str] = field(default_factory=list)

    def json(self) -> str:
        """The data as JSON that cannot end the script element it stands in."""
        return json.dumps(self.data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def collect_replies(grid: GridResults, most_bytes: int = MOST_BYTES) -> Replies:
    """The replies in the runs' reports.

    Args:
        grid: Of any state.
        most_bytes: What they may weigh in the page.

    Raises:
        DataError: for a report that cannot be read.
    """
    runs = sorted((run for method in grid.finished for run in method.runs), key=lambda run: run.seed)
    found: list[tuple[RunRecord, list[tuple[str, dict[str, Any]]]]] = []
    missing = []
    for run in runs:
        path = grid.run_folder(run) / _REPORT
        if not path.exists():
            missing.append(f"{run.method_id} seed {run.seed}")
            continue
        report = CapabilityReport.load(path)
        found.append((run, [(name, one) for name, score in report.scores.items() for one in score.replies]))
    total = sum(len(replies) for _, replies in found)
    for length in _LENGTHS:
        kept = Replies(_data(found, length, None), total, total, length, missing)
        if len(kept.json().encode()) <= most_bytes:
            return kept
    share = most_bytes / len(kept.json().encode())
    while True:
        data = _data(found, _LENGTHS[-1], share)
        kept = Replies(data, len(data["replies"]), total, _LENGTHS[-1], missing)
        if len(kept.json().encode()) <= most_bytes or not kept.kept:
            return kept
        share *= 0.8


class _Texts:
    """Texts by number, each once."""

    def __init__(self, length: int) -> None:
        self.all: list[str] = []
        self._numbers: dict[str, int] = {}
        self._length = length

    def number(self, text: str) -> int:
        shown = without_middle(valid(text), self._length)
        if shown not in self._numbers:
            self._numbers[shown] = len(self.all)
            self.all.append(shown)
        return self._numbers[shown]


def _data(
    found: Sequence[tuple[RunRecord, list[tuple[str, dict[str, Any]]]]], length: int, share: float | None
) -> dict[str, Any]:
    texts = _Texts(length)
    items: dict[tuple[str, str, int], int] = {}
    capabilities: dict[str, int] = {}
    replies = []
    base = _baseline_values(found)
    for number, (run, records) in enumerate(found):
        chosen = records if share is None else _first(records, share)
        for name, one in chosen:
            capability = capabilities.setdefault(name, len(capabilities))
            key = (name, valid(one["id"]), texts.number(conversation_text(one.get("prompt"))))
            item = items.setdefault(key, len(items))
            said, why = one.get("reply"), one.get("error") or one.get("reason")
            replies.append([
                number, item, capability, STATES.index(state_of(one)), one.get("value"), texts.number(str(said or "")),
                texts.number(value_text(one.get("extracted"))), texts.number(str(why or "")),
                _against(one.get("value"), base.get((run.seed, name, one["id"]))),
                int(bool(one.get("cut"))),
            ])  # fmt: skip
    return {
        "runs": [[run.method_id, run.seed] for run, _ in found],
        "capabilities": [title_of(name) for name in capabilities],
        "items": [[identity, prompt] for _, identity, prompt in items],
        "texts": texts.all,
        "replies": replies,
    }


def _baseline_values(
    found: Sequence[tuple[RunRecord, list[tuple[str, dict[str, Any]]]]],
) -> dict[tuple[int, str, str], float | None]:
    """The baseline's value of each item, by seed."""
    return {
        (run.seed, name, one["id"]): one.get("value")
        for run, records in found
        if run.method_id == BASELINE
        for name, one in records
    }


def _against(value: float | None, base: float | None) -> int:
    """1 for a better reply than the baseline's of the same seed, -1 for a worse one."""
    return 0 if value is None or base is None else (value > base) - (value < base)


def _first(records: Sequence[tuple[str, dict[str, Any]]], share: float) -> list[tuple[str, dict[str, Any]]]:
    """So many of a run's replies, errors and wrong ones first, in their order."""
    order = sorted(range(len(records)), key=lambda at: STATES.index(state_of(records[at][1])))
    return [records[at] for at in sorted(order[: int(share * len(records))])]

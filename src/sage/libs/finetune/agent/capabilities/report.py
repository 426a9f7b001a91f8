"""What a model can do, capability by capability: text, JSON and a page of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent._version import __version__
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.evaluation.report import CapabilityScore, without_nan
from sage.libs.finetune.agent.registry import suggestion

_KIND = "capability report"


@dataclass
class CapabilityReport:
    """The scores of a model.

    Attributes:
        scores: By capability, in the order they were asked for.
        model: What was measured, in words.
        test_sets: By capability, where its items came from.
        settings: What replies and intervals depend on: `max_new_tokens`, `confidence` ...
        created: When, in UTC (ISO 8601).
        seconds: Wall-clock time of it all.
        version: Of this package.
        unfinished: Capabilities that were to be measured and were not, or not on all their items: it was interrupted,
            or something failed. Empty for a report that is whole.

    Example:
        >>> scores = [CapabilityScore("tool_use", 0.92, 500), CapabilityScore("planning", 0.78, 300)]
        >>> print(CapabilityReport({score.capability: score for score in scores}).summary())
        Agent Capability Report
        -----------------------
        Tool Use: 0.92 (n=500)
        Planning: 0.78 (n=300)
        Overall: 0.85
    """

    scores: dict[str, CapabilityScore]
    model: str = ""
    test_sets: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    created: str = ""
    seconds: float = 0.0
    version: str = __version__
    unfinished: list[str] = field(default_factory=list)

    @property
    def overall(self) -> float:
        """Plain mean over the capabilities that were measured, unfinished ones left out; nan when none was."""
        whole = [score.score for name, score in self.scores.items() if name not in self.unfinished]
        measured = [score for score in whole if not math.isnan(score)]
        return fmean(measured) if measured else math.nan

    def get_score(self, capability: str) -> float:
        """The score of one capability, nan when none of its replies could be scored.

        Raises:
            ConfigError: when it is not part of this report, listing what is.
        """
        if capability not in self.scores:
            measured = ", ".join(self.scores) or "none"
            raise ConfigError(
                f"capability '{capability}' was not measured; {suggestion(capability, self.scores)}measured: {measured}"
            )
        return self.scores[capability].score

    def summary(self) -> str:
        """The scores as text, a line a capability; errors, skipped replies and labels stand beside the count."""
        title = "Agent Capability Report"
        lines = [title, "-" * len(title)]
        lines += [
            f"{title_of(name)}: {score_text(score.score)} ({counts(score)})" for name, score in self.scores.items()
        ]
        lines.append(f"Overall: {score_text(self.overall)}")
        return "\n".join([*lines, f"Unfinished: {self.unfinished_text()}"] if self.unfinished else lines)

    def unfinished_text(self) -> str:
        """The unfinished capabilities, each with how many replies it has.

        Example:
            >>> CapabilityReport({}, unfinished=["tool_use", "timing"]).unfinished_text()
            'Tool Use (no replies), Timing (no replies)'
        """
        replies = {name: len(score.replies) for name, score in self.scores.items()}
        return ", ".join(f"{title_of(name)} ({_replies(replies.get(name, 0))})" for name in self.unfinished)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, nan as None; `from_dict` is its inverse."""
        return {
            "kind": _KIND,
            "model": self.model,
            "overall": without_nan(self.overall),
            "scores": {name: score.to_dict() for name, score in self.scores.items()},
            "test_sets": dict(self.test_sets),
            "settings": without_nan(self.settings),
            "created": self.created,
            "seconds": self.seconds,
            "version": self.version,
            "unfinished": list(self.unfinished),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], where: str = "report") -> CapabilityReport:
        """Build one from a parsed JSON object.

        Raises:
            DataError: naming `where`, when the object is no such report.
        """
        scores = record.get("scores") if isinstance(record, Mapping) else None
        if not isinstance(scores, Mapping) or record.get("kind") != _KIND:
            raise DataError(f"{where}: expected a capability report, as CapabilityReport.save writes it")
        read = {name: CapabilityScore.from_dict(score, f"{where}: scores.{name}") for name, score in scores.items()}
        for name, kind in {"test_sets": dict, "settings": dict, "unfinished": list}.items():
            if name in record and not isinstance(record[name], kind):
                expected = "expected that of a capability report"
                raise DataError(f"{where}: field '{name}': {expected}, found {record[name]!r:.60}")
        about = ("model", "test_sets", "settings", "created", "seconds", "version", "unfinished")
        return cls(read, **{name: record[name] for name in about if name in record})

    def save(self, path: str | Path) -> None:
        """Write the whole report as JSON, atomically.

        Raises:
            DataError: when the file cannot be written, or a scorer gave something that JSON has no form for.
        """
        jsonl.write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> CapabilityReport:
        """Read what `save` wrote.

        Raises:
            DataError: when the file cannot be read, or is no such report.
        """
        return cls.from_dict(jsonl.read_json(path), str(path))

    def save_html(self, path: str | Path) -> None:
        """Write the report as one HTML page that needs nothing but itself: scores, figures and the replies.

        Raises:
            DataError: when the file cannot be written.
        """
        from sage.libs.finetune.agent.reporting.capability_page import capability_page

        jsonl.write_text(path, capability_page(self))


def title_of(capability: str) -> str:
    """The name of a capability as a heading.

    Example:
        >>> title_of("tool_use")
        'Tool Use'
    """
    return capability.replace("_", " ").title()


def _replies(count: int) -> str:
    return f"{count or 'no'} repl{'y' if count == 1 else 'ies'}"


def score_text(score: float) -> str:
    """A score with two digits.

    Example:
        >>> score_text(0.918), score_text(float("nan"))
        ('0.92', 'not measured')
    """
    return "not measured" if math.isnan(score) else f"{score:.2f}"


def counts(score: CapabilityScore) -> str:
    """How many replies a score stands on, and what is to be known beside it.

    Example:
        >>> counts(CapabilityScore("tool_use", 0.9, 498, {"errors": 2, "label": "not a leaderboard score"}))
        'n=498, 2 errors, not a leaderboard score'
    """
    errors, skipped = score.errors, score.details.get("skipped", 0)
    said = [f"n={score.num_samples}"]
    said += [f"{errors} error{'s' * (errors != 1)}"] if errors else []
    said += [f"{skipped} skipped"] if skipped else []
    said += [score.details["label"]] if score.details.get("label") else []
    return ", ".join(said)

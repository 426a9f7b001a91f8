"""The score of one capability: the mean over the replies that could be scored, and everything it was made of.

Three things are no zeros: an item on which the model failed (`errors`), a reply about which nothing could be checked
(`skipped`), and a capability of which nothing was measured at all (a score of nan).

`CapabilityReport`, which holds several of these, is in `capabilities/report.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.evaluation.score import Capability, Score
from sage.libs.finetune.agent.evaluation.statistics import bootstrap_interval, wilson_interval
from sage.libs.finetune.agent.types import Interval

_NUMBER = (int, float, type(None))


@dataclass
class CapabilityScore:
    """How good a model is at one thing.

    Attributes:
        capability: Its name, such as `tool_use`.
        score: Mean value of the scored replies, 0 to 1; nan when there are none.
        num_samples: Replies scored; items with errors and skipped ones are not among them.
        details: What else was found, plain JSON types. `interval` (`{"low", "high", "confidence"}`, None where nothing
            can be said), `errors` and `skipped` (counts), `cut_off` (replies that reached the token limit), `label`
            (what the score must not be mistaken for, or None), the capability's own figures, and `replies`: one record
            an item with `id`, `prompt`, `reply`, `extracted`, `value`, `reason`, `details`, `error`, `seconds`, `cut`.

    Example:
        >>> CapabilityScore("tool_use", 0.92, 500).score
        0.92
    """

    capability: str
    score: float
    num_samples: int
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def interval(self) -> Interval | None:
        """The confidence interval of the score; None where nothing was scored."""
        found = self.details.get("interval")
        return Interval(found["low"], found["high"]) if found else None

    @property
    def errors(self) -> int:
        """Items on which the model failed."""
        return int(self.details.get("errors", 0))

    @property
    def replies(self) -> list[dict[str, Any]]:
        """The record of each item, in the order of the test set."""
        records: list[dict[str, Any]] = self.details.get("replies", [])
        return records

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, nan as None; `from_dict` is its inverse."""
        return {
            "capability": self.capability,
            "score": without_nan(self.score),
            "num_samples": self.num_samples,
            "details": without_nan(self.details),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], where: str = "score") -> CapabilityScore:
        """Build one from a parsed JSON object.

        Raises:
            DataError: naming `where`, the field, what was expected and what was found.
        """
        wanted: dict[str, Any] = {"capability": str, "score": _NUMBER, "num_samples": int, "details": dict}
        for name, kind in wanted.items():
            if not isinstance(record, Mapping) or name not in record or not isinstance(record[name], kind):
                found = repr(record.get(name))[:60] if isinstance(record, Mapping) else type(record).__name__
                raise DataError(f"{where}: field '{name}': expected that of a capability's score, found {found}")
        for number, reply in enumerate(record["details"].get("replies") or (), start=1):
            known = isinstance(reply, Mapping) and {"id", "value"} <= reply.keys()
            if not known or not isinstance(reply["value"], _NUMBER):
                expected = "expected an object with 'id' and 'value' (a number or null)"
                raise DataError(f"{where}: reply {number}: {expected}, found {reply!r:.60}")
        score = math.nan if record["score"] is None else float(record["score"])
        return cls(record["capability"], score, record["num_samples"], dict(record["details"]))


def capability_score(
    capability: Capability,
    records: Sequence[Mapping[str, Any]],
    scores: Sequence[Score | None],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    label: str | None = None,
) -> CapabilityScore:
    """Sum up what was found about each item.

    The interval is Wilson's where every value is 0 or 1, else a bootstrap over items.

    Args:
        capability: What was measured.
        records: What is known of each item besides its score: `id`, `prompt`, `reply`, `error`, `seconds`, `cut`.
        scores: The score of each reply, None where the model failed.
        confidence: Coverage of the interval, 0 to 1.
        resamples: Samples of the bootstrap.
        seed: Of the bootstrap.
        label: What the score must not be mistaken for.

    Example:
        >>> timing = Capability("timing", lambda *_: Score(1.0, True, ""), lambda *_: None, lambda _: {})
        >>> one = {"id": "a", "prompt": [], "reply": "Yes.", "error": None, "seconds": 0.1, "cut": False}
        >>> found = capability_score(timing, [one, one], [Score(1.0, True, "rightly called"), None])
        >>> found.score, found.num_samples, found.errors
        (1.0, 1, 1)
    """
    known = [score for score in scores if score is not None]
    values = [score.value for score in known if score.value is not None]
    details: dict[str, Any] = {
        "interval": _interval(values, confidence, resamples, seed),
        "errors": len(scores) - len(known),
        "skipped": len(known) - len(values),
        "cut_off": sum(bool(record.get("cut")) for record in records),
        "label": label,
    }
    details |= {name: value for name, value in capability.summarise(known).items() if name not in details}
    details["replies"] = [_record(record, score) for record, score in zip(records, scores, strict=True)]
    mean = math.fsum(values) / len(values) if values else math.nan
    return CapabilityScore(capability.name, mean, len(values), details)


def without_nan(value: Any) -> Any:
    """The value with None in place of every nan and infinity, which JSON has no form for.

    Example:
        >>> without_nan({"f1": float("nan"), "n": [1, 0.5]})
        {'f1': None, 'n': [1, 0.5]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def _valid_text(value: Any) -> Any:
    """The value with a question mark for every half character: JSON can say one, no file can hold it."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        return {_valid_text(name): _valid_text(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_valid_text(item) for item in value]
    return value


def _record(record: Mapping[str, Any], score: Score | None) -> dict[str, Any]:
    found = Score(None, None, "") if score is None else score
    known = {
        "id": record["id"],
        "prompt": record["prompt"],
        "reply": record["reply"],
        "extracted": found.extracted,
        "value": found.value,
        "reason": found.reason,
        "details": found.details,
        "error": record["error"],
        "seconds": record["seconds"],
        "cut": bool(record.get("cut")),
    }
    return {name: _valid_text(value) for name, value in known.items()}


def _interval(values: Sequence[float], confidence: float, resamples: int, seed: int) -> dict[str, float] | None:
    if not values:
        return None
    if all(value in (0.0, 1.0) for value in values):
        found = wilson_interval(round(math.fsum(values)), len(values), confidence)
    else:
        found = bootstrap_interval(values, confidence=confidence, resamples=resamples, seed=seed)
    if math.isnan(found.low):  # one graded value says nothing about its spread
        return None
    return {"low": found.low, "high": found.high, "confidence": confidence}

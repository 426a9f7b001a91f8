"""What a model can do: it is asked the items of each test set, and a scorer says what each reply is worth.

All data is read before the model is: a fault in the last test set shall not cost the time of the first ones.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sage.libs.finetune.agent.capabilities.episode_sets import EPISODES, episode_tasks, evaluate_episodes
from sage.libs.finetune.agent.capabilities.item_sources import ItemSet, items_of
from sage.libs.finetune.agent.capabilities.repliers import Reply, in_words, name_of, replier_of
from sage.libs.finetune.agent.capabilities.report import CapabilityReport
from sage.libs.finetune.agent.errors import AgentFinetuneError, ConfigError, ScoringError
from sage.libs.finetune.agent.evaluation.known import CAPABILITIES
from sage.libs.finetune.agent.evaluation.report import CapabilityScore, capability_score
from sage.libs.finetune.agent.evaluation.score import Capability, Item, Score, Scorer
from sage.libs.finetune.agent.progress import Progress
from sage.libs.finetune.agent.registry import suggestion
from sage.libs.finetune.agent.reporting.progress import TerminalProgress

logger = logging.getLogger(__name__)

_GOLD = ("expected", "answer", "ground_truth")
"""Where a row may say what is right, for a scorer of one's own."""


class AgentCapabilityEvaluator:
    """Measures tool use, planning, reasoning, instruction following and timing, or what scorers of one's own measure.

    Replies are greedy. The score of a capability is the mean value of the replies that could be scored; a model that
    fails on an item is counted in `details["errors"]` and is no 0.

    Args:
        tokenizer: Of a transformers model; None for the one saved with it.
        batch_size: Prompts a local model continues together.
        max_new_tokens: Longest reply, in tokens.
        concurrency: Requests a server has at once.
        scorers: More capabilities by name, or others in place of the known ones: a `Capability`, or a function
            `(reply, item) -> Score`, or a number from 0 to 1, or a truth value. The item has the row's own fields.
        confidence: Coverage of the intervals, 0 to 1.
        bootstrap: Samples of the bootstrap, for values that are not all 0 or 1.
        seed: Of the bootstrap.
        dtype: Of a model that is loaded here: "auto", "float32" or "bfloat16".
        tool_format: Of a model that is loaded here: "auto", "compact" or "json".
        progress: Told about long steps; None shows bars on stderr, `progress.silent` nothing.

    Attributes:
        last: The report of the latest `evaluate`, also when that was interrupted or failed: what was measured until
            then, with the rest named in `unfinished`. None until something is asked.

    Raises:
        ConfigError: for a setting that is out of range.

    Example:
        >>> from sage.libs.finetune.agent.progress import silent
        >>> scorers = {"sums": lambda reply, item: reply == item["gold"]}
        >>> evaluator = AgentCapabilityEvaluator(scorers=scorers, progress=silent)
        >>> rows = [{"question": "2 + 2?", "answer": "4"}, {"question": "2 + 3?", "answer": "5"}]
        >>> print(evaluator.evaluate(lambda messages: "4", {"sums": rows}).summary())
        Agent Capability Report
        -----------------------
        Sums: 0.50 (n=2)
        Overall: 0.50
    """

    def __init__(
        self,
        *,
        tokenizer: Any = None,
        batch_size: int = 32,
        max_new_tokens: int = 256,
        concurrency: int = 16,
        scorers: Mapping[str, Callable[[str, Mapping[str, Any]], Any] | Capability] | None = None,
        confidence: float = 0.95,
        bootstrap: int = 2000,
        seed: int = 0,
        dtype: str = "auto",
        tool_format: str = "auto",
        progress: Progress | None = None,
    ) -> None:
        counts = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "concurrency": concurrency}
        for name, count in {**counts, "bootstrap": bootstrap}.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ConfigError(f"{name}={count!r}: expected a whole number of at least 1")
        if not 0 < confidence < 1:
            raise ConfigError(f"confidence={confidence!r}: expected a number between 0 and 1")
        self._capabilities = {name: CAPABILITIES[name] for name in CAPABILITIES}
        for name, scorer in (scorers or {}).items():
            if name == EPISODES:
                raise ConfigError(f"scorers: '{EPISODES}' are judged by their environment and take no scorer")
            self._capabilities[name] = scorer if isinstance(scorer, Capability) else self._own(name, scorer)
        self._asking: dict[str, Any] = {
            "tokenizer": tokenizer, **counts, "dtype": dtype, "tool_format": tool_format,
        }  # fmt: skip
        self._interval: dict[str, Any] = {"confidence": confidence, "resamples": bootstrap, "seed": seed}
        self._progress = progress
        self.last: CapabilityReport | None = None

    def evaluate(self, model: Any, test_sets: Mapping[str, Any]) -> CapabilityReport:
        """Measure several capabilities of a model.

        Args:
            model: An AgentSFTTrainer or LoadedModel; a hub id or folder; a model of transformers; a function
                `messages -> reply`; an object with `chat` or `generate`; or `http://host:port/v1#model-name`.
            test_sets: By capability: rows, a file or folder, `name:split`, `builtin` or `builtin:N`, `bfcl:CATEGORY`.
                `episodes` are desk tasks, or `builtin:N`; for them the model may also be an agent.

        Raises:
            ConfigError: for an unknown capability, listing the known ones, or no test set at all.
            DataError: for data that cannot be used, naming file, line and field. Nothing was generated then.
            ModelError: for a model that cannot be loaded.
            EndpointError: for a server that refuses everything.
            ScoringError: naming the item that a scorer cannot judge against.
            KeyboardInterrupt: on Ctrl-C. Of this and all that is raised after something was asked, `last` has the
                replies until then.
        """
        self.last = None
        if not isinstance(test_sets, Mapping) or not test_sets:
            raise ConfigError("test_sets: expected capabilities with their data, such as {'tool_use': 'builtin'}")
        begin = time.perf_counter()
        data = {name: self._read(name, rows) for name, rows in test_sets.items()}
        with self._telling() as progress:
            # An agent plays episodes without being able to reply to single items.
            asked = model if set(data) == {EPISODES} else replier_of(model, **self._asking)
            report = self.last = CapabilityReport(
                scores={},
                model=asked.name if asked is not model else name_of(model),
                test_sets={name: items.source for name, items in data.items()},
                settings={"max_new_tokens": self._asking["max_new_tokens"], **self._interval},
                unfinished=list(data),
            )
            try:
                for name, items in data.items():
                    report.scores[name] = self._measured(asked, name, items, progress, report)
                    report.unfinished.remove(name)
            finally:
                report.created = datetime.now(UTC).isoformat(timespec="seconds")
                report.seconds = time.perf_counter() - begin
        return report

    def evaluate_capability(self, model: Any, cap: str, data: Any) -> CapabilityScore:
        """Measure one capability; see `evaluate`."""
        return self.evaluate(model, {cap: data}).scores[cap]

    def _read(self, name: str, rows: Any) -> ItemSet:
        if name == EPISODES:
            tasks = episode_tasks(rows)
            return ItemSet(tasks, rows if isinstance(rows, str) else f"{len(tasks)} tasks")
        capability = self._capability(name)
        data = items_of(capability, rows)
        if _costs_nothing(capability):
            for item in data.items:  # a gold that cannot be judged against shall be said before anything is asked
                capability.score("", item)
        return data

    def _capability(self, name: str) -> Capability:
        if name not in self._capabilities:
            known = ", ".join(sorted([*self._capabilities, EPISODES]))
            raise ConfigError(
                f"unknown capability '{name}'; {suggestion(name, self._capabilities)}known: {known}; others need a "
                f"scorer (scorers={{'{name}': function}})"
            )
        return self._capabilities[name]

    def _measured(
        self, replier: Any, name: str, data: ItemSet, progress: Progress, report: CapabilityReport
    ) -> CapabilityScore:
        """The score of one capability; when that ends early, what there is of it is put into the report."""
        if name == EPISODES:
            confidence = self._interval["confidence"]
            return evaluate_episodes(replier, data.items, confidence=confidence, progress=progress, **self._asking)
        capability, total = self._capability(name), len(data.items)
        progress(name, 0, total)
        replies: dict[int, Reply] | None = None
        scores: list[Score | None] = []
        try:
            replies = dict(enumerate(replier.replies(data.items, lambda done: progress(name, done, total))))
            for at, reply in replies.items():
                scores.append(None if reply.error is not None else _scored(capability, reply.text, data.items[at]))
            failed = [reply.error for reply in replies.values() if reply.error is not None]
            if failed:
                logger.warning("%s: no reply to %d of %d items; the first: %s", name, len(failed), total, failed[0])
            return self._summed_up(capability, data, replies, scores)
        except BaseException as reason:  # Ctrl-C, or a scorer's fault: the replies may have been paid for
            known = _by_place(getattr(replier, "so_far", {})) if replies is None else replies
            if known:
                for at in list(known)[len(scores) :]:
                    scores.append(_scored_yet(capability, known[at], data.items[at], reason))
                safe = replace(capability, summarise=lambda _: {})
                report.scores[name] = self._summed_up(safe, data, known, scores)
            raise

    def _summed_up(
        self, capability: Capability, data: ItemSet, replies: Mapping[int, Reply], scores: Sequence[Score | None]
    ) -> CapabilityScore:
        records = [_record(data.items[at], reply) for at, reply in replies.items()]
        return capability_score(capability, records, scores, label=data.label, **self._interval)

    def _own(self, name: str, scorer: Callable[[str, Mapping[str, Any]], Any]) -> Capability:
        """A function as a capability; in place of a known one it is given the gold in the form known."""
        if not callable(scorer):
            raise ConfigError(f"scorers: '{name}': expected a function or a Capability, found {type(scorer).__name__}")
        known = self._capabilities.get(name)
        return Capability(name, _as_scorer(name, scorer), known.read_gold if known else _read_gold, lambda _: {})

    @contextmanager
    def _telling(self) -> Iterator[Progress]:
        if self._progress is not None:
            yield self._progress
        else:
            with TerminalProgress() as bars:
                yield bars


def _scored(capability: Capability, reply: str, item: Item) -> Score:
    try:
        score = capability.score(reply, item)
    except AgentFinetuneError:
        raise
    except Exception as error:  # a scorer's own fault is nothing the model did
        raise ScoringError(f"{capability.name}: item '{item['id']}': the scorer raised {in_words(error)}") from error
    if score.value is not None and not 0 <= score.value <= 1:  # nan is in no range
        raise ScoringError(f"{capability.name}: item '{item['id']}': the score is {score.value!r:.40}; expected 0 to 1")
    return score


def _by_place(replies: dict[int, Reply]) -> dict[int, Reply]:
    """A copy in the items' order; requests that are still under way may yet add to the original."""
    return dict(sorted(replies.copy().items()))


def _scored_yet(capability: Capability, reply: Reply, item: Item, reason: BaseException) -> Score | None:
    """The score of a reply after `reason` ended the measuring; what nobody scored is skipped, and says so."""
    if reply.error is not None:
        return None
    if _costs_nothing(capability):
        with suppress(AgentFinetuneError):
            return _scored(capability, reply.text, item)
    return Score(None, None, f"not scored: {in_words(reason)}")


def _costs_nothing(capability: Capability) -> bool:
    """Whether its scorer is one of this package; one's own may ask a model, or a person."""
    return capability in map(CAPABILITIES.__getitem__, CAPABILITIES)


def _record(item: Item, reply: Reply) -> dict[str, Any]:
    return {"id": item["id"], "prompt": item["messages"], "reply": reply.text, "error": reply.error,
            "seconds": round(reply.seconds, 6), "cut": reply.cut}  # fmt: skip


def _as_scorer(name: str, function: Callable[[str, Mapping[str, Any]], Any]) -> Scorer:
    def score(reply: str, item: Mapping[str, Any]) -> Score:
        found = function(reply, item)
        if isinstance(found, Score):
            return found
        try:
            value = math.nan if isinstance(found, str) else float(found)  # numpy's numbers and truth values too
        except (TypeError, ValueError):
            value = math.nan
        if not 0 <= value <= 1:  # nan is in no range
            raise ScoringError(
                f"{name}: item '{item['id']}': the scorer gave {found!r:.60}; expected a Score, a number from 0 to 1, "
                "or a truth value"
            )
        return Score(value, reply, "by a scorer of one's own")

    return score


def _read_gold(row: Mapping[str, Any], where: str) -> Any:
    """What is right, for a scorer of one's own: a field of the row, or the last assistant turn; it may need none."""
    found: Sequence[Any] = [row[name] for name in _GOLD if row.get(name) is not None]
    if found:
        return found[0]
    messages = row.get("messages") or []
    return messages[-1] if messages and messages[-1]["role"] == "assistant" else None

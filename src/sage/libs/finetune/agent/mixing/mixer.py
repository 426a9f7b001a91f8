"""Several data sets as one: AgentTuning's mixture (Zeng et al., 2023) and the usual ways to weigh tasks.

weights --shares--> quotas --largest remainder--> rows to take per task --draw--> (task, row) numbers -> samples

Where we differ: AgentTuning draws each row's task at random, agent data with probability eta; here the shares of the
whole mix are exact to within a row. The shares are of rows. A loss that is a mean over tokens weighs tasks by their
tokens, so both shares are reported once something counts tokens.
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from typing import Any

import numpy as np

from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.mixing.config import MixerConfig
from sage.libs.finetune.agent.mixing.report import MixedTask, MixReport
from sage.libs.finetune.agent.mixing.shares import (
    Shares,
    apportion,
    apportion_in_parts,
    cap,
    capped_size,
    covering_size,
    exact,
    normalised,
)
from sage.libs.finetune.agent.mixing.strategies import STRATEGIES, Indices, draw
from sage.libs.finetune.agent.registry import suggestion
from sage.libs.finetune.agent.types import TaskSample

logger = logging.getLogger(__name__)

Row = Mapping[str, Any] | TaskSample
Counter = Callable[[dict[str, Any]], int]


class MultiTaskMixer:
    """Mixes the data sets of several tasks by weight.

    Args:
        config: Weights, strategy and size; see `MixerConfig`.
        count_tokens: Counts the tokens of a row (`TaskSample.data`); or a tokenizer with a chat template, by which
            those tokens of a conversation are counted that carry loss. None counts none.

    Attributes:
        report: What the last `mix` took of each task, None before.

    Example:
        >>> mixer = MultiTaskMixer(MixerConfig({"planning": 0.75, "general": 0.25}))
        >>> samples = mixer.mix({"planning": [{"n": n} for n in range(6)], "general": [{"n": 6}, {"n": 7}]})
        >>> mixer.get_task_distribution(samples)
        {'planning': 6, 'general': 2}
        >>> print(mixer.report)
        task     weight rows taken share epochs
        planning   0.75    6     6 75.0%   1.00
        general    0.25    2     2 25.0%   1.00
        all                8     8
    """

    def __init__(self, config: MixerConfig, count_tokens: Callable[..., Any] | None = None) -> None:
        self.config = config
        self.report: MixReport | None = None
        self._count_tokens = _counter(count_tokens)
        if not STRATEGIES[config.strategy].reads_weights and len({*config.task_weights.values()} - {0.0}) > 1:
            logger.warning("task_weights: strategy %s asks a weight only whether it is 0", config.strategy)

    def mix(self, task_datasets: Mapping[str, Iterable[Row]]) -> list[TaskSample]:
        """Mix data sets.

        Args:
            task_datasets: Rows of each task: dicts, or `TaskSample`s, whose `source` is kept. Every name must have a
                weight, and every weight its data set.

        Returns:
            The mix. `task_type` is the name in `task_datasets`, `data` the very object that was given (also where a row
            comes more than once).

        Raises:
            ConfigError: for names that are in one of `task_weights` and `task_datasets` only.
            DataError: for an empty data set with a weight, or a row that is neither dict nor `TaskSample`.

        Example:
            >>> row = {"text": "a"}
            >>> MultiTaskMixer(MixerConfig({"notes": 1.0})).mix({"notes": [row]})[0].data is row
            True
        """
        require_same_names(self.config.task_weights, task_datasets)
        rows = {name: list(checked_rows(name, task_datasets[name])) for name in self.config.task_weights}
        indices = self.mix_indices({name: len(found) for name, found in rows.items()})
        if self._count_tokens is not None:
            self._add_tokens(list(rows.values()), indices)
        starts = np.cumsum([0, *(len(found) for found in rows.values())])
        pool = list(chain.from_iterable(rows.values()))
        chosen = [pool[place] for place in (starts[indices.tasks] + indices.rows).tolist()]
        names = map(list(rows).__getitem__, indices.tasks.tolist())
        with _garbage_left():
            if any(isinstance(row, TaskSample) for row in pool):
                return [
                    TaskSample(name, row.data, row.source) if isinstance(row, TaskSample) else TaskSample(name, row)
                    for name, row in zip(names, chosen, strict=True)
                ]
            return list(map(TaskSample, names, chosen))

    def mix_indices(self, counts: Mapping[str, int]) -> Indices:
        """Which rows a mix takes, by number, in its order; `report` is set, without tokens.

        Args:
            counts: Rows of each task, in any order.

        Returns:
            The number of the task (in the order of `task_weights`) and of its row, for each place.

        Raises:
            ConfigError: as `mix`.
            DataError: for a task with a weight and no row.

        Example:
            >>> mixer = MultiTaskMixer(MixerConfig({"a": 0.5, "b": 0.5}, shuffle=False))
            >>> tasks, rows = mixer.mix_indices({"a": 2, "b": 1})
            >>> tasks.tolist(), rows.tolist()
            ([0, 0, 1, 1], [0, 1, 0, 0])
        """
        config = self.config
        require_same_names(config.task_weights, counts)
        found = [counts[name] for name in config.task_weights]
        for name, count in zip(config.task_weights, found, strict=True):
            if not count and any(weights.get(name) for weights in config.all_weights):
                raise DataError(f"data set '{name}': holds no rows and has a weight; give it rows, or weight 0")
        strategy, stages = STRATEGIES[config.strategy], self._stages(found)
        wanted, table = self._sizes(found, stages)
        self.report = self._report(found, _overall(stages), wanted, table)
        for note in self.report.warnings:
            logger.warning("%s", note)
        try:
            return draw(found, table, strategy.order, config.shuffle, np.random.default_rng(config.seed))
        except MemoryError:
            raise ConfigError(
                f"a mix of {self.report.rows:,} rows does not fit in memory; give total_size, lower max_repeats, or "
                "raise the smallest weight"
            ) from None

    def get_task_distribution(self, samples: Iterable[TaskSample]) -> dict[str, int]:
        """Rows per task, the tasks in the order of `task_weights`; others after them.

        Example:
            >>> mixer = MultiTaskMixer(MixerConfig({"a": 0.5, "b": 0.5}))
            >>> mixer.get_task_distribution([TaskSample("b", {}), TaskSample("b", {})])
            {'a': 0, 'b': 2}
        """
        found = dict.fromkeys(self.config.task_weights, 0)
        for sample in samples:
            found[sample.task_type] = found.get(sample.task_type, 0) + 1
        return found

    def stream(
        self, task_iterables: Mapping[str, Iterable[Row]], stopping_strategy: str = "first_exhausted"
    ) -> Iterator[TaskSample]:
        """The same for data larger than memory, one row at a time; see `mixing.streaming.stream`."""
        from sage.libs.finetune.agent.mixing.streaming import stream

        return stream(self.config, task_iterables, stopping_strategy)

    def _stages(self, counts: Sequence[int]) -> list[tuple[Fraction, Shares]]:
        """Each stage's part of the mix and the shares in it; one stage unless there is a curriculum."""
        config = self.config
        if config.stages is None:
            return [(Fraction(1), task_shares(config, counts))]
        parts = normalised([stage.get("share", 1) for stage in config.stages])
        return [
            (part, normalised([weights.get(name, 0) for name in config.task_weights]))
            for part, weights in zip(parts, config.all_weights, strict=True)
        ]

    def _table(self, stages: Sequence[tuple[Fraction, Shares]], total: int) -> list[list[int]]:
        """Rows to take by stage and task; of a mix with eta, both parts are exact as well."""
        parts = [name in (self.config.general_tasks or ()) for name in self.config.task_weights]
        numbers = [sorted({*parts}).index(part) for part in parts]
        sizes = apportion([part for part, _ in stages], total)
        return [apportion_in_parts(shares, numbers, size) for (_, shares), size in zip(stages, sizes, strict=True)]

    def _sizes(
        self, counts: Sequence[int], stages: Sequence[tuple[Fraction, Shares]]
    ) -> tuple[list[int], list[list[int]]]:
        """Rows per task that the weights ask for, and the table of what `max_repeats` leaves of that."""
        overall, most = _overall(stages), [cap(count, self.config.max_repeats) for count in counts]
        used = [task for task, share in enumerate(overall) if share]
        total = self.config.total_size or covering_size(counts, overall)
        table = self._table(stages, total)
        # Rounding stage by stage can be a row short, or over, for each of them.
        while self.config.total_size is None and (short := [t for t in used if _taken(table)[t] < counts[t]]):
            total += max(math.ceil((counts[task] - _taken(table)[task]) / overall[task]) for task in short)
            table = self._table(stages, total)
        wanted = _taken(table)
        if any(wanted[task] > most[task] for task in used):
            total = min(total, capped_size(counts, overall, self.config.max_repeats))
            table = self._table(stages, total)
        while any(_taken(table)[task] > most[task] for task in used):
            total -= max(1, total // 1000)
            table = self._table(stages, total)
        return wanted, table

    def _report(
        self, counts: Sequence[int], overall: Shares, wanted: Sequence[int], table: Sequence[Sequence[int]]
    ) -> MixReport:
        config, taken = self.config, _taken(table)
        tasks = [
            MixedTask(
                task=name,
                weight=weight,
                target=float(share),
                rows=count,
                taken=took,
                share=took / sum(taken),
                epochs=took / count if count else 0.0,
                unused=max(0, count - took),
                wanted=want,
                capped=want > cap(count, config.max_repeats),
            )
            for (name, weight), share, count, took, want in zip(
                config.task_weights.items(), overall, counts, taken, wanted, strict=True
            )
        ]
        return MixReport(config.strategy, config.seed, sum(taken), sum(wanted), config.max_repeats, tasks)

    def _add_tokens(self, rows: Sequence[Sequence[Row]], indices: Indices) -> None:
        """Count each row that is taken once, and put the sums into the report."""
        assert self.report is not None and self._count_tokens is not None
        sums = []
        for number, found in enumerate(rows):
            times = np.bincount(indices.rows[indices.tasks == number], minlength=len(found))
            sums.append(sum(int(times[at]) * self._tokens(found[at]) for at in np.flatnonzero(times).tolist()))
        whole = sum(sums)
        tasks = [
            replace(task, tokens=tokens, token_share=tokens / whole if whole else 0.0)
            for task, tokens in zip(self.report.tasks, sums, strict=True)
        ]
        self.report = replace(self.report, tasks=tasks)

    def _tokens(self, row: Any) -> int:
        assert self._count_tokens is not None
        return self._count_tokens(row.data if isinstance(row, TaskSample) else row)


def task_shares(config: MixerConfig, counts: Sequence[int]) -> Shares:
    """The share of each task, in the order of `task_weights`; with `eta` the strategy decides inside each part.

    Args:
        config: Weights, strategy, eta.
        counts: Rows per task.
    """
    rule, weights = STRATEGIES[config.strategy].shares, list(config.task_weights.values())
    if config.eta is None:
        return rule(counts, weights, config.temperature)
    eta = exact(config.eta)
    shares = [Fraction(0)] * len(weights)
    for share, general in ((eta, False), (1 - eta, True)):
        if not share:
            continue
        inside = [
            weight if (name in (config.general_tasks or ())) is general else 0.0
            for name, weight in config.task_weights.items()
        ]
        for task, part in enumerate(rule(counts, inside, config.temperature)):
            shares[task] += share * part
    return shares


def require_same_names(weights: Mapping[str, float], given: Iterable[str]) -> None:
    """Every weight its data set, and every data set its weight.

    Raises:
        ConfigError: naming the first that has no counterpart, and the nearest name.

    Example:
        >>> require_same_names({"planing": 1.0}, ["planning"])
        Traceback (most recent call last):
        sage.libs.finetune.agent.errors.ConfigError: task_weights: there is no data set 'planing'; did you mean \
'planning'? given: planning
    """
    names = list(given)
    for name in weights:
        if name not in names:
            raise ConfigError(
                f"task_weights: there is no data set '{name}'; {suggestion(name, names)}given: "
                f"{', '.join(map(str, names)) or 'none'}"
            )
    for name in names:
        if name not in weights:
            raise ConfigError(
                f"data set '{name}' has no weight; {suggestion(str(name), weights)}give it one in task_weights, "
                "0 to leave it out"
            )


def checked_rows(name: str, rows: Iterable[Row]) -> Iterator[Any]:
    """The rows of a data set as they come.

    Raises:
        DataError: for something that holds no rows, or a row that is neither dict nor `TaskSample`.
    """
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise DataError(f"data set '{name}': expected rows (dicts or TaskSamples), found {type(rows).__name__}")
    for number, row in enumerate(rows):
        if not isinstance(row, dict | TaskSample | Mapping):
            raise DataError(f"data set '{name}', row {number}: expected a dict or TaskSample, found {row!r:.80}")
        yield row


@contextmanager
def _garbage_left() -> Iterator[None]:
    """No garbage collection inside: over a million new samples it would go six times as long as making them takes."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _counter(given: Any) -> Counter | None:
    if not hasattr(given, "apply_chat_template"):
        count: Counter | None = given
        return count
    from sage.libs.finetune.agent.tokenization.render import IGNORED, render

    def loss_tokens(row: dict[str, Any]) -> int:
        return sum(label != IGNORED for label in render(row, given).labels)  # type: ignore[arg-type]

    return loss_tokens


def _overall(stages: Sequence[tuple[Fraction, Shares]]) -> Shares:
    """Shares of the whole mix."""
    columns = zip(*(shares for _, shares in stages), strict=True)
    return [
        sum((part * share for (part, _), share in zip(stages, column, strict=True)), Fraction(0)) for column in columns
    ]


def _taken(table: Sequence[Sequence[int]]) -> list[int]:
    """Rows per task, over all stages."""
    return [sum(column) for column in zip(*table, strict=True)]

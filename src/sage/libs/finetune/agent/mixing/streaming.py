"""A mix of data sets that fit no memory: one row at a time, by `datasets.interleave_datasets`.

Each row's task is drawn with its share as probability, as AgentTuning draws agent data with probability eta. Shares
therefore hold in expectation, not exactly, and numbers of rows are not known: strategies that need them, sizes, caps on
repeats and reports are for `MultiTaskMixer.mix`. Rows of a task come in their order; shuffle the files beforehand.
Equal seeds and data give equal streams, so `itertools.islice(stream, n, None)` goes on after n rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.mixing.config import MixerConfig
from sage.libs.finetune.agent.mixing.mixer import Row, checked_rows, require_same_names, task_shares
from sage.libs.finetune.agent.registry import suggestion
from sage.libs.finetune.agent.types import TaskSample

ONCE, ALL, ALL_ONCE = "first_exhausted", "all_exhausted", "all_exhausted_without_replacement"
STOPPING = (ONCE, ALL, ALL_ONCE)
_STRATEGIES = ("weighted", "balanced", "eta")


def stream(
    config: MixerConfig, task_iterables: Mapping[str, Iterable[Row]], stopping_strategy: str = ONCE
) -> Iterator[TaskSample]:
    """Mix rows as they come.

    Args:
        config: Weights, strategy (weighted, balanced or eta), seed.
        task_iterables: Rows of each task, dicts of JSON values or `TaskSample`s. Something that can be gone through
            once (an iterator) can only be used where no task begins again.
        stopping_strategy: `first_exhausted` ends with the first task that has no more rows; `all_exhausted` when every
            task has come to its end, the shorter ones beginning again; `all_exhausted_without_replacement` likewise,
            with none beginning again, so that the shares hold only until the first one ends.

    Returns:
        The mix, endless where a task that begins again has no end.

    Raises:
        ConfigError: for names without data or weight, what a stream cannot do, or when `datasets` is missing.
        DataError: on the way, for a data set with a weight and no rows, or a row that is neither dict nor `TaskSample`.

    Example:
        >>> config = MixerConfig({"a": 0.5, "b": 0.5})
        >>> rows = {"a": [{"n": n} for n in range(3)], "b": [{"text": "x"}]}
        >>> [sample.data for sample in stream(config, rows, "all_exhausted_without_replacement")]
        [{'text': 'x'}, {'n': 0}, {'n': 1}, {'n': 2}]
    """
    require_same_names(config.task_weights, task_iterables)
    if config.strategy not in _STRATEGIES:
        raise ConfigError(
            f"'strategy': {config.strategy} cannot be streamed, since it needs numbers of rows or an order; "
            f"take {', '.join(_STRATEGIES)}"
        )
    for name in ("total_size", "stages"):
        if getattr(config, name) is not None:
            raise ConfigError(f"'{name}': a stream has none; leave it out and take as many rows as are wanted")
    if stopping_strategy not in STOPPING:
        near = suggestion(stopping_strategy, STOPPING)
        raise ConfigError(f"stopping_strategy: unknown '{stopping_strategy}'; {near}known: {', '.join(STOPPING)}")
    shares = dict(zip(config.task_weights, task_shares(config, [1] * len(config.task_weights)), strict=True))
    taken = {name: float(share) for name, share in shares.items() if share}
    for name in taken:
        if stopping_strategy == ALL and isinstance(task_iterables[name], Iterator):
            raise ConfigError(f"data set '{name}' can be gone through once only; give a list, or another stopping")
    return _interleaved(taken, task_iterables, config.seed, stopping_strategy)


def _interleaved(
    shares: Mapping[str, float], rows: Mapping[str, Iterable[Row]], seed: int, stopping_strategy: str
) -> Iterator[TaskSample]:
    try:
        import datasets
    except ImportError:
        raise ConfigError("a stream of mixed data needs datasets: pip install 'sage-libs[streaming]'") from None
    # Rows as JSON: columns that the library finds itself leave out what the first rows of a task do not have.
    features = datasets.Features(
        {"task": datasets.Value("string"), "source": datasets.Value("string"), "row": datasets.Json()}
    )
    parts = [
        datasets.IterableDataset.from_generator(
            _fields, features=features, gen_kwargs={"rows": _Rows(name, rows[name])}
        )
        for name in shares
    ]
    mixed = datasets.interleave_datasets(
        parts, probabilities=[*shares.values()], seed=seed, stopping_strategy=stopping_strategy
    )
    return (TaskSample(found["task"], found["row"], found["source"]) for found in mixed)


class _Rows:
    """Rows of a task. `datasets` hashes the pickle of what it is given: here that of the name, so no row is copied."""

    def __init__(self, task: str, rows: Iterable[Row]) -> None:
        self.task, self.rows, self.begun = task, rows, False

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (self.task,)

    def __deepcopy__(self, memo: object) -> _Rows:
        return self


def _fields(rows: _Rows) -> Iterator[dict[str, Any]]:
    for row in checked_rows(rows.task, rows.rows):
        rows.begun = True
        if isinstance(row, TaskSample):
            yield {"task": rows.task, "source": row.source, "row": row.data}
        else:
            yield {"task": rows.task, "source": None, "row": row}
    if not rows.begun:  # an ended source is begun once more by `datasets`
        raise DataError(f"data set '{rows.task}': holds no rows and has a weight; give it rows, or weight 0")

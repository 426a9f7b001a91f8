"""Replay in the training loop: rows of the past beside the new ones of each step, so that they are not forgotten.

The new rows of a run come in the order, the batches and the steps they would have without replay. What is added:

- A step replays `continual_replay_ratio` rows for each new one. The fraction that is left over waits for the next step:
  at 0.25 steps of one row replay one row every fourth time. They are drawn without replacement from the buffer as it
  was before the step; a buffer that holds fewer gives all it has, and what is missing is not made up for.
- The loss of the step is the mean over all its trained tokens, those of replayed rows like the others.
- After the step its new rows are offered to the buffer (`continual.policies` says which stay), each row once: in the
  first epoch. So the buffer is a sample of the stream of rows, not of the epochs.

The number of micro-batches of a step stays what it was, since the schedule counts them: new and replayed rows together
are sorted so that those that begin alike (or are of like length) meet, and cut into as many parts of about as many
tokens. The buffer holds numbers into a pool: the rows of this run, then those carried over from an earlier one
(`continual_buffer_path`), rendered with this run's tokenizer and cut to this run's length. Of several processes each
has the same buffer and the same random numbers: all are told the rows of the step, draw the same, and take their share.

The state is part of each checkpoint, and at its end the run leaves `replay_buffer/`, with samples in place of numbers
and all that is known about the stream, so that the next run goes on with one stream.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.continual.learner import OnlineContinualLearner
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.preflight.faults import Fault, is_note
from sage.libs.finetune.agent.preflight.tokens import TokenChecks
from sage.libs.finetune.agent.selection.texts import task_of
from sage.libs.finetune.agent.sources.rows import read_sample
from sage.libs.finetune.agent.tokenization.render import IGNORED, render
from sage.libs.finetune.agent.tokenization.truncate import windows
from sage.libs.finetune.agent.training import processes
from sage.libs.finetune.agent.training.batching import EpochBatches
from sage.libs.finetune.agent.training.data import TokenRows, samples_hash
from sage.libs.finetune.agent.types import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

T = TypeVar("T")

_REHEARSED_EPOCHS = 2
"""In the first one the buffer fills, in the next it is as full as it gets."""


class Replay:
    """The replay buffer of a run, and what it puts into its steps.

    Args:
        config: Of which the `continual_` settings are read, and what says how rows are rendered.
        data: The rows of this run.
        tokenizer: With the chat template they were rendered with.
        allow: Kinds of faults that do not keep a carried row out, as for `training.data.token_rows`.

    Attributes:
        pool: All rows that can be replayed: this run's, under their own numbers, then the carried ones.
        manifest: Of the carried rows: where from, how many, why some were dropped, the stream so far, a hash. None
            without `continual_buffer_path`.
        rows_replayed: Rows that steps took from the buffer, all processes together.
        tokens_replayed: Their tokens.
        last_replayed: Rows that the newest step took.

    Raises:
        ConfigError: when the buffer that is carried on has another size or strategy than the settings.
        DataError: when it cannot be read.

    Example:
        >>> replay = Replay(config, data, tokenizer)  # doctest: +SKIP
        >>> batches = replay.mixed([[4, 7], [1, 2]], first_epoch=True, by_prefix=True)  # doctest: +SKIP
        >>> replay.step_done()  # doctest: +SKIP
    """

    def __init__(
        self,
        config: AgentSFTConfig,
        data: TokenRows,
        tokenizer: PreTrainedTokenizerBase,
        allow: Collection[str] = (),
    ) -> None:
        self._config, self._tokenizer = config, tokenizer
        self._own = len(data.rows)
        self.pool = data
        self.manifest: dict[str, Any] | None = None
        self._buffer = OnlineContinualLearner(
            config.continual_buffer_size, config.continual_replay_ratio, config.continual_strategy, config.seed
        )
        if config.continual_buffer_path is not None:
            self._carry_over(config.continual_buffer_path, allow)
        self._tasks = [task_of(sample) for sample in data.samples]
        self.rows_replayed = self.tokens_replayed = self.last_replayed = 0
        self._new = 0
        self._offered: list[int] = []
        self._losses: list[tuple[Sequence[int], Tensor]] = []

    def mixed(
        self, batches: Sequence[Sequence[int]], first_epoch: bool, by_prefix: bool, rank: int = 0
    ) -> list[list[int]]:
        """The micro-batches of a step with its replayed rows; as they were when there is nothing to replay.

        Args:
            batches: The numbers of this process's new rows, by micro-batch.
            first_epoch: Whether the buffer is offered these rows when the step is done.
            by_prefix: Whether rows in a micro-batch should begin alike; else they should be of like length.
            rank: Number of this process.
        """
        drawn = self._draw(_of_all([number for batch in batches for number in batch]), first_epoch)
        # In the order of their beginnings, so that what one process takes has more in common.
        drawn = self._in_order(drawn, by_prefix)
        start, stop = (len(drawn) * at // processes.count() for at in (rank, rank + 1))
        return self._spread(batches, drawn[start:stop], by_prefix)

    def saw(self, batch: Mapping[str, Any], nll: Tensor) -> None:
        """Remember the loss of each row of a micro-batch, where the buffer decides by it.

        Args:
            batch: With the numbers of its `rows`.
            nll: [N], of its trained tokens (`models.losses.supervised_nll`).
        """
        rows = batch["rows"]
        if self._config.continual_strategy != "surprise" or not self._offered or not rows:
            return
        owners = batch["owners"] if "owners" in batch else (batch["labels"][:, 1:] != IGNORED).nonzero()[:, 0]
        sums = torch.zeros(len(rows), device=nll.device).index_add_(0, owners, nll.detach())
        counts = torch.bincount(owners, minlength=len(rows)).clamp(min=1)
        self._losses.append((rows, sums / counts))

    def step_done(self) -> None:
        """Offer the new rows of the step to the buffer."""
        known = [(row, loss) for rows, means in self._losses for row, loss in zip(rows, means.tolist(), strict=True)]
        self._offer(dict(_of_all(known)) if self._config.continual_strategy == "surprise" else None)

    def state_dict(self) -> dict[str, Any]:
        """Buffer and counts; plain JSON, since the buffer holds numbers."""
        counts = {"new": self._new, "rows_replayed": self.rows_replayed, "tokens_replayed": self.tokens_replayed}
        return {"buffer": dict(self._buffer.state_dict()), **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` gave."""
        self._buffer.load_state_dict(state["buffer"])
        self._new = state["new"]
        self.rows_replayed, self.tokens_replayed = state["rows_replayed"], state["tokens_replayed"]

    def rehearsed(self, batches: EpochBatches, by_prefix: bool) -> list[list[list[int]]]:
        """The micro-batches of the first epochs, as training will make them; nothing is changed by it.

        One process rehearses alone, with its own share of the rows. Losses are not known yet, so with `surprise` they
        count as equal.

        Returns:
            One list of micro-batches an epoch.
        """
        before, epoch = self.state_dict(), batches.epoch
        accumulation = self._config.gradient_accumulation_steps
        epochs: list[list[list[int]]] = []
        coming = self._config.num_epochs
        if self._config.max_steps is not None:
            coming = math.ceil(self._config.max_steps * accumulation / len(batches))
        for batches.epoch in range(min(_REHEARSED_EPOCHS, coming)):
            numbers = list(batches)
            epochs.append([])
            for start in range(0, len(numbers), accumulation):
                step = numbers[start : start + accumulation]
                drawn = self._draw([number for batch in step for number in batch], batches.epoch == 0)
                epochs[-1] += self._spread(step, drawn, by_prefix)
                self._offer(dict.fromkeys(self._offered, 0.0))
        batches.epoch = epoch
        self.load_state_dict(before)
        return epochs

    def save(self, folder: Path) -> None:
        """Write the buffer with samples in place of row numbers, for a later run (`continual_buffer_path`).

        Raises:
            DataError: when the folder cannot be written to.
        """
        self._buffer.mapped(self._sample_of).save(folder)

    def _carry_over(self, path: Path, allow: Collection[str]) -> None:
        """Take an earlier run's buffer for this run's, and its rows into the pool."""
        before = OnlineContinualLearner.load(path)
        _require_same_buffer(before, self._buffer, path)
        checks = TokenChecks(self._tokenizer, self._config.max_seq_length)
        rows, samples, places = list(self.pool.rows), list(self.pool.samples), list(self.pool.places)
        faults: list[Fault] = []
        place = (f"{path}:{number}" for number in itertools.count(1))

        def rendered(item: Any) -> int | None:
            where = next(place)
            sample = read_sample(item, where)
            found = checks.check(where, sample)
            fatal = [fault for fault in found.faults if not is_note(fault.kind) and fault.kind not in allow]
            if fatal or not found.trained_tokens:
                faults.append((fatal or [Fault("untrained", where, "nothing of it is trained")])[0])
                return None
            rows.append(dict(found.fitted[0].rendered.row()))
            samples.append(sample)
            places.append(where)
            return len(rows) - 1

        self._buffer = before.mapped(rendered)
        self._buffer.replay_ratio = self._config.continual_replay_ratio
        if faults:
            logger.warning(
                "%s: %d of %d rows are left out of the buffer: they cannot be rendered, or do not fit; first %s: %s",
                path, len(faults), len(before), faults[0].where, faults[0].message,
            )  # fmt: skip
        self.pool = TokenRows(rows, samples, self.pool.manifest, places)
        self.manifest = {
            "reference": str(path), "rows": len(self._buffer), "rows_read": len(before),
            "found": dict(Counter(fault.kind for fault in faults)), "seen": before.seen, "tasks": self._buffer.tasks,
            "sha256": samples_hash(samples[self._own :]),
        }  # fmt: skip

    def _sample_of(self, number: int) -> Sample:
        """The sample of a row; of a window one that renders to this window."""
        sample, row = self.pool.samples[number], self.pool.rows[number]
        if self._config.truncation != "windows" or number >= self._own:
            return sample
        whole = render(sample, self._tokenizer)
        if len(whole.input_ids) <= self._config.max_seq_length:
            return sample
        found = windows(sample, self._tokenizer, self._config.max_seq_length, whole)
        here = (row["input_ids"], row["labels"])
        window = next(one for one in found if (one.rendered.input_ids, one.rendered.labels) == here)
        return {**sample, "messages": list(window.messages)}

    def _draw(self, new: Sequence[int], first_epoch: bool) -> list[int]:
        ratio = self._config.continual_replay_ratio
        due = _whole(ratio * (self._new + len(new))) - _whole(ratio * self._new)
        self._new += len(new)
        # In the order of their numbers the rows of a step are the same stream for any number of processes.
        self._offered = sorted(new) if first_epoch else []
        self._losses = []
        drawn: list[int] = self._buffer.draw(due) if due else []
        self.last_replayed = len(drawn)
        self.rows_replayed += len(drawn)
        self.tokens_replayed += sum(map(self._length, drawn))
        return drawn

    def _offer(self, losses: Mapping[int, float] | None) -> None:
        if self._offered:
            tasks = [self._tasks[number] for number in self._offered]
            given = None if losses is None else [losses[number] for number in self._offered]
            self._buffer.add(self._offered, tasks, given)
        self._offered, self._losses = [], []

    def _spread(self, batches: Sequence[Sequence[int]], drawn: Sequence[int], by_prefix: bool) -> list[list[int]]:
        if not drawn:
            return [list(batch) for batch in batches]
        numbers = self._in_order([*(number for batch in batches for number in batch), *drawn], by_prefix)
        total, done = sum(map(self._length, numbers)), 0
        parts: list[list[int]] = [[] for _ in batches]
        for number in numbers:  # each goes where its middle lies
            parts[(2 * done + self._length(number)) * len(parts) // (2 * total)].append(number)
            done += self._length(number)
        return parts

    def _in_order(self, numbers: Sequence[int], by_prefix: bool) -> list[int]:
        rows = self.pool.rows
        return sorted(numbers, key=lambda number: rows[number]["input_ids"] if by_prefix else [self._length(number)])

    def _length(self, number: int) -> int:
        return len(self.pool.rows[number]["input_ids"])


class OffersRows(TrainerCallback):
    """Tells the buffer that a step is done, before a checkpoint of it can be written."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The rows of the step are of the past now."""
        self._replay.step_done()


def in_words(config: AgentSFTConfig) -> str:
    """How rows are replayed, for tables and cards.

    Example:
        >>> in_words(AgentSFTConfig("m", "d", continual_strategy="balanced"))
        '0.25 for each new one, drawn from a balanced buffer of 2,048 rows'
    """
    return (
        f"{config.continual_replay_ratio:g} for each new one, drawn from a {config.continual_strategy} buffer of "
        f"{config.continual_buffer_size:,} rows"
    )


def _require_same_buffer(before: OnlineContinualLearner, now: OnlineContinualLearner, path: Path) -> None:
    settings = {"continual_buffer_size": "buffer_size", "continual_strategy": "selection_strategy"}
    changed = [
        f"{name} was {getattr(before, own)!r} and is {getattr(now, own)!r}"
        for name, own in settings.items()
        if getattr(before, own) != getattr(now, own)
    ]
    if changed:
        raise ConfigError(f"'continual_buffer_path': {path} was made with other settings: {'; '.join(changed)}")


def _whole(number: float) -> int:
    """Rows that are due in all; a product that is whole but for rounding counts as whole."""
    return int(number + 1e-9)


def _of_all(own: list[T]) -> list[T]:
    """What each process has, in one list; all have to ask."""
    if processes.count() == 1:
        return own
    import torch.distributed as together

    parts: list[list[T]] = [[] for _ in range(processes.count())]
    together.all_gather_object(parts, own)
    return [one for part in parts for one in part]

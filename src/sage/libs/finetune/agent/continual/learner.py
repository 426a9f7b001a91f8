"""A replay buffer for a stream of batches, so that a model does not forget what it learned before.

Each batch gets round(ratio x its rows) old rows behind its own (experience replay: Chaudhry et al., 2019, "On tiny
episodic memories"; Rolnick et al., 2019), drawn from the buffer without replacement; new rows are never dropped. A
batch enters the buffer after the step that was taken on it, else it could be replayed beside itself. Which rows keep a
place is a matter of `policies`.

The random numbers that decide who keeps a place and those that draw rows to replay are two streams: what the buffer
holds does not depend on how often it is asked.
"""

from __future__ import annotations

import copy
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from sage.libs.finetune.agent.continual.batches import append_rows, count_rows, is_tensor, take_rows
from sage.libs.finetune.agent.continual.policies import POLICIES, Placement
from sage.libs.finetune.agent.continual.storage import STATE_FILE, pack, read_folder, unpack, write_folder
from sage.libs.finetune.agent.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

_TASK_COLUMNS = ("task_type", "task")


class OnlineContinualLearner:
    """Mixes batches with rows of earlier ones.

    Args:
        buffer_size: Rows the buffer holds.
        replay_ratio: Replayed rows per new row. Their number is Python's `round(ratio x rows)`, which takes halves to
            the even number (at 0.25 a batch of 2 replays none, one of 6 two), and never more than are held.
        selection_strategy: Which rows keep a place: `reservoir` (a uniform sample of the stream), `balanced` (tasks
            that come seldom keep what they have), `ring` (the newest of each task), `surprise` (the highest losses of
            each task). A row's task is the batch's column `task_type`, or `task`; without either all rows are one
            task, `balanced` is a reservoir and `ring` the newest rows.
        seed: Seed of all choices; the same seed and stream give the same buffer.
        pad_id: Fills `input_ids` where rows of different lengths meet.

    Raises:
        ConfigError: for a size below 1, a ratio below 0 or an unknown strategy.

    Example:
        >>> learner = OnlineContinualLearner(buffer_size=4, replay_ratio=0.5)
        >>> for batch in ({"input_ids": [[1, 2], [3]]}, {"input_ids": [[4], [5, 6, 7]]}):
        ...     mixed = learner.mix_with_replay(batch)
        ...     # train on mixed here
        ...     learner.update_buffer(batch)
        >>> mixed
        {'input_ids': [[4], [5, 6, 7], [3]]}
        >>> len(learner)
        4
    """

    def __init__(
        self,
        buffer_size: int = 2048,
        replay_ratio: float = 0.25,
        selection_strategy: str = "reservoir",
        seed: int = 0,
        *,
        pad_id: int = 0,
    ) -> None:
        if isinstance(buffer_size, bool) or not isinstance(buffer_size, int) or buffer_size < 1:
            raise ConfigError(f"buffer_size: must be a whole number from 1 on, not {buffer_size!r}")
        numeric = isinstance(replay_ratio, int | float) and not isinstance(replay_ratio, bool)
        if not (numeric and math.isfinite(replay_ratio) and replay_ratio >= 0):
            raise ConfigError(f"replay_ratio: must be a number from 0 on, not {replay_ratio!r}")
        self.buffer_size = buffer_size
        self.replay_ratio = float(replay_ratio)
        self.selection_strategy = selection_strategy
        self.seed = seed
        self.pad_id = pad_id
        self._warned = False
        self._choices, self._draws = Random(f"choices {seed}"), Random(f"draws {seed}")
        self._policy = POLICIES[selection_strategy](buffer_size, self._choices)
        self._items: list[Any] = []
        self._tasks: list[str] = []

    def __len__(self) -> int:
        return len(self._items)

    @property
    def items(self) -> list[Any]:
        """What is held, by slot; not copies."""
        return list(self._items)

    @property
    def tasks(self) -> dict[str, int]:
        """Rows held of each task."""
        return dict(Counter(self._tasks))

    @property
    def seen(self) -> int:
        """Rows of the stream so far, held or not."""
        return self._policy.seen

    def mix_with_replay(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch and, behind its own rows, replayed ones; the buffer stays as it is.

        Args:
            batch: Columns of one length: lists of anything, tensors or arrays [B, ...].

        Returns:
            A new dict of columns of the same kinds, dtypes and devices. `input_ids`, `labels`, `attention_mask`,
            `weights`, `token_type_ids` and `position_ids` of tensors [B, T] are padded on the right to one length;
            lists keep their rows' lengths unless the batch's own lists are padded. `attention_mask` and `weights`
            are added where replayed rows have them and the batch has not, and the other way round.

        Raises:
            DataError: naming the column that does not fit (see `batches.append_rows`), or when the buffer holds items
                that are no rows of batches.
        """
        rows = self.draw(min(round(self.replay_ratio * count_rows(batch)), len(self)))
        if not all(isinstance(row, dict) for row in rows):
            raise DataError("the buffer holds items of add() that are no rows of a batch; use draw() for them")
        return append_rows(batch, rows, self.pad_id)

    def update_buffer(self, batch: Mapping[str, Any], losses: Any = None) -> None:
        """Offer the rows of a batch to the buffer; call it after the training step on the batch.

        Args:
            batch: As for `mix_with_replay`, without the replayed rows. What is held is copied: to the CPU, without
                gradients and, going by `attention_mask`, without padding.
            losses: One number a row (list, tensor or array); `surprise` needs them, others do not look at them.

        Raises:
            DataError: naming a column that has no rows or not as many as the others; for losses that are not one
                finite number a row.
            ConfigError: for `surprise` without losses.
        """
        count = count_rows(batch)
        column = next((batch[name] for name in _TASK_COLUMNS if name in batch), None)
        tasks = None if column is None else column.tolist() if is_tensor(column) else list(column)
        slots = self._offer(count, tasks, losses)
        self._store(slots, take_rows(batch, list(slots.values())))

    def add(
        self, items: Sequence[Any], tasks: Sequence[str | None] | None = None, losses: Sequence[float] | None = None
    ) -> None:
        """Offer items one by one, in the order given; they are held as they are, not copied.

        Args:
            items: Anything; to be saved, text, numbers, lists, dicts, tensors and arrays of them.
            tasks: Task of each; one task by default.
            losses: Loss of each; `surprise` needs them.

        Raises:
            DataError: when tasks or losses are not as many as items, or a loss is not finite.
            ConfigError: for `surprise` without losses.

        Example:
            >>> learner = OnlineContinualLearner(buffer_size=100)
            >>> learner.add(range(1_000_000))
            >>> len(learner), learner.seen
            (100, 1000000)
        """
        slots = self._offer(len(items), tasks, losses)
        self._store(slots, [items[number] for number in slots.values()])

    def draw(self, n: int) -> list[Any]:
        """Up to n items that are held, without replacement, in random order; not copies.

        Raises:
            ConfigError: for n below 0.
        """
        if n < 0:
            raise ConfigError(f"n: must be a whole number from 0 on, not {n}")
        return self._draws.sample(self._items, min(n, len(self)))

    def get_replay_samples(self, n: int) -> list[Any]:
        """Up to n rows that are held, without replacement, in random order; copies.

        Raises:
            ConfigError: for n below 0.

        Example:
            >>> learner = OnlineContinualLearner()
            >>> learner.update_buffer({"prompt": ["Add 1 and 2."], "answer": ["3"]})
            >>> learner.get_replay_samples(5)
            [{'prompt': 'Add 1 and 2.', 'answer': '3'}]
        """
        return copy.deepcopy(self.draw(n))

    def clear_buffer(self) -> None:
        """Forget the rows and the stream: the buffer is as it was when it was made."""
        fresh = OnlineContinualLearner(**self._settings())
        self._choices, self._draws, self._policy = fresh._choices, fresh._draws, fresh._policy
        self._items, self._tasks = [], []

    def mapped(self, change: Callable[[Any], Any]) -> OnlineContinualLearner:
        """The same buffer at the same point of the same stream, with other items in it.

        Args:
            change: Gives what is held in an item's place; None gives the item up.

        Example:
            >>> learner = OnlineContinualLearner()
            >>> learner.add(["one", "three"])
            >>> learner.mapped(len).items
            [3, 5]
        """
        changed = [change(item) for item in self._items]
        kept = [slot for slot, item in enumerate(changed) if item is not None]
        other = OnlineContinualLearner(**self._settings())
        other._choices.setstate(self._choices.getstate())
        other._draws.setstate(self._draws.getstate())
        other._policy.restore(self._policy.state())
        if len(kept) < len(changed):
            other._policy.keep(kept)
        other._items, other._tasks = [changed[slot] for slot in kept], [self._tasks[slot] for slot in kept]
        return other

    def state_dict(self) -> dict[str, Any]:
        """Buffer, stream and random numbers; each value is plain JSON or, for what items hold in tensors, a tensor.

        Raises:
            DataError: for an item that neither has a form for.
        """
        items, tensors = pack(self._items)
        return {
            "buffer_size": self.buffer_size,
            "selection_strategy": self.selection_strategy,
            "policy": self._policy.state(),
            "choices": _random_state(self._choices),
            "draws": _random_state(self._draws),
            "tasks": list(self._tasks),
            "items": items,
            **tensors,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of a buffer of the same size and strategy; ratio and pad id stay the own ones.

        Raises:
            ConfigError: when size or strategy differ.
            DataError: when the state is not whole; the buffer is then as it was.
        """
        self._restore(state, "the replay buffer's state", lambda number: f"item {number}")

    def save(self, folder: str | Path) -> None:
        """Write the buffer to a folder; a kill at any moment leaves the one that was there, or the new one.

        Raises:
            DataError: for an item that cannot be written, or a folder that cannot be written to.
        """
        write_folder(Path(folder), {**self._settings(), **self.state_dict()})

    @classmethod
    def load(cls, folder: str | Path) -> OnlineContinualLearner:
        """The buffer that `save` wrote, to go on with; tuples have become lists.

        Raises:
            DataError: naming the file, and the line, that is missing or damaged.
        """
        state, where = read_folder(Path(folder))
        path = Path(folder) / STATE_FILE
        try:
            names = ("buffer_size", "replay_ratio", "selection_strategy", "seed", "pad_id")
            learner = cls(**{name: state[name] for name in names})
        except (KeyError, TypeError, ConfigError) as error:
            raise DataError(f"{path}: does not have the settings of a replay buffer ({error}); restore it") from None
        learner._restore(state, str(path), where)
        return learner

    def _settings(self) -> dict[str, Any]:
        return {
            "buffer_size": self.buffer_size,
            "replay_ratio": self.replay_ratio,
            "selection_strategy": self.selection_strategy,
            "seed": self.seed,
            "pad_id": self.pad_id,
        }

    def _offer(self, count: int, tasks: Sequence[Any] | None, losses: Any) -> dict[int, int]:
        """Decide on rows: which slots change, and the number of the row that each then holds."""
        if tasks is not None and len(tasks) != count:
            raise DataError(f"tasks: {len(tasks)} given for {count} rows; give one a row")
        if losses is not None:
            losses = _numbers(losses)
            if len(losses) != count or not all(map(math.isfinite, losses)):
                raise DataError(
                    f"losses: expected {count} finite numbers, one a row; found {len(losses)}: {losses[:3]}"
                )
        elif self._policy.by_loss:
            raise ConfigError(
                f"selection_strategy {self.selection_strategy!r} needs the loss of each row: give "
                f"update_buffer(batch, losses=...), or take another strategy"
            )
        names = [""] * count if tasks is None else ["" if task is None else str(task) for task in tasks]
        if self._policy.by_task and not self._policy.by_loss and count and not self._warned and not any(names):
            self._warned = True
            logger.warning(
                "selection_strategy %r: the rows name no task (column task_type or task); all count as one task",
                self.selection_strategy,
            )
        placed: list[Placement] = self._policy.offer(names, losses)
        for number, slot in placed:
            if slot < len(self._tasks):
                self._tasks[slot] = names[number]
            else:
                self._tasks.append(names[number])
        return {slot: number for number, slot in placed}

    def _store(self, slots: Mapping[int, int], items: Sequence[Any]) -> None:
        for slot, item in zip(slots, items, strict=True):
            if slot < len(self._items):
                self._items[slot] = item
            else:
                self._items.append(item)

    def _restore(self, state: Mapping[str, Any], name: str, where: Callable[[int], str]) -> None:
        own = (self.buffer_size, self.selection_strategy)
        fresh = OnlineContinualLearner(**self._settings())
        try:
            found = (state["buffer_size"], state["selection_strategy"])
            if found != own:
                raise ConfigError(
                    f"{name}: is of a buffer of size {found[0]} with strategy {found[1]!r}, and this one has {own[0]} "
                    f"and {own[1]!r}; make the buffer with the settings it was saved with"
                )
            fresh._policy.restore(state["policy"])
            _set_random_state(fresh._choices, state["choices"])
            _set_random_state(fresh._draws, state["draws"])
            tasks, items = list(state["tasks"]), list(state["items"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            if isinstance(error, ConfigError):
                raise
            raise DataError(f"{name}: is not whole ({type(error).__name__}: {error}); restore it") from None
        if not len(items) == len(tasks) == fresh._policy.filled <= self.buffer_size:
            raise DataError(
                f"{name}: the policy holds {fresh._policy.filled} rows, and there are {len(items)} items of "
                f"{len(tasks)} tasks; restore it"
            )
        self._items, self._tasks = unpack(items, state, where), tasks
        self._choices, self._draws, self._policy = fresh._choices, fresh._draws, fresh._policy


def _numbers(losses: Any) -> list[float]:
    given = losses.detach().tolist() if is_tensor(losses) else losses
    try:
        return [float(loss.detach() if is_tensor(loss) else loss) for loss in given]
    except (TypeError, ValueError):
        raise DataError("losses: expected one number a row (not their mean); give the loss of each row") from None


def _random_state(random: Random) -> list[Any]:
    """The state as JSON: version, its words as one hexadecimal text, the Gaussian that was drawn ahead."""
    version, words, ahead = random.getstate()
    return [version, b"".join(word.to_bytes(4, "little") for word in words).hex(), ahead]


def _set_random_state(random: Random, state: Sequence[Any]) -> None:
    version, text, ahead = state
    octets = bytes.fromhex(text)
    words = tuple(int.from_bytes(octets[at : at + 4], "little") for at in range(0, len(octets), 4))
    random.setstate((version, words, ahead))

"""Which rows of a stream keep a place in a buffer of k slots: decisions about indices, rows unseen.

reservoir  Every row of the stream so far is held with the same probability k / n (Vitter's Algorithm R). Decided by
           Algorithm L (Li, 1994, "Reservoir-sampling algorithms of time complexity O(n(1 + log(N/n)))"): it draws how
           many rows to skip until the next one that is kept, so that a million rows cost a few thousand draws.
balanced   Class-balancing reservoir sampling (Chrysakis & Moens, 2020, "Online continual learning from imbalanced
           data") with tasks as classes: tasks that come seldom keep what they have, each task's rows are a uniform
           sample of that task. A task is full once it was the largest one. We count that from when the buffer is
           filled: by the letter, the stream's very first row makes its task the largest, and it could never grow.
ring       The newest rows of each task, in equal shares (Chaudhry et al., 2019, "On tiny episodic memories").
surprise   The rows of highest loss of each task, in equal shares (SuRe, arXiv:2511.22367). A loss is the one given
           with the row; it is not computed again while the row waits.

Equal shares of t tasks: the i-th task (from 0, by first appearance) is due (k + i) // t slots, so the newer ones get
what does not divide, and with more tasks than slots the newest k have one each. A new task makes the shares of the
others smaller, but a row above its task's share goes only when its slot is needed: the buffer stays full.

A decision depends on the rows before it and the random numbers, not on how the stream was cut into pieces.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from random import Random
from typing import Any, Protocol

from sage.libs.finetune.agent.registry import Registry

Placement = tuple[int, int]
"""A row's position among those offered, and the slot it takes; a later one takes the slot from an earlier one."""


class Policy(Protocol):
    """Decides which rows are held.

    Attributes:
        seen: Rows offered so far.
        filled: Slots taken.
        by_task: Whether the task of a row matters.
        by_loss: Whether losses are needed.
    """

    seen: int
    filled: int
    by_task: bool
    by_loss: bool

    def offer(self, tasks: Sequence[str], losses: Sequence[float] | None = None) -> list[Placement]:
        """Decide on the next rows of the stream, one task (and loss) each; slots are taken from 0 on."""

    def keep(self, slots: Sequence[int]) -> None:
        """Give up all rows but those in `slots`, whose slots are numbered anew in that order."""

    def state(self) -> dict[str, Any]:
        """Everything but the random numbers, as plain JSON."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""


class ReservoirPolicy:
    """A uniform sample of the stream.

    Rows that were given up (`keep`) leave their places empty until the stream's rows happen to be put there: all rows
    keep the same chance.

    Args:
        capacity: Slots.
        random: Source of the random numbers.

    Example:
        >>> ReservoirPolicy(2, Random(0)).offer([""] * 9)
        [(0, 0), (1, 1), (2, 1), (4, 1), (5, 1), (8, 0)]
    """

    by_task = by_loss = False

    def __init__(self, capacity: int, random: Random) -> None:
        self._capacity, self._random = capacity, random
        self.seen = self.filled = 0
        self._log_bound = 0.0  # log of the largest of the k smallest of n uniform keys, one key a row
        self._next = capacity - 1  # the row, counted from 0, that is kept next once the buffer is filled
        self._skip()

    def offer(self, tasks: Sequence[str], losses: Sequence[float] | None = None) -> list[Placement]:
        """Decide on the next rows; only their number matters."""
        begin, end = self.seen, self.seen + len(tasks)
        placed = []
        for row in range(begin, min(end, self._capacity)):
            placed.append((row - begin, self.filled))
            self.filled += 1
        while self._next < end:
            slot = min(self._random.randrange(self._capacity), self.filled)
            self.filled += slot == self.filled
            placed.append((self._next - begin, slot))
            self._skip()
        self.seen = end
        return placed

    def keep(self, slots: Sequence[int]) -> None:
        """Give up all rows but those in `slots`."""
        self.filled = len(slots)

    def state(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"seen": self.seen, "filled": self.filled, "log_bound": self._log_bound, "next": self._next}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self.seen, self.filled = int(state["seen"]), int(state["filled"])
        self._log_bound, self._next = float(state["log_bound"]), int(state["next"])

    def _skip(self) -> None:
        self._log_bound += math.log(_inside_unit(self._random)) / self._capacity
        skipped = math.log(_inside_unit(self._random)) / _log_of_complement(self._log_bound)
        self._next += math.floor(skipped) + 1


class _OneByOne:
    """What the policies by task share: each row is looked at, and free slots are taken before any row has to go."""

    by_task = True
    by_loss = False

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.seen = self.filled = 0

    def offer(self, tasks: Sequence[str], losses: Sequence[float] | None = None) -> list[Placement]:
        """Decide on the next rows."""
        if losses is None and self.by_loss:
            raise TypeError("this policy needs losses")
        placed = []
        for row, (task, loss) in enumerate(zip(tasks, repeat(0.0) if losses is None else losses, strict=False)):
            if (slot := self._place(task, loss)) is not None:
                placed.append((row, slot))
            self.seen += 1
        return placed

    def _place(self, task: str, loss: float) -> int | None:
        """The slot for one row, None when it is not held."""
        raise NotImplementedError

    def _free_slot(self) -> int | None:
        if self.filled == self._capacity:
            return None
        self.filled += 1
        return self.filled - 1


class BalancedPolicy(_OneByOne):
    """Class-balancing reservoir sampling, by task.

    Args:
        capacity: Slots.
        random: Source of the random numbers.

    Example:
        >>> policy = BalancedPolicy(4, Random(0))
        >>> [slot for _, slot in policy.offer(["often"] * 50)][:4]
        [0, 1, 2, 3]
        >>> len(policy.offer(["seldom"] * 2))
        2
    """

    def __init__(self, capacity: int, random: Random) -> None:
        super().__init__(capacity)
        self._random = random
        self._held: dict[str, list[int]] = {}
        self._offered: dict[str, int] = {}
        self._full: set[str] = set()

    def keep(self, slots: Sequence[int]) -> None:
        """Give up all rows but those in `slots`; the next rows of the stream fill the free ones."""
        number = {slot: new for new, slot in enumerate(slots)}
        self._held = {task: [number[slot] for slot in held if slot in number] for task, held in self._held.items()}
        self.filled = len(slots)

    def state(self) -> dict[str, Any]:
        """Plain JSON: of each task its name, rows offered, whether it is full, and its slots."""
        tasks = [[task, self._offered[task], task in self._full, list(held)] for task, held in self._held.items()]
        return {"seen": self.seen, "tasks": tasks}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self.seen = int(state["seen"])
        self._held = {task: [int(slot) for slot in slots] for task, _, _, slots in state["tasks"]}
        self._offered = {task: int(offered) for task, offered, _, _ in state["tasks"]}
        self._full = {task for task, _, full, _ in state["tasks"] if full}
        self.filled = sum(map(len, self._held.values()))

    def _place(self, task: str, loss: float) -> int | None:
        held = self._held.setdefault(task, [])
        self._offered[task] = self._offered.get(task, 0) + 1
        slot = self._free_slot()
        if slot is None and task in self._full:
            kept = self._random.random() * self._offered[task] < len(held)
            return held[self._random.randrange(len(held))] if kept else None
        held.append(self._evict() if slot is None else slot)
        if self.filled == self._capacity:
            self._full.update(self._largest())
        return held[-1]

    def _largest(self) -> list[str]:
        most = max(map(len, self._held.values()))
        return [task for task, held in self._held.items() if len(held) == most]

    def _evict(self) -> int:
        """Take the slot of a row drawn from the largest tasks."""
        largest = [self._held[task] for task in self._largest()]
        row, task = divmod(self._random.randrange(len(largest) * len(largest[0])), len(largest))
        held = largest[task]
        held[row], held[-1] = held[-1], held[row]
        return held.pop()


class _EqualShares(_OneByOne):
    """Tasks in equal shares; the first entry of a task's rows is the one it would give up first."""

    def __init__(self, capacity: int, random: Random) -> None:
        super().__init__(capacity)
        self._order: dict[str, int] = {}

    def _giver(self, task: str, held: Mapping[str, Sequence[object]]) -> str:
        """Who gives up a row for one of `task`: itself when it has its share, else the task most above its own."""

        def above(name: str) -> int:
            return len(held[name]) - (self._capacity + self._order[name]) // len(self._order)

        return task if above(task) >= 0 else max(self._order, key=above)


class RingPolicy(_EqualShares):
    """The newest rows of each task.

    Args:
        capacity: Slots.
        random: Not used.

    Example:
        >>> policy = RingPolicy(4, Random(0))
        >>> policy.offer(["a"] * 5)
        [(0, 0), (1, 1), (2, 2), (3, 3), (4, 0)]
        >>> policy.offer(["b"] * 3)
        [(0, 1), (1, 2), (2, 1)]
    """

    def __init__(self, capacity: int, random: Random) -> None:
        super().__init__(capacity, random)
        self._held: dict[str, deque[int]] = {}

    def keep(self, slots: Sequence[int]) -> None:
        """Give up all rows but those in `slots`; the next rows of the stream fill the free ones."""
        number = {slot: new for new, slot in enumerate(slots)}
        self._held = {task: deque(number[slot] for slot in held if slot in number) for task, held in self._held.items()}
        self.filled = len(slots)

    def state(self) -> dict[str, Any]:
        """Plain JSON: of each task its name and its slots, the oldest row first."""
        return {"seen": self.seen, "tasks": [[task, list(slots)] for task, slots in self._held.items()]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self.seen = int(state["seen"])
        self._held = {task: deque(map(int, slots)) for task, slots in state["tasks"]}
        self._order = {task: order for order, task in enumerate(self._held)}
        self.filled = sum(map(len, self._held.values()))

    def _place(self, task: str, loss: float) -> int | None:
        held = self._held.setdefault(task, deque())
        self._order.setdefault(task, len(self._order))
        slot = self._free_slot()
        if slot is None:
            given = self._held[self._giver(task, self._held)]
            if not given:  # more tasks than slots, and this one is not among the newest
                return None
            slot = given.popleft()
        held.append(slot)
        return slot


class SurprisePolicy(_EqualShares):
    """The rows of highest loss of each task; of equal losses the earlier row.

    Args:
        capacity: Slots.
        random: Not used.

    Example:
        >>> SurprisePolicy(2, Random(0)).offer(["a"] * 5, [1.0, 3.0, 2.0, 1.5, 9.0])
        [(0, 0), (1, 1), (2, 0), (4, 0)]
    """

    by_loss = True

    def __init__(self, capacity: int, random: Random) -> None:
        super().__init__(capacity, random)
        self._held: dict[str, list[tuple[float, int, int]]] = {}  # heaps of (loss, -row of the stream, slot)

    def keep(self, slots: Sequence[int]) -> None:
        """Give up all rows but those in `slots`; the next rows of the stream fill the free ones."""
        number = {slot: new for new, slot in enumerate(slots)}
        for task, held in self._held.items():
            self._held[task] = sorted((loss, age, number[slot]) for loss, age, slot in held if slot in number)
        self.filled = len(slots)

    def state(self) -> dict[str, Any]:
        """Plain JSON: of each task its name and a heap of loss, minus the row's number in the stream, and slot."""
        return {"seen": self.seen, "tasks": [[task, [list(row) for row in held]] for task, held in self._held.items()]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self.seen = int(state["seen"])
        self._held = {task: [(float(loss), int(age), int(slot)) for loss, age, slot in held] for task, held in
                      state["tasks"]}  # fmt: skip
        self._order = {task: order for order, task in enumerate(self._held)}
        self.filled = sum(map(len, self._held.values()))

    def _place(self, task: str, loss: float) -> int | None:
        held = self._held.setdefault(task, [])
        self._order.setdefault(task, len(self._order))
        slot = self._free_slot()
        if slot is None:
            giver = self._giver(task, self._held)
            lowest = self._held[giver]
            if not lowest or (giver == task and loss <= lowest[0][0]):
                return None
            slot = heapq.heappop(lowest)[2]
        heapq.heappush(held, (loss, -self.seen, slot))
        return slot


POLICIES = Registry[Callable[[int, Random], Policy]]("continual strategy")
"""Capacity and random numbers -> policy; the names are those of `AgentSFTConfig.continual_strategy`."""
POLICIES.add("reservoir", ReservoirPolicy)
POLICIES.add("balanced", BalancedPolicy)
POLICIES.add("ring", RingPolicy)
POLICIES.add("surprise", SurprisePolicy)


def _inside_unit(random: Random) -> float:
    """Uniform between 0 and 1, both left out."""
    return (random.getrandbits(52) + 0.5) / 2**52


def _log_of_complement(log_w: float) -> float:
    """log(1 - w) without loss for w near 0 or 1."""
    return math.log(-math.expm1(log_w)) if log_w > -0.7 else math.log1p(-math.exp(log_w))

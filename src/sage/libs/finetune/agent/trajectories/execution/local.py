"""Episodes on this machine: in turns in the caller's thread, or each in a thread of its own.

In turns: one after another, or `width` of them in lockstep for an agent that decides in batches. In threads: for
agents that wait for a server, and for episodes with a time limit. A thread that hangs cannot be stopped, only left, so
threads are daemons: they never keep the process alive.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Generator, Iterable
from itertools import islice
from queue import Empty, SimpleQueue

from sage.libs.finetune.agent.trajectories.episode import Episode, decide_together
from sage.libs.finetune.agent.trajectories.execution.stop import Stop
from sage.libs.finetune.agent.trajectories.protocols import Cast, Decide, batch_decider
from sage.libs.finetune.agent.types import AgentTrajectory


def in_turns(
    episodes: Iterable[Episode], cast: Cast, stop: Stop, *, width: int = 1, timeout: float | None = None
) -> Generator[AgentTrajectory]:
    """Play `width` episodes in lockstep; a batch of decisions cannot be interrupted, so time is up between two steps.

    Args:
        episodes: Taken from as there is room.
        cast: Who plays; with a width above 1 an agent that has `act_batch`.
        stop: When asked, no episode is started any more.
        width: Episodes going at once.
        timeout: Seconds an episode may take.

    Yields:
        Each trajectory the moment its episode ends.
    """
    waiting = iter(episodes)
    going: dict[Episode, float] = {}  # and when its time is up
    try:
        while not stop.over:
            for episode in islice(waiting, 0 if stop.asked else width - len(going)):
                going[episode] = math.inf if timeout is None else time.monotonic() + timeout
                episode.begin(cast)
            if not going:
                return
            decisions = _decisions([episode for episode in going if episode.ended is None], cast)
            for episode, until in list(going.items()):
                if episode.ended is None:
                    episode.advance(decisions[episode])
                if episode.ended is not None:
                    del going[episode]
                    yield episode.trajectory()
                elif time.monotonic() >= until:
                    del going[episode]
                    episode.leave()
                    yield episode.cut_off("timeout", _took_too_long(timeout))
    finally:
        for episode in going:
            episode.leave()


def in_threads(
    episodes: Iterable[Episode], cast: Cast, stop: Stop, *, width: int, timeout: float | None = None
) -> Generator[AgentTrajectory]:
    """Play `width` episodes at once, each in its thread; the arguments are those of `in_turns`.

    An episode whose time is up is recorded with what it had done; its thread is left behind, and whatever it was
    waiting for on the event loop is cancelled.
    """
    waiting = iter(episodes)
    running: dict[Episode, float] = {}  # and when its time is up
    over: SimpleQueue[Episode | None] = SimpleQueue()
    stop.wake = lambda: over.put(None)
    try:
        while True:
            for episode in islice(waiting, 0 if stop.asked else width - len(running)):
                running[episode] = math.inf if timeout is None else time.monotonic() + timeout
                threading.Thread(target=_play, args=(episode, cast, over), name="sage-episode", daemon=True).start()
            if not running or (stop.over and over.empty()):
                return
            stop.tell(len(running))
            ended = _next(over, min(stop.deadline, *running.values()))
            if ended in running:
                del running[ended]
                yield ended.trajectory()
            now = time.monotonic()
            for late in [episode for episode, until in running.items() if until <= now]:
                del running[late]
                done = late.ended is not None  # and is only closing its environment
                yield late.trajectory() if done else late.cut_off("timeout", _took_too_long(timeout))
    finally:
        for episode in running:
            episode.give_up()


def _decisions(episodes: list[Episode], cast: Cast) -> dict[Episode, Decide | None]:
    """What to advance each episode with: its share of one decision for all, or None to let it ask the agent itself."""
    if len(episodes) < 2:
        return dict.fromkeys(episodes)
    decide_batch = batch_decider(cast.make_agent())
    assert decide_batch is not None, "lockstep needs act_batch"
    return dict(zip(episodes, decide_together(episodes, decide_batch), strict=True))


def _play(episode: Episode, cast: Cast, over: SimpleQueue[Episode | None]) -> None:
    try:
        episode.play(cast)
    except BaseException as error:  # an agent that calls sys.exit ends its episode, and nobody waits for it
        episode.break_off(error)
    finally:
        over.put(episode)


def _next(over: SimpleQueue[Episode | None], until: float) -> Episode | None:
    """The next episode that ended, None when it is `until` or somebody asked to look up."""
    try:
        return over.get(timeout=None if until == math.inf else max(0.0, until - time.monotonic()))
    except Empty:
        return None


def _took_too_long(timeout: float | None) -> str:
    return f"it took longer than {timeout:g} s" if timeout is not None else ""

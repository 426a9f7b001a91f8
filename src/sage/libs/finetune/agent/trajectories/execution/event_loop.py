"""One background event loop for everything asynchronous that agents and environments do.

Episodes are plain sequential code; whatever they call may be a coroutine function. All coroutines of the process run
on the same loop, so that an asynchronous client keeps its connections from episode to episode, and a thread waits for
each result.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Awaitable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from sage.libs.finetune.agent.errors import TrajectoryError

_lock = threading.Lock()
_running: list[tuple[asyncio.AbstractEventLoop, threading.Thread]] = []
"""The loop and its thread once they are there; a child process after a fork starts its own."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_running.clear)


def submit(awaitable: Awaitable[Any]) -> Future[Any]:
    """Have the loop run it; the result is the future's, and cancelling the future cancels it.

    Raises:
        TrajectoryError: when called from the loop itself, which cannot wait for its own work.
    """
    loop, thread = _loop_and_thread()
    if threading.current_thread() is thread:
        if inspect.iscoroutine(awaitable):
            awaitable.close()
        raise TrajectoryError("an asynchronous agent or environment must not collect episodes itself; await instead")
    return asyncio.run_coroutine_threadsafe(_awaited(awaitable), loop)


def settled(value: object) -> object:
    """The value itself, or what it comes to when it is awaitable.

    Example:
        >>> async def add(one, two):
        ...     return one + two
        >>> settled(add(1, 2)), settled(3)
        (3, 3)
    """
    return finished(submit(value)) if inspect.isawaitable(value) else value


def finished(future: Future[Any]) -> object:
    """Wait for the future; an interrupted wait cancels it, so that nothing goes on unseen."""
    try:
        result = future.result()
    finally:
        future.cancel()  # does nothing to one that is done
    if isinstance(result, _Exit):
        raise result.error
    return result


@dataclass(frozen=True)
class _Exit:
    """What a coroutine raised to end the program: raised on the loop it would end the loop, and all wait forever."""

    error: BaseException


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    try:
        return await awaitable
    except (KeyboardInterrupt, SystemExit) as error:
        return _Exit(error)


def _loop_and_thread() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    with _lock:
        if not _running:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="sage-event-loop", daemon=True)
            thread.start()
            _running.append((loop, thread))
        return _running[0]

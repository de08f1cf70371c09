"""An event loop in a thread of its own, for calls that cost less when they are made in one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

R = TypeVar("R")
_lock = threading.Lock()
_loops: list[asyncio.AbstractEventLoop] = []


def run_in_loop(call: Callable[[], Awaitable[R]]) -> R:
    """Make a call within the loop, wait for its end and return or raise what it does; for use from any thread."""

    async def called() -> R:
        return await call()

    return asyncio.run_coroutine_threadsafe(called(), _loop()).result()


def _loop() -> asyncio.AbstractEventLoop:
    with _lock:
        if not _loops:
            _loops.append(asyncio.new_event_loop())
            # As a daemon it does not keep a program from ending.
            threading.Thread(target=_loops[0].run_forever, name="event-loop", daemon=True).start()
        return _loops[0]

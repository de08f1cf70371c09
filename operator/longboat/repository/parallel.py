"""Many small requests at once, with a bound on those under way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_batches(
    threads: int, batch: int, call: Callable[[T], R], items: Iterable[T], between: Callable[[], None] = lambda: None
) -> Iterator[R]:
    """Yield the result of each call, in order; at most `batch` are under way, `between` is called before each batch.

    The first failure ends it once the calls under way have ended. With one thread everything happens in this one.
    """
    waiting = iter(items)
    if threads == 1:
        while some := list(islice(waiting, batch)):
            between()
            yield from map(call, some)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="batch") as pool:
        while some := list(islice(waiting, batch)):
            between()
            yield from pool.map(call, some)

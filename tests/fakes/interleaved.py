"""Processes that share an object store, run one store operation at a time in an order that the test decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

from longboat.repository import RepositoryError
from longboat.repository.object_store import Data, ObjectInfo, ObjectStore

from .object_store import KilledError

R = TypeVar("R")


class Process:
    """Work that stands still before each of its store operations; it runs only while one of these methods does.

    `work` gets the store to use, in one thread. It is a coroutine by itself, a greenlet: threads would wait for the
    system's scheduler twice for every operation. After the end `result` or `error` is set; what is no error of the
    repository's family is raised here.
    """

    def __init__(self, store: ObjectStore, work: Callable[[ObjectStore], object]) -> None:
        self.result: object = None
        self.error: BaseException | None = None
        self.killed = False
        self._what = ""
        self._greenlet = greenlet(self._run)
        self._greenlet.switch(work, GatedStore(store, self))

    @property
    def ended(self) -> bool:
        """Tell whether the work has come to its end."""
        return bool(self._greenlet.dead)

    def step(self) -> bool:
        """Let one operation happen; False if the work has ended."""
        if self.ended:
            return False
        self._enter()
        return True

    def next_operation(self) -> str:
        """Return the operation before which it stands still, as `put <name>` or the like; empty if it has ended."""
        return "" if self.ended else self._what

    def run(self) -> None:
        """Let it come to its end."""
        while self.step():
            pass

    def kill(self) -> None:
        """End it here: no operation of it happens any more."""
        self.killed = True
        while not self.ended:
            self._enter()

    def gate(self, what: str, operation: Callable[[], R]) -> R:
        """Wait for the turn of an operation and do it."""
        assert getcurrent() is self._greenlet, f"{what}: a process has one thread"
        self._what = what
        self._greenlet.parent.switch()
        if self.killed:
            raise KilledError
        return operation()

    def _enter(self) -> None:
        # Whoever lets it go on is who it comes back to.
        self._greenlet.parent = getcurrent()
        self._greenlet.switch()

    def _run(self, work: Callable[[ObjectStore], object], store: ObjectStore) -> None:
        try:
            self.result = work(store)
        except (RepositoryError, KilledError) as error:
            self.error = error


class AtOnce(Executor):
    """In the place of a pool of threads: does what it is given at once, in the thread of a process."""

    def __init__(self, *_: object, **__: object) -> None:
        """Take what a pool is told."""

    def submit(self, call: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Call it; return what came of it."""
        future = Future[R]()
        try:
            future.set_result(call(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class GatedStore:
    """The store as a process sees it."""

    def __init__(self, store: ObjectStore, process: Process) -> None:
        self._store, self._gate = store, process.gate

    def put_new(self, name: str, data: Data) -> str:
        return self._gate(f"put {name}", lambda: self._store.put_new(name, bytes(data)))

    def put_if_match(self, name: str, data: Data, etag: str) -> str:
        return self._gate(f"replace {name}", lambda: self._store.put_if_match(name, bytes(data), etag))

    def get(self, name: str, max_size: int) -> bytes:
        return self._gate(f"get {name}", lambda: self._store.get(name, max_size))

    def get_range(self, name: str, offset: int, length: int) -> Data:
        return self._gate(f"get {name}", lambda: self._store.get_range(name, offset, length))

    def head(self, name: str) -> ObjectInfo:
        return self._gate(f"head {name}", lambda: self._store.head(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._gate(f"list {prefix}", lambda: iter(list(self._store.list(prefix))))

    def delete(self, name: str) -> None:
        self._gate(f"delete {name}", lambda: self._store.delete(name))

    def describe(self) -> str:
        return "interleaved memory"

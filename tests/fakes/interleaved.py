"""Processes that share an object store, run one store operation at a time in an order that the test decides."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

from longboat.repository import RepositoryError
from longboat.repository.object_store import Data, ObjectInfo, ObjectStore

from .object_store import KilledError

R = TypeVar("R")
_PATIENCE = 60.0  # Seconds without an operation after which a test is taken to hang.


class Process:
    """Work that runs in a thread of its own and stands still before each of its store operations.

    `work` gets the store to use and may use it from many threads. After the end `result` or `error` is set.
    """

    def __init__(self, store: ObjectStore, work: Callable[[ObjectStore], object]) -> None:
        self.result: object = None
        self.error: BaseException | None = None
        self.ended = self.killed = False
        self._waiting: deque[_Turn] = deque()
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, args=(work, GatedStore(store, self)), daemon=True)
        self._thread.start()

    def step(self) -> bool:
        """Let one operation happen; False if the work has ended."""
        with self._change:
            if not self._change.wait_for(lambda: self._waiting or self.ended, _PATIENCE):
                raise AssertionError("a process neither ends nor uses the store")
            if not self._waiting:
                return False
            turn = self._waiting.popleft()
            turn.allowed = True
            self._change.notify_all()
            self._change.wait_for(lambda: turn.over, _PATIENCE)
        return True

    def next_operation(self) -> str:
        """Return the operation before which it stands still, as `put <name>` or the like; empty if it has ended."""
        with self._change:
            if not self._change.wait_for(lambda: self._waiting or self.ended, _PATIENCE):
                raise AssertionError("a process neither ends nor uses the store")
            return self._waiting[0].what if self._waiting else ""

    def run(self) -> None:
        """Let it come to its end."""
        while self.step():
            pass
        self._thread.join(_PATIENCE)

    def kill(self) -> None:
        """End it here: no operation of it happens any more."""
        with self._change:
            self.killed = True
            self._change.notify_all()
        self._thread.join(_PATIENCE)

    def gate(self, what: str, operation: Callable[[], R]) -> R:
        """Wait for the turn of an operation and do it."""
        turn = _Turn(what)
        with self._change:
            self._waiting.append(turn)
            self._change.notify_all()
            self._change.wait_for(lambda: turn.allowed or self.killed)
            try:
                if self.killed:
                    raise KilledError
                return operation()
            finally:
                turn.over = True
                self._change.notify_all()

    def _run(self, work: Callable[[ObjectStore], object], store: ObjectStore) -> None:
        try:
            self.result = work(store)
        except (RepositoryError, KilledError) as error:
            self.error = error
        except BaseException as error:
            self.error = error
            raise
        finally:
            with self._change:
                self.ended = True
                self._change.notify_all()


class _Turn:
    def __init__(self, what: str) -> None:
        self.what, self.allowed, self.over = what, False, False


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

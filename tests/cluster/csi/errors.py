"""The one exception that the services raise on purpose, and the locks that refuse instead of waiting."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc


class CsiError(Exception):
    """An answer other than OK: `code` goes to the caller as gRPC status, the text as its message."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def invalid(message: str) -> CsiError:
    return CsiError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> CsiError:
    return CsiError(grpc.StatusCode.NOT_FOUND, message)


class Locks:
    """Named locks. CSI asks for ABORTED when an operation on the same object is still under way."""

    def __init__(self, patience: float = 2.0) -> None:
        """`patience`: seconds to wait before refusing, so that short overlaps do not cost a caller's back-off."""
        self._patience = patience
        self._held: set[str] = set()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, key: str) -> Iterator[None]:
        """Holds `key` for the block; raises CsiError(ABORTED) when another thread keeps it for too long."""
        with self._changed:
            if not self._changed.wait_for(lambda: key not in self._held, self._patience):
                raise CsiError(grpc.StatusCode.ABORTED, f"an operation on {key} is still under way; try again later")
            self._held.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._held.discard(key)
                self._changed.notify_all()

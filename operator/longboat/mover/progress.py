"""How far a mover is: single-line JSON on standard output, at most one line in two seconds."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable

INTERVAL = 2.0


def print_line(line: str) -> None:
    """Write a line to standard output at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Progress:
    """Counts bytes and reports them; safe to call from many threads.

    `done` of `total` are bytes of the disk, holes included; `read` and `stored` are bytes that were moved.
    """

    def __init__(
        self,
        total: int,
        emit: Callable[[str], None] = print_line,
        clock: Callable[[], float] = time.monotonic,
        stored: Callable[[], int] = lambda: 0,
    ) -> None:
        """Count towards `total`; `stored()` is asked whenever a line is due."""
        self.total, self.done, self.read = total, 0, 0
        self._emit, self._clock, self._stored = emit, clock, stored
        self._lock = threading.Lock()
        self._last = clock()

    def add(self, done: int = 0, read: int = 0) -> None:
        """Count bytes; print a line if one is due."""
        with self._lock:
            self.done += done
            self.read += read
            if self._clock() - self._last >= INTERVAL:
                self._print()

    def finish(self) -> None:
        """Print the last line."""
        with self._lock:
            self._print()

    def _print(self) -> None:
        self._last = self._clock()
        counts = {"bytesDone": min(self.done, self.total), "bytesTotal": self.total, "bytesRead": self.read}
        self._emit(json.dumps({"progress": {**counts, "bytesStored": self._stored()}}))

"""Deciding what is fetched before it is asked for: readers that go on where they were get a growing window."""

from __future__ import annotations

from dataclasses import dataclass

NEAR = 1 << 20  # Requests of one sequential reader come out of order, by less than this.
FIRST_WINDOW = 1 << 20
LAST_WINDOW = 8 << 20
STREAMS = 8  # Readers of one disk that are told apart: a file system reads its journal, its tables and several files.


@dataclass
class _Stream:
    """A reader: where its last read ended, how far is fetched for it, and how far ahead that may be; in bytes."""

    end: int
    ahead: int
    window: int = 0


class ReadAhead:
    """What is known of the readers of one disk; not safe to use from several threads at once."""

    def __init__(self) -> None:
        """Nobody has read yet."""
        self._streams: list[_Stream] = []

    def next(self, start: int, end: int) -> tuple[int, int] | None:
        """Take note of a read from `start` to `end`, and return which range to fetch ahead, if any.

        The range may lie beyond the end of the disk.
        """
        stream = next((each for each in self._streams if -NEAR <= start - each.end <= NEAR), None)
        if stream is None:
            self._streams = [*self._streams[1 - STREAMS :], _Stream(end, end)]
            return None
        # The streams used last come last, so that the others make room for new ones.
        self._streams.remove(stream)
        self._streams.append(stream)
        return _advance(stream, end)


def _advance(stream: _Stream, end: int) -> tuple[int, int] | None:
    if end <= stream.end:
        return None
    stream.end, stream.window = end, min(LAST_WINDOW, max(FIRST_WINDOW, 2 * stream.window))
    start, stop = max(stream.ahead, end), end + stream.window
    # Many small requests would cost more than they bring: half a window has to be used up first.
    if stop - start < stream.window // 2:
        return None
    stream.ahead = stop
    return start, stop

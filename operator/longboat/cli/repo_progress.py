"""How far a long command is, on standard error: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TextIO

from longboat.plan.quantities import size_text

_WIDTH = 30
_PLAIN_EVERY = 10.0


class Bar:
    """Shows the lines that a mover's Progress emits, with rate and time left."""

    def __init__(self, label: str, out: TextIO, clock: Callable[[], float]) -> None:
        """Begin to count the time."""
        self._label, self._out, self._clock = label, out, clock
        self._terminal, self._began, self._shown = out.isatty(), clock(), clock()

    def emit(self, line: str) -> None:
        """Show a line of Progress."""
        counts = json.loads(line)["progress"]
        self.show(counts["bytesDone"], counts["bytesTotal"])

    def show(self, done: int, total: int) -> None:
        """Show `done` of `total` bytes."""
        now = self._clock()
        if self._terminal:
            self._out.write(f"\r\x1b[K{self._text(done, total, now)}")
        elif now - self._shown >= _PLAIN_EVERY or done >= total:
            self._out.write(self._text(done, total, now) + "\n")
            self._shown = now
        self._out.flush()

    def close(self) -> None:
        """Leave the bar's line."""
        if self._terminal:
            self._out.write("\n")
            self._out.flush()

    def _text(self, done: int, total: int, now: float) -> str:
        share = done / total if total else 1.0
        rate = done / (now - self._began) if now > self._began else 0
        left = f", {_time_text((total - done) / rate)} left" if rate and done < total else ""
        filled = int(share * _WIDTH)
        bar = f"[{'#' * filled}{'.' * (_WIDTH - filled)}] " if self._terminal else ""
        counts = f"{size_text(done)} of {size_text(total)}"
        return f"{self._label}: {bar}{share * 100:.0f} %, {counts}, {size_text(int(rate))}/s{left}"


def _time_text(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"

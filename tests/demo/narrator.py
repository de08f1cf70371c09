"""Tells the story on a terminal: chapters, commands with their output, facts."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Narrator:
    """Prints to a stream; colours only on a terminal."""

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self._stream = stream
        self._colour = stream.isatty()
        self._began = time.monotonic()

    def chapter(self, title: str) -> None:
        """Begin a part of the story."""
        self._print("\n" + self._styled("1;36", f"── {title} "), f"({time.monotonic() - self._began:.0f} s)")

    def fact(self, text: str) -> None:
        """Tell what is seen."""
        self._print("   " + text)

    def command(self, line: str, output: str) -> None:
        """Show a command and what it printed."""
        self._print(self._styled("32", "   $ " + line))
        for each in output.rstrip().splitlines():
            self._print("     " + each)

    def good(self, text: str) -> None:
        """Tell what was checked and holds."""
        self._print("   " + self._styled("1;32", "✓ ") + text)

    def _styled(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text

    def _print(self, *parts: str) -> None:
        print(*parts, file=self._stream, flush=True)

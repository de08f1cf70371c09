#!/usr/bin/env python3
"""Draw docs/demo.svg, the picture in the README, from what `make demo` printed.

    make demo | tee build/demo.log && python3 scripts/demo_picture.py build/demo.log

Nothing is drawn that was not printed. What would not fit is left out: the first chapter, commands that are not in
COLUMNS and SHOWN, and the columns of tables that COLUMNS does not name. The last line of the picture says so.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "demo.svg"
# The columns that are drawn of what `kubectl get KIND` prints.
COLUMNS = {
    "backuppolicies": ("NAME", "TARGET", "SCHEDULE", "NEXT"),
    "disksnapshots": ("NAME", "DISK", "ORIGIN", "PHASE", "SIZE"),
    "diskbackups": ("NAME", "PHASE", "CONSISTENCY", "SAME MOMENT", "STORED", "AGE"),
    "restores": ("NAME", "SOURCE", "PHASE", "ATTACHED TO", "AGE"),
}
# Commands whose output is drawn as it is.
SHOWN = ("kubectl delete pod",)
LEFT_OUT = "(some commands and columns are left out; the rest is as printed by make demo)"
SIZE, LINE, MARGIN = 13, 18, 20
# The width of a character of every usual monospaced font is three fifths of its size, or a little more.
ADVANCE = 0.61
COLOURS = {"title": "#7dd3fc", "command": "#86efac", "good": "#4ade80", "text": "#e5e7eb", "output": "#a3aab5"}
Line = tuple[str, str]


def drawn(log: Iterable[str]) -> Iterator[Line]:
    """The lines to draw, each with its role (a key of COLOURS), of the lines of a log."""
    command: str | None = None
    table: list[str] = []
    chapters = 0
    for line in [*log, ""]:
        if command is not None and line.startswith("     "):
            table.append(line[5:])
            continue
        if command is not None:
            yield from _command(command, table)
        command, table = None, []
        chapters += line.startswith("── ")
        if line.startswith("The cluster is still running"):
            return
        if line.startswith("   $ "):
            command = line[5:]
        elif chapters > 1:
            yield from _told(line)


def _told(line: str) -> Iterator[Line]:
    if line.startswith("── "):
        yield "text", ""
        yield "title", re.sub(r"\s+\(\d+ s\)$", "", line)
    elif line.startswith("   ✓"):
        yield "good", line
    elif line.startswith("   "):
        yield "text", line


def _command(command: str, output: list[str]) -> Iterator[Line]:
    """A command with its output, or the part of it that fits."""
    kind = re.match(r"kubectl get (\w+)", command)
    if kind and kind[1] in COLUMNS:
        output = _columns(output, COLUMNS[kind[1]])
    elif not command.startswith(SHOWN):
        return
    yield "command", f"   $ {command}"
    yield from (("output", f"     {line}") for line in output)


def _columns(table: list[str], names: tuple[str, ...]) -> list[str]:
    """The named columns of a table as kubectl prints it."""
    found = [(each.group(), each.start()) for each in re.finditer(r"\S+(?: \S+)*", table[0])]
    ends = [start for _, start in found[1:]] + [max(map(len, table))]
    spans = {name: (start, end) for (name, start), end in zip(found, ends, strict=True)}
    return ["".join(line[slice(*spans[name])].ljust(spans[name][1] - spans[name][0]) for name in names).rstrip()
            for line in table]  # fmt: skip


def svg(lines: list[Line]) -> str:
    """The picture: light text on dark ground, so that it looks the same on pages of either kind."""
    width = round(max(len(text) for _, text in lines) * SIZE * ADVANCE) + 2 * MARGIN
    height = len(lines) * LINE + 2 * MARGIN
    font = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        "<title>Output of make demo</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#111827"/>',
        f'<g font-family="{font}" font-size="{SIZE}" xml:space="preserve">',
    ]
    body = [_text(number, *line) for number, line in enumerate(lines) if line[1]]
    return "\n".join([*head, *body, "</g>", "</svg>", ""])


def _text(number: int, role: str, text: str) -> str:
    below = MARGIN + LINE * number + SIZE
    return f'<text x="{MARGIN}" y="{below}" fill="{COLOURS[role]}">{escape(text, quote=False)}</text>'


def main() -> int:
    """Draw the log that the first argument names."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    lines = [*drawn(Path(sys.argv[1]).read_text().splitlines())][1:]
    if not any(role == "good" for role, _ in lines):
        print(f"{sys.argv[1]}: expected the output of a demo that went well, found no line with ✓", file=sys.stderr)
        return 1
    PICTURE.write_text(svg([*lines, ("text", ""), ("output", f"   {LEFT_OUT}")]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a step took, as a row of the table and as an object of the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MIB = 1 << 20


@dataclass(frozen=True)
class Figures:
    """One program in one case.

    `bytes` is what the CPU time is divided by: the data of the image, or the size of the device where that is read as
    a whole. `stored_bytes` and `puts` are what was added to the store; bytes are negative where more was freed. None
    is what can't be known of a program.
    """

    case: str
    tool: str
    bytes: int
    cpu_seconds: float
    wall_seconds: float
    peak_rss_mib: float
    bytes_read: int
    stored_bytes: int
    puts: int
    gets: int | None

    @property
    def cpu_ns_per_byte(self) -> float:
        """CPU time of all threads, user and system."""
        return self.cpu_seconds * 1e9 / self.bytes


def describe(figures: Figures) -> dict[str, Any]:
    """Return the object that the result holds."""
    return asdict(figures) | {"cpu_ns_per_byte": round(figures.cpu_ns_per_byte, 3)}


def table(figures: Sequence[Figures]) -> str:
    """Return the figures as a Markdown table."""
    columns: dict[str, Callable[[Figures], str]] = {
        "case": lambda each: each.case,
        "program": lambda each: each.tool,
        "CPU s": lambda each: f"{each.cpu_seconds:.2f}",
        "ns/B": lambda each: f"{each.cpu_ns_per_byte:.2f}",
        "wall s": lambda each: f"{each.wall_seconds:.1f}",
        "peak MiB": lambda each: f"{each.peak_rss_mib:.0f}",
        "read MiB": lambda each: f"{each.bytes_read / MIB:.0f}",
        "stored MiB": lambda each: f"{each.stored_bytes / MIB:.1f}",
        "puts": lambda each: f"{each.puts}",
        "gets": lambda each: "" if each.gets is None else f"{each.gets}",
    }
    return markdown([list(columns), *([show(each) for show in columns.values()] for each in figures)])


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first row is its head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    ruled = [rows[0], ["-" * width for width in widths], *rows[1:]]
    lines = (" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in ruled)
    return "\n".join(f"| {line} |" for line in lines)

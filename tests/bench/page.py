"""The tables of docs/explanation/performance.md, from the figures of performance.json beside it.

They stand between `<!-- begin NAME: … -->` and `<!-- end NAME -->`; everything else in the page is written by hand and
names no figure of that run. `make bench-plots` writes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from tests.bench.figures import MIB, Figures, markdown, table

CASES = ("full", "unchanged", "clustered", "scattered", "restore", "prune")
KEPT = ("full", "unchanged", "clustered", "scattered", "prune")
"""The cases after which a store is as large as it is in the end."""
OTHERS = {"restic": "longboat", "borg": "longboat", "rustic": "longboat", "restic-s3": "longboat-s3"}
"""Each other program, and the mover that does the same."""
_GROWING = ("full", "clustered", "scattered")
_SIMULATED = re.compile(r"(\w+)-(\d+)-gib")
_UNKNOWN = "not measured"
_KNOWN = [field.name for field in fields(Figures)]


class Run:
    """The figures of one run: one row of each program in each case."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take rows as `describe` makes them; those of other block sizes are not part of the comparison."""
        found = [Figures(**{name: row[name] for name in _KNOWN}) for row in rows if not row["tool"].endswith("k")]
        self.rows = [row for row in found if row.case in CASES]
        self.simulated = {each[1]: row for row in found if (each := _SIMULATED.fullmatch(row.case))}
        self._by_name = {(row.case, row.tool): row for row in self.rows}

    def __call__(self, case: str, tool: str) -> Figures:
        """Return a row; KeyError if there is none."""
        return self._by_name[case, tool]

    def stored(self, tool: str) -> int:
        """Return the bytes that a program's store has in the end; KeyError if it was not pruned."""
        return sum(self(case, tool).stored_bytes for case in KEPT)


@dataclass(frozen=True)
class Target:
    """A promise: what is looked at, its bound, and how it is calculated and shown."""

    what: str
    bound: float
    value: Callable[[Run], float]
    shown: str = "{:.2f}"
    at_least: bool = False

    def row(self, run: Run) -> list[str]:
        """Return a row of the table, which says so if the target was missed."""
        bound = ("≥ " if self.at_least else "≤ ") + f"{self.bound:,g}"
        try:
            value = self.value(run)
        except KeyError:
            return [self.what, bound, _UNKNOWN]
        missed = value < self.bound if self.at_least else value > self.bound
        return [self.what, bound, self.shown.format(value) + (": **missed**" if missed else "")]


def _cpu(case: str, tool: str) -> Callable[[Run], float]:
    return lambda run: run(case, tool).cpu_ns_per_byte


def _times(case: str, more: str, less: str) -> Callable[[Run], float]:
    return lambda run: run(case, more).cpu_seconds / run(case, less).cpu_seconds


def _puts(run: Run) -> float:
    full = run("full", "longboat")
    return full.puts * (1 << 40) / full.bytes


TARGETS = (
    Target("full to S3 over HTTPS, ns/B", 4, _cpu("full", "longboat-s3")),
    Target(
        "full to S3: CPU of restic, times the mover's", 4, _times("full", "restic-s3", "longboat-s3"), at_least=True
    ),
    Target("unchanged, image file, ns/B", 0.5, _cpu("unchanged", "longboat")),
    Target("unchanged, device, ns per byte of the device", 0.35, _cpu("unchanged", "longboat-device")),
    Target("1 % clustered, image file, ns/B", 0.6, _cpu("clustered", "longboat")),
    Target("1 % clustered, device, ns per byte of the device", 0.4, _cpu("clustered", "longboat-device")),
    Target(
        "1 % scattered: stored, % of the data",
        20,
        lambda run: 100 * run("scattered", "longboat").stored_bytes / run("scattered", "longboat").bytes,
        "{:.1f}",
    ),
    Target("restore to a file from a folder, ns/B", 3.5, _cpu("restore", "longboat")),
    Target("restore to a device from a folder, ns/B", 3.5, _cpu("restore", "longboat-device")),
    Target("restore to a file from S3, ns/B", 3.5, _cpu("restore", "longboat-s3")),
    Target(
        "two cores, full into a folder: times as fast as one",
        1.7,
        lambda run: run("full", "longboat").wall_seconds / run("full", "longboat-2-cores").wall_seconds,
        at_least=True,
    ),
    Target(
        "memory at most, MiB",
        256,
        lambda run: max(row.peak_rss_mib for row in run.rows if row.tool.startswith("longboat")),
        "{:.0f}",
    ),
    Target("memory at most of the 2 TiB, MiB", 256, lambda run: _simulated(run), "{:.0f}"),
    Target("PUTs per TiB of data", 32_000, _puts, "{:,.0f}"),
)


def _simulated(run: Run) -> float:
    if not run.simulated:
        raise KeyError("simulated")
    return max(row.peak_rss_mib for row in run.simulated.values())


def parts(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the text of every generated part of the page."""
    run = Run(rows)
    return {
        "figures": f"{_caption(run)}\n\n{table(run.rows)}",
        "simulated": _of_simulated(run),
        "targets": markdown([["", "target", "measured"], *(target.row(run) for target in TARGETS)]),
        "others": _beside_others(run),
    }


def fill(page: str, texts: Mapping[str, str]) -> str:
    """Put each text in its place; ValueError if the page has no place for one."""
    for name, text in texts.items():
        place = re.compile(rf"(<!-- begin {name}: [^>]*-->\n).*?(<!-- end {name} -->\n)", re.DOTALL)
        page, found = place.subn(lambda match, text=text: f"{match[1]}\n{text}\n\n{match[2]}", page)
        if found != 1:
            raise ValueError(f"expected one `<!-- begin {name}: … -->` with its end in the page, found {found}")
    return page


def _caption(run: Run) -> str:
    data = run("full", "longboat").bytes
    try:
        size = run("unchanged", "longboat-device").bytes / (1 << 30)
    except KeyError:
        return f"{data // MIB} MiB of data:"
    return f"An image of {size:g} GiB with {data // MIB} MiB of data:"


def _of_simulated(run: Run) -> str:
    rows = [[case, f"{row.cpu_seconds:.2f}", f"{row.peak_rss_mib:.0f}"] for case, row in run.simulated.items()]
    return markdown([["case", "CPU s", "peak MiB"], *rows]) if rows else f"It was {_UNKNOWN} in this run."


def _beside_others(run: Run) -> str:
    """How many times what the mover takes or stores each other program does."""
    taken = [(f"CPU, {case}", lambda tool, case=case: run(case, tool).cpu_seconds) for case in CASES]
    stored = [(f"stored, {case}", lambda tool, case=case: run(case, tool).stored_bytes) for case in _GROWING]
    compared = [*taken, *stored, ("stored in the end", run.stored)]
    return markdown([["", *OTHERS], *([name, *_ratios(value)] for name, value in compared)])


def _ratios(value: Callable[[str], float]) -> Sequence[str]:
    return [_ratio(value, other, mover) for other, mover in OTHERS.items()]


def _ratio(value: Callable[[str], float], other: str, mover: str) -> str:
    try:
        times = value(other) / value(mover)
    except KeyError:
        return ""
    return f"{times:.{2 if times < 1 else 1 if times < 10 else 0}f}"

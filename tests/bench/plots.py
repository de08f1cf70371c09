"""`make bench-plots`: the figures of docs/explanation/performance.json as pictures beside it.

    python -m tests.bench.plots [--take RESULT]

--take replaces the figures by those of a run (build/bench/data-path.json) first.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from tests.cluster.paths import CHECKOUT

mpl.use("Agg")
from matplotlib import pyplot as plt

FOLDER = CHECKOUT / "docs" / "explanation"
FIGURES = FOLDER / "performance.json"
CASES = ("full", "unchanged", "clustered", "scattered", "restore")
COLOURS = ("#1f6f8b", "#5aa9c4", "#9fd3e3", "#2e4057", "#c8553d", "#e0a458", "#8a8d91")
Row = dict[str, Any]


def main() -> None:
    """Draw every picture."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.plots", description=__doc__)
    parser.add_argument("--take", type=Path, help="a result to draw, and to keep beside the pictures")
    taken = parser.parse_args().take
    if taken:
        FIGURES.write_text(json.dumps(_with_block_sizes(json.loads(taken.read_text())), indent=1) + "\n")
    rows = [row for row in json.loads(FIGURES.read_text()) if row["case"] in CASES]
    every = [row for row in rows if not row["tool"].endswith("k")]
    # A second core changes the wall time only.
    compared = [row for row in every if not row["tool"].endswith("-cores")]
    draw(compared, "cpu", "CPU, ns per byte (one core; lower is better)", lambda row: float(row["cpu_ns_per_byte"]))
    stored = [row for row in compared if row["case"] != "restore"]
    draw(stored, "stored", "stored, share of the data", lambda row: 100 * row["stored_bytes"] / _data(rows), "%")
    draw(compared, "memory", "peak memory, MiB", lambda row: float(row["peak_rss_mib"]))
    draw(every, "wall", "wall time, s (other work on the same machine)", lambda row: float(row["wall_seconds"]))
    sizes = [row | {"tool": row["tool"].removeprefix("longboat-")} for row in rows if row["tool"].endswith("k")]
    if sizes:
        draw(sizes, "block-size-cpu", "CPU by block size, ns per byte", lambda row: float(row["cpu_ns_per_byte"]))
        stored = [row for row in sizes if row["case"] != "restore"]
        draw(stored, "block-size-stored", "stored by block size, share of the data", _share, "%")


def draw(rows: Sequence[Row], name: str, title: str, value: Callable[[Row], float], unit: str = "") -> None:
    """Write performance-<name>.png: a group of bars for each case, a bar for each program."""
    tools = list(dict.fromkeys(row["tool"] for row in rows))
    cases = [case for case in CASES if any(row["case"] == case for row in rows)]
    figure, axes = plt.subplots(figsize=(9, 4), dpi=110)
    width = 0.85 / len(tools)
    for number, tool in enumerate(tools):
        bars = {row["case"]: value(row) for row in rows if row["tool"] == tool}
        places = [index + (number - (len(tools) - 1) / 2) * width for index, case in enumerate(cases) if case in bars]
        drawn = axes.bar(
            places, [bars[c] for c in cases if c in bars], width, label=tool, color=COLOURS[number % len(COLOURS)]
        )
        axes.bar_label(drawn, fmt="%.3g" + unit.replace("%", "%%"), fontsize=6, rotation=90, padding=2)
    axes.set_xticks(range(len(cases)), cases)
    axes.set_title(title, fontsize=10, loc="left")
    axes.margins(y=0.18)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, ncols=min(4, len(tools)))
    figure.tight_layout()
    # Without the library's version in it, the same figures give the same file.
    figure.savefig(FOLDER / f"performance-{name}.png", metadata={"Software": None})
    plt.close(figure)


def _with_block_sizes(taken: list[Row]) -> list[Row]:
    """Return what a run has found, and what an earlier one has of other block sizes if this one has none."""
    sizes = [row for row in json.loads(FIGURES.read_text()) if row["tool"].endswith("k")]
    return taken if any(row["tool"].endswith("k") for row in taken) else taken + sizes


def _data(rows: Sequence[Row]) -> int:
    return int(next(row["bytes"] for row in rows if row["case"] == "full"))


def _share(row: Row) -> float:
    return 100 * float(row["stored_bytes"]) / float(row["bytes"])


if __name__ == "__main__":
    main()

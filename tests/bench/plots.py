"""`make bench-plots`: the figures of docs/explanation/performance.json as pictures beside it and as tables in the page.

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

from tests.bench import page
from tests.cluster.paths import CHECKOUT

mpl.use("Agg")
from matplotlib import pyplot as plt

FOLDER = CHECKOUT / "docs" / "explanation"
FIGURES = FOLDER / "performance.json"
LEFT = "after prune"
CASES = (*page.CASES, LEFT)
COLOURS = {
    "longboat": "#1f6f8b",
    "longboat-device": "#5aa9c4",
    "longboat-tracked": "#9fd3e3",
    "longboat-2-cores": "#12394a",
    "restic": "#c8553d",
    "borg": "#e0a458",
    "rustic": "#7a5c8e",
    "longboat-s3": "#3a9679",
    "restic-s3": "#e39a88",
}
OF_SIZES = ("#1f6f8b", "#5aa9c4", "#9fd3e3", "#c8553d", "#e0a458", "#8a8d91")
Row = dict[str, Any]


def main() -> None:
    """Write the tables and draw every picture."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.plots", description=__doc__)
    parser.add_argument("--take", type=Path, help="a result to draw, and to keep beside the pictures")
    taken = parser.parse_args().take
    if taken:
        FIGURES.write_text(json.dumps(_with_block_sizes(json.loads(taken.read_text())), indent=1) + "\n")
    figures = json.loads(FIGURES.read_text())
    text = FOLDER / "performance.md"
    text.write_text(page.fill(text.read_text(), page.parts(figures)))
    rows = [row for row in figures if row["case"] in CASES]
    _draw_programs([row for row in rows if not row["tool"].endswith("k")])
    _draw_sizes([row | {"tool": row["tool"].removeprefix("longboat-")} for row in rows if row["tool"].endswith("k")])


def _draw_programs(every: Sequence[Row]) -> None:
    # A second core changes the wall time only.
    compared = [row for row in every if not row["tool"].endswith("-cores")]
    draw(compared, "cpu", "CPU, ns per byte (one core; lower is better)", lambda row: float(row["cpu_ns_per_byte"]))
    data = int(next(row["bytes"] for row in every if row["case"] == "full"))
    draw(_growth(compared), "stored", "stored, share of the data", lambda row: 100 * row["stored_bytes"] / data, "%")
    draw(compared, "memory", "peak memory, MiB", lambda row: float(row["peak_rss_mib"]))
    draw(every, "wall", "wall time, s (idle machine)", lambda row: float(row["wall_seconds"]))


def _draw_sizes(rows: Sequence[Row]) -> None:
    if rows:
        draw(rows, "block-size-cpu", "CPU by block size, ns per byte", lambda row: float(row["cpu_ns_per_byte"]))
        stored = [row for row in rows if row["case"] in page.KEPT]
        draw(stored, "block-size-stored", "stored by block size, share of the data", _share, "%")


def _growth(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of backups and, for the prune, one of what the store has in the end."""
    kept = [row for row in rows if row["case"] in page.KEPT]
    pruned = [row["tool"] for row in kept if row["case"] == "prune"]
    left = {tool: sum(row["stored_bytes"] for row in kept if row["tool"] == tool) for tool in pruned}
    backups = [row for row in kept if row["case"] != "prune"]
    return backups + [{"case": LEFT, "tool": tool, "stored_bytes": size} for tool, size in left.items()]


def draw(rows: Sequence[Row], name: str, title: str, value: Callable[[Row], float], unit: str = "") -> None:
    """Write performance-<name>.png: a group of bars for each case, a bar for each program."""
    tools = list(dict.fromkeys(row["tool"] for row in rows))
    cases = [case for case in CASES if any(row["case"] == case for row in rows)]
    figure, axes = plt.subplots(figsize=(11, 4.5), dpi=110)
    width = 0.85 / len(tools)
    for number, tool in enumerate(tools):
        found = {row["case"]: value(row) for row in rows if row["tool"] == tool}
        bars = {case: found[case] for case in cases if case in found}
        places = [index + (number - (len(tools) - 1) / 2) * width for index, case in enumerate(cases) if case in bars]
        colour = COLOURS.get(tool) or OF_SIZES[number % len(OF_SIZES)]
        drawn = axes.bar(places, list(bars.values()), width, label=tool, color=colour)
        axes.bar_label(drawn, [_label(each) + unit for each in bars.values()], fontsize=6, rotation=90, padding=2)
    axes.set_xticks(range(len(cases)), cases)
    axes.set_title(title, fontsize=10, loc="left")
    axes.margins(y=0.14)
    axes.spines[["top", "right"]].set_visible(False)
    # Beside the title: there is no place among the bars that is always free.
    columns = min(5, len(tools))
    axes.legend(fontsize=7, frameon=False, ncols=columns, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
    figure.tight_layout()
    # Without the library's version in it, the same figures give the same file.
    figure.savefig(FOLDER / f"performance-{name}.png", metadata={"Software": None})
    plt.close(figure)


def _label(value: float) -> str:
    return f"{value:.3g}" if abs(value) >= 0.001 else "0"


def _with_block_sizes(taken: list[Row]) -> list[Row]:
    """Return what a run has found, and what an earlier one has of other block sizes if this one has none."""
    sizes = [row for row in json.loads(FIGURES.read_text()) if row["tool"].endswith("k")]
    return taken if any(row["tool"].endswith("k") for row in taken) else taken + sizes


def _share(row: Row) -> float:
    return 100 * float(row["stored_bytes"]) / float(row["bytes"])


if __name__ == "__main__":
    main()

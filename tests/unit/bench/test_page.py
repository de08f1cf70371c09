"""The page of performance says what was measured: its tables are those of the figures beside it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.bench.page import CASES, KEPT, OTHERS, TARGETS, Run, fill, parts
from tests.cluster.paths import CHECKOUT

FOLDER = CHECKOUT / "docs" / "explanation"


def _row(case: str, tool: str, **more: Any) -> dict[str, Any]:
    known = {"cpu_seconds": 1.0, "wall_seconds": 1.0, "peak_rss_mib": 100.0, "bytes_read": 5, "puts": 1, "gets": None}
    return {"case": case, "tool": tool, "bytes": 1 << 30, "stored_bytes": 1 << 20} | known | more


def _rows() -> list[dict[str, Any]]:
    tools = [*OTHERS, *dict.fromkeys(OTHERS.values()), "longboat-device", "longboat-2-cores"]
    return [_row(case, tool) for case in CASES for tool in tools] + [_row("full-2048-gib", "longboat-simulated")]


def test_the_tables_of_the_page_are_those_of_its_figures() -> None:
    page = (FOLDER / "performance.md").read_text()
    figures = json.loads((FOLDER / "performance.json").read_text())
    assert fill(page, parts(figures)) == page, "`make bench-plots` writes them"


def test_a_target_that_was_missed_is_said_to_be() -> None:
    rows = [_row(**each | {"cpu_seconds": 5.0}) if each["tool"] == "longboat-s3" else each for each in _rows()]
    lines = parts(rows)["targets"].splitlines()
    assert "| 4.66: **missed** |" in next(line for line in lines if "full to S3 over HTTPS" in line)
    assert "| 0.20: **missed** |" in next(line for line in lines if "CPU of restic" in line)
    assert "missed" not in next(line for line in lines if "memory at most, " in line)


def test_what_was_not_measured_is_no_target_that_was_met() -> None:
    rows = [_row("full", "longboat"), _row("unchanged", "longboat")]
    said = [target.row(Run(rows))[2] for target in TARGETS]
    assert said.count("not measured") == len(TARGETS) - 3  # An unchanged image, memory and PUTs are known.
    assert "It was not measured" in parts(rows)["simulated"]


def test_what_is_stored_in_the_end_is_what_came_less_what_went() -> None:
    stored = dict(zip(KEPT, (1000, 0, 10, 200, -300), strict=True))
    rows = [_row(case, "restic", stored_bytes=size) for case, size in stored.items()]
    assert Run(rows).stored("restic") == 910
    with pytest.raises(KeyError):
        Run(rows[:-1]).stored("restic")


def test_other_block_sizes_are_not_compared() -> None:
    assert "16k" not in parts([*_rows(), _row("full", "longboat-16k")])["figures"]


def test_a_page_that_has_lost_a_place_is_not_written() -> None:
    page = "<!-- begin one: x -->\nold\n<!-- end one -->\nby hand\n"
    assert fill(page, {"one": r"new \1"}) == "<!-- begin one: x -->\n\nnew \\1\n\n<!-- end one -->\nby hand\n"
    with pytest.raises(ValueError, match="begin two"):
        fill(page, {"two": ""})

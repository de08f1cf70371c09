"""The benchmark compares what it says: the same image each time, and every program's own figures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench import measure
from tests.bench.image import (
    BLOCK,
    CHANGED,
    MIB,
    Ranges,
    data_ranges,
    rewrite_clustered,
    rewrite_scattered,
    write_image,
)

SIZE = 24 * MIB


def _blocks(path: Path) -> list[bytes]:
    data = path.read_bytes()
    return [data[start : start + BLOCK] for start in range(0, len(data), BLOCK)]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A small image."""
    write_image(tmp_path / "disk.img", SIZE)
    return tmp_path / "disk.img"


def test_the_image_has_data_and_holes(image: Path) -> None:
    data = sum(length for _, length in data_ranges(image))
    assert image.stat().st_size == SIZE
    assert 0.2 * SIZE < data < 0.9 * SIZE
    with image.open("rb") as file:
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) < SIZE


@pytest.mark.parametrize("rewrite", [rewrite_scattered, rewrite_clustered])
def test_one_percent_of_the_blocks_with_data_is_rewritten_and_no_hole(
    rewrite: Callable[[Path], Ranges], image: Path, tmp_path: Path
) -> None:
    shutil.copy(image, before := tmp_path / "before.img")
    data = sum(length for _, length in data_ranges(image))
    told = sum(length for _, length in rewrite(image))
    pairs = list(zip(_blocks(before), _blocks(image), strict=True))
    changed = [old for old, new in pairs if old != new]
    assert len(changed) * BLOCK == told
    # Stretches may meet, or reach into what was chosen before.
    assert 0.5 * CHANGED * data < told <= CHANGED * data + 2 * MIB
    holes = {at // BLOCK for at in range(0, SIZE, BLOCK)} - {
        each for at, length in data_ranges(before) for each in range(at // BLOCK, (at + length) // BLOCK)
    }
    assert not any(any(pairs[each][1]) for each in holes)


def _measured(*command: str) -> dict[str, float]:
    launcher = [sys.executable, "-I", "-S", str(measure.__file__), *command]
    done = subprocess.run(launcher, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def test_peaks_of_memory_are_the_programs_own() -> None:
    ballast = bytearray(os.urandom(1)) * (200 * MIB)
    assert _measured("true")["peak_rss_mib"] < 30 < len(ballast) / MIB


def test_failures_of_a_program_are_seen() -> None:
    assert _measured("sh", "-c", "echo noise; exit 3")["exit_code"] == 3

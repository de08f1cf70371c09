"""The benchmark compares what it says: the same image each time, and every program's own figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import measure
from tests.bench.image import BLOCK, MIB, REWRITTEN, rewrite_blocks, write_image

SIZE = 24 * MIB


def _blocks(path: Path) -> list[bytes]:
    data = path.read_bytes()
    return [data[start : start + BLOCK] for start in range(0, len(data), BLOCK)]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A small image."""
    write_image(tmp_path / "disk.img", SIZE)
    return tmp_path / "disk.img"


def test_the_image_is_the_same_each_time_and_has_holes(image: Path, tmp_path: Path) -> None:
    data = write_image(tmp_path / "again.img", SIZE)
    assert image.read_bytes() == (tmp_path / "again.img").read_bytes()
    assert image.stat().st_size == SIZE
    assert 0.2 * SIZE < data < 0.8 * SIZE
    with image.open("rb") as file:
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) < SIZE


def test_one_percent_of_the_blocks_with_data_is_rewritten_and_no_hole(image: Path, tmp_path: Path) -> None:
    data = write_image(tmp_path / "before.img", SIZE)
    rewritten = rewrite_blocks(image, SIZE)
    pairs = list(zip(_blocks(tmp_path / "before.img"), _blocks(image), strict=True))
    changed = [(old, new) for old, new in pairs if old != new]
    assert len(changed) * BLOCK == rewritten == int(data / BLOCK * REWRITTEN) * BLOCK > 0
    assert all(any(old) for old, _ in changed)


def _measured(*command: str) -> dict[str, float]:
    launcher = [sys.executable, "-I", "-S", str(measure.__file__), *command]
    done = subprocess.run(launcher, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def test_peaks_of_memory_are_the_programs_own() -> None:
    ballast = bytearray(os.urandom(1)) * (200 * MIB)
    assert _measured("true")["peak_bytes"] < 30 * MIB < len(ballast)


def test_failures_of_a_program_are_seen() -> None:
    assert _measured("sh", "-c", "echo noise; exit 3")["exit_code"] == 3

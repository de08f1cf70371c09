"""Whatever lies in the bucket: readers end, with an error of the repository's family, in little memory."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.object_store import MemoryStore

from .hostile import Mutator, read_everything, seed_repository
from .seeds import PARTS, seeds_of

_MORE_KIB = 400 << 10  # What readers may need beyond what they have used: far less than any bomb of the mutator.


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemoryStore, list[str]]:
    return seed_repository(tmp_path_factory.mktemp("seed"))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder in memory where there is one: a restore waits for the disk, and here thousands would."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as name:
        yield Path(name)


def hunt(seed: tuple[MemoryStore, list[str]], folder: Path, numbers: range) -> None:
    """Read as many hostile repositories; any other error than the repository's fails with the number of its seed."""
    store, manifests = seed
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in numbers:
        world = store.copy()
        mutator = Mutator(world, number)
        for _ in range(mutator.random.randint(1, 3)):
            (mutator.raw if number % 2 else mutator.sealed)()
        # A folder of its own for each, or the look for what lies outside would take ever longer.
        with tempfile.TemporaryDirectory(dir=folder) as own:
            target = Path(own) / "target"
            target.mkdir()
            try:
                read_everything(world, manifests, target)
            except Exception as error:
                raise AssertionError(f"seed {number}: {type(error).__name__}: {error}") from error
            outside = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".disk.img")]
            assert outside == [], f"seed {number}"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < _MORE_KIB, f"{grown} KiB more were needed"


def test_untouched_repository_is_read_without_errors(seed: tuple[MemoryStore, list[str]], tmp_path: Path) -> None:
    assert read_everything(seed[0].copy(), seed[1], tmp_path) == []


def test_hostile_repositories_harm_no_reader(seed: tuple[MemoryStore, list[str]], folder: Path) -> None:
    hunt(seed, folder, range(250))


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
def test_tens_of_thousands_of_hostile_repositories_harm_no_reader(
    seed: tuple[MemoryStore, list[str]], folder: Path, part: int
) -> None:
    hunt(seed, folder, seeds_of(part))

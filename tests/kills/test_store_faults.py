"""Whatever the store does at any operation: what is there stays, a retry succeeds, sound data is not called damaged."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from longboat.repository import RepositoryError, verify
from longboat.repository.errors import BucketNotFoundError, CredentialsError
from tests.fakes.object_store import LASTING, FaultyStore, MemoryStore
from tests.kills.test_faults import two_versions
from tests.unit.mover.disks import export, repository_in, restore
from tests.unit.mover.test_damage import NOW

FAULTS = ["fails", "acknowledgement-lost", "truncated", "duplicated", "bucket-gone", "credentials-changed"]


@pytest.mark.parametrize("fault", ["truncated", "duplicated", "bucket-gone", "credentials-changed"])
def test_export(tmp_path: Path, fault: str) -> None:
    store, key, manifest, before, folder = two_versions(tmp_path)
    after = (folder / "disk.img").read_bytes()
    counter = FaultyStore(store.copy())
    export(counter, key, folder, "two", 2)
    for at in range(0, counter.operations, 3 if fault in LASTING else 1):
        world = store.copy()
        with contextlib.suppress(RepositoryError):
            done = export(FaultyStore(world, fault, at), key, folder, "two", 2)
            assert restore(world, key, done.manifest, tmp_path)[0] == after
        assert restore(world, key, manifest, tmp_path)[0] == before
        assert restore(world, key, export(world, key, folder, "two", 2).manifest, tmp_path)[0] == after


@pytest.mark.parametrize("fault", FAULTS)
def test_restore(tmp_path: Path, fault: str) -> None:
    store, key, manifest, before, _ = two_versions(tmp_path)
    counter = FaultyStore(store)
    restore(counter, key, manifest, tmp_path)
    for at in range(counter.operations):
        with contextlib.suppress(RepositoryError):
            assert restore(FaultyStore(store, fault, at), key, manifest, tmp_path)[0] == before
        # What was restored is removed by the helper, so that an image that is left is one that is not complete.
        assert not list(tmp_path.glob("restored-*/disk.img"))


@pytest.mark.parametrize("fault", FAULTS)
def test_verify(tmp_path: Path, fault: str) -> None:
    store, _, _, _, _ = two_versions(tmp_path)
    counter = FaultyStore(store.copy())
    verify(repository_in(counter), share=100, now=NOW)
    for at in range(counter.operations):
        world = store.copy()
        with contextlib.suppress(RepositoryError):
            report = verify(repository_in(FaultyStore(world, fault, at)), share=100, now=NOW)
            assert (report.state, report.recorded) == ("ok", ())
        assert world.objects == store.objects


@pytest.mark.parametrize(
    ("fault", "error"), [("bucket-gone", BucketNotFoundError), ("credentials-changed", CredentialsError)]
)
def test_what_lasts_is_told_by_its_own_name(tmp_path: Path, fault: str, error: type[RepositoryError]) -> None:
    store, key, manifest, _, folder = two_versions(tmp_path)
    for at in (0, 2, 5):
        with pytest.raises(error):
            export(FaultyStore(store.copy(), fault, at), key, folder, "two", 2)
        with pytest.raises(error):
            restore(FaultyStore(store, fault, min(at, 3)), key, manifest, tmp_path)
        with pytest.raises(error):
            verify(repository_in(FaultyStore(store, fault, at)), share=100, now=NOW)


def test_damage_that_could_not_be_recorded_for_sure_is_recorded_by_the_next_run(tmp_path: Path) -> None:
    store, _, _, _, _ = two_versions(tmp_path)
    del store.objects[next(name for name in store.objects if "/packs/" in name)]
    counter = FaultyStore(store.copy())
    assert len(verify(repository_in(counter), share=0, now=NOW).recorded) == 1
    for fault in ("fails", "acknowledgement-lost"):
        for at in range(counter.operations):
            world: MemoryStore = store.copy()
            with contextlib.suppress(RepositoryError):
                verify(repository_in(FaultyStore(world, fault, at)), share=0, now=NOW)
            verify(repository_in(world), share=0, now=NOW)
            assert len([name for name in world.objects if "/damage/" in name]) == 1

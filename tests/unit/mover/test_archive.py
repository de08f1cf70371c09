"""A volume of small files comes back as it was, and neither links nor a forged archive lead out of it."""

from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longboat.mover import archive
from longboat.mover.archive import pack, unpack
from longboat.mover.errors import (
    ArchiveDamagedError,
    ArchiveTooLargeError,
    JobError,
    SourceForbiddenError,
    TargetExistsError,
)
from longboat.mover.restore_disk import run_restore
from longboat.mover.results import ExportResult
from longboat.repository.damage import Damage, record_damage
from longboat.repository.errors import DamagedError
from longboat.repository.layout import Kind, pack_name
from tests.fakes.object_store import MemoryStore

from .disks import PATH, export, repository_in, restore_job
from .test_damage import frames_of

MOVER = 107


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A volume as KubeVirt makes it for a machine's TPM and EFI variables."""
    folder = tmp_path / "state"
    (folder / "swtpm" / "tpm2").mkdir(parents=True)
    (folder / "nvram").mkdir(mode=0o750)
    (folder / "swtpm" / "tpm2" / "tpm2-00.permall").write_bytes(os.urandom(9000))
    (folder / "nvram" / "db_VARS.fd").write_bytes(b"\xff" * 540_672)
    (folder / "nvram" / "leer").write_bytes(b"")
    (folder / "swtpm" / ("ä" * 90 + "\udcff")).write_text("a long name, not all of it text")
    (folder / "nvram" / "db_VARS.fd").chmod(0o640)
    os.utime(folder / "swtpm", (1_700_000_000, 1_700_000_000))
    return folder


def tree(folder: Path) -> dict[str, tuple[int, int, int, int, bytes]]:
    found = {}
    for path in sorted(folder.rglob("*")):
        info = path.stat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = (info.st_mode, info.st_uid, info.st_gid, int(info.st_mtime), content)
    return found


def back_up(store: MemoryStore, folder: Path, name: str = "one", number: int = 1) -> ExportResult:
    return export(store, repository_in(store).master_key, folder, name, number, content="Archive")


def test_files_come_back_with_names_modes_owners_times_and_content(state: Path, tmp_path: Path) -> None:
    store = MemoryStore()
    result = back_up(store, state)
    target = tmp_path / "restored"
    (target / "lost+found").mkdir(parents=True)
    job = restore_job(repository_in(store).master_key, result.manifest, target, content="Archive")
    run_restore(job, store, lambda _: None)
    (target / "lost+found").rmdir()
    assert tree(target) == tree(state)
    assert (target / "swtpm").stat().st_mtime == 1_700_000_000


def test_same_files_are_stored_once(state: Path) -> None:
    store = MemoryStore()
    assert back_up(store, state).stored_bytes > 0
    again = back_up(store, state, "two", 2)
    assert (again.mode, again.stored_bytes) == ("Incremental", 0)


def test_links_devices_and_lost_found_are_left_out_and_told(state: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of another tenant")
    (state / "link").symlink_to(tmp_path / "secret")
    (state / "folder-link").symlink_to(tmp_path)
    os.mkfifo(state / "pipe")
    (state / "lost+found").mkdir()
    data, skipped = pack(state)
    assert sorted(skipped) == ["folder-link", "link", "pipe"]
    assert b"of another tenant" not in data and b"lost+found" not in data
    assert "left out, being no plain file: pipe" in back_up(MemoryStore(), state).note


def test_folders_that_are_no_state_are_left_out_at_the_root_only(state: Path) -> None:
    for folder in (state / "cbt", state / "swtpm" / "cbt"):
        folder.mkdir()
        (folder / "data.qcow2").write_bytes(b"changed blocks")
    with tarfile.open(fileobj=io.BytesIO(pack(state, ("cbt",))[0])) as archive:
        names = set(archive.getnames())
    assert "swtpm/cbt/data.qcow2" in names and not any(name.startswith("cbt") for name in names)
    assert pack(state, ("cbt",))[1] == []


def test_file_of_another_user_is_no_reason_to_try_again(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def open_(path: str, flags: int, *rest: int, **more: int) -> int:
        if path == "db_VARS.fd":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", open_)
    with pytest.raises(SourceForbiddenError, match=r"db_VARS\.fd.*fsGroupPolicy") as caught:
        pack(state)
    assert not caught.value.retryable


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become the user of the movers")
def test_folder_that_nobody_may_write_is_restored_again_after_an_interruption(state: Path) -> None:
    (state / "swtpm" / "tpm2").chmod(0o500)
    data = pack(state)[0]
    with TemporaryDirectory() as folder:
        os.chown(folder, MOVER, MOVER)
        assert as_mover(lambda: [unpack(data, Path(folder)) for _ in range(2)])
        found = Path(folder, "swtpm", "tpm2", "tpm2-00.permall")
        assert found.read_bytes() == (state / "swtpm" / "tpm2" / "tpm2-00.permall").read_bytes()
        assert (found.stat().st_uid, stat.S_IMODE(found.parent.stat().st_mode)) == (MOVER, 0o500)


def as_mover(act: Callable[[], object]) -> bool:
    """Return whether something can be done as the user of the movers, in a process of its own."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    try:
        os.setgroups([])
        os.setgid(MOVER)
        os.setuid(MOVER)
        act()
        os._exit(0)
    finally:
        os._exit(1)


def test_volume_of_more_than_small_files_is_refused(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (state / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ArchiveTooLargeError, match="TPM and EFI state"):
        pack(state)
    (state / "huge").unlink()
    monkeypatch.setattr(archive, "MAX_ENTRIES", 3)
    with pytest.raises(ArchiveTooLargeError):
        pack(state)


def test_archive_that_only_its_padding_makes_too_large_to_restore_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").write_bytes(bytes(16_000))
    assert len(pack(tmp_path)[0]) == 20_480
    monkeypatch.setattr(archive, "MAX_ARCHIVE", 20_480 - 1)
    with pytest.raises(ArchiveTooLargeError):
        pack(tmp_path)


@pytest.mark.parametrize("name", ["../outside", "/absolute", "a/../../b", "a//b", "./a", "link", "device"])
def test_forged_archive_writes_nothing(tmp_path: Path, name: str) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as forged:
        forged.addfile(tarfile.TarInfo("fine"))
        entry = tarfile.TarInfo(name)
        entry.type = {"link": tarfile.SYMTYPE, "device": tarfile.CHRTYPE}.get(name, tarfile.REGTYPE)
        entry.linkname = "/etc"
        forged.addfile(entry)
    (tmp_path / "in").mkdir()
    with pytest.raises(ArchiveDamagedError):
        unpack(out.getvalue(), tmp_path / "in")
    assert [path.name for path in tmp_path.rglob("*")] == ["in"]


def test_files_of_somebody_are_not_written_over(state: Path, tmp_path: Path) -> None:
    store = MemoryStore()
    key, result = repository_in(store).master_key, back_up(store, state)
    target = tmp_path / "taken"
    target.mkdir()
    (target / "file").write_text("mine")
    with pytest.raises(TargetExistsError):
        run_restore(restore_job(key, result.manifest, target, content="Archive"), store, lambda _: None)
    job = restore_job(key, result.manifest, target, content="Archive", replaceExisting=True)
    for _ in range(2):
        run_restore(job, store, lambda _: None)
    assert (target / "swtpm").is_dir()


def test_an_archive_is_not_restored_as_a_disk_nor_a_disk_as_files(state: Path, tmp_path: Path) -> None:
    store = MemoryStore()
    key, result = repository_in(store).master_key, back_up(store, state)
    with pytest.raises(JobError, match="holds Archive"):
        run_restore(restore_job(key, result.manifest, tmp_path), store, lambda _: None)


def test_damaged_archive_is_told_and_nothing_is_written(state: Path, tmp_path: Path) -> None:
    store = MemoryStore()
    key, result = repository_in(store).master_key, back_up(store, state)
    name = next(name for name in store.objects if "/packs/" in name)
    content, *rest = store.objects[name]
    store.objects[name] = (content[:90] + bytes([content[90] ^ 1]) + content[91:], *rest)
    (tmp_path / "target").mkdir()
    with pytest.raises(DamagedError):
        run_restore(restore_job(key, result.manifest, tmp_path / "target", content="Archive"), store, lambda _: None)
    assert not list((tmp_path / "target").iterdir())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lost=st.lists(st.tuples(st.integers(0, 140), st.integers(1, 30)), max_size=4))
def test_salvage_writes_no_file_of_which_a_part_is_lost_and_names_what_it_leaves_out(
    state: Path, lost: list[tuple[int, int]]
) -> None:
    data, size = bytearray(pack(state)[0]), 4096
    ranges = [(at * size, count * size) for at, count in lost]
    for offset, length in ranges:
        data[offset : offset + length] = bytes(len(data[offset : offset + length]))
    with TemporaryDirectory() as name:
        left_out = unpack(bytes(data), Path(name), ranges)
        found, expected = tree(Path(name)), tree(state)
        assert found.items() <= expected.items()
        cut = any(each.startswith("everything") for each in left_out)
        assert cut or expected.keys() - found.keys() == set(left_out)


@pytest.mark.parametrize("length", [180, 220])
def test_salvage_that_ends_within_the_header_of_a_long_name_says_that_the_rest_is_missing(
    state: Path, length: int
) -> None:
    """Such a header has several blocks: the first ones can be whole although the last, or the name in it, is lost."""
    long = "n" * length
    for name in ("bb", f"cc-{long}/{long}/{long}", "zz/last"):
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).write_bytes(name.encode())
    whole = pack(state)[0]
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        [entry] = [each for each in archive if each.name.endswith(long) and each.isreg()]
    for lost in range(entry.offset, entry.offset_data, tarfile.BLOCKSIZE):
        data = bytearray(whole)
        data[lost : lost + tarfile.BLOCKSIZE] = bytes(tarfile.BLOCKSIZE)
        with TemporaryDirectory() as name:
            left_out = unpack(bytes(data), Path(name), [(lost, tarfile.BLOCKSIZE)])
            assert "zz/last" not in tree(Path(name))
            assert any(each.startswith("everything after ") for each in left_out), (lost - entry.offset, left_out)


def test_an_archive_that_ends_nowhere_is_damaged(state: Path, tmp_path: Path) -> None:
    data = pack(state)[0].rstrip(b"\0")
    (target := tmp_path / "target").mkdir()
    with pytest.raises(ArchiveDamagedError):
        unpack(data[: -(len(data) % tarfile.BLOCKSIZE) or None], target)
    assert not list(target.iterdir())


def test_lost_frames_of_an_archive_are_taken_from_another_backup_of_the_volume(state: Path, tmp_path: Path) -> None:
    store = MemoryStore()
    repository = repository_in(store)
    first = back_up(store, state)
    [lost] = [name for name in store.objects if "/packs/" in name]
    damage = Damage()
    damage.add(Kind.DATA_PACK, bytes.fromhex(lost.rsplit("/", 1)[1]))
    record_damage(repository, damage, store.now)
    back_up(store, state, "two", 2)
    del store.objects[lost]
    target = tmp_path / "healed"
    target.mkdir()
    job = restore_job(repository.master_key, first.manifest, target, content="Archive")
    result = run_restore(job, store, lambda _: None)
    assert result.healed_bytes > 0 and not result.lost_bytes
    assert tree(target) == tree(state)


def test_salvage_of_an_archive_says_which_files_and_which_other_backups_are_hurt(state: Path, tmp_path: Path) -> None:
    store = MemoryStore()
    key = repository_in(store).master_key
    (state / "zz-last").write_bytes(os.urandom(1_600_000))
    # One thread, so that frames hold neighbours.
    first = export(store, key, state, "one", 1, content="Archive", workers=1)
    second = back_up(store, state, "two", 2)
    # In the middle of the last file, which is larger than a frame's 512 KiB.
    _, frame = frames_of(repository_in(store), first.manifest)[-200]
    name = f"{PATH}/{pack_name(Kind.DATA_PACK, frame.pack)}"
    data, modified, version = store.objects[name]
    store.objects[name] = data[: frame.offset + 20] + b"?" + data[frame.offset + 21 :], modified, version
    target = tmp_path / "salvaged"
    target.mkdir()
    with pytest.raises(DamagedError, match="salvage"):
        run_restore(restore_job(key, first.manifest, target, content="Archive"), store, lambda _: None)
    assert not list(target.iterdir())
    job = restore_job(key, first.manifest, target, content="Archive", salvage=True)
    result = run_restore(job, store, lambda _: None)
    assert result.lost_bytes and "zz-last" in result.note and second.reused is False
    assert set(result.hurt) == {"one", "two"}
    expected = tree(state)
    del expected["zz-last"]
    assert tree(target) == expected

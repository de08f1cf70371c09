"""A mount shows every disk that can be read, under a name of its own; what is missing or damaged is told."""

from __future__ import annotations

import errno
import importlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from longboat.cli import repo_mount
from longboat.cli.mount_files import BackupFiles
from longboat.cli.mount_tree import DiskFile, Tree, build_tree
from longboat.cli.repo_mount import ENDED, READY, STOP
from longboat.repository import (
    DiskReference,
    generate_store_key,
    open_or_create_repository,
    open_store,
    parse_store_key,
    write_tombstone,
)
from tests.unit.mover.disks import BLOCK

from .repo_world import BLOG, SHOP, SIZE, STATE, WHEN, Capture, World, world
from .test_repo_new_master import back_up_anew, late_world

__all__ = ["world"]
DATA = "/shop/claim-data/20261122T033000Z.img"
Use = Callable[[BackupFiles], None]


class Library:
    """Stands in for mfusepy: `use` is what the kernel asks while it is mounted."""

    fuse_version_major = 3

    def __init__(self, use: Use = lambda _: None) -> None:
        self.use, self.options = use, dict[str, Any]()

    def FUSE(self, files: BackupFiles, mountpoint: str, **options: Any) -> None:  # noqa: N802
        self.options = options
        files.init("/")
        self.use(files)


@pytest.fixture
def mounted(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that runs the command over a library that does what the test wants."""

    def run(use: Use = lambda _: None, *arguments: object) -> int:
        library = Library(use)
        monkeypatch.setattr(repo_mount, "load_library", lambda: library)
        (world.folder / "mnt").mkdir(exist_ok=True)
        code = world("mount", world.folder / "mnt", *arguments)
        assert library.options.get("ro") is True
        return code

    return run


def content(files: BackupFiles, path: str, chunk: int = 7000) -> bytes:
    files.open(path, os.O_RDONLY)
    parts = [files.read(path, chunk, at, 0) for at in range(0, files.getattr(path)["st_size"] + chunk, chunk)]
    files.release(path, 0)
    return b"".join(parts)


def walk(files: BackupFiles, path: str = "/") -> Iterator[str]:
    for name in files.readdir(path, 0)[2:]:
        below = f"{path.rstrip('/')}/{name}"
        if stat.S_ISDIR(files.getattr(below)["st_mode"]):
            yield from walk(files, below)
        else:
            yield below


def test_every_disk_of_every_backup_is_a_file(world: World, mounted: Callable[..., int], capsys: Capture) -> None:
    seen = dict[str, bytes]()
    assert mounted(lambda files: seen.update({path: content(files, path) for path in walk(files)})) == 0
    assert seen == {
        DATA: world.images["db-1 data"],
        "/shop/claim-root/20261122T033000Z.img": world.images["db-1 root"],
        "/blog/claim-data/20261122T033000Z.img": world.images["web-1 data"],
    }
    assert f"{world.folder / 'mnt'}: 3 disks of 2 backups, read-only." in capsys.readouterr().out


def test_files_tell_their_size_moment_and_owner(mounted: Callable[..., int]) -> None:
    found = dict[str, int]()
    assert mounted(lambda files: found.update(files.getattr(DATA))) == 0
    assert (found["st_size"], found["st_mode"]) == (SIZE, stat.S_IFREG | 0o400)
    assert found["st_mtime"] == int(WHEN.timestamp()) * 10**9
    assert 0 < found["st_blocks"] * 512 < SIZE
    assert (found["st_uid"], found["st_gid"]) == (os.getuid(), os.getgid())


def test_what_is_not_there_and_what_would_be_written_is_refused(mounted: Callable[..., int]) -> None:
    codes = list[int | None]()

    def use(files: BackupFiles) -> None:
        for attempt in (
            lambda: files.getattr("/shop/nothing"),
            lambda: files.readdir(DATA, 0),
            lambda: files.open("/shop", os.O_RDONLY),
            lambda: files.open(DATA, os.O_RDWR),
        ):
            with pytest.raises(OSError) as caught:
                attempt()
            codes.append(caught.value.errno)

    assert mounted(use) == 0
    assert codes == [errno.ENOENT, errno.ENOENT, errno.ENOENT, errno.EROFS]


def test_machines_are_told_what_is_mounted(world: World, mounted: Callable[..., int], capsys: Capture) -> None:
    write_tombstone(world.shop, "db-1", WHEN, "kubectl")
    assert mounted(lambda _: None, "-o", "json", "-n", "shop") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["mountpoint"] == str(world.folder / "mnt") and told["problems"] == []
    assert [(each["path"], each["backup"], each["deleted"]) for each in told["files"]] == [
        (DATA, "db-1", True),
        ("/shop/claim-root/20261122T033000Z.img", "db-1", True),
    ]


def test_a_machines_state_is_an_archive(world: World, mounted: Callable[..., int]) -> None:
    world.backup(world.shop, SHOP, "win-1", STATE)
    seen = list[str]()
    assert mounted(lambda files: seen.extend(walk(files)), "-n", "shop") == 0
    assert f"/shop/claim-{STATE}/20261122T033000Z.tar" in seen


def test_backups_of_one_moment_are_told_apart_by_their_names(world: World, mounted: Callable[..., int]) -> None:
    world.backup(world.shop, SHOP, "db-2", "data")
    seen = dict[str, bytes]()
    use = lambda files: seen.update({path: content(files, path) for path in walk(files)})  # noqa: E731
    assert mounted(use, "-n", "shop") == 0
    assert seen["/shop/claim-data/20261122T033000Z.db-1.img"] == world.images["db-1 data"]
    assert seen["/shop/claim-data/20261122T033000Z.db-2.img"] == world.images["db-2 data"]


def test_what_can_not_be_read_is_left_out_and_told(world: World, mounted: Callable[..., int], capsys: Capture) -> None:
    other = parse_store_key(generate_store_key())
    open_or_create_repository(open_store(world.settings), "cluster-1/cccc-other", other)
    for path in (world.folder / "store/prod" / BLOG / "disks").rglob("*-*"):
        if path.is_file():
            path.write_bytes(b"LONGBOAT")
    seen = list[str]()
    assert mounted(lambda files: seen.extend(walk(files))) == 1
    assert [path.split("/")[1] for path in seen] == ["shop", "shop"]
    err = capsys.readouterr().err
    assert "left out: backup web-1, disk data: " in err
    assert "left out: repository cluster-1/cccc-other: " in err


def test_a_namespaces_repositories_are_one_directory_and_what_came_late_is_left_out(
    world: World, mounted: Callable[..., int], capsys: Capture
) -> None:
    late_world(world)
    back_up_anew(world, "db-2")
    capsys.readouterr()
    seen = list[str]()
    use = lambda files: seen.extend(path.split(".")[1] for path in walk(files, "/shop/claim-data"))  # noqa: E731
    assert mounted(use, "-n", "shop") == 1
    assert seen == ["db-1", "db-2"]
    assert "left out: backup forged: " in capsys.readouterr().err
    assert mounted(use, "-n", "shop", "--accept-late") == 0
    assert seen[2:] == ["db-1", "db-2", "forged"]


def test_damage_is_an_input_error_with_its_place_in_the_log(
    world: World, mounted: Callable[..., int], capsys: Capture
) -> None:
    codes = list[int | None]()

    def use(files: BackupFiles) -> None:
        files.open(DATA, os.O_RDONLY)
        for path in (world.folder / "store/prod" / SHOP / "packs").rglob("*"):
            if path.is_file():
                path.unlink()
        assert files.read(DATA, BLOCK, 20 * BLOCK, 0) == bytes(BLOCK)
        for _ in range(5):
            with pytest.raises(OSError) as caught:
                files.read(DATA, 10, 30 * BLOCK + 5, 0)
            codes.append(caught.value.errno)

    assert mounted(use) == 1
    assert codes == [errno.EIO] * 5
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and f"longboat repo: {DATA}: {BLOCK} bytes at byte {30 * BLOCK} can't be read: " in lines[0]
    assert "packs/" in lines[0]


def test_a_manifest_that_went_away_is_an_input_error_for_machines(
    world: World, mounted: Callable[..., int], capsys: Capture
) -> None:
    def use(files: BackupFiles) -> None:
        for path in (world.folder / "store/prod" / SHOP / "disks").rglob("*-*"):
            path.unlink()
        with pytest.raises(OSError, match="Input/output error"):
            files.open(DATA, os.O_RDONLY)

    assert mounted(use, "-o", "json") == 1
    told = json.loads(capsys.readouterr().err)["unreadable"]
    assert (told["file"], told["call"], told["ranges"]) == (DATA, "open", [])
    assert "there is no disk manifest" in told["cause"]


def test_a_failed_mount_is_told_with_the_code_of_the_library(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(3)

    library = Library()
    monkeypatch.setattr(library, "FUSE", fail)
    monkeypatch.setattr(repo_mount, "load_library", lambda: library)
    (world.folder / "mnt").mkdir()
    assert world("mount", world.folder / "mnt") == 1
    assert "libfuse ended with code 3" in capsys.readouterr().err


def test_mistakes_are_told_before_anything_is_read(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(repo_mount, "load_library", Library)
    (world.folder / "mnt").mkdir()
    for place, word in ((world.folder, "expected an empty folder"), (world.folder / "no", "expected an existing")):
        assert world("mount", place) == 2
        assert word in capsys.readouterr().err
    assert world("mount", world.folder / "mnt", "--cache", "many") == 2
    assert "--cache: 'many' is not a size" in capsys.readouterr().err
    assert world("mount", world.folder / "mnt", "-n", "nowhere") == 1
    assert "no backup to show" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("failure", "remedy"),
    [
        (ImportError("No module named 'mfusepy'"), "pip install mfusepy"),
        (OSError("Unable to find libfuse"), "apt-get install fuse3"),
        (AttributeError("Found library is too old"), "apt-get install fuse3"),
    ],
)
def test_a_missing_library_is_named_with_the_way_to_get_it(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: Capture, failure: Exception, remedy: str
) -> None:
    def refuse(_: str) -> Any:
        raise failure

    monkeypatch.setattr(importlib, "import_module", refuse)
    monkeypatch.setenv("FUSE_LIBRARY_NAME", "fuse3")
    (world.folder / "mnt").mkdir()
    assert world("mount", world.folder / "mnt") == 1
    assert remedy in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "remedy"), [("/nowhere/fuse", "modprobe fuse"), ("/dev/null/fuse", "run it as root")]
)
def test_a_missing_device_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, place: str, remedy: str
) -> None:
    monkeypatch.setattr(repo_mount, "_DEVICE", Path(place))
    with pytest.raises(repo_mount.MountError, match=remedy):
        repo_mount._require_device()


class Busy:
    """A mount that can only be taken away once nobody uses it."""

    def __init__(self, events: SimpleQueue[str], refusals: int) -> None:
        self.events, self.refusals = events, refusals
        self.calls = list[bool]()

    def unmount(self, lazily: bool = False) -> str:
        self.calls.append(lazily)
        if len(self.calls) <= self.refusals:
            return "target is busy"
        self.events.put(ENDED)
        return ""


def waited(refusals: int, *events: str) -> tuple[list[bool], list[str]]:
    queue, told = SimpleQueue[str](), list[str]()
    mount = Busy(queue, refusals)
    for event in events:
        queue.put(event)
    repo_mount.wait(queue, mount, lambda: told.append(READY), told.append, lambda: told.append("left"))  # type: ignore[arg-type]
    return mount.calls, told


def test_one_signal_unmounts_and_a_second_one_leaves_a_mount_in_use() -> None:
    assert waited(0, READY, ENDED) == ([], [READY])
    assert waited(0, READY, STOP) == ([False], [READY])
    calls, told = waited(1, READY, STOP, STOP)
    assert calls == [False, True]
    assert told[0] == READY and told[1].startswith("target is busy. ") and told[2] == "left"


MOMENT = datetime(2026, 11, 22, 3, 30, tzinfo=UTC)
PLACES = st.sampled_from(["shop", "a/b", "..", ""]) | st.text(max_size=12)
NAMES = st.sampled_from(["a", "b", "a.b", "x" * 300, "x" * 299 + "y"])


def file(path: str, namespace: str, claim: str, backup: str, disk: str, hours: int) -> DiskFile:
    name = f"disks/{'0' * 32}/20261122T033000Z-{'0' * 32}"
    reference = DiskReference(disk=disk, disk_key="k", manifest=name, object_id="0" * 32, size_bytes=1)
    created = MOMENT + timedelta(hours=hours)
    repository: Any = None
    return DiskFile(repository, path, namespace, backup, reference, claim, created, 1, 1, False, False)


FILES = st.builds(file, st.sampled_from(["c/one", "c/two", "d/one"]), PLACES, PLACES, NAMES, NAMES, st.integers(0, 1))


# Names that are cut off alike, and such that are the same once they are put together.
@example([file("c/x", "n", "c", "x" * 300, "a", 0), file("c/x", "n", "c", "x" * 300, "b", 0)])
@example([file("c/x", "n", "c", *names, 0) for names in (("a", "b"), ("a", "c"), ("a.b", "z"))])
@given(st.lists(FILES, max_size=12, unique_by=lambda f: (f.repository_path, f.backup, f.disk)))
def test_no_file_is_left_out_and_every_name_can_be_a_name(files: list[DiskFile]) -> None:
    tree = build_tree(files)
    assert sorted(map(id, tree.files.values())) == sorted(map(id, files))
    listed = {f"{folder.rstrip('/')}/{name}" for folder, names in tree.folders.items() for name in names}
    assert listed == {*tree.files, *tree.folders} - {"/"}
    for folder, names in tree.folders.items():
        assert len(set(names)) == len(names)
        assert all(0 < len(name.encode()) <= 255 and "\0" not in name and name not in {".", ".."} for name in names)
        assert folder == "/" or folder in tree.moments


def test_two_namespaces_of_one_name_are_kept_apart() -> None:
    one = file("c/one", "shop", "data", "b", "d", 0)
    tree = build_tree([one, replace(one, repository_path="c/two"), replace(one, repository_path="c/x", namespace="")])
    assert sorted(tree.folders["/"]) == ["shop-c-one", "shop-c-two", "x"]
    assert isinstance(tree, Tree)

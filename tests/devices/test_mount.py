"""Single files come out of a backup through a real mount: FUSE, a loop device, the kernel's own file system."""

from __future__ import annotations

import base64
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from longboat.mover.export_disk import run_export
from longboat.mover.jobs import ExportJob
from longboat.repository import (
    DiskIdentity,
    StoreSettings,
    generate_store_key,
    open_or_create_repository,
    open_store,
    parse_store_key,
    read_disk_manifest,
    reference_to,
    write_backup_manifest,
)
from tests.cluster import host

MIB = 1 << 20
PLACE = "cluster-1/aaaa-shop"
NOTES = b"what a user has lost\n" * 9000
PARTITION = 8 * MIB  # Where the file system of the partitioned disk begins.


def run(*command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done


def eventually(what: Callable[[], Any]) -> None:
    for _ in range(300):
        if what():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come about")


class World:
    """A folder with a repository that the mover has written: an ext4 image, and the same within a partition."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "store"
        self.store.mkdir()
        self.settings = StoreSettings(type="folder", path=str(self.store))
        key = generate_store_key()
        (folder / "key").write_text(key)
        self.repository = open_or_create_repository(open_store(self.settings), PLACE, parse_store_key(key))
        plain, partitioned = folder / "plain/disk.img", folder / "partitioned/disk.img"
        self._file_system(plain)
        self._partition(plain, partitioned)
        disks = [reference_to(self._export(image.parent), image.parent.name) for image in (plain, partitioned)]
        moment = datetime(2026, 11, 22, 3, 30, tzinfo=UTC)
        write_backup_manifest(
            self.repository, "db-1", moment, disks, metadata={"diskBackup": {"namespace": "shop", "spec": {}}}
        )
        self.images = {"plain": plain, "partitioned": partitioned}

    def _file_system(self, image: Path) -> None:
        tree = self.folder / "tree/srv"
        tree.mkdir(parents=True)
        (tree / "notes.txt").write_bytes(NOTES)
        (tree / "noise").write_bytes(os.urandom(5 * MIB))
        image.parent.mkdir()
        with image.open("wb") as file:
            file.truncate(256 * MIB)
        run("mkfs.ext4", "-q", "-d", tree.parent, image)

    def _partition(self, plain: Path, image: Path) -> None:
        image.parent.mkdir()
        with image.open("wb") as file:
            file.truncate(PARTITION + 257 * MIB)
        subprocess.run(
            ["sfdisk", "-q", str(image)],
            input=f"label: gpt\nstart={PARTITION // 512},size={256 * 2048}\n".encode(),
            check=True,
        )
        run(
            "dd",
            f"if={plain}",
            f"of={image}",
            "bs=1M",
            f"seek={PARTITION // MIB}",
            "conv=notrunc,sparse",
            "status=none",
        )

    def _export(self, folder: Path) -> Any:
        job = ExportJob(
            store=self.settings,
            repository_path=PLACE,
            master_key=base64.b64encode(self.repository.master_key).decode(),
            source_path=str(folder),
            disk=DiskIdentity(disk_key=folder.name, claim_name=f"db-{folder.name}"),
            backup_name="db-1",
            created=datetime(2026, 11, 22, 3, 30, tzinfo=UTC),
            workers=2,
        )
        return read_disk_manifest(self.repository, run_export(job, emit=lambda _: None).manifest)

    def packs(self) -> list[Path]:
        return [path for path in (self.store / PLACE / "packs").rglob("*") if path.is_file()]


class Mount:
    """`longboat repo mount` at work, and all that a test puts on top of it."""

    def __init__(self, world: World, folder: Path) -> None:
        self.folder, self.point, self.errors = folder, folder / "backups", folder / "errors"
        self.point.mkdir()
        self.loops = list[str]()
        self.mounts = list[Path]()
        command = [sys.executable, "-m", "longboat", "repo", "mount", str(self.point), "-o", "json"]
        store = ["--folder", str(world.store), "--key-file", str(world.folder / "key")]
        with self.errors.open("wb") as errors, (folder / "told").open("wb") as told:
            self.process = subprocess.Popen([*command, *store], stdout=told, stderr=errors, start_new_session=True)
        eventually(lambda: self.told() or self.process.poll() is not None)
        assert self.process.poll() is None, self.errors.read_text()

    def told(self) -> Any:
        with suppress(ValueError):
            return json.loads((self.folder / "told").read_text())
        return None

    def file(self, disk: str) -> Path:
        return self.point / f"shop/db-{disk}/20261122T033000Z.img"

    def mount(self, source: object, options: str) -> Path:
        self.mounts.append(self.folder / f"mounted-{len(self.mounts)}")
        self.mounts[-1].mkdir()
        run("mount", "-o", options, source, self.mounts[-1])
        return self.mounts[-1]

    def unmount(self, path: Path) -> None:
        run("umount", path)
        self.mounts.remove(path)

    def end(self, by: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(by)
        return self.process.wait(30)

    def clean(self) -> None:
        """Leave nothing behind, whatever has failed."""
        for path in reversed(self.mounts):
            run("umount", "--lazy", path, check=False)
        for device in self.loops:
            run("losetup", "--detach", device, check=False)
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        run("umount", "--lazy", self.point, check=False)
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    assert os.geteuid() == 0, "file systems are mounted: run these tests as root"
    host.ensure_packages(
        ("fuse3", "e2fsprogs", "fdisk"), {"fuse3": "fusermount3", "e2fsprogs": "mkfs.ext4", "fdisk": "sfdisk"}
    )
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def mount(world: World, tmp_path: Path) -> Iterator[Mount]:
    mounted = Mount(world, tmp_path)
    yield mounted
    mounted.clean()


def test_a_file_is_taken_out_of_a_mounted_backup(world: World, mount: Mount) -> None:
    assert sorted(each["path"] for each in mount.told()["files"]) == [
        "/shop/db-partitioned/20261122T033000Z.img",
        "/shop/db-plain/20261122T033000Z.img",
    ]
    inside = mount.mount(mount.file("plain"), "ro,loop,noload")
    assert (inside / "srv/notes.txt").read_bytes() == NOTES
    run("diff", "-r", world.folder / "tree/srv", inside / "srv")
    mount.unmount(inside)
    assert mount.end() == 0
    assert mount.errors.read_text() == ""
    assert not os.path.ismount(mount.point)


def test_a_mounted_disk_is_the_disk_and_takes_no_room(world: World, mount: Mount) -> None:
    for disk, image in world.images.items():
        assert run("cmp", mount.file(disk), image).returncode == 0
        assert mount.file(disk).stat().st_blocks * 512 < 32 * MIB < mount.file(disk).stat().st_size
    with pytest.raises(OSError, match="Read-only"), mount.file("plain").open("r+b"):
        pass
    run("fusermount3", "-u", mount.point)
    assert mount.process.wait(30) == 0


def test_a_file_is_taken_out_of_a_partition(mount: Mount) -> None:
    device = run("losetup", "--partscan", "--read-only", "--find", "--show", mount.file("partitioned")).stdout.strip()
    mount.loops.append(device)
    # Kernels are built without partition tables, too: this is what finds the partition there.
    run("partx", "--update", device)
    eventually(lambda: Path(f"{device}p1").exists())
    inside = mount.mount(f"{device}p1", "ro,noload")
    assert (inside / "srv/notes.txt").read_bytes() == NOTES
    mount.unmount(inside)
    run("losetup", "--detach", device)
    assert mount.end(signal.SIGTERM) == 0


def test_a_mount_in_use_stays_until_it_is_told_twice(mount: Mount) -> None:
    inside = mount.mount(mount.file("plain"), "ro,loop,noload")
    mount.process.send_signal(signal.SIGINT)
    eventually(lambda: "ended once more" in mount.errors.read_text())
    assert (inside / "srv/notes.txt").read_bytes() == NOTES
    assert mount.end() == 130
    assert not os.path.ismount(mount.point)


def test_damage_and_packs_that_prune_took_are_input_errors_with_the_place(world: World, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(world.folder, damaged, ignore=shutil.ignore_patterns("plain", "partitioned", "tree"))
    copy = World.__new__(World)
    copy.folder, copy.store = damaged, damaged / "store"
    (tmp_path / "mount").mkdir()
    mounted = Mount(copy, tmp_path / "mount")
    try:
        with mounted.file("plain").open("rb") as file:
            good = file.read(4096)
            for pack in copy.packs():
                pack.unlink()
            # What the kernel has read before is still there; what it has not is an error.
            file.seek(0)
            assert file.read(4096) == good
            with pytest.raises(OSError) as caught:
                file.seek(2 * MIB)
                for _ in range(100):
                    file.read(MIB)
        assert caught.value.errno == errno.EIO
        lines = [json.loads(line)["unreadable"] for line in mounted.errors.read_text().splitlines()]
        assert lines and all(each["ranges"] and "packs/" in each["cause"] for each in lines)
        assert mounted.end() == 1
    finally:
        mounted.clean()

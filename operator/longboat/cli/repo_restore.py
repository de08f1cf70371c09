"""`longboat repo restore` and `export`: a disk of a backup into a device, a raw file or a qcow2 image."""

from __future__ import annotations

import argparse
import stat
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from longboat.cli.repo_access import UsageError
from longboat.cli.repo_archive import left_out_text, salvage_archive
from longboat.cli.repo_progress import Bar
from longboat.mover.progress import Progress
from longboat.mover.restore_damage import LostDataError, Salvage, naming_hurt, refuse
from longboat.mover.restore_disk import Restored, write_disk
from longboat.mover.restore_qcow2 import open_qcow2
from longboat.mover.target import Target, open_device, open_image
from longboat.plan.quantities import bytes_of, size_text
from longboat.repository import BackupManifest, DiskReference, Repository, StoredDisk, read_disk_manifest
from longboat.repository.errors import DamagedError
from longboat.repository.following import FollowingMapReader

DEVICES = Path("/dev")
"""What lies below it is devices: a file made there would be gone with the next boot."""
_PLACES = 20  # Lost ranges that are told to people; JSON has more.
Confirm = Callable[[str], bool]
"""Asks a person; raises UsageError if there is nobody to ask."""


@dataclass(frozen=True)
class Console:
    """Where a command speaks: progress and questions go to `err`, `clock` counts seconds."""

    err: TextIO
    clock: Callable[[], float]
    confirm: Confirm


def choose_disk(backup: BackupManifest, wanted: str | None) -> DiskReference:
    """Return the disk of that name; the only one if none is named. Raises UsageError."""
    names = ", ".join(disk.disk for disk in backup.disks)
    found = [disk for disk in backup.disks if wanted in (None, disk.disk)]
    if len(found) == 1:
        return found[0]
    if wanted is None:
        raise UsageError(f"--disk: backup {backup.name!r} has {len(backup.disks)} disks, name one of: {names}")
    raise UsageError(f"--disk: backup {backup.name!r} has no disk {wanted!r}, it has: {names}")


def read_disk(repository: Repository, disk: DiskReference) -> StoredDisk:
    """Return the disk's manifest; DamagedError if another one has taken its place."""
    stored = read_disk_manifest(repository, disk.manifest)
    if stored.object_id != disk.object_id:
        raise DamagedError(f"{disk.manifest}: it is object {stored.object_id}, the backup has {disk.object_id}")
    return stored


def restore(
    arguments: argparse.Namespace, repository: Repository, stored: StoredDisk, console: Console
) -> dict[str, object]:
    """Write a disk into the target that the arguments name, after asking; return what was done as JSON."""
    try:
        with naming_hurt(repository, stored.manifest.disk.disk_key):
            return _restore(arguments, repository, stored, console)
    except LostDataError as error:
        raise DamagedError(f"{error}\n{_to_do(stored)}") from None


def _to_do(stored: StoredDisk) -> str:
    """Return what has to be done about damage that a restore has met: it writes nothing down itself."""
    return (
        "Have the damage written down, so that no new backup builds on it, and see what else is hurt:"
        f" longboat repo verify --share 100 {stored.manifest.backup_name}"
    )


def _restore(
    arguments: argparse.Namespace, repository: Repository, stored: StoredDisk, console: Console
) -> dict[str, object]:
    path = Path(arguments.target)
    if stored.manifest.content == "Archive":
        _require_file(arguments, path)
        if arguments.salvage:
            _ask(arguments, path, False, stored.manifest.size_bytes, console.confirm)
            salvage = Salvage(lambda _: None)
            done = salvage_archive(path, repository, stored, salvage)
            return _with_damage(done, repository, stored, salvage)
    target = _open(arguments, path, repository, stored, console.confirm)
    size, salvage = stored.manifest.size_bytes, Salvage(lambda _: None)
    bar = Bar(f"{arguments.command} {path.name}", console.err, console.clock)
    with closing(target), closing(bar):
        progress = Progress(size, bar.emit, console.clock)
        reader = FollowingMapReader(repository, stored)
        restored = write_disk(repository, reader, target, progress, salvage if arguments.salvage else refuse)
        progress.finish()
    return _with_damage(_outcome(path, stored, restored), repository, stored, salvage)


def _with_damage(
    outcome: dict[str, object], repository: Repository, stored: StoredDisk, salvage: Salvage
) -> dict[str, object]:
    damaged = outcome["healedBytes"] or salvage.lost_bytes
    return outcome | _lost(repository, stored, salvage) | ({"toDo": _to_do(stored)} if damaged else {})


def _require_file(arguments: argparse.Namespace, path: Path) -> None:
    """Raise UsageError if an archive would be written as if it was a disk."""
    what = "the backup holds no disk here but a tar archive of files"
    if _is_device(path):
        raise UsageError(f"{path}: is a block device, but {what}; name a file to be made")
    if getattr(arguments, "format", "raw") == "qcow2":
        raise UsageError(f"--format: {what}, which no image can hold; use --format raw, or restore")
    if getattr(arguments, "size", None):
        raise UsageError(f"--size: {what}, which has the size it has")


def _lost(repository: Repository, stored: StoredDisk, salvage: Salvage) -> dict[str, object]:
    if not salvage.lost_bytes:
        return {}
    hurt = salvage.hurt(repository, stored.manifest.disk.disk_key)
    return {"lostBytes": salvage.lost_bytes, "lostRanges": salvage.merged(), "backupsHurt": hurt}


def outcome_text(outcome: dict[str, Any]) -> str:
    """Return what a restore did, in a sentence."""
    sizes = {name: size_text(int(str(outcome[name]))) for name in ("writtenBytes", "keptBytes", "checkedBytes")}
    kept = f", {sizes['keptBytes']} were there already" if outcome["keptBytes"] else ""
    done = f"{outcome['target']}: {sizes['writtenBytes']} written{kept}, {sizes['checkedBytes']} read back and compared"
    if outcome["healedBytes"]:
        done += f"\nDAMAGED: {size_text(outcome['healedBytes'])} were taken from other backups"
    if not outcome.get("lostBytes"):
        return f"{done}\n{outcome['toDo']}" if outcome["healedBytes"] else done
    places = ", ".join(f"{length} at byte {offset}" for offset, length in outcome["lostRanges"][:_PLACES])
    lost, hurt = size_text(outcome["lostBytes"]), ", ".join(outcome["backupsHurt"])
    became = left_out_text(outcome["leftOut"]) if "leftOut" in outcome else f"they are zeros now: {places}"
    told = f"DAMAGED: {lost} could not be read; {became}. Backups hurt: {hurt}"
    return f"{done}\n{told}\n{outcome['toDo']}"


def _open(
    arguments: argparse.Namespace, path: Path, repository: Repository, stored: StoredDisk, confirm: Confirm
) -> Target:
    manifest = stored.manifest
    device = _is_device(path)
    if device and arguments.command == "export":
        raise UsageError(f"{path}: is a block device; export makes files, use restore")
    if device and getattr(arguments, "size", None):
        raise UsageError(f"--size: {path} is a block device and has the size it has")
    _ask(arguments, path, device, manifest.size_bytes, confirm)
    if device:
        return open_device(path, manifest.size_bytes, exclusive=True)
    if getattr(arguments, "format", "raw") == "qcow2":
        reader = FollowingMapReader(repository, stored)
        return open_qcow2(path, reader, replace=True, salvage=arguments.salvage)
    size = max(manifest.size_bytes, _wanted_size(getattr(arguments, "size", None), manifest.size_bytes))
    return open_image(path, size, manifest.statistics.allocated_bytes, replace=True)


def _is_device(path: Path) -> bool:
    """Tell whether the target is a block device. Raises UsageError if no disk can be written there."""
    mode = _mode(path)
    if mode is not None and stat.S_ISBLK(mode):
        return True
    if mode is not None and not stat.S_ISREG(mode):
        raise UsageError(f"{path}: expected a block device, or the name of a file to be made")
    if path.is_symlink():
        raise UsageError(f"{path}: is a symbolic link to {path.readlink()}; name the file itself")
    if path.parent.resolve().is_relative_to(DEVICES):
        raise UsageError(f"{path}: no such device, and a file made below {DEVICES} would be gone with the next boot")
    return False


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise UsageError(f"{path}: the folder {path.parent} does not exist") from None
        return None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def _ask(arguments: argparse.Namespace, path: Path, device: bool, size: int, confirm: Confirm) -> None:
    if arguments.force or not path.exists():
        return
    what = f"everything on the device {path}" if device else f"the file {path}"
    if not confirm(f"Overwrite {what} with a disk of {size_text(size)}?"):
        raise UsageError(f"{path}: left as it is")


def _wanted_size(text: str | None, least: int) -> int:
    if text is None:
        return least
    try:
        size = bytes_of(text)
    except ValueError as error:
        raise UsageError(f"--size: {error}") from None
    if size < least:
        raise UsageError(f"--size: the backup has {least} bytes, {text} is less")
    return size


def _outcome(path: Path, stored: StoredDisk, restored: Restored) -> dict[str, object]:
    return {
        "target": str(path),
        "manifest": stored.name,
        "sizeBytes": stored.manifest.size_bytes,
        "writtenBytes": restored.moved.written,
        "keptBytes": restored.moved.kept,
        "readBytes": restored.moved.read,
        "checkedBytes": restored.checked_bytes,
        "healedBytes": restored.healed_bytes,
    }

"""The files of a small volume without a disk.img (a machine's TPM and EFI state) as one tar archive.

The archive is deterministic: the same files give the same bytes. It is stored as a disk is, which is why the source
here looks like that of a disk. Only directories and regular files are taken: no link is followed, no device opened. A
volume belongs to a tenant, and so does what an archive says: names are checked, sizes bounded.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from types import TracebackType

from .errors import (
    ArchiveDamagedError,
    ArchiveTooLargeError,
    SourceForbiddenError,
    SourceMissingError,
    SourceReadError,
)
from .target import write_error

MAX_ARCHIVE = 64 << 20  # It is held in memory.
MAX_ENTRIES = 10_000
OURS_TO_LEAVE = {"lost+found"}  # Made by mkfs at a volume's root, and readable by root only.
_END = bytes(2 * tarfile.BLOCKSIZE)
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class ArchiveSource:
    """A volume's files as a disk to read: its bytes are those of the archive. `skipped` names what is not in it."""

    is_device = False

    def __init__(self, path: Path, leave_out: Collection[str] = ()) -> None:
        """Read the files below a folder but those of `leave_out` at its root.

        SourceMissingError, SourceForbiddenError, SourceReadError, ArchiveTooLargeError.
        """
        self.path = path
        data, self.skipped = pack(path, leave_out)
        self._data = memoryview(data)
        self.size = len(data)

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Yield the one range of everything."""
        yield 0, self.size

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill a buffer from `offset`; return the bytes read, fewer only at the end."""
        count = min(len(view), self.size - offset)
        view[:count] = self._data[offset : offset + count]
        return count

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> ArchiveSource:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is open."""


def pack(folder: Path, leave_out: Collection[str] = ()) -> tuple[bytes, list[str]]:
    """Return the archive of everything below a folder, and the names of what was left out (links, devices, sockets).

    `leave_out` are names at its root of which nothing is taken, nor told.
    """
    out, skipped, entries = io.BytesIO(), list[str](), 0
    try:
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name, info, data in _walk(folder, skipped, OURS_TO_LEAVE.union(leave_out)):
                entries += 1
                if entries > MAX_ENTRIES or out.tell() + len(data) + 4096 > MAX_ARCHIVE:
                    raise _too_large(folder)
                archive.addfile(_entry(name, info, len(data)), io.BytesIO(data))
    except PermissionError as error:
        raise _forbidden(folder, error) from None
    except OSError as error:
        raise SourceReadError(f"{error.filename or folder}: can not be read: {error.strerror}") from None
    # Closing it has added an end and its padding; what is too large now could not be restored.
    if out.tell() > MAX_ARCHIVE:
        raise _too_large(folder)
    return out.getvalue(), skipped


def unpack(data: bytes, folder: Path, lost: Collection[tuple[int, int]] = ()) -> list[str]:
    """Write the files of an archive below a folder and sync them; ArchiveDamagedError before anything is written.

    Of the ranges (offset, length) that are `lost` nothing is believed: files that have a part there are left out, and
    all that comes after a lost name. Return what was left out.
    """
    entries, left_out = _checked(data, lost)
    for entry, content in entries:
        path = folder / entry.name
        try:
            if entry.isdir():
                path.mkdir(exist_ok=True)
                # An earlier attempt may have given it the mode that it is to have in the end.
                path.chmod(0o700)
            else:
                _write(path, content)
        except OSError as error:
            raise write_error(path, "restoring it", error) from None
    # Last come the directories' own modes and times, innermost first: writing into them needs and changes them.
    for entry, _ in sorted(entries, key=lambda each: each[0].name.count("/"), reverse=True):
        _dress(folder / entry.name, entry)
    _sync(folder)
    return left_out


def without_lost(data: bytes, lost: Collection[tuple[int, int]]) -> tuple[bytes, list[str]]:
    """Return an archive of the entries that are whole, and what was left out; errors and `lost` as unpack()."""
    entries, left_out = _checked(data, lost)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry, content in entries:
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue(), left_out


def _forbidden(folder: Path, error: PermissionError) -> SourceForbiddenError:
    return SourceForbiddenError(
        f"{error.filename or folder}: the mover may not read it: {error.strerror}. It runs as user and group"
        f" {os.geteuid()}, as KubeVirt's machines do; files of other users can only be read where the CSI driver lets"
        " Kubernetes give a volume to a group (CSIDriver spec.fsGroupPolicy File)"
    )


def _too_large(folder: Path) -> ArchiveTooLargeError:
    return ArchiveTooLargeError(
        f"{folder}: more than {MAX_ENTRIES} files or {MAX_ARCHIVE} bytes: only small volumes of files,"
        " such as a machine's TPM and EFI state, are backed up without a disk.img"
    )


def _walk(folder: Path, skipped: list[str], left: Collection[str]) -> Iterator[tuple[str, os.stat_result, bytes]]:
    if not folder.is_dir():
        raise SourceMissingError(f"{folder}: expected the directory of a filesystem volume")
    for top, folders, files, handle in os.fwalk(folder, follow_symlinks=False, onerror=_fail):
        inner = PurePosixPath(Path(top).relative_to(folder).as_posix())
        if top == str(folder):
            folders[:], files[:] = ([name for name in names if name not in left] for names in (folders, files))
        links = [name for name in folders if stat.S_ISLNK(os.lstat(name, dir_fd=handle).st_mode)]
        folders[:] = sorted(set(folders) - set(links))
        for name in folders:
            yield str(inner / name), os.lstat(name, dir_fd=handle), b""
        for name in sorted([*files, *links]):
            info = os.lstat(name, dir_fd=handle)
            if stat.S_ISREG(info.st_mode):
                yield str(inner / name), *_content(name, handle)
            else:
                skipped.append(str(inner / name))


def _content(name: str, folder: int) -> tuple[os.stat_result, bytes]:
    with os.fdopen(os.open(name, os.O_RDONLY | _FLAGS, dir_fd=folder), "rb") as file:
        info = os.fstat(file.fileno())
        # One byte more than may be in an archive tells that it is too large, whatever the file's size was.
        return info, file.read(MAX_ARCHIVE + 1) if stat.S_ISREG(info.st_mode) else b""


def _fail(error: OSError) -> None:
    raise error


def _entry(name: str, info: os.stat_result, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = tarfile.DIRTYPE if stat.S_ISDIR(info.st_mode) else tarfile.REGTYPE
    entry.mode, entry.uid, entry.gid = stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid
    entry.mtime, entry.size = int(info.st_mtime), size
    return entry


def _checked(data: bytes, lost: Collection[tuple[int, int]]) -> tuple[list[tuple[tarfile.TarInfo, bytes]], list[str]]:
    entries, left_out, end, last = list[tuple[tarfile.TarInfo, bytes]](), list[str](), 0, ""
    ended, problem = False, "it has no end"
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for entry in archive:
                if _touch(lost, end, entry.offset_data):
                    break  # What says the name is lost, in part at least.
                _require_plain(entry)
                end, last = entry.offset_data + -(-entry.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, entry.name
                if _touch(lost, entry.offset_data, entry.offset_data + entry.size):
                    left_out.append(entry.name)
                    continue
                file = archive.extractfile(entry)
                entries.append((entry, file.read() if file else b""))
            else:
                # What is lost, or can't be understood, looks to the reader as the end does.
                ended = data[end : end + len(_END)] == _END and not _touch(lost, end, end + len(_END))
    except (tarfile.TarError, ValueError, EOFError) as error:
        problem = str(error)
    if not ended and not _touch(lost, end, len(data)):
        raise ArchiveDamagedError(f"the archive can not be read: {problem}")
    if not ended:
        left_out.append(f"everything after {last}" if last else "everything")
    return entries, left_out


def _require_plain(entry: tarfile.TarInfo) -> None:
    if not (entry.isreg() or entry.isdir()) or not set(entry.name.split("/")).isdisjoint({"", ".", ".."}):
        raise ArchiveDamagedError(f"the archive holds {entry.name!r}, which is no plain file below it")


def _touch(lost: Collection[tuple[int, int]], start: int, end: int) -> bool:
    return any(offset < end and start < offset + length for offset, length in lost)


def _write(path: Path, content: bytes) -> None:
    # What an earlier attempt left is replaced, not written into.
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _dress(path: Path, entry: tarfile.TarInfo) -> None:
    try:
        with contextlib.suppress(PermissionError):
            # Only root may give files away; the mover's own user is that of the machines otherwise.
            os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
        path.chmod(entry.mode)
        os.utime(path, (entry.mtime, entry.mtime), follow_symlinks=False)
    except OSError as error:
        raise write_error(path, "setting its mode", error) from None


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

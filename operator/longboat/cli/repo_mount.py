"""`longboat repo mount`: the disks of all backups as files, read-only, until it is unmounted."""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ctypes.util import find_library
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

from longboat.cli.mount_files import BackupFiles, Tell, failure_json
from longboat.cli.mount_tree import Tree, file_json
from longboat.cli.repo_access import UsageError
from longboat.cli.repo_output import print_json
from longboat.mover.disk_reader import Shared
from longboat.mover.errors import MoverError
from longboat.plan.quantities import bytes_of
from longboat.repository import RepositoryError

READY, ENDED, STOP = "ready", "ended", "stop"
_FETCHES = 16
_IDLE_THREADS = 10
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DEVICE = Path("/dev/fuse")
_UNCHANGED = 86400  # Seconds for which the kernel may believe what it was told: nothing changes while it is mounted.


class MountError(MoverError):
    """The disks can't be mounted here; the message says what is missing and how to get it."""


class Mounted:
    """libfuse at work in a thread of its own: the main thread keeps the signals, and asks for the unmount."""

    def __init__(self, fuse: Any, mountpoint: Path, events: SimpleQueue[str]) -> None:
        """Prepare; `events` gets ENDED when the mount is gone, however it went."""
        self._fuse, self.mountpoint, self._events = fuse, mountpoint, events
        self.code = 1  # Until it has ended well.

    def begin(self, files: BackupFiles) -> None:
        """Mount."""
        # As a daemon it does not keep a program from ending whose mount is held by others.
        threading.Thread(target=self._serve, args=(files,), name="fuse", daemon=True).start()

    def _serve(self, files: BackupFiles) -> None:
        timeouts = dict.fromkeys(("entry_timeout", "attr_timeout", "negative_timeout"), _UNCHANGED)
        options = dict.fromkeys(("ro", "nosuid", "nodev", "default_permissions", "kernel_cache"), True)
        names = {"fsname": "longboat", "subtype": "longboat"}
        # libfuse 3.12 to 3.14 complain on standard error of what they take for this option where it is left out.
        threads = {"max_idle_threads": _IDLE_THREADS} if self._fuse.fuse_version_major >= 3 else {}
        try:
            self._fuse.FUSE(files, str(self.mountpoint), foreground=True, **names, **options, **timeouts, **threads)
            self.code = 0
        except RuntimeError as error:
            self.code = int(str(error)) if str(error).isdigit() else 1
        finally:
            self._events.put(ENDED)

    def unmount(self, lazily: bool = False) -> str:
        """Unmount; return why that is not possible, or an empty text."""
        program = ["umount"] if os.geteuid() == 0 else [_fusermount() or "fusermount3", "-u"]
        command = [*program, *(["-l" if os.geteuid() == 0 else "-z"] if lazily else []), str(self.mountpoint)]
        # A session of its own: the signal that ended this program is not for the one that unmounts.
        done = subprocess.run(command, capture_output=True, text=True, check=False, start_new_session=True)
        return "" if done.returncode == 0 else done.stderr.strip() or f"{command[0]} failed"


def prepare(arguments: argparse.Namespace) -> tuple[Any, Path, int]:
    """Return the FUSE library, the mountpoint and the size of the cache in bytes; UsageError or MountError."""
    return load_library(), _mountpoint(Path(arguments.mountpoint)), _cache_bytes(arguments.cache)


def serve(fuse: Any, mountpoint: Path, tree: Tree, cache_bytes: int, out: Reporter) -> bool:
    """Mount the tree and return when it is unmounted; False if data was asked for that is damaged or gone."""
    events = SimpleQueue[str]()
    mounted = Mounted(fuse, mountpoint, events)
    with _signals_to(events), ThreadPoolExecutor(_FETCHES, thread_name_prefix="fetch") as pool:
        files = BackupFiles(tree, Shared.of(pool, cache_bytes), out.failure, time.monotonic, lambda: events.put(READY))
        mounted.begin(files)
        wait(events, mounted, lambda: out.mounted(mountpoint, tree), out.note)
        pool.shutdown(wait=True, cancel_futures=True)
    if mounted.code:
        raise MountError(f"{mountpoint}: libfuse ended with code {mounted.code}; it says why above")
    return not files.lost


def wait(
    events: SimpleQueue[str],
    mounted: Mounted,
    tell_mounted: Callable[[], None],
    note: Callable[[str], None],
    leave: Callable[[], None] = lambda: os._exit(130),
) -> None:
    """Return when the mount has ended; the first STOP unmounts, a second one leaves although it is in use."""
    stopped = False
    while (event := events.get()) != ENDED:
        if event == READY:
            tell_mounted()
        elif stopped:
            mounted.unmount(lazily=True)
            leave()
        elif problem := mounted.unmount():
            note(
                f"{problem}. Unmount and detach what stands on it first; ended once more, it goes away under its users"
            )
            stopped = True


class Reporter:
    """Tells people or machines what is mounted, on `out`, and what can't be read, on `err`, as it happens."""

    def __init__(self, as_json: bool, problems: list[str], out: TextIO, err: TextIO) -> None:
        """Tell `problems`, too, once it is mounted."""
        self._json, self._problems, self._out, self._err = as_json, problems, out, err
        self.failure: Tell = self._failure

    def mounted(self, mountpoint: Path, tree: Tree) -> None:
        """Say that the mount is there, and what it shows."""
        if self._json:
            files = [file_json(path, file) for path, file in tree.files.items()]
            print_json({"mountpoint": str(mountpoint), "files": files, "problems": self._problems}, self._out)
        else:
            backups = len({(file.repository_path, file.backup) for file in tree.files.values()})
            print(f"{mountpoint}: {len(tree.files)} disks of {backups} backups, read-only.", file=self._out)
            print(f"Ctrl-C, or `fusermount3 -u {mountpoint}`, ends it.", file=self._out)
        self._out.flush()
        for problem in self._problems if not self._json else []:
            self.note(f"left out: {problem}")

    def note(self, text: str) -> None:
        """Say a line to whoever looks after it."""
        print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} longboat repo: {text}", file=self._err, flush=True)

    def _failure(self, path: str, call: str, error: RepositoryError) -> None:
        if self._json:
            print(json.dumps({"unreadable": failure_json(path, call, error)}), file=self._err, flush=True)
        else:
            self.note(f"{path}: {error}")


@contextmanager
def _signals_to(events: SimpleQueue[str]) -> Iterator[None]:
    before = {each: signal.signal(each, lambda *_: events.put(STOP)) for each in _SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def load_library() -> Any:
    # mfusepy would take libfuse 2 if there are both; its kernel interface is the older one.
    if find_library("fuse3"):
        os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
    try:
        fuse = importlib.import_module("mfusepy")
    except ImportError:
        raise MountError("mount needs the Python package mfusepy: pip install mfusepy, or longboat[mount]") from None
    except (OSError, AttributeError) as error:
        packages = "apt-get install fuse3 (Debian, Ubuntu), dnf install fuse3 (Fedora, RHEL), apk add fuse3 (Alpine)"
        raise MountError(f"mount needs libfuse 3 on this machine: {packages}. Found: {error}") from None
    _require_device()
    return fuse


def _require_device() -> None:
    try:
        os.close(os.open(_DEVICE, os.O_RDWR))
    except FileNotFoundError:
        remedy = "`modprobe fuse`; a container needs --device /dev/fuse --cap-add SYS_ADMIN"
        raise MountError(f"{_DEVICE}: is not there: {remedy}") from None
    except OSError as error:
        raise MountError(f"{_DEVICE}: {error.strerror}: run it as root, or as a user who may open it") from None
    if os.geteuid() != 0 and _fusermount() is None:
        raise MountError("mount needs fusermount3 for users other than root: apt-get install fuse3, or run it as root")


def _fusermount() -> str | None:
    return shutil.which("fusermount3") or shutil.which("fusermount")


def _mountpoint(path: Path) -> Path:
    try:
        path = path.resolve()
        if not path.is_dir():
            raise UsageError(f"{path}: expected an existing empty folder to mount on")
        if path.is_mount() or any(path.iterdir()):
            raise UsageError(f"{path}: expected an empty folder; something is mounted or lies there")
    except OSError as error:
        stale = f"; unmount what was left there: fusermount3 -u {path}" if error.errno == errno.ENOTCONN else ""
        raise UsageError(f"{path}: {error.strerror}{stale}") from None
    return path


def _cache_bytes(text: str) -> int:
    try:
        return bytes_of(text)
    except ValueError as error:
        raise UsageError(f"--cache: {error}") from None

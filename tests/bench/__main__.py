"""`make bench`: what each program takes for a full backup, for 1 % rewritten, for nothing changed, and to restore."""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from longboat.repository import StoreSettings
from tests.bench import image, measure
from tests.bench.tools import Borg, Command, Longboat, Restic, Tool
from tests.cluster import host
from tests.cluster.paths import CHECKOUT, cache_dir
from tests.cluster.progress import ClusterError, say
from tests.cluster.s3 import RemoteStore

MIB = 1 << 20
RIVALS = {"restic": "restic", "borgbackup": "borg"}
RESULT = CHECKOUT / "build" / "bench.json"


@dataclass(frozen=True)
class Figures:
    """What one step took: `stored_bytes` and `objects` are what it added to the store."""

    tool: str
    step: str
    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int
    stored_bytes: int
    objects: int


def main() -> int:
    """Measure, print a table and write build/bench.json; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--size-mib", type=int, default=1024, help="size of the disk image (default: 1024)")
    parser.add_argument("--s3", action="store_true", help="also against a local S3 server (versitygw, with TLS)")
    arguments = parser.parse_args()
    try:
        host.ensure_packages(tuple(RIVALS), RIVALS)
        figures = _measure(arguments.size_mib * MIB, arguments.s3)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(figures))
    RESULT.parent.mkdir(exist_ok=True)
    described = {"machine": _machine(), "image_mib": arguments.size_mib}
    RESULT.write_text(json.dumps(described | {"figures": [asdict(each) for each in figures]}, indent=2) + "\n")
    say(f"written to {RESULT.relative_to(CHECKOUT)}")
    return 0


def _measure(size: int, with_s3: bool) -> list[Figures]:
    folder = cache_dir() / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        disk = work / "disk" / "disk.img"
        disk.parent.mkdir()
        say(f"writing an image of {size // MIB} MiB")
        say(f"{image.write_image(disk, size) // MIB} MiB of it hold data")
        tools = _on_folders(disk, work)
        if with_s3:
            store = RemoteStore(work / "s3")
            stack.callback(store.stop)
            tools += _on_s3(disk, work, store)
        return _story(tools, disk, size, work)


def _on_folders(disk: Path, work: Path) -> list[Tool]:
    settings = StoreSettings(type="folder", path=str(work / "longboat-store"))
    return [
        Longboat("longboat", disk, work / "longboat", settings, work / "longboat-store"),
        Restic("restic", disk, work / "restic", str(work / "restic-store"), work / "restic-store"),
        Borg(disk, work / "borg", work / "borg-store"),
    ]


def _on_s3(disk: Path, work: Path, store: RemoteStore) -> list[Tool]:
    server = store.start()
    buckets = {name: store.directory / "data" / name for name in ("longboat", "restic")}
    for name in buckets:
        store.create_bucket(name)
    settings = StoreSettings(
        type="s3",
        endpoint=server.endpoint,
        region=server.region,
        bucket="longboat",
        ca_pem=server.ca_pem,
        access_key_id=server.access_key_id,
        secret_access_key=server.secret_access_key,
    )
    options = (f"--cacert={server.ca_file}", f"--option=s3.region={server.region}")
    address = f"s3:{server.endpoint}/restic"
    restic = Restic("restic, S3", disk, work / "restic-s3", address, buckets["restic"], *options)
    return [
        Longboat("longboat, S3", disk, work / "longboat-s3", settings, buckets["longboat"]),
        restic.with_keys(server.access_key_id, server.secret_access_key),
    ]


def _story(tools: Sequence[Tool], disk: Path, size: int, work: Path) -> list[Figures]:
    """Every step for every tool before the next step, so that all see the same image."""
    for tool in tools:
        tool.prepare()
    full = [_step(tool, "full", tool.backup(0)) for tool in tools]
    say(f"rewriting {image.rewrite_blocks(disk, size) / MIB:.1f} MiB of blocks all over the image")
    rewritten = [_step(tool, "1 % rewritten", tool.backup(1)) for tool in tools]
    unchanged = [_step(tool, "nothing changed", tool.backup(2)) for tool in tools]
    return [*full, *rewritten, *unchanged, *(_restored(tool, disk, work / "restored") for tool in tools)]


def _restored(tool: Tool, disk: Path, target: Path) -> Figures:
    """Restore and compare with the image; raise ClusterError if a byte differs."""
    target.mkdir()
    figures = _step(tool, "restore", tool.restore(target))
    restored = next(target.rglob(disk.name))
    if not filecmp.cmp(disk, restored, shallow=False):
        raise ClusterError(f"{tool.name} restored something else than it was given")
    shutil.rmtree(target)
    return figures


def _step(tool: Tool, step: str, command: Command) -> Figures:
    """Run a command beside nothing else of ours; raise ClusterError if it fails."""
    say(f"{step}: {tool.name}")
    before = _stored(tool.stored)
    # Without site and environment the measuring process stays small: its peak counts for the program it starts.
    launcher = [sys.executable, "-I", "-S", str(measure.__file__), *command.arguments]
    environment = os.environ | dict(command.environment)
    done = subprocess.run(launcher, env=environment, cwd=command.folder, capture_output=True, text=True, check=True)
    taken = json.loads(done.stdout.splitlines()[-1])
    if taken.pop("exit_code"):
        raise ClusterError(f"`{' '.join(command.arguments)}` failed: {done.stderr[-2000:]}")
    after = _stored(tool.stored)
    return Figures(tool.name, step, stored_bytes=after[0] - before[0], objects=after[1] - before[1], **taken)


def _stored(folder: Path) -> tuple[int, int]:
    """Bytes and number of the files below a folder."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(sizes), len(sizes)


def table(figures: Sequence[Figures]) -> str:
    """The figures as a Markdown table."""
    columns: dict[str, Callable[[Figures], str]] = {
        "step": lambda each: each.step,
        "program": lambda each: each.tool,
        "CPU s": lambda each: f"{each.cpu_seconds:.1f}",
        "wall s": lambda each: f"{each.wall_seconds:.1f}",
        "peak MiB": lambda each: f"{each.peak_bytes / MIB:.0f}",
        "stored MiB": lambda each: f"{each.stored_bytes / MIB:.1f}",
        "objects": lambda each: f"{each.objects}",
    }
    rows = [list(columns), *([show(each) for show in columns.values()] for each in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(columns))]
    rows.insert(1, ["-" * width for width in widths])
    lines = (" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"| {line} |" for line in lines)


def _machine() -> str:
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    sys.exit(main())

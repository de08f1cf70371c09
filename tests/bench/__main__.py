"""`make bench`: what each program takes for a full backup, for three kinds of change, to restore, and to prune.

longboat-2-cores is the mover with two CPUs: its wall time beside that of longboat says what the second one is good for.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from longboat.repository import StoreSettings
from tests.bench import image
from tests.bench.devices import loop_device
from tests.bench.figures import Figures, describe, table
from tests.bench.story import Story, simulate
from tests.bench.tools import Borg, Longboat, Restic, Rustic, Tool
from tests.cluster import host
from tests.cluster.paths import CHECKOUT, cache_dir
from tests.cluster.progress import ClusterError, say
from tests.cluster.s3 import RemoteStore

MIB = 1 << 20
RIVALS = {"restic": "restic", "borgbackup": "borg", "e2fsprogs": "mke2fs"}
RESULT = CHECKOUT / "build" / "bench" / "data-path.json"


def main() -> int:
    """Measure, print a table and write the result; return the exit code."""
    arguments = _arguments()
    try:
        host.ensure_packages(tuple(RIVALS), RIVALS)
        figures = _measure(arguments)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(_machine())
    print(table(figures))
    _save(figures)
    say(f"written to {RESULT.relative_to(CHECKOUT)}")
    return 0


def _save(figures: Sequence[Figures]) -> None:
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps([describe(each) for each in figures], indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--size-mib", type=int, default=2048, help="size of the disk image (default: 2048)")
    parser.add_argument("--cores", type=int, default=1, help="CPUs that each program may use (default: 1)")
    parser.add_argument("--s3", action="store_true", help="also against a local S3 server (versitygw, with TLS)")
    parser.add_argument("--alone", action="store_true", help="only the mover, without the other programs")
    parser.add_argument("--block-kib", type=int, nargs="*", default=[], help="the mover with these block sizes, too")
    parser.add_argument("--rustic", default="", help="path of a rustic program, to be measured as well")
    parser.add_argument("--simulated-gib", type=int, default=2048, help="a disk that is made up (default: 2048; 0: no)")
    parser.add_argument("--simulated-data-gib", type=int, default=8, help="its data (default: 8)")
    return parser.parse_args()


def _measure(arguments: argparse.Namespace) -> list[Figures]:
    folder = cache_dir() / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        disk = work / "disk" / "disk.img"
        disk.parent.mkdir()
        say(f"writing an image of {arguments.size_mib} MiB")
        say(f"{image.write_image(disk, arguments.size_mib * MIB) // MIB} MiB of it hold data")
        device = stack.enter_context(loop_device(disk))
        tools = _movers(disk, device, work, arguments.block_kib)
        if not arguments.alone:
            tools += _rivals(disk, work, arguments.rustic)
        if arguments.s3:
            store = RemoteStore(work / "s3")
            stack.callback(store.stop)
            tools += _on_s3(disk, work, store, arguments.alone)
        figures = Story(tools, disk, work, arguments.cores, _save).tell()
        if arguments.simulated_gib:
            figures += simulate(arguments.simulated_gib, arguments.simulated_data_gib, work / "simulated")
        return figures


def _movers(disk: Path, device: Path, work: Path, block_sizes: list[int]) -> list[Tool]:
    def mover(name: str, source: Path) -> Longboat:
        settings = StoreSettings(type="folder", path=str(work / f"{name}-store"))
        return Longboat(name, disk, source, work / name, settings, work / f"{name}-store")

    movers = [
        mover("longboat", disk.parent),
        mover("longboat-device", device),
        mover("longboat-tracked", device).with_tracking(),
        mover("longboat-2-cores", disk.parent).with_cores(2),
    ]
    for size in block_sizes:
        each = mover(f"longboat-{size}k", disk.parent)
        each.block_size = size << 10
        movers.append(each)
    return list(movers)


def _rivals(disk: Path, work: Path, rustic: str) -> list[Tool]:
    rivals: list[Tool] = [
        Restic("restic", disk, work / "restic", str(work / "restic-store"), work / "restic-store"),
        Borg(disk, work / "borg", work / "borg-store"),
    ]
    if rustic:
        rivals.append(Rustic(rustic, disk, work / "rustic", work / "rustic-store"))
    return rivals


def _on_s3(disk: Path, work: Path, store: RemoteStore, alone: bool) -> list[Tool]:
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
    restic = Restic("restic-s3", disk, work / "restic-s3", f"s3:{server.endpoint}/restic", buckets["restic"], *options)
    mover = Longboat("longboat-s3", disk, disk.parent, work / "longboat-s3", settings, buckets["longboat"])
    rival = restic.with_keys(server.access_key_id, server.secret_access_key)
    return [mover] if alone else [mover, rival]


def _machine() -> str:
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    sys.exit(main())

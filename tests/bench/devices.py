"""A file as a block device, read past the page cache as a volume is."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.progress import ClusterError


@contextmanager
def loop_device(file: Path) -> Iterator[Path]:
    """Attach a file to a loop device for as long as the context lasts; root is needed."""
    command = ["losetup", "--direct-io=on", "--find", "--show", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"no loop device for {file}: {done.stderr.strip()}; run the benchmark as root")
    device = Path(done.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", str(device)], check=False)

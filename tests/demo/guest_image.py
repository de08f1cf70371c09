"""`make guest-image`: the guest's disk, ready to be put into an image for a cluster of one's own."""

from __future__ import annotations

import shutil
import sys

from tests.cluster.kubevirt import guestdisk, images
from tests.cluster.paths import CHECKOUT, cache_dir
from tests.cluster.progress import ClusterError

FOLDER = CHECKOUT / "build" / "guest"
NEXT = """
docker build -t registry.example.com/longboat-guest:1 build/guest      # or buildah build, podman build
docker push registry.example.com/longboat-guest:1
make demo CLUSTER=current ARGS="--guest-image registry.example.com/longboat-guest:1"
"""


def main() -> int:
    """Write build/guest with the disk and a Dockerfile; return the exit code."""
    try:
        disk = guestdisk.image(cache_dir())
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    name = images.GUEST_DISK.strip("/")
    FOLDER.mkdir(parents=True, exist_ok=True)
    shutil.copy(disk, FOLDER / name)
    text = f"ARG BASE=docker.io/library/debian:12-slim\nFROM ${{BASE}}\nCOPY {name} {images.GUEST_DISK}\nUSER 107\n"
    (FOLDER / "Dockerfile").write_text(text)
    print(NEXT)
    return 0


if __name__ == "__main__":
    sys.exit(main())

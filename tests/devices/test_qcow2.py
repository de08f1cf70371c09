"""QEMU takes our qcow2 images for what they are."""

from __future__ import annotations

import subprocess
from pathlib import Path
from random import Random

from tests.cluster import host
from tests.unit.mover.disks import BLOCK
from tests.unit.mover.test_restore_qcow2 import World


def _qemu_img(*arguments: object) -> None:
    done = subprocess.run(["qemu-img", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_qemu_finds_no_fault_in_an_image_and_the_same_disk(tmp_path: Path) -> None:
    host.ensure_packages(("qemu-utils",), {"qemu-utils": "qemu-img"})
    noise = Random(9)
    # More than one table of each level: the disk has 1.5 GiB.
    content = {noise.randrange(390_000) * BLOCK: noise.randbytes(noise.randint(1, 20 * BLOCK)) for _ in range(300)}
    world = World(tmp_path, content, 1536 << 20)
    image = tmp_path / "disk.qcow2"
    world.write(image)
    _qemu_img("check", image)
    _qemu_img("compare", "-f", "raw", "-F", "qcow2", tmp_path / "source/disk.img", image)
    assert image.stat().st_size < 40 << 20

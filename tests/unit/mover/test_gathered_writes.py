"""Data reaches its place on a restored disk whichever way the kernel takes it: together, one by one, in part or not."""

from __future__ import annotations

import errno
import fcntl
import os
import queue
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import cast

import pytest

from longboat.mover import direct_writes
from longboat.mover.errors import TargetWriteError
from longboat.mover.kernel_queue import KernelQueue, Piece
from longboat.mover.target import ImageTarget, Target, open_target

from .disks import BLOCK


def _without_a_queue(*_: object) -> None:
    raise OSError(errno.EAGAIN, "too many queues")


@pytest.fixture(params=["queued", "direct", "cached"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write by the kernel's queue, by one direct write after the other, or through the page cache."""
    way = str(request.param)
    monkeypatch.setattr(direct_writes, "_batches", queue.LifoQueue())
    if way != "queued":
        monkeypatch.setattr(direct_writes, "KernelQueue", _without_a_queue)
    if way == "cached":
        real = os.pwrite

        def refused(handle: int, data: memoryview, offset: int) -> int:
            if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT:
                raise OSError(errno.EINVAL, "not aligned")
            return real(handle, data, offset)

        monkeypatch.setattr(os, "pwrite", refused)
    return way


@pytest.mark.usefixtures("way")
def test_data_of_any_length_is_written_whole_whichever_way_it_goes(tmp_path: Path) -> None:
    data = os.urandom(direct_writes.BATCH + 3 * BLOCK + 100)
    image = open_target(tmp_path, 2 * len(data) // BLOCK * BLOCK, 0, None, False, None)
    for offset, length in ((BLOCK, len(data)), (0, BLOCK), (len(data) + 2 * BLOCK - 7, 5000)):
        image.write(offset, memoryview(data)[:length])
    image.sync()
    image.finish()
    image.close()
    with (tmp_path / "disk.img").open("rb") as file:
        assert file.read(BLOCK) == data[:BLOCK]
        assert file.read(len(data)) == data
        file.seek(len(data) + 2 * BLOCK - 7)
        assert file.read(5000) == data[:5000]


def _written_in_any_order(image: Target, data: bytes) -> None:
    """Write pieces of one to seven pages, shuffled, in three gatherings."""
    cuts, at, random = [0], 0, Random(7)
    while at < len(data):
        at = min(at + random.randint(1, 7) * 4096, len(data))
        cuts.append(at)
    pieces = list(pairwise(cuts))
    random.shuffle(pieces)
    for part in range(3):
        with image.gather() as write:
            for start, end in pieces[part::3]:
                write(start, memoryview(data)[start:end])


@pytest.mark.usefixtures("way")
def test_pieces_that_are_gathered_in_any_order_end_where_they_belong(tmp_path: Path) -> None:
    data = os.urandom(3 * direct_writes.BATCH)
    image = open_target(tmp_path, len(data), 0, None, False, None)
    _written_in_any_order(image, data)
    image.finish()
    image.close()
    assert (tmp_path / "disk.img").read_bytes() == data


def test_writes_that_the_kernel_cuts_short_or_does_not_take_are_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue says of some that they failed, of others that a sector and a half were written."""
    monkeypatch.setattr(direct_writes, "_batches", queue.LifoQueue())
    random, real = Random(3), direct_writes.KernelQueue.write
    told = []

    def cut(self: KernelQueue, handle: int, pieces: Sequence[Piece]) -> list[int]:
        shorter = [piece._replace(length=random.choice([0, 4096, piece.length])) for piece in pieces]
        asked = [each for each in shorter if each.length]
        done = dict(zip(asked, real(self, handle, asked), strict=True))
        told.append(len(shorter) - len(asked))
        return [
            min(done.get(each, 0) + random.choice([0, 2000]), piece.length)
            for each, piece in zip(shorter, pieces, strict=True)
        ]

    monkeypatch.setattr(direct_writes.KernelQueue, "write", cut)
    data = os.urandom(2 * direct_writes.BATCH)
    image = open_target(tmp_path, len(data), 0, None, False, None)
    _written_in_any_order(image, data)
    image.finish()
    image.close()
    assert sum(told) > 10
    assert (tmp_path / "disk.img").read_bytes() == data


def test_a_write_that_fails_in_the_kernels_queue_is_told_with_its_offset(tmp_path: Path) -> None:
    image = open_target(tmp_path, 1 << 20, 0, None, False, None)
    read_only = os.open(tmp_path / ".disk.img.longboat-partial", os.O_RDONLY | os.O_DIRECT)
    os.close(cast(ImageTarget, image)._direct or 0)
    cast(ImageTarget, image)._direct = read_only
    with pytest.raises(TargetWriteError, match="writing at byte 65536"), image.gather() as write:
        write(65536, memoryview(bytes(4096)))
        write(3 * 65536, memoryview(bytes(4096)))
    image.close()


def test_nothing_of_a_gathering_that_failed_is_written_with_the_next(tmp_path: Path) -> None:
    image = open_target(tmp_path, 1 << 20, 0, None, False, None)
    with pytest.raises(RuntimeError), image.gather() as write:
        write(0, memoryview(b"x" * 4096))
        raise RuntimeError
    image.write(8192, memoryview(b"y" * 4096))
    image.finish()
    image.close()
    content = (tmp_path / "disk.img").read_bytes()
    assert content == bytes(8192) + b"y" * 4096 + bytes((1 << 20) - 12288)


def test_more_gatherings_than_there_are_batches_do_not_wait_for_each_other(tmp_path: Path) -> None:
    image = open_target(tmp_path, 1 << 20, 0, None, False, None)
    with ExitStack() as stack:
        for at in range(direct_writes.BATCHES + 2):
            stack.enter_context(image.gather())(at * 8192, memoryview(bytes([at + 1]) * 4096))
    image.finish()
    image.close()
    content = (tmp_path / "disk.img").read_bytes()
    assert all(content[at * 8192] == at + 1 for at in range(direct_writes.BATCHES + 2))

"""A restore that has failed writes nothing more: its volume may be given to another mover, or to nobody."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from longboat.mover.errors import TargetWriteError
from longboat.mover.progress import Progress
from longboat.mover.restore_pipeline import RestorePipeline
from longboat.mover.system_calls import AlignedBuffer
from longboat.mover.target import Write
from longboat.repository import open_with_master_key, read_disk_manifest
from longboat.repository.following import FollowingMapReader
from longboat.repository.layout import PACKS
from longboat.repository.object_store import Data
from tests.fakes.object_store import MemoryStore

from .disks import BLOCK, PATH, export, repository_in, write_image


class SlowPacks(MemoryStore):
    """Answers with data only once it is told to."""

    def __init__(self, store: MemoryStore, answer: threading.Event) -> None:
        super().__init__()
        self.objects, self.answer = store.objects, answer

    def get_range(self, name: str, offset: int, length: int) -> Data:
        if PACKS in name:
            self.answer.wait(10)
        return super().get_range(name, offset, length)


class FullTarget:
    """Has no place for the zeros after the backup's end; the data comes when that is known already."""

    def __init__(self, size: int, answer: threading.Event) -> None:
        self.size, self.blank, self.answer = size, False, answer
        self.written: list[int] = []

    def write(self, offset: int, data: memoryview) -> None:
        self.written.append(offset)

    @contextmanager
    def gather(self) -> Iterator[Write]:
        yield self.write

    def zero(self, offset: int, length: int) -> None:
        threading.Timer(0.2, self.answer.set).start()
        raise TargetWriteError("no space left")

    def read(self, offset: int, length: int, buffer: AlignedBuffer) -> None:
        buffer.view[:length] = bytes(length)

    def sync(self) -> None:
        raise AssertionError("it is not synced")

    def finish(self) -> None:
        raise AssertionError("it is not finished")

    def close(self) -> None:
        self.answer.set()


def test_what_is_being_fetched_when_a_restore_fails_is_not_written(tmp_path: Path) -> None:
    store, answer = MemoryStore(), threading.Event()
    key = repository_in(store).master_key
    size = 16 * BLOCK
    folder = write_image(tmp_path, {i * BLOCK: bytes([i + 1]) * BLOCK for i in range(16)}, size)
    manifest = export(store, key, folder, "one").manifest
    repository = open_with_master_key(SlowPacks(store, answer), PATH, key)
    reader = FollowingMapReader(repository, read_disk_manifest(repository, manifest))
    target = FullTarget(size + BLOCK, answer)
    pipeline = RestorePipeline(repository, reader, target, Progress(size, lambda _: None))
    with pytest.raises(TargetWriteError):
        pipeline.run()
    assert target.written == []

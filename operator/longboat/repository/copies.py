"""Finding a block that is damaged in one backup of a disk in another backup of the same disk.

A backup that was made after damage became known has stored the blocks anew that were still on the disk, at the same
place of the disk and under the same id. So an older backup that refers to the damaged frame is healed by looking
there; nothing has to be written for that, and what is found is checked against the id that the older backup has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from threading import Lock

from .backups import disk_manifest_names, read_disk_manifest
from .errors import BackupNotFoundError, DamagedError, ObjectNotFoundError, UnsupportedFormatError
from .layout import Kind, pack_name
from .manifests import DiskManifest
from .map_reader import MapReader
from .pages import FrameRef, Page
from .repository import Repository
from .verify_frames import check_frame

_MAX_BACKUPS = 32  # The newest ones of the disk that are looked at.
_MAX_PAGES = 16  # Pages that are kept: neighbouring blocks are asked for one after the other.


class CopyFinder:
    """Other backups of a disk, looked at when the first block is asked for; safe to use from many threads."""

    def __init__(self, repository: Repository, name: str, manifest: DiskManifest) -> None:
        """Look for blocks of the disk manifest of that object name; nothing is read yet."""
        self._repository, self._name, self._manifest = repository, name, manifest
        self._readers: list[MapReader] | None = None
        self._pages: dict[tuple[int, int], Page | None] = {}
        self._bad: set[FrameRef] = set()
        self._lock = Lock()

    def find(self, frame: FrameRef | None, blocks: dict[int, bytes]) -> dict[int, bytes]:
        """Return the content of those blocks (by number on the disk, with their ids) that are whole elsewhere.

        `frame` is the one that could not be read. Only failures of the store itself are raised.
        """
        found: dict[int, bytes] = {}
        with self._lock:
            if frame is not None:
                self._bad.add(frame)
            for number, reader in enumerate(self._others()):
                missing = {block: block_id for block, block_id in blocks.items() if block not in found}
                if not missing:
                    break
                found.update(self._in(number, reader, missing))
        return found

    def _others(self) -> list[MapReader]:
        if self._readers is None:
            self._readers = list(self._open_others())
        return self._readers

    def _open_others(self) -> Iterator[MapReader]:
        names = disk_manifest_names(self._repository, self._manifest.disk.disk_key)
        for name in [name for name in names if name != self._name][:_MAX_BACKUPS]:
            try:
                manifest = read_disk_manifest(self._repository, name).manifest
            except (BackupNotFoundError, DamagedError, UnsupportedFormatError):
                continue
            if self._cut(manifest) == self._cut(self._manifest):
                yield MapReader(self._repository, manifest)

    def _in(self, number: int, reader: MapReader, blocks: dict[int, bytes]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for frame, members in self._frames(number, reader, blocks).items():
            plain = self._read(frame, {slot: blocks[block] for block, slot in members})
            size = self._manifest.block_size
            found.update({block: plain[slot * size : (slot + 1) * size] for block, slot in members if plain})
        return found

    def _frames(
        self, number: int, reader: MapReader, blocks: dict[int, bytes]
    ) -> dict[FrameRef, list[tuple[int, int]]]:
        frames: dict[FrameRef, list[tuple[int, int]]] = defaultdict(list)
        for block, block_id in blocks.items():
            at, index = divmod(block, self._manifest.page_blocks)
            page = self._page(number, reader, at)
            place = page.place(index) if page and index < page.blocks else None
            if page and place and page.block_id(index) == block_id and place[0] not in self._bad:
                frames[place[0]].append((block, place[1]))
        return frames

    def _page(self, number: int, reader: MapReader, at: int) -> Page | None:
        if (number, at) not in self._pages:
            if len(self._pages) >= _MAX_PAGES:
                del self._pages[next(iter(self._pages))]
            try:
                self._pages[number, at] = reader.page(at)
            except DamagedError:
                self._pages[number, at] = None
        return self._pages[number, at]

    def _read(self, frame: FrameRef, ids: dict[int, bytes]) -> bytes:
        name = pack_name(Kind.DATA_PACK, frame.pack)
        try:
            sealed = self._repository.store.get_range(name, frame.offset, frame.length)
            return check_frame(self._repository.keys, frame, sealed, ids, self._manifest.block_size)
        except (DamagedError, ObjectNotFoundError):
            self._bad.add(frame)
            return b""

    @staticmethod
    def _cut(manifest: DiskManifest) -> tuple[int, int]:
        return manifest.block_size, manifest.page_blocks

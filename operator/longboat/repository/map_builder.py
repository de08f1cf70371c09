"""Making the map of a new backup, page by page, beside that of its parent.

A page is opened before its blocks are looked at, and completes by itself when all its segments are done and every new
block has its place. A page in which nothing has changed is the parent's own; neither memory nor new pages grow with
the size of the disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from .codec import compress
from .damage import Damage
from .errors import DamagedError, RepositoryError
from .layout import ID_BYTES, Kind
from .manifests import DiskManifest, PageRef
from .map_reader import MapReader
from .packs import PackWriter
from .pages import FrameRef, Page, build_page, encode_page

_READ_AHEAD = 2  # Pages of the parent that are fetched before they are needed.


class ParentUnreadableError(RepositoryError):
    """A page of the parent is missing or damaged: another parent, or none, has to be taken."""

    reason = "ParentUnreadable"
    retryable = True


class PageBuild:
    """One page in the making; its methods may be called from many threads."""

    def __init__(
        self,
        number: int,
        blocks: int,
        segments: int,
        parent: Page | None,
        done: Callable[[PageBuild], None],
        distrusted: frozenset[int] = frozenset(),
    ) -> None:
        """Expect `segments` calls of segment_done(); `done` is called once, when the page is complete.

        `distrusted` blocks (numbers within the page) are damaged in the parent: they are stored anew, changed or not.
        """
        self.number, self.blocks, self.parent, self.distrusted = number, blocks, parent, distrusted
        self.ids = bytearray(blocks * ID_BYTES)
        self.places: list[tuple[FrameRef, int] | None] = [None] * blocks
        self.kept = self.new = 0
        self._outstanding = segments
        self._done = done
        self._lock = threading.Lock()

    def settle(self, found: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Take the ids of blocks that are no holes; return those that have to be stored.

        Blocks that are as in the parent keep the parent's place.
        """
        parent = self.parent
        kept, fresh = [], found
        if parent is not None:
            known = parent.blocks
            kept = [i for i, block_id in found if i < known and parent.frame_of[i] and parent.block_id(i) == block_id]
            kept = [i for i in kept if i not in self.distrusted] if self.distrusted else kept
            same = set(kept)
            fresh = [entry for entry in found if entry[0] not in same] if kept else found
        with self._lock:
            for index, block_id in found:
                self.ids[index * ID_BYTES : (index + 1) * ID_BYTES] = block_id
            for index in kept:
                self.places[index] = parent.place(index) if parent else None
            self.kept, self.new = self.kept + len(kept), self.new + len(fresh)
            self._outstanding += len(fresh)
        return fresh

    def place(self, index: int, frame: FrameRef, slot: int) -> None:
        """Say where a block that had to be stored is."""
        self.places[index] = (frame, slot)
        self._settled()

    def segment_done(self) -> None:
        """Say that a segment's blocks were all looked at."""
        self._settled()

    def unchanged(self) -> bool:
        """Tell whether the complete page is the same as the parent's."""
        same_size = self.parent is not None and self.parent.blocks == self.blocks
        return same_size and not self.new and self.kept == (self.parent.data_blocks() if self.parent else 0)

    def _settled(self) -> None:
        with self._lock:
            self._outstanding -= 1
            complete = self._outstanding == 0
        if complete:
            self._done(self)


class MapBuilder:
    """Collects the pages of a new map; map pages that changed go into map packs through `writer`."""

    def __init__(
        self,
        size: int,
        block_size: int,
        page_blocks: int,
        parent: MapReader | None,
        writer: PackWriter,
        damage: Damage | None = None,
    ) -> None:
        """Make the map of a disk of `size` bytes; the parent has the same block and page size.

        Nothing in `damage` is referred to, be it a page of the parent's map or a frame of its data.
        """
        self._damage = damage or Damage()
        self._blocks = -(-size // block_size)
        self._page_blocks, self._parent, self._writer = page_blocks, parent, writer
        self._lock = threading.Lock()
        self._packs: dict[str, int] = {}
        self._pages: list[PageRef | None] = [None] * -(-self._blocks // page_blocks)
        self._ahead: dict[int, Future[Page | None]] = {}
        self._fetcher = ThreadPoolExecutor(1, thread_name_prefix="parent-map")
        self._open = 0
        self.kept_blocks = self.new_blocks = 0

    def __enter__(self) -> MapBuilder:
        """Return self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop reading ahead."""
        self._fetcher.shutdown(wait=True, cancel_futures=True)

    def open_page(self, number: int, segments: int) -> PageBuild | None:
        """Begin a page (pages are begun in order); None if it has no segment, as it is complete then.

        ParentUnreadableError if the parent's page can't be read.
        """
        parent = self._parent_page(number)
        distrusted = self._damage.blocks_of(parent) if parent else frozenset[int]()
        build = PageBuild(number, self._size_of(number), segments, parent, self._complete, distrusted)
        with self._lock:
            self._open += 1
        if segments:
            return build
        self._complete(build)
        return None

    def parent_is_lost(self, number: int) -> bool:
        """Tell whether the parent's page is known to be damaged: what it held is not known, so all has to be read."""
        ref = self._parent_ref(number)
        return ref is not None and self._damage.covers(Kind.MAP_PACK, bytes.fromhex(ref[0]), ref[1])

    def result(self) -> tuple[list[str], list[PageRef | None]]:
        """Return the ids of the map packs, and the pages; only once every page is complete."""
        if self._open:
            raise AssertionError(f"{self._open} pages of the map are not complete")
        return list(self._packs), self._pages

    def _complete(self, build: PageBuild) -> None:
        if build.unchanged():
            ref = self._parent_ref(build.number)
        elif build.kept or build.new:
            ref = self._store(build)
        else:
            ref = None
        with self._lock:
            self._pages[build.number] = self._numbered(ref)
            self._open -= 1
            self.kept_blocks, self.new_blocks = self.kept_blocks + build.kept, self.new_blocks + build.new

    def _store(self, build: PageBuild) -> tuple[str, int, int]:
        plain = encode_page(build_page(bytes(build.ids), build.places))
        payload, codec = compress(plain)
        frame = self._writer.append(payload, len(plain), codec, 0)
        return frame.pack.hex(), frame.offset, frame.length

    def _parent_ref(self, number: int) -> tuple[str, int, int] | None:
        manifest: DiskManifest | None = self._parent.manifest if self._parent else None
        ref = manifest.pages[number] if manifest and number < len(manifest.pages) else None
        return (manifest.map_packs[ref[0]], ref[1], ref[2]) if manifest and ref else None

    def _numbered(self, ref: tuple[str, int, int] | None) -> PageRef | None:
        return (self._packs.setdefault(ref[0], len(self._packs)), ref[1], ref[2]) if ref else None

    def _size_of(self, number: int) -> int:
        return min(self._page_blocks, self._blocks - number * self._page_blocks)

    def _parent_page(self, number: int) -> Page | None:
        if self._parent is None:
            return None
        for ahead in range(number, min(number + _READ_AHEAD, self._parent.pages)):
            if ahead not in self._ahead and not self.parent_is_lost(ahead):
                self._ahead[ahead] = self._fetcher.submit(self._parent.page, ahead)
        future = self._ahead.pop(number, None)
        try:
            return future.result() if future else None
        except DamagedError as error:
            raise ParentUnreadableError(str(error)) from None

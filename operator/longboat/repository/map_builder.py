"""Making the map of a new backup, page by page, beside that of its parent.

A page is opened before its blocks are looked at, and completes by itself when all its tasks are done and every new
block has its place. A page in which nothing has changed is the parent's own; neither memory nor new pages grow with
the size of the disk. A page that is known to be unchanged is not even fetched.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from .avoid import Avoided
from .codec import compress
from .errors import DamagedError, RepositoryError
from .layout import Kind
from .manifests import DiskManifest, PageRef
from .map_reader import MapReader
from .packs import PackWriter
from .page_build import PageBuild
from .pages import Page, encode_page, page_table


class ParentUnreadableError(RepositoryError):
    """A page of the parent is missing or damaged: another parent, or none, has to be taken."""

    reason = "ParentUnreadable"
    retryable = True


class MapBuilder:
    """Collects the pages of a new map; map pages that changed go into map packs through `writer`."""

    def __init__(
        self,
        size: int,
        block_size: int,
        page_blocks: int,
        parent: MapReader | None,
        writer: PackWriter,
        avoided: Avoided | None = None,
    ) -> None:
        """Make the map of a disk of `size` bytes; the parent has the same block and page size.

        Nothing that is to be avoided is referred to, be it a page of the parent's map or a frame of its data.
        """
        self._avoided = avoided or Avoided()
        self._damage = self._avoided.damage
        self._blocks = -(-size // block_size)
        self._page_blocks, self._parent, self._writer = page_blocks, parent, writer
        self._lock = threading.Lock()
        self._packs: dict[str, int] = {}
        self._pages: list[PageRef | None] = [None] * -(-self._blocks // page_blocks)
        self._ahead: dict[int, Future[Page | None]] = {}
        self._fetcher = ThreadPoolExecutor(2, thread_name_prefix="parent-map")
        self._open = 0
        self._shared = self._seen = 0
        self._kept = self.new_blocks = self.rewritten_blocks = 0

    def __enter__(self) -> MapBuilder:
        """Return self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop reading ahead."""
        self._fetcher.shutdown(wait=True, cancel_futures=True)

    def prefetch(self, number: int) -> None:
        """Begin to fetch the parent's page, if there is one that can be read."""
        if self._parent is None or number >= self._parent.pages or self.parent_is_lost(number):
            return
        if number not in self._ahead:
            self._ahead[number] = self._fetcher.submit(self._parent.page, number)

    def must_look(self, number: int) -> bool:
        """Tell whether a page can't be shared unseen, as it refers to what is to be avoided."""
        return number in self._avoided.pages

    def parent_is_lost(self, number: int) -> bool:
        """Tell whether the parent's page is known to be damaged: what it held is not known, so all has to be read."""
        ref = self._parent_ref(number)
        return ref is not None and self._damage.covers(Kind.MAP_PACK, bytes.fromhex(ref[0]), ref[1])

    def must_read(self, number: int) -> Iterable[int]:
        """Return which blocks of a page are to be read, whatever is known of them: what the parent has is damaged.

        ParentUnreadableError if the parent's page can't be read.
        """
        if self.parent_is_lost(number):
            return range(self._size_of(number))
        page = self._parent_page(number) if self.must_look(number) else None
        return self._damage.blocks_of(page) if page is not None else ()

    def share_page(self, number: int) -> None:
        """Take a page of the parent as it is, without looking at it; the parent's disk has to be as large there."""
        ref = self._parent_ref(number)
        with self._lock:
            self._pages[number] = self._numbered(ref)
            self._shared += 1

    def open_page(self, number: int, tasks: int, keep: bool = False) -> PageBuild | None:
        """Begin a page (pages are begun in order); None if it has no task, as it is complete then.

        What no task settles is a hole, or the parent's if `keep`. ParentUnreadableError if the parent's page can't be
        read.
        """
        parent = self._parent_page(number)
        distrusted = self._damage.blocks_of(parent) if parent is not None else frozenset[int]()
        self._ahead.pop(number, None)
        build = PageBuild(number, self._size_of(number), tasks, parent, self._complete, keep, distrusted)
        with self._lock:
            self._open += 1
            self._seen += parent.data_blocks() if parent is not None else 0
        if tasks:
            return build
        self._complete(build)
        return None

    def result(self) -> tuple[list[str], list[PageRef | None]]:
        """Return the ids of the map packs, and the pages; only once every page is complete."""
        if self._open:
            raise AssertionError(f"{self._open} pages of the map are not complete")
        return list(self._packs), self._pages

    @property
    def kept_blocks(self) -> int:
        """Number of blocks that are the parent's; those of pages shared unseen by the parent's own statistics."""
        if not self._shared or self._parent is None:
            return self._kept
        counts = self._parent.manifest.statistics
        return self._kept + max(0, counts.new_blocks + counts.unchanged_blocks - self._seen)

    def _complete(self, build: PageBuild) -> None:
        kept, new = build.kept, build.new
        if build.unchanged():
            ref = self._parent_ref(build.number)
        elif kept or new:
            ref = self._store(build.page())
        else:
            ref = None
        with self._lock:
            self._pages[build.number] = self._numbered(ref)
            self._open -= 1
            self._kept, self.new_blocks = self._kept + kept, self.new_blocks + new
            self.rewritten_blocks += build.unchanged_in(self._avoided.rewritten)

    def _store(self, page: Page) -> tuple[str, int, int]:
        plain = encode_page(page)
        payload, codec = compress(plain)
        frame = self._writer.append(payload, len(plain), codec, *page_table(page))
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
        self.prefetch(number)
        future = self._ahead.get(number)
        try:
            return future.result() if future else None
        except DamagedError as error:
            raise ParentUnreadableError(str(error)) from None

"""Frames of data packs for readers that jump about: fetched in coalesced ranges, once each, and kept for a while."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor, Future
from threading import Lock
from typing import NamedTuple

from longboat.repository import Repository
from longboat.repository.crypto import RepositoryKeys
from longboat.repository.errors import RepositoryError
from longboat.repository.layout import Kind, pack_name
from longboat.repository.packs import open_frame
from longboat.repository.pages import FrameRef

from .restore_plan import BlockTarget, RangeFetch, coalesce
from .weighted_cache import WeightedCache


class Frame:
    """A frame in plain, and which ids its blocks were found to have."""

    def __init__(self, plain: bytes, block_size: int) -> None:
        """Nothing is checked yet."""
        self.plain, self._block_size = plain, block_size
        self._ids: dict[int, bytes] = {}

    def block(self, slot: int) -> memoryview:
        """Return the block in a slot."""
        return memoryview(self.plain)[slot * self._block_size : (slot + 1) * self._block_size]

    def holds(self, keys: RepositoryKeys, target: BlockTarget) -> bool:
        """Tell whether a slot has the block that a map says; each is hashed when it is asked for the first time."""
        if target.slot not in self._ids:
            self._ids[target.slot] = keys.block_id(self.block(target.slot))
        return self._ids[target.slot] == target.block_id


class FrameCache:
    """Frames of one or more repositories, up to `capacity` bytes in plain; safe to use from many threads.

    Packs have random ids, so that a frame's reference names it in all repositories.
    """

    def __init__(self, capacity: int, pool: Executor) -> None:
        """Make an empty cache that fetches what is asked for in advance, or together with more, on `pool`."""
        self._pool, self._lock = pool, Lock()
        self._kept: WeightedCache[FrameRef, Frame] = WeightedCache(capacity)
        self._flying: dict[FrameRef, Future[Frame]] = {}

    def want(
        self, repository: Repository, frames: Iterable[FrameRef], block_size: int
    ) -> dict[FrameRef, Future[Frame]]:
        """Return each frame, or its failure, as a future; what nobody fetches yet is fetched, in part by this thread.

        A failure is a RepositoryError and is not kept: whoever asks again causes another attempt.
        """
        wanted, mine = dict[FrameRef, Future[Frame]](), dict[FrameRef, Future[Frame]]()
        with self._lock:
            for frame in frames:
                wanted[frame] = self._known(frame) or self._begin(frame, mine)
        order = _Order(repository, mine, block_size)
        fetches = list(coalesce({frame: [] for frame in mine}))
        own = fetches[:1] + [each for each in fetches[1:] if not self._submitted(order, each)]
        for each in own:
            self._fetch(order, each)
        return wanted

    def _submitted(self, order: _Order, fetch: RangeFetch) -> bool:
        try:
            self._pool.submit(self._fetch, order, fetch)
        except RuntimeError:
            # The pool is being shut down; others may wait for these frames already.
            return False
        return True

    def _known(self, frame: FrameRef) -> Future[Frame] | None:
        kept = self._kept.get(frame)
        if kept is None:
            return self._flying.get(frame)
        done: Future[Frame] = Future()
        done.set_result(kept)
        return done

    def _begin(self, frame: FrameRef, mine: dict[FrameRef, Future[Frame]]) -> Future[Frame]:
        mine[frame] = self._flying[frame] = Future()
        return mine[frame]

    def _fetch(self, order: _Order, fetch: RangeFetch) -> None:
        name = pack_name(Kind.DATA_PACK, fetch.pack)
        try:
            data = memoryview(order.repository.store.get_range(name, fetch.start, fetch.length))
            for frame, _ in fetch.frames:
                at = frame.offset - fetch.start
                self._open(order, frame, data[at : at + frame.length])
        except BaseException as error:
            # Nobody may wait for ever, whatever has happened. Who needs a frame of a range that fails reads it alone.
            for frame, _ in fetch.frames:
                self._fail(order, frame, error)

    def _open(self, order: _Order, frame: FrameRef, sealed: memoryview) -> None:
        size = order.block_size
        try:
            plain = open_frame(order.repository.keys, Kind.DATA_PACK, frame, sealed, frame.blocks * size)
        except RepositoryError as error:
            self._fail(order, frame, error)
            return
        opened = Frame(plain, size)
        with self._lock:
            self._kept.put(frame, opened, len(plain))
            self._flying.pop(frame, None)
        order.futures[frame].set_result(opened)

    def _fail(self, order: _Order, frame: FrameRef, error: BaseException) -> None:
        future = order.futures[frame]
        if not future.done():
            with self._lock:
                self._flying.pop(frame, None)
            future.set_exception(error)


class _Order(NamedTuple):
    """What one caller fetches: frames that nobody else does, with the futures that others may wait for, too."""

    repository: Repository
    futures: dict[FrameRef, Future[Frame]]
    block_size: int

"""Reading frames of data packs and comparing their blocks with the ids that a map has of them."""

from __future__ import annotations

import math
import struct
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from threading import Lock

from .crypto import RepositoryKeys
from .damage import WHOLE, Damage
from .errors import DamagedError, ObjectNotFoundError
from .layout import Kind, pack_name
from .object_store import Data, persistently
from .packs import open_frame
from .pages import FrameRef
from .repository import Random, Repository
from .verify_report import Fault, fault_of

MAX_RANGE = 4 << 20  # Frames of a pack are fetched together up to this many bytes,
MAX_GAP = 64 << 10  # and bytes between them that nobody needs, up to this many, come along.
_STRETCH = 20  # A sample is made of whole MiB of packs, so that its frames can be fetched together.
_TURN = 1 << 32  # A full turn of the circle on which samples lie.
_GOLDEN = 0x9E3779B9  # Its multiples lie evenly on that circle, so that no pack is left out for long.
_IN_FLIGHT = 16
_WHOLE_FROM = 64  # A pack with more damaged frames than this counts as damaged as a whole: memory stays bounded.

Wanted = dict[FrameRef, dict[int, bytes]]  # For each frame the ids of its blocks by slot.


@dataclass(frozen=True)
class Sample:
    """A share of all frames: those whose place on a circle lies in an arc from `phase` on, `width` of 2**32 wide.

    Places follow from pack and offset alone. Arcs that begin where the last one ended cover the circle without gap in
    1 / share runs; arcs that begin at random places cover it in time.
    """

    width: int
    phase: int

    @classmethod
    def of(cls, percent: float, phase: int | None, random: Random) -> Sample:
        """Return a sample of so many percent; `random` says where it begins if no phase is given."""
        if not 0 <= percent <= 100:
            raise ValueError(f"share: expected 0 to 100 percent, found {percent}")
        start = struct.unpack("<I", random(4))[0] if phase is None else phase % _TURN
        return cls(min(math.ceil(percent / 100 * _TURN), _TURN), start)

    @property
    def next_phase(self) -> int:
        """Where the next sample goes on."""
        return (self.phase + self.width) % _TURN

    def takes(self, frame: FrameRef) -> bool:
        """Tell whether a frame is in the sample."""
        place = int.from_bytes(frame.pack[:4], "little") + (frame.offset >> _STRETCH) * _GOLDEN
        return (place - self.phase) % _TURN < self.width


ALL_FRAMES = Sample(_TURN, 0)


class FrameSet:
    """Frames by pack and offset, in a few bytes each: there may be tens of millions."""

    def __init__(self) -> None:
        """Make an empty set."""
        self._offsets: dict[bytes, array[int]] = {}

    def add(self, pack: bytes, offset: int) -> bool:
        """Take a frame; tell whether it is new."""
        offsets = self._offsets.setdefault(pack, array("I"))
        at = bisect_left(offsets, offset)
        if at < len(offsets) and offsets[at] == offset:
            return False
        offsets.insert(at, offset)
        return True


class Findings:
    """All damage that was found, by kind and pack, then by offset (or WHOLE); safe to use from many threads."""

    def __init__(self) -> None:
        """Nothing is damaged."""
        self.faults: dict[tuple[Kind, bytes], dict[int, Fault]] = {}
        self._lock = Lock()

    def add(self, kind: Kind, pack: bytes, offset: int, fault: Fault) -> None:
        """Take a frame, or a pack (WHOLE), as damaged."""
        with self._lock:
            faults = self.faults.setdefault((kind, pack), {})
            if offset == WHOLE:
                self.faults[kind, pack] = {WHOLE: fault}
            elif len(faults) >= _WHOLE_FROM:
                more = f"{_WHOLE_FROM} frames and more are damaged, so it counts as damaged as a whole: {fault.detail}"
                self.faults[kind, pack] = {WHOLE: Fault("Damaged", more)}
            elif WHOLE not in faults:
                faults[offset] = fault

    def covers(self, kind: Kind, pack: bytes, offset: int) -> bool:
        """Tell whether a frame is known to be damaged."""
        faults = self.faults.get((kind, pack), {})
        return WHOLE in faults or offset in faults

    def damage(self) -> Damage:
        """Return what was found as a set."""
        damage = Damage()
        for (kind, pack), faults in self.faults.items():
            for offset in faults:
                damage.add(kind, pack, offset)
        return damage


def check_frame(keys: RepositoryKeys, frame: FrameRef, sealed: Data, ids: dict[int, bytes], block_size: int) -> bytes:
    """Return the frame's blocks after comparing those in `ids`; DamagedError names pack and slot."""
    plain = open_frame(keys, Kind.DATA_PACK, frame, sealed, frame.blocks * block_size)
    view = memoryview(plain)
    for slot, block_id in ids.items():
        if keys.block_id(view[slot * block_size : (slot + 1) * block_size]) != block_id:
            name = pack_name(Kind.DATA_PACK, frame.pack)
            raise DamagedError(f"pack {name}: slot {slot} of the frame at {frame.offset} is another block")
    return plain


def coalesce(frames: list[FrameRef]) -> Iterator[list[FrameRef]]:
    """Yield runs of frames of one pack that are fetched together."""
    run = list[FrameRef]()
    for frame in sorted(frames):
        if run and not _joins(run, frame):
            yield run
            run = []
        run.append(frame)
    if run:
        yield run


class FrameChecker:
    """Fetches and checks frames in the background, with a bound on what is in flight."""

    def __init__(self, repository: Repository, pool: Executor, findings: Findings) -> None:
        """Report damage to `findings`."""
        self._repository, self._pool, self._findings = repository, pool, findings
        self._flying: deque[Future[None]] = deque()
        self._lock = Lock()
        self.frames = self.bytes_read = 0

    def check(self, wanted: Wanted, block_size: int) -> None:
        """Check frames; errors of the store are raised by this call or a later one."""
        for run in coalesce(list(wanted)):
            if len(self._flying) >= _IN_FLIGHT:
                self._flying.popleft().result()
            self._flying.append(self._pool.submit(self._fetch, run, wanted, block_size))

    def finish(self) -> None:
        """Wait for what is in flight."""
        while self._flying:
            self._flying.popleft().result()

    def confirm(self, frame: FrameRef, ids: dict[int, bytes], block_size: int) -> None:
        """Read a frame by itself, a few times if need be, and report it if it stays damaged."""
        if self._findings.covers(Kind.DATA_PACK, frame.pack, frame.offset):
            return
        name = pack_name(Kind.DATA_PACK, frame.pack)
        store, keys = self._repository.store, self._repository.keys

        def read() -> None:
            check_frame(keys, frame, store.get_range(name, frame.offset, frame.length), ids, block_size)

        try:
            persistently(read)
        except ObjectNotFoundError as error:
            self._findings.add(Kind.DATA_PACK, frame.pack, WHOLE, fault_of(error))
        except DamagedError as error:
            self._findings.add(Kind.DATA_PACK, frame.pack, frame.offset, fault_of(error))
        self._count(1, frame.length)

    def _fetch(self, run: list[FrameRef], wanted: Wanted, block_size: int) -> None:
        start, end = run[0].offset, run[-1].offset + run[-1].length
        try:
            data = memoryview(
                self._repository.store.get_range(pack_name(Kind.DATA_PACK, run[0].pack), start, end - start)
            )
        except (ObjectNotFoundError, DamagedError):
            data = memoryview(b"")
        for frame in run:
            at = frame.offset - start
            try:
                check_frame(self._repository.keys, frame, data[at : at + frame.length], wanted[frame], block_size)
                self._count(1, frame.length)
            except DamagedError:
                self.confirm(frame, wanted[frame], block_size)

    def _count(self, frames: int, length: int) -> None:
        with self._lock:
            self.frames, self.bytes_read = self.frames + frames, self.bytes_read + length


def _joins(run: list[FrameRef], frame: FrameRef) -> bool:
    first, last = run[0], run[-1]
    gap = frame.offset - (last.offset + last.length)
    near = frame.pack == last.pack and 0 <= gap <= MAX_GAP
    return near and frame.offset + frame.length - first.offset <= MAX_RANGE

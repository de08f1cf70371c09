"""The writing half of repacking: new packs, new pages, and manifests in the place of those that refer to them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from .backups import StoredDisk, disk_exists, read_disk_manifest
from .codec import compress
from .commit import require_sound
from .damage import WHOLE, Damage
from .documents import seal_document
from .errors import BackupNotFoundError, DamagedError, LeaseLostError, ObjectNotFoundError
from .layout import FRAME_TARGET, ID_BYTES, MAX_FRAME_BLOCKS, PACK_TARGET, Kind, moved_name, pack_name
from .leases import MIN_GRACE, Lease
from .listing import list_disks
from .manifests import DiskManifest, PageRef
from .map_reader import MapReader
from .named import being_removed
from .object_store import ObjectStore, persistently, put_fresh
from .packs import PackWriter, open_frame
from .pages import FrameRef, Page, build_page, encode_page, page_table
from .repack import RepackPlan, Source, place_of
from .repository import Repository

MAP_PACK_TARGET = 4 << 20
CACHE = 32 << 20  # Bytes of frames that are kept for the next pages.
REMOVED, CHANGED = "a backup of theirs is being removed, or was", "what they are for has changed"
LATE = "they came too late"
Place = tuple[FrameRef, int]  # A frame and the slot of a block in it.


@dataclass
class Copied:
    """What was done for a disk: bytes downloaded of its packs, bytes written, manifests.

    `missing` counts by reason the manifests that were to be written, too, and are not there.
    """

    downloaded: int = 0
    written: int = 0
    manifests: int = 0
    missing: Counter[str] = field(default_factory=Counter)

    def took(self, reason: str) -> None:
        """Count a manifest that was written, or why there is none."""
        self.manifests += not reason
        self.missing.update([reason] if reason else [])


def repack_disk(
    repository: Repository, plan: RepackPlan, damage: Damage, fence: Callable[[], None], tell: Callable[[int], None]
) -> Copied:
    """Write what is alive of the planned packs anew, and manifests in the place of those that refer to them.

    What turns out to be damaged is added to `damage`; its pack is left as it is. `tell` gets the bytes of packs
    downloaded. LeaseLostError if a pack that the disk refers to was condemned: nothing can be moved then.
    """
    data, maps = _Sink(repository.store, PACK_TARGET), _Sink(repository.store, MAP_PACK_TARGET)

    def uploaded(told: tuple[int, int]) -> tuple[list[str], list[str]]:
        return data.uploaded[told[0] :], maps.uploaded[told[1] :]

    copied = Copied()
    with Lease(repository, plan.disk_key, "", uploaded) as lease:
        lease.name_parent(plan.disks[-1].name)
        # After the lease and its look at the condemned lists, as every writer does.
        disks = _lasting(repository, plan.disks, copied)
        writer = PackWriter(repository.keys, Kind.DATA_PACK, data, repository.random)
        copies = _Copies(repository, set(plan.packs), writer, damage, plan.cost, tell)
        pages = _Pages(repository, PackWriter(repository.keys, Kind.MAP_PACK, maps, repository.random), plan, copies)
        # Each manifest is read twice, as memory is for one: first for what is written, then for where that is.
        moving = [disk for disk in disks if pages.moved(_again(repository, disk))]
        writer.finish()
        pages.finish()
        for disk in moving:
            manifest = pages.moved(_again(repository, disk))
            fence()
            lease.assure()
            if manifest is not None:
                _refuse_condemned(lease, plan, data.uploaded, manifest)
            copied.took(_put(repository, lease, disk, manifest) if manifest is not None else CHANGED)
    copied.downloaded, copied.written = copies.downloaded, data.stored_bytes + maps.stored_bytes
    return copied


def _lasting(repository: Repository, disks: Sequence[Source], copied: Copied) -> list[Source]:
    """Return the manifests that no removal is about to take."""
    # Before anything is downloaded: what would be withdrawn afterwards costs as much.
    removed = being_removed(repository, (disk.name for disk in disks))
    for _ in removed:
        copied.took(REMOVED)
    return [disk for disk in disks if disk.name not in removed]


def _again(repository: Repository, disk: Source) -> StoredDisk | None:
    """Return a manifest if it is still there, and the object that it was."""
    with contextlib.suppress(BackupNotFoundError):
        found = read_disk_manifest(repository, disk.name)
        return found if disk == (found.name, found.place, found.object_id) else None
    return None


def _refuse_condemned(lease: Lease, plan: RepackPlan, uploaded: Collection[str], manifest: DiskManifest) -> None:
    condemned = lease.condemned
    maps = condemned.among(Kind.MAP_PACK, map(bytes.fromhex, manifest.map_packs))
    data = condemned.among(Kind.DATA_PACK, plan.all_packs) or not condemned.names().isdisjoint(uploaded)
    if maps or data or condemned.unreadable:
        raise LeaseLostError("a pack that the disk refers to is condemned, or a condemned list can't be read")


def _put(repository: Repository, lease: Lease, before: Source, manifest: DiskManifest) -> str:
    """Write a manifest in the place of another one; return why it is not there, or an empty text."""
    if not disk_exists(repository, before.name):
        return REMOVED
    object_id = repository.random(ID_BYTES)
    content = manifest.model_copy(update={"checked": lease.modified})
    data = seal_document(repository.keys, Kind.DISK_MANIFEST, object_id, content)
    written = put_fresh(repository.store, moved_name(before.name, object_id), data)
    stored = StoredDisk(before.name, before.object_id, content, written.name)
    wanted = _is_wanted(repository, before)
    if wanted and _is_sound(repository, stored):
        return ""
    # Nothing goes for its sake before it is as old as a grace period, so that until then nobody needs it.
    lease.renew()  # For the store's time, however late it is.
    if lease.modified - written.modified < MIN_GRACE:
        repository.store.delete(written.name)
    return LATE if wanted else REMOVED


def _is_wanted(repository: Repository, before: Source) -> bool:
    """Tell whether a manifest's backup is not being removed: alone, what was written would be taken for one left."""
    # In this order: a removal that has taken the one before it may have left no announcement, and no backup's manifest.
    if being_removed(repository, [before.name]):
        return False
    there = list_disks(repository, before.name.rsplit("/", 1)[0] + "/").get(before.name)
    return there is not None and any(info.name == before.place for info in there.objects)


def _is_sound(repository: Repository, stored: StoredDisk) -> bool:
    """Tell whether a manifest keeps its packs: one that came too late may refer to packs that are about to go."""
    try:
        require_sound(repository, stored)
    except (DamagedError, ObjectNotFoundError):
        return False
    return True


class _Pages:
    """Writes pages that refer to packs which are repacked anew, each once for all manifests that have it."""

    def __init__(self, repository: Repository, writer: PackWriter, plan: RepackPlan, copies: _Copies) -> None:
        self._repository, self._writer, self._plan, self._copies = repository, writer, plan, copies
        self._written: dict[tuple[bytes, int, int], tuple[str, int, int] | None] = {}
        self._ended = False

    def finish(self) -> None:
        """Upload the last pack of pages; afterwards nothing more is written."""
        self._writer.finish()
        self._ended = True

    def moved(self, disk: StoredDisk | None) -> DiskManifest | None:
        """Return the manifest that is to take the place of another; None if nothing of that is moved."""
        if disk is None:
            return None
        reader, packs, pages = MapReader(self._repository, disk.manifest), dict[str, int](), list[PageRef | None]()
        moved = False
        for number, ref in enumerate(disk.manifest.pages):
            if ref is None:
                pages.append(None)
                continue
            place = self._moved(reader, number)
            moved = moved or place is not None
            pack, offset, length = place or (disk.manifest.map_packs[ref[0]], ref[1], ref[2])
            pages.append((packs.setdefault(pack, len(packs)), offset, length))
        if not moved:
            return None
        changes = {"original": disk.object_id, "map_packs": list(packs), "pages": pages}
        return disk.manifest.model_copy(update=changes)

    def _moved(self, reader: MapReader, number: int) -> tuple[str, int, int] | None:
        place = place_of(reader.manifest, number)
        if place not in self._plan.pages or place is None:
            return None
        key = (*place, reader.page_blocks(number))
        if key not in self._written and not self._ended:
            page = self._new(reader, number)
            self._written[key] = self._store(page) if page else None
        return self._written.get(key)

    def _new(self, reader: MapReader, number: int) -> Page | None:
        try:
            page = persistently(lambda: reader.page(number))
        except DamagedError:
            self._copies.damage.add(Kind.MAP_PACK, *reader.place(number))
            return None
        return self._copies.moved(page, reader.manifest.block_size) if page else None

    def _store(self, page: Page) -> tuple[str, int, int]:
        plain = encode_page(page)
        payload, codec = compress(plain)
        frame = self._writer.append(payload, len(plain), codec, *page_table(page))
        return frame.pack.hex(), frame.offset, frame.length


class _Copies:
    """Blocks of the packs that are repacked, and where they are now."""

    def __init__(
        self,
        repository: Repository,
        packs: set[bytes],
        writer: PackWriter,
        damage: Damage,
        limit: int,
        tell: Callable[[int], None],
    ) -> None:
        self._repository, self._packs, self._writer, self._tell = repository, packs, writer, tell
        self._limit, self._plain = limit, dict[FrameRef, bytes]()
        self.damage, self.downloaded = damage, 0
        self._places: dict[Place, tuple[bytes, Place]] = {}

    def moved(self, page: Page, block_size: int) -> Page | None:
        """Return the page with its blocks in new packs; None if none of them could be moved."""
        for chunk in _chunks(self._fetch(page, block_size), _frame_blocks(block_size)):
            payload, codec = compress(b"".join(block for _, _, block in chunk))
            ids = b"".join(block_id for _, block_id, _ in chunk)
            frame = self._writer.append(payload, len(chunk) * block_size, codec, len(chunk), ids)
            for slot, (place, block_id, _) in enumerate(chunk):
                self._places[place] = block_id, (frame, slot)
        places = [self._place(page, index) for index in range(page.blocks)]
        if all(places[index] == page.place(index) for index in range(page.blocks)):
            return None
        return build_page(page.ids, places)

    def _place(self, page: Page, index: int) -> Place | None:
        place = page.place(index)
        found = self._places.get(place) if place else None
        # Only under the id that was checked: if pages disagree on a block, one of them is wrong.
        return found[1] if found and found[0] == page.block_id(index) else place

    def _fetch(self, page: Page, block_size: int) -> Iterator[tuple[Place, bytes, bytes]]:
        wanted: dict[FrameRef, dict[int, bytes]] = {}
        for index in range(page.blocks):
            place = page.place(index)
            if place and place[0].pack in self._packs and place not in self._places:
                wanted.setdefault(place[0], {})[place[1]] = page.block_id(index)
        for frame, ids in wanted.items():
            plain = memoryview(self._frame(frame, ids, block_size))
            for slot, block_id in ids.items() if plain else ():
                yield (frame, slot), block_id, bytes(plain[slot * block_size : (slot + 1) * block_size])

    def _frame(self, frame: FrameRef, ids: dict[int, bytes], block_size: int) -> bytes:
        """Return a frame's blocks if those in `ids` are what they should be; none if it can't be had."""
        if frame not in self._plain and self._limit < self.downloaded + frame.length:
            self._packs.clear()  # What is moved already is; the rest is for another run.
        if frame.pack not in self._packs:
            return b""
        try:
            plain = self._cached(frame, block_size)
            self._check(frame, plain, ids, block_size)
            return plain
        except (DamagedError, ObjectNotFoundError) as error:
            gone = isinstance(error, ObjectNotFoundError)
            self.damage.add(Kind.DATA_PACK, frame.pack, WHOLE if gone else frame.offset)
            self._packs.discard(frame.pack)
            return b""

    def _cached(self, frame: FrameRef, block_size: int) -> bytes:
        # Pages follow each other on the disk, as blocks do in frames: the next page asks for the same few.
        plain = self._plain.pop(frame, None)
        if plain is None:
            plain = persistently(lambda: self._read(frame, block_size))
        self._plain[frame] = plain
        while len(self._plain) > 1 and sum(map(len, self._plain.values())) > CACHE:
            del self._plain[next(iter(self._plain))]
        return plain

    def _read(self, frame: FrameRef, block_size: int) -> bytes:
        name = pack_name(Kind.DATA_PACK, frame.pack)
        sealed = self._repository.store.get_range(name, frame.offset, frame.length)
        self.downloaded += frame.length
        self._tell(frame.length)
        return open_frame(self._repository.keys, Kind.DATA_PACK, frame, sealed, frame.blocks * block_size)

    def _check(self, frame: FrameRef, plain: bytes, ids: dict[int, bytes], block_size: int) -> None:
        view = memoryview(plain)
        for slot, block_id in ids.items():
            if self._repository.keys.block_id(view[slot * block_size : (slot + 1) * block_size]) != block_id:
                raise DamagedError(f"slot {slot} of the frame at {frame.offset} is another block")


def _frame_blocks(block_size: int) -> int:
    return min(MAX_FRAME_BLOCKS, max(1, FRAME_TARGET // block_size))


def _chunks(blocks: Iterator[tuple[Place, bytes, bytes]], size: int) -> Iterator[list[tuple[Place, bytes, bytes]]]:
    chunk = list[tuple[Place, bytes, bytes]]()
    for block in blocks:
        chunk.append(block)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class _Sink:
    """Uploads packs at once: a prune is in no hurry, and needs no more memory than one pack's."""

    def __init__(self, store: ObjectStore, capacity: int) -> None:
        self._store, self._capacity = store, capacity
        self.uploaded, self.stored_bytes = list[str](), 0

    def take_buffer(self) -> memoryview:
        """See Sink."""
        return memoryview(bytearray(self._capacity))

    def submit(self, name: str, buffer: memoryview, length: int) -> None:
        """See Sink."""
        put_fresh(self._store, name, buffer[:length])
        self.uploaded.append(name)
        self.stored_bytes += length

"""An export by hand: the repository's own parts in the order of the mover's, in one thread, for histories of many."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from longboat.repository import DiskIdentity, Repository, StoredDisk
from longboat.repository.avoid import Avoided, avoid
from longboat.repository.codec import compress
from longboat.repository.commit import commit_disk_manifest
from longboat.repository.crypto import HEADER_BYTES
from longboat.repository.damage import Damage
from longboat.repository.errors import DamagedError
from longboat.repository.layout import FORMAT_VERSION, Kind, pack_name
from longboat.repository.leases import Lease
from longboat.repository.manifests import DiskManifest
from longboat.repository.map_builder import MapBuilder
from longboat.repository.map_reader import MapReader
from longboat.repository.object_store import put_fresh
from longboat.repository.packs import PackWriter, open_frame
from longboat.repository.page_build import HOLE
from longboat.repository.parents import choose_parent
from longboat.repository.rewrite import read_advice, rewrite_budget
from longboat.repository.uploaded import UploadedBlocks, packs_in_leases

BLOCK, PAGE = 4096, 4


class DirectSink:
    """Uploads packs at once, in the thread that fills them."""

    def __init__(self, repository: Repository) -> None:
        self._store, self.uploaded = repository.store, list[str]()

    def take_buffer(self) -> memoryview:
        return memoryview(bytearray(1 << 16))

    def submit(self, name: str, buffer: memoryview, length: int) -> None:
        put_fresh(self._store, name, bytes(buffer[:length]))
        self.uploaded.append(name)


def back_up(repository: Repository, disk: str, name: str, created: datetime, content: list[int]) -> StoredDisk:
    """Store a disk whose blocks are filled with these bytes, 0 being a hole; pack by pack, page by page."""
    data, maps = DirectSink(repository), DirectSink(repository)
    lease = Lease(repository, disk, name, lambda told: (data.uploaded[told[0] :], maps.uploaded[told[1] :]))
    lease.renew()
    unread = list(lease.condemned.unreadable)
    choice = choose_parent(repository, DiskIdentity(disk_key=disk), BLOCK, PAGE)
    earlier = packs_in_leases(repository, disk)
    lease.name_parent(choice.parent.name if choice.parent else None)
    lease.name_reused(earlier)
    damage, parent, avoided = Damage(), None, Avoided()
    if choice.parent is not None:
        found = choice.parent.manifest
        parent, budget = MapReader(repository, found), rewrite_budget(found)
        avoided = avoid(repository, found, damage, lease.condemned, read_advice(repository, disk), budget, threads=1)
    packs = PackWriter(repository.keys, Kind.DATA_PACK, data, repository.random)  # type: ignore[arg-type]
    pages = PackWriter(repository.keys, Kind.MAP_PACK, maps, repository.random)  # type: ignore[arg-type]
    with (
        MapBuilder(len(content) * BLOCK, BLOCK, PAGE, parent, pages, avoided) as builder,
        UploadedBlocks(repository, earlier, lease.condemned.names(), damage) as uploaded,
    ):
        for page in range(-(-len(content) // PAGE)):
            _store_page(repository, builder, packs, uploaded.find, page, content[page * PAGE : (page + 1) * PAGE])
            packs.finish()
            lease.renew()
    pages.finish()
    map_packs, refs = builder.result()
    manifest = DiskManifest(
        format_version=FORMAT_VERSION,
        repository_id=repository.id,
        key_id=repository.key_id,
        disk=DiskIdentity(disk_key=disk),
        backup_name=name,
        created=created,
        size_bytes=len(content) * BLOCK,
        block_size=BLOCK,
        page_blocks=PAGE,
        parent=choice.parent.name if choice.parent else None,
        map_packs=map_packs,
        pages=refs,
    )
    stored = commit_disk_manifest(repository, lease, manifest, unread)
    lease.remove()
    return stored


def _store_page(
    repository: Repository,
    builder: MapBuilder,
    packs: PackWriter,
    find: Callable[[bytes], object],
    number: int,
    content: list[int],
) -> None:
    build = builder.open_page(number, 1)
    assert build is not None
    ids = [repository.keys.block_id(bytes([value]) * BLOCK) if value else HOLE for value in content]
    for index in build.settle(0, b"".join(ids)):
        found = find(ids[index])
        if found is not None:
            build.place(index, *found)  # type: ignore[misc]
            continue
        payload, codec = compress(bytes([content[index]]) * BLOCK)
        build.place(index, packs.append(payload, BLOCK, codec, 1, ids[index]), 0)
    build.task_done()


def read_back(repository: Repository, manifest: DiskManifest) -> list[int]:
    """Return the bytes that a backed-up disk's blocks are filled with; DamagedError if any can't be read."""
    reader, content = MapReader(repository, manifest), list[int]()
    for number in range(reader.pages):
        page = reader.page(number)
        for index in range(reader.page_blocks(number)):
            place = page.place(index) if page else None
            if page is None or place is None:
                content.append(0)
                continue
            frame, slot = place
            sealed = repository.store.get_range(pack_name(Kind.DATA_PACK, frame.pack), frame.offset, frame.length)
            plain = open_frame(repository.keys, Kind.DATA_PACK, frame, sealed, frame.blocks * BLOCK)
            block = plain[slot * BLOCK : (slot + 1) * BLOCK]
            if repository.keys.block_id(block) != page.block_id(index) or frame.offset < HEADER_BYTES:
                raise DamagedError(f"block {index} of page {number} is another one")
            content.append(block[0])
    return content

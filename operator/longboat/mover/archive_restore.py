"""Restoring the files of a small volume: the archive is read as a whole, checked, and unpacked."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from longboat.repository import DiskManifest, Repository
from longboat.repository.errors import DamagedError, ObjectNotFoundError
from longboat.repository.layout import Kind, pack_name
from longboat.repository.map_reader import MapReader
from longboat.repository.packs import open_frame
from longboat.repository.pages import FrameRef

from .archive import MAX_ARCHIVE, OURS_TO_LEAVE, unpack
from .errors import ArchiveDamagedError, TargetExistsError, TargetMissingError
from .jobs import RestoreJob
from .results import RestoreResult


def restore_archive(job: RestoreJob, repository: Repository, manifest: DiskManifest) -> RestoreResult:
    """Write the files of an archive into the directory of an empty volume; a retry does it all again.

    Nothing is written before all of the archive was read and checked. RepositoryError and MoverError say what is wrong.
    """
    folder = Path(job.target_path)
    if not folder.is_dir():
        raise TargetMissingError(f"{folder}: expected the directory of a filesystem volume")
    if not job.replace_existing and {entry.name for entry in folder.iterdir()} - OURS_TO_LEAVE:
        raise TargetExistsError(f"{folder}: there are files already; restore into a new volume")
    data = read_whole(repository, manifest)
    unpack(data, folder)
    return RestoreResult(
        manifest=job.manifest,
        logical_bytes=manifest.size_bytes,
        written_bytes=len(data),
        read_bytes=manifest.statistics.allocated_bytes,
    )


def read_whole(repository: Repository, manifest: DiskManifest) -> bytes:
    """Return all bytes of a small disk, each block checked; DamagedError or ArchiveDamagedError."""
    if manifest.size_bytes > MAX_ARCHIVE:
        raise ArchiveDamagedError(f"an archive of {manifest.size_bytes} bytes is too large: expected {MAX_ARCHIVE}")
    reader, size = MapReader(repository, manifest), manifest.block_size
    out = bytearray(-(-manifest.size_bytes // size) * size)

    @lru_cache(maxsize=4)
    def frame(ref: FrameRef) -> bytes:
        name = pack_name(Kind.DATA_PACK, ref.pack)
        try:
            sealed = repository.store.get_range(name, ref.offset, ref.length)
        except ObjectNotFoundError:
            raise DamagedError(f"pack {name} is missing") from None
        return open_frame(repository.keys, Kind.DATA_PACK, ref, sealed, ref.blocks * size)

    for number in range(reader.pages):
        page = reader.page(number)
        for index in range(page.blocks if page else 0):
            place = page.place(index) if page else None
            if page is None or place is None:
                continue
            block = frame(place[0])[place[1] * size : (place[1] + 1) * size]
            if repository.keys.block_id(block) != page.block_id(index):
                raise DamagedError(f"pack {place[0].pack.hex()}: the frame at {place[0].offset} holds another block")
            at = (number * manifest.page_blocks + index) * size
            out[at : at + size] = block
    return bytes(out[: manifest.size_bytes])

"""Finding a disk of the same namespace that was made from the same image, for the first backup of another one.

Disks of one golden image have the same blocks at the same places. A few blocks of the first page tell: the newest
backup of whichever disk shares most of them serves as comparison. Only backups under the namespace's own key are seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .backups import StoredDisk, tombstoned_hashes
from .commit import read_sound_manifest
from .damage import Damage
from .errors import BackupNotFoundError, DamagedError, UnsupportedFormatError
from .layout import split_disk_manifest_name
from .listing import list_disks
from .map_reader import MapReader
from .repository import Repository

MAX_SIMILAR = 16  # Disks that are looked at, those backed up last first.
_ENOUGH = 4  # Blocks without which nothing can be said,
_SHARE = 0.25  # and the share of them that has to be the same.


def choose_similar(
    repository: Repository,
    disk_key: str,
    block_size: int,
    page_blocks: int,
    sample: Mapping[int, bytes],
    damage: Damage,
) -> StoredDisk | None:
    """Return the newest backup of the other disk that has most of the sampled blocks, or None.

    `sample` has ids by block number, all in the first page and none of them a hole. Backups that are deleted, damaged,
    or cut into other blocks are passed over.
    """
    if len(sample) < _ENOUGH:
        return None
    best, shared = None, _SHARE * len(sample)
    for stored in _candidates(repository, repository.keys.name_hash(disk_key)):
        if (stored.manifest.block_size, stored.manifest.page_blocks, stored.manifest.content) != (
            block_size,
            page_blocks,
            "Disk",
        ):
            continue
        count = _shared(repository, stored, sample, damage)
        if count >= shared:
            best, shared = stored, count + 1
    return best


def _candidates(repository: Repository, own_hash: str) -> Iterator[StoredDisk]:
    deleted = tombstoned_hashes(repository)
    newest: dict[str, tuple[str, str]] = {}
    for name in list_disks(repository):
        parts = split_disk_manifest_name(name)
        if parts and parts[0] != own_hash and parts[2] not in deleted:
            newest[parts[0]] = max(newest.get(parts[0], ("", "")), (parts[1], name))
    for _, name in sorted(newest.values(), reverse=True)[:MAX_SIMILAR]:
        try:
            yield read_sound_manifest(repository, name)
        except (BackupNotFoundError, DamagedError, UnsupportedFormatError):
            continue


def _shared(repository: Repository, stored: StoredDisk, sample: Mapping[int, bytes], damage: Damage) -> int:
    try:
        page = MapReader(repository, stored.manifest).page(0)
    except DamagedError:
        return 0
    if page is None:
        return 0
    usable = sample.keys() - damage.blocks_of(page)
    return sum(block < page.blocks and page.block_id(block) == sample[block] for block in usable)

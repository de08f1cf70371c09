"""Reads and authenticates every object of a repository, also those that restoring does not need."""

import re
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.independent_reader import objects
from tests.independent_reader.errors import DamagedError, ReaderError
from tests.independent_reader.objects import ObjectFile
from tests.independent_reader.reader import (
    DISK_NAME,
    MOVED_NAME,
    PAGE_FRAME,
    PAGE_HEAD,
    REVISION,
    Repository,
    id_bytes,
    id_field,
    open_pack,
    parse_disk,
    plain_json,
    value,
)

HEX = "[0-9a-f]{32}"
PACK = rf"packs/[0-9a-f]{{2}}/{HEX}"
MAP_PACK = rf"maps/[0-9a-f]{{2}}/{HEX}"


def check(repository: Repository) -> list[ReaderError]:
    """What is damaged; an object of a name that is not the repository's is left alone."""
    failures = []
    for path in sorted(each for each in repository.folder.rglob("*") if each.is_file()):
        name = path.relative_to(repository.folder).as_posix()
        for pattern, checked in CHECKS.items():
            if re.fullmatch(pattern, name):
                try:
                    checked(repository, name)
                except ReaderError as error:
                    failures.append(error)
    return failures


def check_data_pack(repository: Repository, name: str) -> None:
    with open_pack(repository.folder, objects.DATA_PACK, named_pack(name), repository.keys) as file:
        for entry in file.index():
            plain, _ = file.frame(entry.offset, objects.DATA_FRAME_LIMIT, entry.length)
            if not entry.ids or len(plain) % len(entry.ids):
                raise file.damaged(f"frame at {entry.offset} does not hold {len(entry.ids)} blocks")
            size = len(plain) // len(entry.ids)
            ids = tuple(repository.keys.block_id(plain[at : at + size]) for at in range(0, len(plain), size))
            if ids != entry.ids:
                raise file.damaged(f"frame at {entry.offset} has other blocks than the index says")


def check_map_pack(repository: Repository, name: str) -> None:
    with open_pack(repository.folder, objects.MAP_PACK, named_pack(name), repository.keys) as file:
        for entry in file.index():
            plain, _ = file.frame(entry.offset, objects.PAGE_LIMIT, entry.length)
            try:
                blocks_in = page_uses(plain)
            except (struct.error, IndexError) as error:
                raise file.damaged(
                    f"the page at {entry.offset} ends within its tables, or names none of them"
                ) from error
            if entry.ids and dict(zip(entry.ids, entry.counts, strict=True)) != blocks_in:
                raise file.damaged(f"the page at {entry.offset} refers to other packs than the index says")


def page_uses(plain: bytes) -> dict[bytes, int]:
    """How many blocks of a page lie in each data pack that it names; block sizes are not known here."""
    packs, frames, blocks = PAGE_HEAD.unpack_from(plain)
    table, which = PAGE_HEAD.size + 16 * packs, PAGE_HEAD.size + 16 * packs + PAGE_FRAME.size * frames
    ids = struct.unpack_from("16s" * packs, plain, PAGE_HEAD.size)
    pack_of = [ids[entry[0]] for entry in PAGE_FRAME.iter_unpack(plain[table:which])]
    uses = Counter(pack_of[each - 1] for each in struct.unpack_from(f"<{blocks}H", plain, which) if each)
    return {each: uses[each] for each in ids}


def named_pack(name: str) -> bytes:
    _, digits, pack = name.split("/")
    if not pack.startswith(digits):
        raise DamagedError(name, "belongs under another name")
    return bytes.fromhex(pack)


def check_disk(repository: Repository, name: str) -> None:
    with ObjectFile(repository.folder, name, objects.DISK, repository.keys) as file:
        document = file.document()
    repository.check_common(name, document)
    repository.check_disk_name(name, document)
    parse_disk(name, document)


def check_moved(repository: Repository, name: str) -> None:
    of, object_id = name[:-33], bytes.fromhex(name[-32:])
    with ObjectFile(repository.folder, name, objects.DISK, repository.keys, object_id) as file:
        document = file.document()
    repository.check_common(name, document)
    repository.check_disk_name(of, document)
    id_field(name, document, "original")
    parse_disk(name, document)


def check_backup(repository: Repository, name: str) -> None:
    _, backup_hash, revision = name.split("/")
    for entry in repository.revision(backup_hash, revision)[1]:
        repository.disk_manifest(entry)


def check_tombstone(repository: Repository, name: str) -> None:
    repository.tombstone(Path(name).name)


def check_lease(repository: Repository, name: str) -> None:
    with ObjectFile(repository.folder, name, objects.LEASE, repository.keys) as file:
        document = file.document()
    for each in ("diskKey", "backupName"):
        value(name, document, each, str)
    for each in document.get("packs", []):
        if not isinstance(each, str) or not re.fullmatch(rf"{PACK}|{MAP_PACK}", each):
            raise DamagedError(name, f"names {each!r}, which is no pack's name")
    parent = document.get("parent")
    if parent is not None and not (isinstance(parent, str) and DISK_NAME.fullmatch(parent)):
        raise DamagedError(name, f"names {parent!r}, which is no disk manifest's name")


def record(repository: Repository, name: str, kind: int) -> dict[str, Any]:
    """A document whose object id is the one in the name."""
    with ObjectFile(repository.folder, name, kind, repository.keys, bytes.fromhex(Path(name).name)) as file:
        return file.document()


def check_damage(repository: Repository, name: str) -> None:
    document = record(repository, name, objects.DAMAGE)
    value(name, document, "found", str)
    for each in value(name, document, "packs", list):
        id_field(name, each, "pack")
        if value(name, each, "kind", str) not in ("data", "map"):
            raise DamagedError(name, "names a pack of an unknown kind")
        if any(type(offset) is not int for offset in each.get("frames", [])):
            raise DamagedError(name, "names a frame whose offset is not a number")


def check_condemned(repository: Repository, name: str) -> None:
    document = record(repository, name, objects.CONDEMNED)
    value(name, document, "marked", str)
    for each in (*document.get("packs", []), *document.get("mapPacks", [])):
        id_bytes(name, each)


def check_closing(repository: Repository, name: str) -> None:
    newest = repository.newest()
    if newest is None or (repository.folder / name).read_bytes()[16:32] != newest.keys.key_id:
        return
    object_id = bytes.fromhex(Path(name).name)
    with ObjectFile(repository.folder, name, objects.CLOSING, newest.keys, object_id) as file:
        document = file.document()
    value(name, document, "closed", str)
    if id_field(name, document, "repositoryId") != repository.repository_id:
        raise DamagedError(name, "closes another repository")


def check_epoch(repository: Repository, name: str) -> None:
    document = plain_json(repository.folder, name)
    value(name, document, "number", int)
    value(name, document, "token", str)


CHECKS: dict[str, Callable[[Repository, str], None]] = {
    PACK: check_data_pack,
    MAP_PACK: check_map_pack,
    DISK_NAME.pattern: check_disk,
    MOVED_NAME.pattern: check_moved,
    rf"backups/{HEX}/{REVISION.pattern}": check_backup,
    rf"tombstones/{HEX}": check_tombstone,
    rf"leases/{HEX}/[0-9]{{6}}": check_lease,
    rf"damage/{HEX}": check_damage,
    rf"condemned/{HEX}": check_condemned,
    rf"closed/{HEX}": check_closing,
    r"epoch": check_epoch,
}

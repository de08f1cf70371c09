"""Reads and authenticates every object of a repository, also those that restoring does not need."""

import re
from collections.abc import Callable
from pathlib import Path

from tests.independent_reader import objects
from tests.independent_reader.errors import DamagedError, ReaderError
from tests.independent_reader.objects import ObjectFile
from tests.independent_reader.reader import ID, REVISION, Repository, open_pack, parse_disk, plain_json, value

HEX = "[0-9a-f]{32}"


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
            packs = int.from_bytes(plain[:2], "little")
            named = {plain[8 + 16 * each : 24 + 16 * each] for each in range(packs)}
            if entry.ids and set(entry.ids) != named:
                raise file.damaged(f"the page at {entry.offset} refers to other packs than the index says")


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
    value(name, document, "packs", list)


def check_record(kind: int) -> Callable[[Repository, str], None]:
    """Of damage and of condemned packs: documents whose object id is the one in the name."""

    def checked(repository: Repository, name: str) -> None:
        object_id = bytes.fromhex(Path(name).name)
        with ObjectFile(repository.folder, name, kind, repository.keys, object_id) as file:
            value(name, file.document(), "packs", list)

    return checked


def check_epoch(repository: Repository, name: str) -> None:
    document = plain_json(repository.folder, name)
    value(name, document, "number", int)
    value(name, document, "token", str)


CHECKS: dict[str, Callable[[Repository, str], None]] = {
    rf"packs/[0-9a-f]{{2}}/{ID.pattern}": check_data_pack,
    rf"maps/[0-9a-f]{{2}}/{ID.pattern}": check_map_pack,
    rf"disks/{HEX}/[0-9]{{8}}T[0-9]{{6}}Z-{HEX}": check_disk,
    rf"backups/{HEX}/{REVISION.pattern}": check_backup,
    rf"tombstones/{HEX}": check_tombstone,
    rf"leases/{HEX}/[0-9]{{6}}": check_lease,
    rf"damage/{HEX}": check_record(objects.DAMAGE),
    rf"condemned/{HEX}": check_record(objects.CONDEMNED),
    r"epoch": check_epoch,
}

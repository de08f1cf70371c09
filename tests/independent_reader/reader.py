"""Opens a repository in a folder, lists its backups and restores their disks."""

import base64
import json
import os
import re
import struct
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

from tests.independent_reader import objects
from tests.independent_reader.errors import DamagedError, ReaderError, UnknownError, WrongKeyError
from tests.independent_reader.keys import Keys, Opener
from tests.independent_reader.objects import ObjectFile, parse_json

T = TypeVar("T")
ID = re.compile(r"[0-9a-f]{32}")
REVISION = re.compile(r"[0-9]{6}")
FOLDER = re.compile(r"([^.]+)(?:\.([2-9]|[1-9][0-9]+))?")
DISK_NAME = re.compile(r"disks/[0-9a-f]{32}/[0-9]{8}T[0-9]{6}Z-[0-9a-f]{32}")
MOVED_NAME = re.compile(DISK_NAME.pattern + r"-[0-9a-f]{32}")
PLAIN_LIMIT = 4096
ARCHIVE_LIMIT = 64 << 20
MIN_BLOCK, MAX_BLOCK = 4 << 10, 1 << 20
PAGE_HEAD = struct.Struct("<HHI")
PAGE_FRAME = struct.Struct("<HHII")
MAX_FRAME_BLOCKS = 255


@dataclass(frozen=True)
class DiskEntry:
    """A disk as its backup's manifest names it."""

    disk: str
    disk_key: str
    manifest: str
    object_id: bytes
    size: int


@dataclass(frozen=True)
class Backup:
    name: str
    revision: int
    created: str
    disks: tuple[DiskEntry, ...]
    state: str  # kept, deleted (there is a tombstone) or removing

    def disk(self, name: str) -> DiskEntry:
        found = [each for each in self.disks if each.disk == name]
        if len(found) != 1:
            known = ", ".join(each.disk for each in self.disks)
            raise UnknownError(f"backup {self.name} has no disk {name}; it has: {known}")
        return found[0]


@dataclass(frozen=True)
class DiskManifest:
    name: str
    size: int
    block_size: int
    page_blocks: int
    content: str
    map_packs: tuple[bytes, ...]
    pages: tuple[tuple[int, int, int] | None, ...]

    @property
    def blocks(self) -> int:
        return -(-self.size // self.block_size)

    def blocks_of_page(self, page: int) -> int:
        return min(self.page_blocks, self.blocks - page * self.page_blocks)


@dataclass
class PageFrame:
    """A data frame that a page refers to, with the blocks of the page that lie in it."""

    pack: bytes
    blocks: int
    offset: int
    length: int
    wanted: list[tuple[int, int, bytes]] = field(default_factory=list)  # block of the page, place in the frame, id


def find_repository(folder: Path) -> Path:
    """The folder itself, or the only repository somewhere below it."""
    found: list[Path] = []
    for root, folders, files in os.walk(folder):
        if "repository" in files:
            found.append(Path(root))
            folders.clear()
    if len(found) != 1:
        below = "".join(f"\n  {each}" for each in sorted(found))
        raise UnknownError(f"there is not exactly one repository in {folder}, but {len(found)}{below}")
    return found[0]


class Repository:
    def __init__(self, folder: Path, key_text: str) -> None:
        opener = Opener.from_text(key_text)
        self.folder, self.key_text = folder, key_text
        header = plain_json(folder, "repository")
        check_version("repository", header)
        if header.get("format") != "longboat-repository":
            raise DamagedError("repository", "is not the header of a repository")
        self.repository_id = id_field("repository", header, "repositoryId")
        self.keys = self._open_keys(opener, id_field("repository", header, "keyId"))

    def newest(self) -> "Repository | None":
        """The namespace's repository that has the highest number, if this is not the one."""
        found = {}
        own = FOLDER.fullmatch(self.folder.name)
        for each in self.folder.parent.iterdir():
            match = FOLDER.fullmatch(each.name)
            if own and match and match[1] == own[1] and (each / "repository").is_file():
                found[int(match[2] or 1)] = each
        if not found or found[max(found)] == self.folder:
            return None
        return Repository(found[max(found)], self.key_text)

    def backups(self) -> Iterator[Backup | ReaderError]:
        """Every backup in its newest revision; one that is damaged does not hide the others."""
        hashes = set(names_in(self.folder / "backups", ID)) | set(names_in(self.folder / "tombstones", ID))
        for backup_hash in sorted(hashes):
            try:
                yield self._backup(backup_hash)
            except ReaderError as error:
                yield error

    def backup(self, name: str) -> Backup:
        backup_hash = self.keys.name_hash(name)
        if not (self.folder / "backups" / backup_hash).is_dir():
            raise UnknownError(f"there is no backup {name}")
        return self._backup(backup_hash)

    def restore(self, backup: str, disk: str, target: Path) -> None:
        """Writes a disk, or the tar archive of a small volume, into a new file; what is damaged leaves no file."""
        manifest = self.disk_manifest(self.backup(backup).disk(disk))
        try:
            with target.open("xb") as out:
                self._restore(manifest, out)
        except FileExistsError as error:
            raise ReaderError(f"{target} is there already") from error
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        if manifest.content == "Archive":
            try:
                check_archive(manifest.name, target)
            except BaseException:
                target.unlink()
                raise

    def disk_manifest(self, entry: DiskEntry) -> DiskManifest:
        name, place = entry.manifest, self.disk_place(entry.manifest)
        moved = place != name
        expected = bytes.fromhex(place[-32:]) if moved else entry.object_id
        with ObjectFile(self.folder, place, objects.DISK, self.keys, expected) as file:
            document = file.document()
        if moved and id_field(place, document, "original") != entry.object_id:
            raise DamagedError(place, "is in the place of another disk manifest")
        self.check_common(name, document)
        disk_key, manifest = self.check_disk_name(name, document), parse_disk(name, document)
        if disk_key != entry.disk_key or manifest.size != entry.size:
            raise DamagedError(name, "is of another disk or size than its backup says")
        return manifest

    def disk_place(self, name: str) -> str:
        """Of what there is of a disk manifest, the name of the oldest object."""
        folder, _, own = name.rpartition("/")
        names = [own, *names_in(self.folder / folder, re.compile(re.escape(own) + "-[0-9a-f]{32}"))]
        found = [each for each in names if (self.folder / folder / each).exists()]
        oldest = min(found, key=lambda each: ((self.folder / folder / each).stat().st_mtime_ns, each), default=own)
        return f"{folder}/{oldest}"

    def check_common(self, name: str, document: dict[str, Any]) -> None:
        check_version(name, document)
        if id_field(name, document, "repositoryId") != self.repository_id:
            raise DamagedError(name, "is of another repository")
        if id_field(name, document, "keyId") != self.keys.key_id:
            raise DamagedError(name, "is under another key")

    def check_disk_name(self, name: str, document: dict[str, Any]) -> str:
        disk_key = value(name, value(name, document, "disk", dict), "diskKey", str)
        disk_hash = self.keys.name_hash(disk_key)
        backup_hash = self.keys.name_hash(value(name, document, "backupName", str))
        if name != f"disks/{disk_hash}/{time_in_name(name, document)}-{backup_hash}":
            raise DamagedError(name, "belongs under another name")
        return disk_key

    def revision(self, backup_hash: str, revision: str) -> tuple[dict[str, Any], tuple[DiskEntry, ...]]:
        name = f"backups/{backup_hash}/{revision}"
        with ObjectFile(self.folder, name, objects.BACKUP, self.keys) as file:
            document = file.document()
        self.check_common(name, document)
        if value(name, document, "kind", str) != "Backup":
            raise DamagedError(name, "is not the manifest of a backup")
        if self.keys.name_hash(value(name, document, "name", str)) != backup_hash:
            raise DamagedError(name, "belongs under another name")
        if value(name, document, "revision", int) != int(revision):
            raise DamagedError(name, "belongs under another revision")
        value(name, document, "created", str)
        return document, tuple(disk_entry(name, each) for each in value(name, document, "disks", list))

    def tombstone(self, backup_hash: str) -> dict[str, Any] | None:
        name = f"tombstones/{backup_hash}"
        if not (self.folder / name).exists():
            return None
        with ObjectFile(self.folder, name, objects.TOMBSTONE, self.keys) as file:
            document = file.document()
        if document.get("formatVersion", objects.VERSION) != objects.VERSION:
            raise DamagedError(name, "has a format version that this reader does not know")
        if self.keys.name_hash(value(name, document, "backupName", str)) != backup_hash:
            raise DamagedError(name, "belongs under another name")
        return document

    def _backup(self, backup_hash: str) -> Backup:
        tombstone = self.tombstone(backup_hash)
        revisions = names_in(self.folder / "backups" / backup_hash, REVISION)
        if not revisions:
            if tombstone is None:
                raise DamagedError(f"backups/{backup_hash}", "has no revision")
            return Backup(tombstone["backupName"], 0, "", (), "deleted")
        document, disks = self.revision(backup_hash, max(revisions))
        state = "kept" if tombstone is None else "deleted"
        if (self.folder / "removing" / backup_hash).exists():
            state = "removing"
        return Backup(document["name"], document["revision"], document["created"], disks, state)

    def _open_keys(self, opener: Opener, key_id: bytes) -> Keys:
        folder = f"keys/{key_id.hex()}"
        failures = []
        for each in names_in(self.folder / folder, ID):
            try:
                if (master := self._unwrap(opener, f"{folder}/{each}", key_id)) is not None:
                    return Keys(master, self.repository_id)
            except ReaderError as error:
                failures.append(f"{folder}/{each}: {error}")
        detail = "".join(f"\n  {each}" for each in failures)
        raise WrongKeyError(f"no copy of the master key opens with this {opener.recipient} key{detail}")

    def _unwrap(self, opener: Opener, name: str, key_id: bytes) -> bytes | None:
        document = plain_json(self.folder, name)
        check_version(name, document)
        recipient = value(name, document, "recipient", str), id_field(name, document, "recipientId")
        if recipient != (opener.recipient, opener.recipient_id):
            return None
        salt, wrapped = (base64_field(name, document, each) for each in ("salt", "wrapped"))
        return opener.unwrap(salt, wrapped, key_id, self.repository_id)

    def _restore(self, manifest: DiskManifest, out: BinaryIO) -> None:
        out.truncate(manifest.size)
        for number, page in enumerate(manifest.pages):
            if page is None:
                continue
            for frame in self._page_frames(manifest, number, page):
                self._restore_frame(manifest, number * manifest.page_blocks, frame, out)

    def _page_frames(self, manifest: DiskManifest, number: int, page: tuple[int, int, int]) -> list[PageFrame]:
        pack, offset, length = page
        with open_pack(self.folder, objects.MAP_PACK, manifest.map_packs[pack], self.keys) as file:
            plain, _ = file.frame(offset, objects.PAGE_LIMIT, length)
            try:
                return parse_page(plain, manifest.blocks_of_page(number), manifest.block_size)
            except ValueError as error:
                raise file.damaged(f"page at {offset}: {error}") from error

    def _restore_frame(self, manifest: DiskManifest, first: int, frame: PageFrame, out: BinaryIO) -> None:
        size = manifest.block_size
        with open_pack(self.folder, objects.DATA_PACK, frame.pack, self.keys) as file:
            plain, _ = file.frame(frame.offset, objects.DATA_FRAME_LIMIT, frame.length)
            if len(plain) != frame.blocks * size:
                raise file.damaged(f"frame at {frame.offset} does not hold {frame.blocks} blocks")
            for block, place, block_id in frame.wanted:
                content = plain[place * size : (place + 1) * size]
                if self.keys.block_id(content) != block_id:
                    raise file.damaged(
                        f"block {place} of the frame at {frame.offset} has another id than its page says"
                    )
                at = (first + block) * size
                if any(content[manifest.size - at :]):
                    raise file.damaged(f"block {place} of the frame at {frame.offset} has data behind the disk's end")
                out.seek(at)
                out.write(content[: manifest.size - at])


def open_pack(folder: Path, kind: int, pack: bytes, keys: Keys) -> ObjectFile:
    file = ObjectFile(folder, pack_name(kind, pack), kind, keys, pack)
    if file.size > objects.PACK_LIMIT:
        file.__exit__()
        raise file.damaged("is longer than a pack may be")
    return file


def pack_name(kind: int, pack: bytes) -> str:
    return f"{'packs' if kind == objects.DATA_PACK else 'maps'}/{pack.hex()[:2]}/{pack.hex()}"


def parse_page(plain: bytes, blocks: int, block_size: int) -> list[PageFrame]:
    """The frames that a page refers to, those without a block of this page left out; ValueError tells what is wrong."""
    if len(plain) < PAGE_HEAD.size:
        raise ValueError("is too short")
    pack_count, frame_count, block_count = PAGE_HEAD.unpack_from(plain)
    if block_count != blocks:
        raise ValueError(f"maps {block_count} blocks, not {blocks}")
    packs_end = PAGE_HEAD.size + 16 * pack_count
    frames_end = packs_end + PAGE_FRAME.size * frame_count
    ids_start = frames_end + 3 * blocks
    if len(plain) < ids_start:
        raise ValueError("ends within its tables")
    packs = struct.unpack_from("16s" * pack_count, plain, PAGE_HEAD.size)
    frames = [page_frame(each, packs, block_size) for each in PAGE_FRAME.iter_unpack(plain[packs_end:frames_end])]
    which = struct.unpack_from(f"<{blocks}H", plain, frames_end)
    places = plain[frames_end + 2 * blocks : ids_start]
    ids = [each for (each,) in struct.iter_unpack("16s", whole_ids(plain[ids_start:]))]
    stored = [block for block in range(blocks) if which[block]]
    if len(ids) != len(stored):
        raise ValueError(f"has {len(ids)} ids for {len(stored)} blocks")
    for block, block_id in zip(stored, ids, strict=True):
        if which[block] > frame_count:
            raise ValueError(f"block {block} is in a frame that is not in the table")
        frame = frames[which[block] - 1]
        if places[block] >= frame.blocks:
            raise ValueError(f"block {block} has a place behind its frame's end")
        frame.wanted.append((block, places[block], block_id))
    return [frame for frame in frames if frame.wanted]


def whole_ids(content: bytes) -> bytes:
    if len(content) % 16:
        raise ValueError("its ids end within one")
    return content


def page_frame(entry: tuple[int, int, int, int], packs: tuple[bytes, ...], block_size: int) -> PageFrame:
    pack, blocks, offset, length = entry
    if pack >= len(packs):
        raise ValueError("a frame is in a pack that is not in the table")
    if not 1 <= blocks <= MAX_FRAME_BLOCKS or blocks * block_size > objects.DATA_FRAME_LIMIT:
        raise ValueError(f"a frame has {blocks} blocks")
    check_frame_place(offset, length)
    return PageFrame(packs[pack], blocks, offset, length)


def check_frame_place(offset: int, length: int) -> None:
    last = objects.PACK_LIMIT - objects.FOOTER.size
    if offset < objects.HEADER.size or length < objects.FRAME.size + objects.TAG_BYTES or offset + length > last:
        raise ValueError("a frame does not lie within a pack")


def parse_disk(name: str, document: dict[str, Any]) -> DiskManifest:
    size, block_size, page_blocks = (
        value(name, document, each, int) for each in ("sizeBytes", "blockSize", "pageBlocks")
    )
    if not MIN_BLOCK <= block_size <= MAX_BLOCK or block_size & (block_size - 1):
        raise DamagedError(name, f"has blocks of {block_size} bytes")
    if not 0 < page_blocks <= objects.MAX_PAGE_BLOCKS or page_blocks & (page_blocks - 1):
        raise DamagedError(name, f"has pages of {page_blocks} blocks")
    # Older manifests have no such field: all of them are of disks.
    content = document.get("content", "Disk")
    if content not in ("Disk", "Archive"):
        raise DamagedError(name, f"has content of an unknown sort, {content}")
    if size < 0 or (content == "Archive" and size > ARCHIVE_LIMIT):
        raise DamagedError(name, f"has a size of {size} bytes")
    map_packs = tuple(id_bytes(name, each) for each in value(name, document, "mapPacks", list))
    pages = tuple(parse_place(name, each, len(map_packs)) for each in value(name, document, "pages", list))
    manifest = DiskManifest(name, size, block_size, page_blocks, content, map_packs, pages)
    if len(pages) != -(-manifest.blocks // page_blocks):
        raise DamagedError(name, f"has {len(pages)} pages, which does not fit its size")
    return manifest


def parse_place(name: str, place: Any, map_packs: int) -> tuple[int, int, int] | None:
    """Where a page lies: its map pack, the frame's offset and its length."""
    if place is None:
        return None
    if not isinstance(place, list) or len(place) != 3 or any(type(each) is not int for each in place):
        raise DamagedError(name, "has a page that is not three numbers")
    pack, offset, length = place
    if not 0 <= pack < map_packs:
        raise DamagedError(name, "has a page in a map pack that it does not name")
    try:
        check_frame_place(offset, length)
    except ValueError as error:
        raise DamagedError(name, f"has a page that can't be: {error}") from error
    return pack, offset, length


def disk_entry(name: str, entry: Any) -> DiskEntry:
    if not isinstance(entry, dict):
        raise DamagedError(name, "has a disk that is not a JSON object")
    disk, disk_key, manifest = (value(name, entry, each, str) for each in ("disk", "diskKey", "manifest"))
    # A name is checked before it is opened, so that a false one can't lead out of the repository.
    if not DISK_NAME.fullmatch(manifest):
        raise DamagedError(name, f"names {manifest!r}, which is no disk manifest's name")
    return DiskEntry(disk, disk_key, manifest, id_field(name, entry, "objectId"), value(name, entry, "sizeBytes", int))


def check_archive(name: str, path: Path) -> None:
    """Refuses an archive whose entries could surprise whoever unpacks it."""
    folders: set[PurePosixPath] = {PurePosixPath()}
    try:
        with tarfile.open(path, "r:") as archive:
            for entry in archive:
                parts = entry.name.split("/")
                if not (entry.isdir() or entry.isreg()) or any(each in ("", ".", "..") for each in parts):
                    raise DamagedError(name, f"its archive has an entry that it may not have: {entry.name!r}")
                if PurePosixPath(entry.name).parent not in folders:
                    raise DamagedError(name, f"its archive has {entry.name!r} before the directory that it is in")
                if entry.isdir():
                    folders.add(PurePosixPath(entry.name))
    except (tarfile.TarError, ValueError) as error:
        raise DamagedError(name, f"is no tar archive: {error}") from error


def names_in(folder: Path, pattern: re.Pattern[str]) -> list[str]:
    """Objects of other names are not the repository's and are left alone."""
    try:
        return sorted(each.name for each in folder.iterdir() if pattern.fullmatch(each.name))
    except FileNotFoundError:
        return []


def plain_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        with (folder / name).open("rb") as file:
            content = file.read(PLAIN_LIMIT + 1)
    except OSError as error:
        raise DamagedError(name, f"can't be read: {error.strerror}") from error
    if len(content) > PLAIN_LIMIT:
        raise DamagedError(name, "is longer than it may be")
    return parse_json(name, content)


def check_version(name: str, document: dict[str, Any]) -> None:
    if value(name, document, "formatVersion", int) != objects.VERSION:
        raise DamagedError(name, "has a format version that this reader does not know")


def value(name: str, document: dict[str, Any], key: str, sort: type[T]) -> T:
    found = document.get(key)
    # In Python, true is an int as well.
    if not isinstance(found, sort) or (sort is int and isinstance(found, bool)):
        raise DamagedError(name, f"its {key} is missing or not a {sort.__name__}")
    return found


def id_field(name: str, document: dict[str, Any], key: str) -> bytes:
    return id_bytes(name, document.get(key))


def id_bytes(name: str, text: Any) -> bytes:
    if not isinstance(text, str) or not ID.fullmatch(text):
        raise DamagedError(name, f"has {json.dumps(text)} where an id should be")
    return bytes.fromhex(text)


def base64_field(name: str, document: dict[str, Any], key: str) -> bytes:
    try:
        return base64.b64decode(value(name, document, key, str), validate=True)
    except ValueError as error:
        raise DamagedError(name, f"its {key} is not base64") from error


def time_in_name(name: str, document: dict[str, Any]) -> str:
    text = value(name, document, "created", str)
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError("it has no time zone")
    except ValueError as error:
        raise DamagedError(name, f"its created is not a time: {error}") from error
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")

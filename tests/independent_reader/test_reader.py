"""The reader against the vectors of the format's document, and against repositories that are damaged."""

import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.independent_reader import objects
from tests.independent_reader.builder import BLOCK, RECOVERY_TEXT, STORE_TEXT, Builder
from tests.independent_reader.check import check
from tests.independent_reader.errors import DamagedError, KeyTextError, ReaderError, UnknownError, WrongKeyError
from tests.independent_reader.keys import RECOVERY_PUBLIC, STORE, Keys, key_as_text, key_from_text
from tests.independent_reader.objects import decompress
from tests.independent_reader.reader import Backup, Repository, find_repository, parse_page

MASTER = bytes(range(32))
STORE_VECTOR = "longboat-key-1-aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypywdvlbu"
# Ten blocks in three pages of four: data, holes, a page of holes, and a last block that is not full.
CONTENT = (
    Random(1).randbytes(BLOCK)
    + bytes(BLOCK)
    + b"longboat" * 1024
    + bytes(4 * BLOCK)
    + b"end" * BLOCK
    + Random(2).randbytes(99)
)


@pytest.fixture
def built(tmp_path: Path) -> Builder:
    builder = Builder(tmp_path / "prefix" / "cluster" / "namespace")
    builder.header()
    builder.backup([builder.disk(CONTENT)])
    return builder


def restored(builder: Builder, key_text: str = STORE_TEXT) -> bytes:
    target = builder.folder.parent / "target"
    target.unlink(missing_ok=True)
    Repository(builder.folder, key_text).restore("nightly", "data", target)
    return target.read_bytes()


def change(builder: Builder, pattern: str, offset: int, flip: int = 1) -> None:
    path = next(each for each in sorted(builder.folder.glob(pattern)) if each.is_file())
    content = bytearray(path.read_bytes())
    content[offset] ^= flip
    path.write_bytes(content)


class TestVectors:
    keys = Keys(MASTER, bytes(range(16)))

    def test_derived_keys(self) -> None:
        assert self.keys.key_id.hex() == "99f9090b101d9451e4c127cebd6a59fd"
        assert self.keys.block_key.hex() == "a7cf23f4995b26b441cb132cd7e1606db8a53ca001138ec49be5e54be8ca8576"
        assert self.keys.name_key.hex() == "ca04303f8d561f925077885275a0921f9d7c9fd8e5dafe5a8c299c3e7161b615"

    def test_ids(self) -> None:
        assert self.keys.block_id(b"longboat" * 512).hex() == "34c17469cceabeb61251f0cfed5613b9"
        assert self.keys.name_hash("db-data") == "66afeb0d5486a253535339a1a53306fc"

    def test_key_text(self) -> None:
        assert key_as_text(STORE, MASTER) == STORE_VECTOR
        assert key_from_text(f" {STORE_VECTOR}\n") == (STORE, MASTER)


class TestKeyTexts:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "hello",
            STORE_VECTOR[:-1],
            STORE_VECTOR + "a",
            STORE_VECTOR.replace("aaqe", "aaqf"),
            STORE_VECTOR.replace("aaqe", "aa1e"),
            STORE_VECTOR.replace("longboat-key-1-", "longboat-recovery-secret-1-"),
            STORE_VECTOR.replace("aaqe", "AAQE"),
            STORE_VECTOR[:-1] + "v",
            STORE_VECTOR.replace("aaqe", "aaqé"),
        ],
    )
    def test_a_mistake_is_found(self, text: str) -> None:
        with pytest.raises(KeyTextError):
            key_from_text(text)

    def test_the_public_half_opens_nothing(self, built: Builder) -> None:
        with pytest.raises(KeyTextError, match="public half"):
            Repository(built.folder, key_as_text(RECOVERY_PUBLIC, MASTER))

    def test_another_key_does_not_open_it(self, built: Builder) -> None:
        with pytest.raises(WrongKeyError):
            Repository(built.folder, STORE_VECTOR)


class TestRestore:
    @pytest.mark.parametrize("key_text", [STORE_TEXT, RECOVERY_TEXT])
    def test_bit_exact_with_either_key(self, built: Builder, key_text: str) -> None:
        assert restored(built, key_text) == CONTENT

    def test_every_object_is_sound(self, built: Builder) -> None:
        built.tombstone()
        assert check(Repository(built.folder, STORE_TEXT)) == []

    def test_what_is_there_stays(self, built: Builder, tmp_path: Path) -> None:
        target = tmp_path / "mine"
        target.write_text("mine")
        with pytest.raises(ReaderError, match="is there already"):
            Repository(built.folder, STORE_TEXT).restore("nightly", "data", target)
        assert target.read_text() == "mine"

    @pytest.mark.parametrize(("backup", "disk"), [("nightly", "other"), ("other", "data")])
    def test_unknown_names(self, built: Builder, backup: str, disk: str, tmp_path: Path) -> None:
        with pytest.raises(UnknownError):
            Repository(built.folder, STORE_TEXT).restore(backup, disk, tmp_path / "target")

    def test_a_folder_above_is_enough(self, built: Builder, tmp_path: Path) -> None:
        assert find_repository(tmp_path) == built.folder
        with pytest.raises(UnknownError):
            find_repository(built.folder / "packs")


class TestArchivedRepository:
    """What an earlier version of the program has written stays readable."""

    vectors = json.loads((Path(__file__).parents[1] / "unit/repository/vectors/repository-v1.json").read_text())

    @pytest.fixture
    def archived(self, tmp_path: Path) -> Repository:
        builder = Builder(tmp_path / "archived")
        for name, content in self.vectors["objects"].items():
            builder.put(name, base64.b64decode(content))
        return Repository(builder.folder, self.vectors["storeKey"])

    def test_every_object_is_sound(self, archived: Repository) -> None:
        assert check(archived) == []
        assert {each.name for each in archived.backups() if isinstance(each, Backup)} == set(self.vectors["sha256"])

    @pytest.mark.parametrize("backup", vectors["sha256"])
    def test_bit_exact(self, archived: Repository, backup: str, tmp_path: Path) -> None:
        archived.restore(backup, "data", tmp_path / "target")
        assert hashlib.sha256((tmp_path / "target").read_bytes()).hexdigest() == self.vectors["sha256"][backup]


class TestList:
    def backups(self, builder: Builder) -> list[Any]:
        return list(Repository(builder.folder, STORE_TEXT).backups())

    def test_the_newest_revision_counts(self, built: Builder) -> None:
        built.backup([built.disk(CONTENT)], revision=2)
        assert [(each.revision, each.state) for each in self.backups(built)] == [(2, "kept")]

    def test_tombstones(self, built: Builder) -> None:
        built.tombstone()
        built.tombstone("older")
        assert {each.name: each.state for each in self.backups(built)} == {"nightly": "deleted", "older": "deleted"}
        built.put(f"removing/{built.keys.name_hash('nightly')}", b"")
        assert "removing" in {each.state for each in self.backups(built)}

    def test_other_names_are_left_alone(self, built: Builder) -> None:
        built.put("backups/notes", b"")
        built.put(f"backups/{built.keys.name_hash('nightly')}/old", b"")
        assert len(self.backups(built)) == 1

    def test_a_damaged_backup_hides_no_other(self, built: Builder) -> None:
        change(built, "backups/*/*", -1)
        built.backup([], name="sound")
        found = self.backups(built)
        assert [each.name for each in found if isinstance(each, Backup)] == ["sound"]
        assert any(isinstance(each, DamagedError) for each in found)

    def test_content_under_another_name(self, built: Builder) -> None:
        backups = built.folder / "backups"
        (backups / built.keys.name_hash("nightly")).rename(backups / built.keys.name_hash("other"))
        with pytest.raises(DamagedError, match="another name"):
            Repository(built.folder, STORE_TEXT).backup("other")


class TestDamage:
    @pytest.mark.parametrize("pattern", ["packs/*/*", "maps/*/*", "disks/*/*", "backups/*/*"])
    @pytest.mark.parametrize("offset", [0, 8, 10, 11, 12, 16, 32, 48, 52, 56, 57, 60, 70])
    def test_each_flipped_bit_is_found(self, built: Builder, pattern: str, offset: int) -> None:
        change(built, pattern, offset)
        with pytest.raises(DamagedError):
            restored(built)
        assert not (built.folder.parent / "target").exists()

    @pytest.mark.parametrize("pattern", ["packs/*/*", "maps/*/*"])
    @pytest.mark.parametrize("offset", [-1, -16, -20])
    def test_the_check_finds_what_restoring_does_not_need(self, built: Builder, pattern: str, offset: int) -> None:
        change(built, pattern, offset)
        assert restored(built) == CONTENT
        assert len(check(Repository(built.folder, STORE_TEXT))) == 1

    @pytest.mark.parametrize("pattern", ["packs/*/*", "maps/*/*", "disks/*/*", "backups/*/*"])
    def test_what_is_missing_or_cut(self, built: Builder, pattern: str) -> None:
        path = next(built.folder.glob(pattern))
        path.write_bytes(path.read_bytes()[:70])
        with pytest.raises(DamagedError):
            restored(built)
        path.unlink()
        with pytest.raises(DamagedError):
            restored(built)

    def test_something_behind_a_document(self, built: Builder) -> None:
        path = next(built.folder.glob("disks/*/*"))
        path.write_bytes(path.read_bytes() + b"\0")
        with pytest.raises(DamagedError, match="more follows"):
            restored(built)

    def test_one_sound_copy_of_the_key_is_enough(self, built: Builder) -> None:
        for path in built.folder.glob("keys/*/*"):
            path.with_name("0" * 32).write_bytes(b"{}")
        assert restored(built) == CONTENT

    @pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"formatVersion": 2}', b"[" * 60000, b" " * 70000])
    def test_a_header_that_is_none(self, built: Builder, content: bytes) -> None:
        built.put("repository", content)
        with pytest.raises(DamagedError):
            Repository(built.folder, STORE_TEXT)


class TestManifests:
    @pytest.mark.parametrize(
        "changes",
        [
            {"formatVersion": 2},
            {"repositoryId": "00" * 16},
            {"keyId": "00" * 16},
            {"backupName": "other"},
            {"disk": {"diskKey": "other"}},
            {"disk": {}},
            {"created": "2026-11-22T03:30:01Z"},
            {"created": "yesterday"},
            {"sizeBytes": -1},
            {"sizeBytes": 1 << 62},
            {"sizeBytes": True},
            {"sizeBytes": len(CONTENT) - 1},
            {"blockSize": 3000},
            {"blockSize": 2048},
            {"pageBlocks": 0},
            {"pageBlocks": 8},
            {"content": "Tape"},
            {"content": "Archive"},
            {"mapPacks": ["x"]},
            {"mapPacks": []},
            {"pages": [None]},
            {"pages": [[0, 0, 100], None, None]},
            {"pages": [[1, 48, 100], None, None]},
            {"pages": [[0, 48, 1 << 32], None, None]},
            {"pages": [[0, 48], None, None]},
            {"pages": [[0, 48, 100], None, None]},
        ],
    )
    def test_a_disk_manifest_that_can_not_be(self, built: Builder, changes: dict[str, Any]) -> None:
        built.backup([built.disk(CONTENT, changes)])
        with pytest.raises(DamagedError):
            restored(built)
        assert not (built.folder.parent / "target").exists()

    @pytest.mark.parametrize(
        "changes",
        [{"kind": "Disk"}, {"name": "other"}, {"revision": 2}, {"disks": [1]}, {"disks": {}}, {"keyId": None}],
    )
    def test_a_backup_manifest_that_can_not_be(self, built: Builder, changes: dict[str, Any]) -> None:
        built.backup([built.disk(CONTENT)], changes=changes)
        with pytest.raises(DamagedError):
            restored(built)

    def test_a_name_that_leads_out(self, built: Builder) -> None:
        built.backup([built.disk(CONTENT) | {"manifest": "disks/../../../../etc/passwd"}])
        with pytest.raises(DamagedError, match="no disk manifest's name"):
            restored(built)

    def test_another_attempts_manifest(self, built: Builder) -> None:
        built.backup([built.disk(CONTENT) | {"objectId": "00" * 16}])
        with pytest.raises(DamagedError, match="another object id"):
            restored(built)

    @pytest.mark.parametrize("plain", [b"[]", b"{", b"\xff", b"[" * 100000, b'{"a": [' + b"1," * 2_100_000 + b"1]}"])
    def test_a_document_that_is_none(self, built: Builder, plain: bytes) -> None:
        built.document(f"backups/{built.keys.name_hash('nightly')}/000001", objects.BACKUP, plain)
        with pytest.raises(DamagedError):
            restored(built)


class TestPages:
    """Pages that authenticate, and yet are wrong."""

    page = bytes.fromhex("0100 0100 02000000") + bytes(16) + bytes.fromhex("0000 0100 30000000 60000000")
    sound = page + bytes.fromhex("0100 0000") + bytes(2) + bytes(16)

    def test_a_sound_one(self) -> None:
        assert [each.wanted for each in parse_page(self.sound, 2, BLOCK)] == [[(0, 0, bytes(16))]]

    @pytest.mark.parametrize("length", [0, 7, 8, 30, 40, 42, 57])
    def test_cut_off(self, length: int) -> None:
        with pytest.raises(ValueError, match=r"short|ends|ids"):
            parse_page(self.sound[:length], 2, BLOCK)

    @pytest.mark.parametrize(
        ("offset", "number"),
        [(0, 0), (2, 0), (4, 3), (24, 1), (26, 0), (28, 0), (32, 12), (31, 255), (36, 2), (38, 1), (40, 1)],
    )
    def test_a_number_outside_of_its_table(self, offset: int, number: int) -> None:
        page = bytearray(self.sound)
        page[offset] = number
        with pytest.raises(ValueError):
            parse_page(bytes(page), 2, BLOCK)

    def test_more_than_a_frame_may_hold(self) -> None:
        page = bytearray(self.sound)
        page[26] = 17
        with pytest.raises(ValueError, match="17 blocks"):
            parse_page(bytes(page), 2, 1 << 20)

    def test_other_blocks_than_the_page_says(self, built: Builder) -> None:
        built.keys = Keys(built.keys.master, built.keys.repository_id)
        built.keys.__dict__["block_key"] = bytes(32)
        built.backup([built.disk(CONTENT)])
        with pytest.raises(DamagedError, match="another id"):
            restored(built)


class TestCompression:
    @pytest.mark.parametrize(
        "change", [lambda x: x + b"\0", lambda x: x[:-1], lambda x: x * 2, lambda x: b"", lambda x: b"no"]
    )
    def test_one_frame_of_the_stated_size(self, change: Any) -> None:
        frame = objects.zstandard.ZstdCompressor().compress(b"longboat" * 100)
        assert decompress(frame, 800) == b"longboat" * 100
        with pytest.raises((ValueError, objects.zstandard.ZstdError)):
            decompress(change(frame), 800)

    def test_the_size_has_to_be_stated(self) -> None:
        frame = objects.zstandard.ZstdCompressor(write_content_size=False).compress(b"longboat" * 100)
        with pytest.raises(ValueError, match="another size"):
            decompress(frame, 800)
        with pytest.raises(ValueError, match="another size"):
            decompress(objects.zstandard.ZstdCompressor().compress(b"longboat"), 800)


class TestArchives:
    def archive(self, *names: str, kind: bytes = tarfile.REGTYPE) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name in names:
                entry = tarfile.TarInfo(name.rstrip("/"))
                entry.type = tarfile.DIRTYPE if name.endswith("/") else kind
                archive.addfile(entry)
        return out.getvalue()

    def restored(self, builder: Builder, content: bytes) -> bytes:
        builder.page_blocks = 1
        builder.backup([builder.disk(content, {"content": "Archive"})])
        return restored(builder)

    def test_bit_exact(self, built: Builder) -> None:
        content = self.archive("tpm/", "tpm/state", "efi")
        assert self.restored(built, content) == content

    @pytest.mark.parametrize("names", [["a/b"], ["../a"], ["./a"], ["/a"], ["a/", "a/../b"]])
    def test_names_that_lead_elsewhere(self, built: Builder, names: list[str]) -> None:
        with pytest.raises(DamagedError, match="archive"):
            self.restored(built, self.archive(*names))
        assert not (built.folder.parent / "target").exists()

    def test_only_files_and_directories(self, built: Builder) -> None:
        with pytest.raises(DamagedError, match="may not have"):
            self.restored(built, self.archive("link", kind=tarfile.SYMTYPE))

    def test_no_archive_at_all(self, built: Builder) -> None:
        with pytest.raises(DamagedError, match="no tar archive"):
            self.restored(built, b"no tar archive" * 1000)

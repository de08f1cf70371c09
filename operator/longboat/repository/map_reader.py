"""Reading the pages of an existing backup's map."""

from __future__ import annotations

from .codec import decompress
from .crypto import reading_cipher
from .errors import DamagedError, ObjectNotFoundError
from .layout import Kind, pack_name
from .manifests import DiskManifest
from .pages import Page, decode_page, max_page_bytes
from .repository import Repository


class MapReader:
    """Pages of one disk manifest; safe to call from many threads."""

    def __init__(self, repository: Repository, manifest: DiskManifest) -> None:
        """Read nothing yet."""
        self._repository = repository
        self.manifest = manifest
        self._blocks = -(-manifest.size_bytes // manifest.block_size)

    @property
    def pages(self) -> int:
        """Number of pages of the map."""
        return len(self.manifest.pages)

    def page(self, number: int) -> Page | None:
        """Return a page, or None if it is all holes or beyond the disk's end.

        DamagedError names the object if it is missing or damaged; a StoreError is the store's own failure.
        """
        manifest = self.manifest
        ref = manifest.pages[number] if number < len(manifest.pages) else None
        if ref is None:
            return None
        pack, offset, length = bytes.fromhex(manifest.map_packs[ref[0]]), ref[1], ref[2]
        name = pack_name(Kind.MAP_PACK, pack)
        try:
            frame = self._repository.store.get_range(name, offset, length)
            payload, size, codec = reading_cipher(self._repository.keys, Kind.MAP_PACK, pack).open(frame, offset)
            return self._decode(decompress(payload, codec, self._bounded(size, number)), number)
        except ObjectNotFoundError:
            raise DamagedError(f"map pack {name} is missing") from None
        except DamagedError as error:
            raise DamagedError(f"map pack {name}, page {number}: {error}") from None

    def place(self, number: int) -> tuple[bytes, int]:
        """Return the map pack and the offset in it of a page that is no hole."""
        manifest = self.manifest
        ref = manifest.pages[number]
        assert ref is not None
        return bytes.fromhex(manifest.map_packs[ref[0]]), ref[1]

    def page_blocks(self, number: int) -> int:
        """Return how many blocks a page maps; the last one may map fewer."""
        return min(self.manifest.page_blocks, self._blocks - number * self.manifest.page_blocks)

    def _bounded(self, size: int, number: int) -> int:
        if size > max_page_bytes(self.page_blocks(number)):
            raise DamagedError(f"{size} bytes are more than a page of {self.page_blocks(number)} blocks can have")
        return size

    def _decode(self, plain: bytes, number: int) -> Page:
        return decode_page(plain, self.page_blocks(number), self.manifest.block_size)

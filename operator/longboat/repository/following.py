"""Reading a backup's map for as long as it takes: prunes may write its manifest anew meanwhile, with blocks elsewhere.

Whoever has read the manifest before that finds, a grace period later, packs gone that nothing refers to any more. The
backup is whole all the same: what has taken the manifest's place says where the blocks are now.
"""

from __future__ import annotations

from functools import partial
from threading import Lock

from .backups import StoredDisk, place_of_disk, read_disk_manifest
from .closing import has_closing
from .errors import DamagedError, RepositoryError, StoreError
from .map_reader import MapReader
from .moved import require_same_disk
from .object_store import persistently
from .pages import Page
from .repository import Repository


class FollowingMapReader(MapReader):
    """Pages of a disk manifest, or of what has taken its place, looked for before anything counts as damaged.

    Only one manifest is kept in memory. Safe to call from many threads.
    """

    def __init__(self, repository: Repository, stored: StoredDisk) -> None:
        """Read nothing yet."""
        super().__init__(repository, stored.manifest)
        self.stored, self.has_moved = stored, False
        self._moving = Lock()

    def page(self, number: int) -> Page | None:
        """See MapReader."""
        seen = self.stored
        try:
            return super().page(number)
        except DamagedError:
            if not self.follow(seen):
                raise
        return self.page(number)

    def follow(self, seen: StoredDisk) -> bool:
        """Go on with the manifest that counts now, and tell whether that is another object than the one `seen` before.

        It has to say the same, and to be believed. A StoreError is the store's own failure.
        """
        with self._moving:
            if self.stored is seen:
                self._go_on_with(self._current())
            return self.stored is not seen

    def _go_on_with(self, now: StoredDisk) -> None:
        if now.place != self.stored.place:
            self.has_moved, self.manifest, self.stored = True, now.manifest, now

    def _current(self) -> StoredDisk:
        before, repository = self.stored, self._repository
        # In a repository that is closed nothing moves, and what is written late is not believed.
        if place_of_disk(repository, before.name) == before.place or has_closing(repository):
            return before
        try:
            now = persistently(partial(read_disk_manifest, repository, before.name, before.object_id))
            _require_same(before, now)
        except StoreError:
            raise
        except RepositoryError:
            return before
        return now


def _require_same(before: StoredDisk, now: StoredDisk) -> None:
    require_same_disk(before, now)
    if [page is None for page in before.manifest.pages] != [page is None for page in now.manifest.pages]:
        raise DamagedError("it has holes in other places")

"""Condemned lists: what is in one is out of use for ever, goes no sooner than it may, and the list goes last."""

from __future__ import annotations

from collections.abc import Iterator

from longboat.repository import Repository, advance_epoch, prune, read_disk_manifest
from longboat.repository.condemned import CondemnedList, read_condemned, write_condemned
from longboat.repository.layout import pack_name
from longboat.repository.mark import references
from longboat.repository.object_store import ObjectInfo
from tests.fakes.object_store import MemoryStore
from tests.unit.repository.prune_world import _FOLDER, GRACE, World, built, world

__all__ = ["built", "world"]


def condemned(world: World) -> set[str]:
    """Remove a backup and let a prune condemn what it leaves: a pack and a map pack, whose names are returned."""
    world.remove("two")
    world.prune()
    (found,) = read_condemned(world.repository)
    return {pack_name(*pack) for pack in found.content.ids()}


def test_pack_that_was_brought_back_is_not_deleted_at_once(world: World) -> None:
    """Who copies an object over itself, or back from another bucket, gets a new time stamp and a grace period."""
    packs = condemned(world)
    (back,) = (each for each in packs if each.startswith("packs/"))
    world.store.advance(2 * GRACE)
    data, _, version = world.store.objects[_FOLDER + back]
    world.store.objects[_FOLDER + back] = (data, world.store.now, version)
    report = world.prune()
    assert (report.waiting.objects, world.names() & packs) == (1, {back})
    world.store.advance(GRACE)
    world.prune()
    assert not world.names() & packs


def test_list_lives_for_a_grace_period_though_all_its_packs_have_gone(world: World) -> None:
    """Two prunes that ran at once have condemned the same; writers may have missed the list that is older."""
    packs = condemned(world)
    world.store.advance(GRACE / 2)
    ids = [[each.rsplit("/", 1)[1] for each in packs if each.startswith(folder)] for folder in ("packs/", "maps/")]
    young = CondemnedList(marked=world.store.now, packs=tuple(ids[0]), map_packs=tuple(ids[1]))
    name = write_condemned(world.repository, young)
    world.store.advance(GRACE / 2)
    world.prune()
    assert not world.names() & packs and world.names("condemned/") == {name}
    world.store.advance(GRACE / 2)
    world.prune()
    assert world.names("condemned/") == set()


def test_list_stays_while_one_of_its_packs_is_there(world: World) -> None:
    """A writer may have committed right after it was condemned: nobody else may come to refer to it."""
    used = references(world.repository, read_disk_manifest(world.repository, world.manifests["three"]).manifest)
    content = CondemnedList(marked=world.store.now, packs=tuple(pack.hex() for pack in used.data))
    name = write_condemned(world.repository, content)
    for _ in range(3):
        world.store.advance(2 * GRACE)
        world.prune()
        assert name in world.names("condemned/")
    world.check()


class ForgivingStore(MemoryStore):
    """Somebody removes all condemned lists by hand as soon as a prune begins to mark."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        if prefix.endswith("/disks/"):
            for name in [each for each in self.objects if "/condemned/" in each]:
                del self.objects[name]
        return super().list(prefix)


def test_list_that_was_removed_while_a_prune_marked_deletes_nothing(world: World) -> None:
    packs = condemned(world)
    world.store.advance(2 * GRACE)
    store = ForgivingStore()
    store.objects, store.now, store._version = world.store.objects, world.store.now, 10**6
    repository: Repository = World(world.folder, store).repository
    epoch = advance_epoch(repository, {"t"}, "t")
    report = prune(repository, now=store.now, grace=GRACE, epoch=epoch)
    assert not {"DataPack", "MapPack"} & report.removed.keys()
    assert {name.removeprefix(_FOLDER) for name in store.objects} >= packs

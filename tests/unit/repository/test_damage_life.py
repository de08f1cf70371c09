"""Records of damage go with what they warn of, and never sooner."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longboat.repository import PruneReport, Repository, advance_epoch, prune
from longboat.repository.damage import WHOLE, Damage, read_damage, record_damage
from longboat.repository.damage_life import MANY, Record, tidy
from longboat.repository.layout import Kind
from longboat.repository.leases import Lease
from longboat.repository.object_store import ObjectInfo
from tests.fakes.object_store import MemoryStore
from tests.unit.mover.disks import backup_time, repository_in

from .hand_writer import back_up

GRACE = timedelta(hours=24)
NOW = datetime(2026, 11, 20, tzinfo=UTC)
FRAMES = st.tuples(
    st.sampled_from([Kind.DATA_PACK, Kind.MAP_PACK]), st.integers(0, 3), st.sampled_from([WHOLE, 48, 99])
)


def damage_of(frames: set[tuple[Kind, int, int]]) -> Damage:
    """Return damage of packs that are known by a number."""
    damage = Damage()
    for kind, number, offset in frames:
        damage.add(kind, bytes([number]) * 16, offset)
    return damage


def left_of(records: list[Record], gone: set[tuple[Kind, bytes]]) -> set[tuple[Kind, bytes, int]]:
    """Return what records say of packs that are not gone."""
    union = Damage()
    for record in records:
        for frame in record.damage:
            union.add(*frame)
    return {frame for frame in union if frame[:2] not in gone}


@given(
    st.lists(st.tuples(st.sets(FRAMES, min_size=1, max_size=4), st.booleans()), max_size=2 * MANY + 4),
    st.sets(st.tuples(st.sampled_from([Kind.DATA_PACK, Kind.MAP_PACK]), st.integers(0, 3))),
)
def test_records_that_stay_for_long_say_all_that_is_left(
    found: list[tuple[set[tuple[Kind, int, int]], bool]], numbers: set[tuple[Kind, int]]
) -> None:
    gone = {(kind, bytes([number]) * 16) for kind, number in numbers}
    records = [
        Record(ObjectInfo(f"damage/{at:032x}", 1, NOW - 2 * GRACE if old else NOW, ""), damage_of(frames))
        for at, (frames, old) in enumerate(found)
    ]
    removed, together = tidy(records, lambda pack: pack not in gone, NOW - GRACE)
    old = [each for each in records if each.info.modified < NOW]
    stay = [each for each in old if each.info not in removed]
    assert len(stay) == len(old) - len(removed)
    assert left_of(stay, gone) == left_of(old, gone)
    # Later the new record stands for the others: few are left, and no further one is written.
    later = [each for each in records if each.info not in removed]
    if together:
        later.append(Record(ObjectInfo("damage/new", 1, NOW, ""), together))
    removed, _ = tidy(later, lambda pack: pack not in gone, NOW)
    kept = [each for each in later if each.info not in removed]
    assert left_of(kept, gone) == left_of(records, gone)
    again, more = tidy(kept, lambda pack: pack not in gone, NOW)
    assert not again and (not more or not together)


class World:
    """A repository with two backups, of which the packs of the first are known."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.repository: Repository = repository_in(self.store)
        back_up(self.repository, "disk", "one", backup_time(1), [1, 2, 3])
        [pack] = self.repository.store.list("packs/")
        self.name, self.pack = pack.name, bytes.fromhex(pack.name.rsplit("/", 1)[1])

    def record(self) -> None:
        """Write down that the first pack is damaged."""
        damage = Damage()
        damage.add(Kind.DATA_PACK, self.pack)
        record_damage(self.repository, damage, self.store.now)

    def expire(self) -> None:
        """Take the first backup away, and its packs: what was lost is gone."""
        for folder in ("disks/", "packs/", "maps/"):
            for info in list(self.repository.store.list(folder)):
                self.repository.store.delete(info.name)

    def prune(self, **more: object) -> PruneReport:
        """Prune with the store's time."""
        epoch = advance_epoch(self.repository, {"t"}, "t")
        return prune(self.repository, now=self.store.now, epoch=epoch, allow_most=True, **more)  # type: ignore[arg-type]


@pytest.fixture
def world() -> World:
    return World()


def test_record_goes_when_nothing_refers_to_the_pack_and_it_is_gone(world: World) -> None:
    world.record()
    world.store.advance(2 * GRACE)
    world.expire()
    assert world.prune().removed["DamageRecord"].objects == 1
    assert not read_damage(world.repository)


@pytest.mark.parametrize("left", ["manifest", "pack"])
def test_record_stays_while_a_backup_refers_to_the_pack_or_it_is_there(world: World, left: str) -> None:
    world.record()
    world.store.advance(2 * GRACE)
    if left == "manifest":
        world.repository.store.delete(world.name)
    else:
        for info in list(world.repository.store.list("disks/")):
            world.repository.store.delete(info.name)
    assert "DamageRecord" not in world.prune().removed
    assert read_damage(world.repository)


def test_record_that_is_younger_than_the_grace_or_than_a_writer_at_work_stays(world: World) -> None:
    with Lease(world.repository, "disk", "two") as lease:
        world.store.advance(timedelta(minutes=10))
        world.record()
        world.expire()
        for _ in range(200):
            world.store.advance(timedelta(minutes=15))
            lease.renew()
        assert "DamageRecord" not in world.prune().removed
    assert world.prune().removed["DamageRecord"].objects == 1
    world.record()
    assert "DamageRecord" not in world.prune().removed


def test_record_that_cannot_be_read_keeps_all_others(world: World) -> None:
    world.record()
    world.expire()
    world.store.objects["cluster/namespace/damage/" + "0" * 32] = (b"?", world.store.now, 0)
    world.store.advance(2 * GRACE)
    assert "DamageRecord" not in world.prune().removed


def test_many_records_become_one_after_the_grace(world: World) -> None:
    for _ in range(MANY + 1):
        damage = Damage()
        damage.add(Kind.DATA_PACK, world.pack, 48 + len(list(world.repository.store.list("damage/"))))
        record_damage(world.repository, damage, world.store.now)
    known = set(read_damage(world.repository))
    world.store.advance(2 * GRACE)
    assert "DamageRecord" not in world.prune().removed
    assert len(list(world.repository.store.list("damage/"))) == MANY + 2
    world.store.advance(2 * GRACE)
    assert world.prune().removed["DamageRecord"].objects == MANY + 1
    assert set(read_damage(world.repository)) == known

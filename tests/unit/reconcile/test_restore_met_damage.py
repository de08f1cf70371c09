"""Damage that a restore has met has consequences at once: no new backup refers to it, and nobody is told Yes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from longboat.api import DiskBackup, Restore
from longboat.kube.kinds import CONFIG_MAP, DISK_BACKUP
from longboat.mover import VerifyJob
from longboat.plan import maintenance as plan
from longboat.plan.conditions import find
from longboat.reconcile import maintenance_records
from longboat.reconcile.restore_damage import note_damage
from longboat.repository.damage import read_damage
from tests.unit.reconcile.backup_world import SHOP
from tests.unit.reconcile.disk_world import SYSTEM, World
from tests.unit.reconcile.maintenance_world import VERIFY, request, world
from tests.unit.reconcile.restore_world import failing, message, run, shop, status, wish
from tests.unit.reconcile.upkeep_world import NOBODY, UpkeepWorld

__all__ = ["world"]


def restore_of(world: UpkeepWorld, name: str = "run") -> Restore:
    """Return a Restore of a backup, as far as it has to say where that is."""
    store = world.backup(name).status.store
    assert store is not None
    spec = {"source": {"diskBackup": {"name": name}}, "claim": {"name": "new"}}
    where = {"store": store.name, "repository": store.repository}
    meta = {"name": "drill", "namespace": SHOP}
    return Restore.model_validate({"metadata": meta, "spec": spec, "status": where})


def rot(world: UpkeepWorld) -> None:
    """Alter a byte in a frame of each data pack."""
    for path in (world.folder / "store").rglob("packs/*/*"):
        content = bytearray(path.read_bytes())
        content[70] ^= 1
        path.write_bytes(bytes(content))


def verified(world: UpkeepWorld, name: str = "run") -> tuple[str, str]:
    found = find(world.backup(name).status.conditions, "Verified")
    return (found.status, found.reason) if found else ("", "")


def test_damage_that_a_restore_met_is_verified_at_once_and_the_next_backup_is_whole(world: UpkeepWorld) -> None:
    # No sample of the data, and the next slot is far away: only what is asked for finds it.
    world.ask(prune=NOBODY, verify={"share": 0, "every": "9999d"})
    request(world, VERIFY)
    assert verified(world) == ("True", "Verified")
    rot(world)
    before = len(world.runs)
    note_damage(world.context(), restore_of(world), lost=True)
    assert verified(world) == ("False", "DamageMet") and world.backup().status.verified == "DamageMet"
    assert "DamageMet" in [reason for reason, _ in world.cluster.events]
    world.clock.advance(seconds=world.settings.full_resync_period.total_seconds() + 1)
    world.until_idle()
    [told] = [told for _, told in world.runs[before:]]
    assert isinstance(told, VerifyJob) and (told.share, told.suspects) == (0, ["run"])
    assert verified(world) == ("False", "Damaged") and read_damage(world.repository())
    assert world.record().verify.suspects == []
    world.add_backup("next")
    world.drive("next")
    request(world, VERIFY)
    assert verified(world, "next") == ("True", "Verified")


def test_a_verification_under_way_does_not_call_whole_what_a_restore_has_met_since(world: UpkeepWorld) -> None:
    world.ask(prune=NOBODY, verify={"share": 0})
    world.until_idle()
    rot(world)
    world.clock.advance(days=2)
    world.look()
    assert world.jobs()
    note_damage(world.context(), restore_of(world), lost=False)
    world.look()
    assert verified(world) == ("Unknown", "DamageMet")
    world.clock.advance(seconds=world.settings.full_resync_period.total_seconds() + 1)
    world.until_idle()
    assert verified(world) == ("False", "Damaged")


def test_what_is_whole_after_all_is_verified_again(world: UpkeepWorld) -> None:
    world.ask(prune=NOBODY, verify={"share": 0})
    note_damage(world.context(), restore_of(world), lost=True)
    note_damage(world.context(), restore_of(world), lost=True)
    assert [each.backup for each in world.record().verify.suspects] == ["run"]
    world.clock.advance(seconds=world.settings.full_resync_period.total_seconds() + 1)
    world.until_idle()
    assert verified(world) == ("True", "Verified")


def test_what_was_told_of_during_a_run_is_read_by_the_next_one(world: UpkeepWorld) -> None:
    request(world, VERIFY)
    now, record = world.clock(), world.record()
    begun = plan.begin(plan.suspected(record, "one", now), "verify", world.store(), now, "")
    later = plan.suspected(plan.suspected(begun, "two", now), "one", now + timedelta(minutes=1))
    assert begun.verify.attempt is not None and begun.verify.attempt.suspects == ["one"]
    result = world.record().verify.result
    assert result is not None
    ended = plan.verified(later, result, now + timedelta(minutes=2))
    assert sorted(each.backup for each in ended.verify.suspects) == ["one", "two"]
    assert [each.backup for each in plan.verified(begun, result, now).verify.suspects] == []


def restoring(report: dict[str, Any], fails: bool) -> World:
    """Return a world with a Restore whose mover reports this."""
    world = shop()
    backup = world.get(DISK_BACKUP, "nightly")
    backup["status"]["manifest"] = "nightly"
    world.cluster.update_status(backup)
    if fails:
        failing(world, ("Damaged", False))
        world.storage.run_job.failures[0] |= report
    else:
        world.storage.run_job.more = report
    world.add_restore("r", wish(attach=False))
    run(world)
    return world


@pytest.mark.parametrize(
    ("report", "fails", "expected"),
    [
        ({"unrecorded": 1, "lostFrom": 0}, True, ("False", "DamageMet")),
        ({"unrecorded": 2, "healedBytes": 8192}, False, ("Unknown", "DamageMet")),
        ({"unrecorded": 0, "lostFrom": 0}, True, None),
        ({"healedBytes": 8192}, False, None),
    ],
)
def test_a_restore_tells_of_damage_that_nobody_has_written_down(
    report: dict[str, Any], fails: bool, expected: tuple[str, str] | None
) -> None:
    world = restoring(report, fails)
    backup = DiskBackup.model_validate(world.get(DISK_BACKUP, "nightly"))
    found = find(backup.status.conditions, "Verified")
    assert (found and (found.status, found.reason)) == expected
    records = list(maintenance_records.all_records(world.cluster, SYSTEM))
    assert [each.backup for record in records for each in record.verify.suspects] == (["nightly"] if expected else [])
    assert status(world)["phase"] == ("Failed" if fails else "Completed")
    if not fails:
        assert status(world)["healedBytes"] == 8192 and "8192 bytes are damaged" in message(world)


def test_a_restore_ends_although_the_record_of_upkeep_can_not_be_read() -> None:
    world = restoring({"unrecorded": 1}, fails=True)
    [record] = world.cluster.list(CONFIG_MAP, SYSTEM)
    broken = [{"op": "replace", "path": "/data/record", "value": "?"}]
    world.cluster.patch(CONFIG_MAP, record["metadata"]["name"], broken, SYSTEM)
    failing(world, ("Damaged", False))
    world.storage.run_job.failures[0] |= {"unrecorded": 1}
    world.add_restore("s", wish(attach=False) | {"claim": {"name": "other"}})
    run(world, name="s")
    assert status(world, "s")["phase"] == "Failed"

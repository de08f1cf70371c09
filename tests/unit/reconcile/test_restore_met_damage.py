"""Damage that a restore has met has consequences at once: no new backup refers to it, and nobody is told Yes."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from longboat.api import DiskBackup, Restore
from longboat.kube.kinds import CONFIG_MAP, DISK_BACKUP
from longboat.mover import VerifyJob
from longboat.plan import maintenance as plan
from longboat.plan.conditions import find
from longboat.plan.maintenance_suspects import MAX_READ
from longboat.reconcile import maintenance_records
from longboat.reconcile.restore_damage import note_damage
from longboat.repository.damage import read_damage
from longboat.repository.errors import UnreachableError
from tests.unit.reconcile.backup_world import SHOP
from tests.unit.reconcile.disk_world import SYSTEM, World
from tests.unit.reconcile.maintenance_world import VERIFY, request, world
from tests.unit.reconcile.restore_world import MANIFEST, failing, message, run, shop, status, wish
from tests.unit.reconcile.upkeep_world import NOBODY, UpkeepWorld

__all__ = ["world"]


def restore_of(world: UpkeepWorld, name: str = "run") -> Restore:
    """Return a Restore of a backup, as far as it has to say where that is."""
    store, [disk] = world.backup(name).status.store, world.backup(name).status.disks or ()
    assert store is not None
    spec = {"source": {"diskBackup": {"name": name}}, "claim": {"name": "new"}}
    where = {"store": store.name, "repository": store.repository}
    where |= {"manifest": disk.manifest or "", "objectId": disk.object_id or ""}
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
    note_damage(world.context(), restore_of(world), lost=True, at=512)
    assert verified(world) == ("False", "DamageMet") and world.backup().status.verified == "DamageMet"
    assert "DamageMet" in [reason for reason, _ in world.cluster.events]
    world.clock.advance(seconds=world.settings.full_resync_period.total_seconds() + 1)
    world.until_idle()
    [told] = [told for _, told in world.runs[before:]]
    assert isinstance(told, VerifyJob) and (told.share, told.suspects) == (0, ["run"])
    assert told.named == {restore_of(world).status.manifest: 512}
    assert verified(world) == ("False", "Damaged") and read_damage(world.repository())
    assert world.record().verify.suspects == []
    read = json.dumps({"read": {"backup": "run", "disk": restore_of(world).status.manifest}})
    assert sum(log.splitlines().count(read) for log in world.cluster.pod_logs.values()) == 1
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


def tomorrow(world: UpkeepWorld) -> None:
    world.clock.advance(seconds=world.settings.full_resync_period.total_seconds() + 1)
    world.until_idle()


def test_another_backup_of_that_name_is_not_marked(world: UpkeepWorld) -> None:
    restore, found = restore_of(world), world.get(DISK_BACKUP, "run")
    found["status"]["disks"][0]["objectId"] = "of another one"
    world.cluster.update_status(found)
    note_damage(world.context(), restore, lost=True)
    assert verified(world) == ("", "")
    assert not any(each.verify.suspects for each in maintenance_records.all_records(world.cluster, SYSTEM))


def test_damage_that_can_not_be_written_down_is_read_for_once_a_day(world: UpkeepWorld) -> None:
    world.ask(prune=NOBODY, verify={"suspend": True})
    for _ in range(3):
        # What the run finds is nothing that it could write down: the restore says otherwise again.
        note_damage(world.context(), restore_of(world), lost=True)
        tomorrow(world)
    assert len(world.runs) == 1
    assert verified(world) == ("False", "DamageMet")
    world.clock.advance(days=1)
    tomorrow(world)
    assert len(world.runs) == 2 and verified(world) == ("True", "Verified")
    rot(world)
    world.clock.advance(days=1)
    for runs in (3, 4):
        # What was written down is known to those who can read it: what they tell of is news.
        note_damage(world.context(), restore_of(world), lost=True)
        tomorrow(world)
        assert len(world.runs) == runs


@pytest.mark.parametrize("seen", ["under way", "at its end"])
def test_a_run_that_did_not_come_to_its_end_is_gone_on_with(world: UpkeepWorld, seen: str) -> None:
    world.ask(prune=NOBODY, verify={"suspend": True})
    rot(world)
    note_damage(world.context(), restore_of(world), lost=True)
    world.trouble, world.logs_are_lost = [UnreachableError("away")], True
    world.look()
    disk, [job] = restore_of(world).status.manifest, world.jobs()
    pod = (SYSTEM, f"{job['metadata']['name']}-pod")
    told = json.dumps({"read": {"backup": "run", "disk": disk}})
    world.cluster.pod_logs[pod] = "\n".join([told, '{"read": 7}', '{"read": {"backup": "other"}}', "{"])
    if seen == "under way":
        world.cluster.update_status(job | {"status": {"active": 1, "ready": 1}})
        world.look()
        del world.cluster.pod_logs[pod]
        world.cluster.update_status(world.jobs()[0] | {"status": job["status"]})
    world.look()
    assert world.record().verify.failed and [each.read for each in world.record().verify.suspects] == [[disk]]
    world.clock.advance(days=1)
    tomorrow(world)
    assert [told.already_read for _, told in world.runs if isinstance(told, VerifyJob)][-1] == [disk]
    assert world.record().verify.suspects == [] and world.record().verify.failed is None


def test_what_was_met_since_a_run_began_is_not_read_yet(world: UpkeepWorld) -> None:
    request(world, VERIFY)
    now, later = world.clock(), world.clock() + timedelta(minutes=1)
    begun = plan.begin(plan.suspected(world.record(), "one", now), "verify", world.store(), now, "")
    assert plan.having_read(begun, [("one", "d")]).verify.suspects[0].read == ["d"]
    again = plan.suspected(plan.having_read(begun, [("one", "d")]), "one", later)
    assert plan.having_read(again, [("one", "d"), ("two", "d")]).verify.suspects[0].read == []
    many = [("one", str(number)) for number in range(MAX_READ + 5)]
    full = plan.having_read(begun, many)
    assert len(full.verify.suspects[0].read) == MAX_READ == len(plan.having_read(full, many).verify.suspects[0].read)


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
        ({"unrecorded": 1, "lostFrom": 4096}, True, ("False", "DamageMet")),
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
    named = [(each.disk, each.at) for record in records for each in record.verify.suspects]
    assert named == ([(MANIFEST, report.get("lostFrom", 0))] if expected else [])
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

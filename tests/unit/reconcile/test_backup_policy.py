"""BackupPolicy: named by the failures that each test prevents."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from longboat.api.common import DiskRef
from longboat.kube.kinds import BACKUP_POLICY, DISK_BACKUP, PERSISTENT_VOLUME_CLAIM, VIRTUAL_MACHINE
from longboat.plan.backup_target import target_of
from longboat.plan.conditions import find
from longboat.plan.names import FINALIZER, POLICY_UID
from tests.fakes.cluster import KillAt, Killed
from tests.unit.reconcile.policy_world import SHOP, World

MINUTELY = {"cron": "* * * * *"}


@pytest.fixture
def world() -> World:
    world = World()
    world.add_vm("db", "root", "data")
    world.add_store()
    return world


def condition(world: World, type_: str, name: str = "daily") -> tuple[str, str, str]:
    found = find(world.policy(name).status.conditions, type_)
    assert found is not None
    return found.status, found.reason, found.message


def test_creation_does_not_run_at_once_and_the_slot_does(world: World) -> None:
    world.add_policy()
    assert world.run() == timedelta(hours=17, minutes=13)
    assert world.slots() == []
    world.clock.to("2026-01-08T03:30")
    world.run()
    [backup] = world.backups()
    assert backup.name.startswith("daily-20260108t0330-")
    assert backup.metadata.labels[POLICY_UID] == world.policy().uid
    assert backup.metadata.finalizers == [FINALIZER]
    assert world.policy().status.last_slot == datetime(2026, 1, 8, 3, 30, tzinfo=UTC)
    assert world.policy().status.next_slot == datetime(2026, 1, 9, 3, 30, tzinfo=UTC)
    assert world.policy().status.last_backup == backup.name


def test_a_slot_runs_once_however_often_it_is_looked_at(world: World) -> None:
    world.add_policy()
    world.clock.to("2026-01-08T03:30")
    for _ in range(3):
        world.run()
        world.clock.by(minutes=5)
    assert world.slots() == ["08T03:30"]


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_an_operator_killed_at_any_step_makes_each_run_once(world: World, nth: int, before: bool) -> None:
    world.add_vm("web", "root", labels={"tier": "prod"})
    world.add_vm("api", "root", labels={"tier": "prod"})
    world.add_policy(target={"selector": {"matchLabels": {"tier": "prod"}}})
    world.clock.to("2026-01-08T03:30")
    with pytest.raises(Killed):
        world.run(bomb=KillAt(nth, before=before))
    world.run()
    assert sorted(each.spec.virtual_machine or "" for each in world.backups()) == ["api", "web"]
    assert world.policy().status.last_slot is not None


def test_a_lost_status_doubles_nothing(world: World) -> None:
    world.add_policy()
    world.clock.to("2026-01-08T03:30")
    world.run()
    found = world.cluster.get(BACKUP_POLICY, "daily", SHOP)
    assert found is not None
    world.cluster.update_status(found | {"status": {}})
    world.run()
    assert world.slots() == ["08T03:30"]


def test_after_an_outage_one_run_is_late_and_the_rest_are_skipped(world: World) -> None:
    world.add_policy(schedule={"hourly": {}})
    world.clock.to("2026-01-08T12:20")
    world.run()
    assert world.slots() == ["08T12:00"]
    world.clock.to("2026-01-08T12:40")
    world.run()
    assert world.slots() == ["08T12:00"]


def test_a_slot_missed_by_too_much_is_told_of_once(world: World) -> None:
    world.add_policy()
    world.clock.to("2026-01-08T06:00")
    world.run()
    world.run()
    assert world.slots() == []
    assert world.reasons().count("SlotMissed") == 1


def test_resuming_does_not_fire_for_the_past(world: World) -> None:
    world.add_policy(suspend=True)
    world.run()
    assert world.policy().status.protected == "Suspended"
    assert condition(world, "Ready")[:2] == ("True", "Suspended")
    world.clock.to("2026-01-08T03:45")
    world.edit(suspend=False)
    world.run()
    assert world.slots() == []
    world.clock.to("2026-01-09T03:30")
    world.run()
    assert world.slots() == ["09T03:30"]


def test_editing_the_schedule_does_not_run_the_past(world: World) -> None:
    world.add_policy()
    world.run()
    world.clock.to("2026-01-07T12:00")
    world.edit(schedule={"daily": {"at": "11:50"}})
    world.run()
    assert world.slots() == []
    world.clock.to("2026-01-08T11:50")
    world.run()
    assert world.slots() == ["08T11:50"]


def test_backups_that_wait_for_a_dead_store_do_not_stop_the_schedule_for_ever(world: World) -> None:
    world.add_policy(schedule={"daily": {"at": "03:30"}})
    for name in ("one", "two"):
        world.add("DiskBackup", name, {"policyRef": {"name": "daily"}})
    world.run()
    world.clock.to("2026-01-09T03:30")
    world.run()
    assert world.slots()[-1] == "09T03:30" and "SlotSkipped" not in world.reasons()


def test_slots_do_not_pile_up_behind_a_run_that_hangs(world: World) -> None:
    world.add_policy(schedule=MINUTELY)
    for minute in range(18, 23):
        world.clock.to(f"2026-01-07T10:{minute}")
        world.run()
    assert world.slots() == ["07T10:18", "07T10:19"]
    assert world.reasons().count("SlotSkipped") == 3
    for each in world.backups():
        world.set_status(each.name, phase="Failed")
    world.clock.to("2026-01-07T10:23")
    world.run()
    assert world.slots() == ["07T10:18", "07T10:19", "07T10:23"]


def test_a_foreign_object_of_the_runs_name_is_left_alone_and_told_of(world: World) -> None:
    world.add_policy()
    world.clock.to("2026-01-08T03:30")
    world.run()
    [backup] = world.backups()
    world.cluster.patch(DISK_BACKUP, backup.name, [{"op": "remove", "path": "/metadata/finalizers"}], SHOP)
    world.cluster.delete(DISK_BACKUP, backup.name, SHOP)
    world.add("DiskBackup", backup.name, {"policyRef": {"name": "other"}})
    found = world.cluster.get(BACKUP_POLICY, "daily", SHOP)
    assert found is not None
    world.cluster.update_status(found | {"status": {}})
    world.run()
    assert condition(world, "Stalled")[1] == "NameTaken"
    assert "NameTaken" in world.reasons()


BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("no VM", {"target": {"virtualMachine": {"name": "dbb"}}}, "VirtualMachineNotFound", "spec.target.virtualMachine"),
    ("no disk", {"target": {"disk": {"virtualMachine": "db", "name": "x"}}}, "DiskNotFound", "root, data"),
    ("no claim", {"target": {"disk": {"persistentVolumeClaim": "x"}}}, "ClaimNotFound", "spec.target.disk"),
    ("nothing", {"target": {"selector": {"matchLabels": {"a": "b"}}}}, "NothingSelected", "a=b"),
    ("zone", {"timeZone": "Europe/Londn"}, "TimeZoneUnknown", "Europe/London"),
    ("cron", {"schedule": {"cron": "61 * * * *"}}, "CronInvalid", "spec.schedule.cron"),
    ("store", {"storeRef": {"name": "x"}}, "StoreNotFound", "offsite"),
]


@pytest.mark.parametrize(("spec", "reason", "words"), [each[1:] for each in BAD], ids=[each[0] for each in BAD])
def test_bad_input_lands_as_a_condition_with_field_and_remedy(
    world: World, spec: dict[str, Any], reason: str, words: str
) -> None:
    world.add_policy(**spec)
    world.clock.to("2026-01-08T03:30")
    assert world.run() == timedelta(minutes=1)
    for type_, status in (("Ready", "False"), ("Stalled", "True"), ("Protected", "False")):
        assert condition(world, type_)[:2] == (status, reason)
    assert words in condition(world, "Ready")[2]
    assert world.policy().status.protected == "No"
    assert world.reasons() == [reason]
    assert world.slots() == []


@pytest.mark.parametrize("defaults", [0, 2])
def test_without_exactly_one_default_store_the_policy_says_so(world: World, defaults: int) -> None:
    world.cluster.objects = {key: each for key, each in world.cluster.objects.items() if each["kind"] != "BackupStore"}
    for number in range(2):
        world.add_store(f"s{number}", default=number < defaults)
    world.add_policy()
    world.run()
    assert condition(world, "Ready")[1] == {0: "NoDefaultStore", 2: "SeveralDefaultStores"}[defaults]
    world.add_policy("named", storeRef={"name": "s1"})
    world.run("named")
    assert condition(world, "Ready", "named")[1] == "Scheduled"


def test_a_namespace_that_may_not_use_the_store_does_not_learn_that_it_exists(world: World) -> None:
    world.add_store("closed", default=False, allowedNamespaces={"matchLabels": {"backups": "yes"}})
    world.add_policy(storeRef={"name": "closed"})
    world.run()
    assert condition(world, "Ready")[1] == "StoreNotFound"
    closed = condition(world, "Ready")[2]
    world.add_policy("missing", storeRef={"name": "none"})
    world.run("missing")
    assert condition(world, "Ready", "missing")[2] == closed.replace("'closed'", "'none'")


def test_a_target_that_comes_within_the_deadline_is_still_backed_up(world: World) -> None:
    world.add_policy(target={"virtualMachine": {"name": "late"}})
    world.clock.to("2026-01-08T03:30")
    world.run()
    world.clock.to("2026-01-08T04:00")
    world.add_vm("late", "root")
    world.run()
    assert world.slots() == ["08T03:30"]


def test_protected_turns_late_when_runs_fail(world: World) -> None:
    world.add_policy()
    world.clock.to("2026-01-08T03:30")
    world.run()
    assert world.policy().status.protected == "Never"
    [first] = world.backups()
    world.set_status(
        first.name, phase="Completed", cut={"startedAt": "2026-01-08T03:30:01Z", "cutAt": "2026-01-08T03:30:04Z"}
    )
    world.run()
    assert condition(world, "Protected")[:2] == ("True", "Protected")
    assert world.policy().status.last_success_time == datetime(2026, 1, 8, 3, 30, 4, tzinfo=UTC)
    world.clock.to("2026-01-09T03:30")
    assert world.run() == timedelta(hours=12)
    world.set_status(world.backups()[1].name, phase="PartiallyFailed")
    world.clock.to("2026-01-09T15:30")
    world.run()
    assert condition(world, "Protected")[:2] == ("False", "Late")
    assert world.policy().status.protected == "Late"


@pytest.mark.parametrize(
    ("left_out", "short"),
    [
        (("tpm-efi.state", "NoSnapshotSupport"), "Partly"),
        (("host", "HostDisk"), "Partly"),
        (("share", "SharedFilesystem"), "Partly"),
        (("scratch", "Ephemeral"), "Yes"),
        (("tpm-efi.state", "NoStateYet"), "Yes"),
    ],
)
def test_a_machine_with_a_disk_that_no_backup_holds_is_not_called_protected(
    world: World, left_out: tuple[str, str], short: str
) -> None:
    world.add_policy()
    world.clock.to("2026-01-08T03:30")
    world.run()
    name, reason = left_out
    disks = [{"name": "root", "phase": "Completed"}]
    disks.append({"name": name, "phase": "Unsupported", "reason": reason, "message": "it has to be moved."})
    cut = {"startedAt": "2026-01-08T03:30:01Z", "cutAt": "2026-01-08T03:30:04Z"}
    world.set_status(world.backups()[0].name, phase="Completed", cut=cut, disks=disks)
    world.run()
    assert world.policy().status.protected == short
    if short == "Partly":
        assert condition(world, "Protected")[:2] == ("False", "DisksLeftOut")
        message = condition(world, "Protected")[2]
        assert f"disk {name!r}" in message and f"({reason}: it has to be moved)" in message
    # That nothing newer came is worse, and told first.
    world.clock.to("2026-01-09T15:30")
    world.run()
    assert world.policy().status.protected == "Late"


FAILED = {"type": "Ready", "status": "False", "reason": "GuestNotThawed", "message": "see the agent"}


def test_runs_that_fail_are_named_with_their_reason(world: World) -> None:
    world.add_policy()
    world.clock.to("2026-01-08T03:30")
    world.run()
    [first] = world.backups()
    ready = FAILED | {"lastTransitionTime": "2026-01-08T03:31:00Z"}
    world.set_status(first.name, phase="Failed", conditions=[ready])
    world.run()
    message = condition(world, "Protected")[2]
    assert "no good backup yet of db" in message
    assert f"DiskBackup {first.name!r}" in message and "GuestNotThawed: see the agent" in message
    world.set_status(first.name, phase="Completed")
    world.clock.to("2026-01-09T03:30")
    world.run()
    second = world.backups()[1]
    world.set_status(second.name, phase="PartiallyFailed", conditions=[ready])
    world.clock.to("2026-01-09T15:30")
    world.run()
    message = condition(world, "Protected")[2]
    assert f"DiskBackup {second.name!r}" in message and "GuestNotThawed" in message


def test_a_machine_made_anew_under_an_old_name_is_not_called_protected(world: World) -> None:
    world.add_policy()
    world.clock.to("2026-01-08T03:30")
    world.run()
    target = {"kind": "VirtualMachine", "name": "db", "uid": "gone"}
    world.set_status(world.backups()[0].name, phase="Completed", target=target)
    world.run()
    assert world.policy().status.protected == "Never"


def test_a_policy_all_of_whose_backups_are_lost_does_not_tell_of_its_last_success(world: World) -> None:
    world.add_policy()
    world.clock.to("2026-01-08T03:30")
    world.run()
    [first] = world.backups()
    world.set_status(first.name, phase="Completed")
    world.run()
    assert world.policy().status.last_success_time is not None
    found = {"type": "DataMissing", "status": "True", "reason": "DataMissing", "message": "its manifest"}
    world.set_status(first.name, conditions=[found | {"lastTransitionTime": "2026-01-08T04:00:00Z"}])
    world.run()
    status = world.policy().status
    assert status.last_success_time is None
    assert [each.last_success_time for each in status.targets or ()] == [None]


@pytest.mark.parametrize(("status", "reason", "short"), [("False", "Damaged", "Never"), ("True", "Recoverable", "Yes")])
def test_a_machine_whose_only_backup_is_damaged_for_good_is_not_called_protected(
    world: World, status: str, reason: str, short: str
) -> None:
    world.add_policy()
    world.clock.to("2026-01-08T03:30")
    world.run()
    [first] = world.backups()
    found = {"type": "Verified", "status": status, "reason": reason, "message": "disk data"}
    found["lastTransitionTime"] = "2026-01-08T04:00:00Z"
    world.set_status(first.name, phase="Completed", conditions=[found])
    world.run()
    assert world.policy().status.protected == short
    assert ("1 damaged or gone from the store" in condition(world, "Protected")[2]) == (short == "Never")


BY_NAME: dict[str, Any] = {"data": {"disk": {"virtualMachine": "db", "name": "data"}}}
BY_NAME |= {"root": {"disk": {"virtualMachine": "db", "name": "root"}}, "all": {"virtualMachine": {"name": "db"}}}
BY_NAME |= {"claim": {"disk": {"persistentVolumeClaim": "db-root"}}}


@pytest.mark.parametrize(
    ("before", "after", "protected"),
    [
        ("data", "root", "Never"),
        ("data", "all", "Never"),
        ("data", "claim", "Never"),
        ("all", "claim", "Never"),
        ("claim", "all", "Never"),
        ("all", "data", "Yes"),
        ("data", "data", "Yes"),
    ],
)
def test_backups_of_what_the_target_was_before_an_edit_protect_nothing_else(
    world: World, before: str, after: str, protected: str
) -> None:
    world.add_policy(target=BY_NAME[before])
    world.clock.to("2026-01-08T03:30")
    world.run()
    world.set_status(world.backups()[0].name, phase="Completed", **held(world, before))
    world.run()
    assert (world.policy().status.protected, bool(world.policy().status.last_success_time)) == ("Yes", True)
    world.edit(target=BY_NAME[after])
    world.run()
    assert world.policy().status.protected == protected
    assert bool(world.policy().status.last_success_time) == (protected == "Yes")


def held(world: World, what: str) -> dict[str, Any]:
    """Return the status of a backup as its own reconciler writes it."""
    disks = {"data": ["data"], "root": ["root"], "claim": ["root"]}.get(what, ["root", "data"])
    claims = {disk: world.cluster.get(PERSISTENT_VOLUME_CLAIM, f"db-{disk}", SHOP) or {} for disk in disks}
    results = [
        {"name": disk, "phase": "Completed", "claim": {"name": f"db-{disk}", "uid": claim["metadata"]["uid"]}}
        for disk, claim in claims.items()
    ]
    ref = DiskRef.model_validate(BY_NAME[what]["disk"]) if what != "all" else None
    vm = world.cluster.get(VIRTUAL_MACHINE, "db", SHOP) if what != "claim" else None
    return {"disks": results, "target": target_of(vm, claims.get("root"), ref).wire()}


def test_what_tables_show_of_a_policy_is_short(world: World) -> None:
    world.add_policy()
    world.clock.to("2026-01-08T03:30")
    world.run()
    cut = {"startedAt": "2026-01-08T03:30:01.5Z", "cutAt": "2026-01-08T03:30:02.962290Z"}
    run, vm = world.backups()[0], world.cluster.get(VIRTUAL_MACHINE, "db", SHOP)
    target = {"kind": "VirtualMachine", "name": "db", "uid": vm["metadata"]["uid"] if vm else ""}
    world.set_status(run.name, phase="Completed", target=target, cut=cut, storedBytes=41_492_250, manifest=run.name)
    world.run()
    status = world.policy().status
    assert (status.stored_bytes, status.stored) == (41_492_250, "39.6Mi")
    assert status.last_success_time == datetime(2026, 1, 8, 3, 30, 2, tzinfo=UTC)


def test_a_quiet_policy_writes_nothing(world: World) -> None:
    world.add_policy()
    world.run()
    writes = world.cluster.writes
    world.clock.by(hours=1)
    world.run()
    assert world.cluster.writes == writes


def test_deleting_a_policy_deletes_no_backup(world: World) -> None:
    world.add_policy()
    world.clock.to("2026-01-08T03:30")
    world.run()
    world.cluster.delete(BACKUP_POLICY, "daily", SHOP)
    assert world.run() is None
    assert len(world.backups()) == 1
    assert not world.cluster.get(DISK_BACKUP, world.backups()[0].name, SHOP)["metadata"].get("ownerReferences")  # type: ignore[index]


def test_deleting_the_machine_deletes_no_backup(world: World) -> None:
    world.add_policy()
    world.clock.to("2026-01-08T03:30")
    world.run()
    world.cluster.delete(VIRTUAL_MACHINE, "db", SHOP)
    world.run()
    assert len(world.backups()) == 1

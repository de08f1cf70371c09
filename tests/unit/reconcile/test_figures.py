"""What the tick notes for those who scrape: named by the failures that each test prevents."""

from __future__ import annotations

from typing import Any

import pytest

from longboat.api import BackupStore
from longboat.kube.kinds import BACKUP_POLICY, BACKUP_STORE, DISK_BACKUP, NAMESPACE, VIRTUAL_MACHINE
from longboat.kube.port import Object, UnavailableError
from longboat.mover import PruneResult
from longboat.mover.results import PruneCount
from longboat.plan import maintenance as plan
from longboat.plan import metrics
from longboat.plan.maintenance import PruneRuns, RepositoryRecord
from longboat.reconcile import maintenance_records
from longboat.reconcile.figures import Figures
from longboat.reconcile.queue import WorkQueue
from longboat.reconcile.routing import Owners
from longboat.reconcile.tick import Tick
from tests.unit.reconcile.policy_world import SHOP, World

LABELS = ("offsite", "db", "data", "db-data")


class Watched(World):
    """A world with a tick that takes note of figures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.figures = Figures()
        context = self.context()
        self.tick = Tick(context, WorkQueue(lambda key: None), Owners(), (self.figures,), figures=self.figures)

    def told(self, name: str) -> dict[tuple[str, ...], float]:
        """The samples of a metric by the values of their labels."""
        withheld = self.figures.withheld
        parts = [each for part in self.figures.parts() for each in part]
        found = [(labels, value) for each, labels, value in parts if each == name and name not in withheld]
        assert len(dict(found)) == len(found), "told twice"
        return dict(found)

    def add_run(self, name: str, policy: str = "daily", stored: int = 7, **status: Any) -> None:
        self.add("DiskBackup", name, {"policyRef": {"name": policy}})
        disk = {"name": "data", "phase": "Completed", "storedBytes": stored, "claim": {"name": "db-data", "uid": "u"}}
        done: Object = {"phase": "Completed", "manifest": name, "virtualMachine": "db", "disks": [disk]}
        done |= {"store": {"name": "offsite", "repository": "r"}, "completedAt": self.clock().isoformat()}
        self.set_status(name, **done | status)


@pytest.fixture
def world() -> Watched:
    world = Watched()
    world.add_vm("db", "root", "data")
    world.add_store()
    world.add_policy()
    world.run()
    return world


def test_nothing_is_known_before_all_policies_were_seen(world: Watched) -> None:
    assert not world.figures.is_known
    world.tick.once()
    assert world.figures.is_known
    assert world.told("longboat_tick_timestamp_seconds") == {(): world.clock().timestamp()}


def test_policy_that_is_deleted_stops_to_alert_with_the_next_tick(world: Watched) -> None:
    world.tick.once()
    assert ("shop", "daily", "VirtualMachine", "db") in world.told("longboat_policy_target_overdue_timestamp_seconds")
    world.cluster.delete(BACKUP_POLICY, "daily", SHOP)
    world.tick.once()
    assert world.told("longboat_policy_target_overdue_timestamp_seconds") == {}
    assert world.told("longboat_policy_info") == {}


def test_policy_that_never_succeeded_says_0_and_not_nothing(world: Watched) -> None:
    world.tick.once()
    name = "longboat_policy_target_last_success_timestamp_seconds"
    assert world.told(name) == {("shop", "daily", "VirtualMachine", "db"): 0.0}
    assert world.told("longboat_policy_protected") == {("shop", "daily"): 0.0}


def test_suspended_policy_is_not_overdue_and_says_since_when(world: Watched) -> None:
    world.edit(suspend=True)
    world.run()
    world.tick.once()
    assert world.told("longboat_policy_target_overdue_timestamp_seconds") == {}
    since = {("shop", "daily"): world.clock().timestamp()}
    assert world.told("longboat_policy_suspended_timestamp_seconds") == since


def test_counters_go_on_after_a_restart_and_after_their_backups_have_expired(world: Watched) -> None:
    world.add_run("one", storedBytes=7)
    world.run()
    world.cluster.delete(DISK_BACKUP, "one", SHOP)
    world.run()
    world.figures = Figures()
    world.tick = Tick(world.context(), WorkQueue(lambda key: None), Owners(), figures=world.figures)
    world.tick.once()
    assert world.told("longboat_backups_total")["shop", "daily", "Completed"] == 1
    assert world.told("longboat_backup_transferred_bytes_total") == {("shop", "daily"): 7.0}
    assert world.told("longboat_backups_kept") == {("shop", "daily"): 0.0}


def test_what_is_stored_is_told_once_while_the_policy_is_there_and_when_it_is_gone(world: Watched) -> None:
    world.add_run("one")
    world.add_run("two", stored=5)
    world.run()
    world.tick.once()
    stored = {("shop", "daily", *LABELS): 12.0}
    assert world.told("longboat_stored_bytes") == stored
    world.cluster.delete(BACKUP_POLICY, "daily", SHOP)
    world.tick.once()
    assert world.told("longboat_stored_bytes") == stored


def queued(world: World) -> int:
    """What a first tick finds to do."""
    queue = WorkQueue(lambda key: None)
    Tick(world.context(), queue, Owners()).once()
    return len(queue)


def test_policy_of_an_earlier_version_is_metered_and_looked_at(world: Watched) -> None:
    world.add_run("one")
    before = queued(world)
    policy = world.cluster.objects[BACKUP_POLICY, SHOP, "daily"]
    del policy["status"]["totals"], policy["status"]["usage"]
    assert queued(world) == before + 1
    world.tick.once()
    assert world.told("longboat_stored_bytes") == {("shop", "daily", *LABELS): 7.0}


def test_sum_of_a_part_of_the_backups_is_never_told(world: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add_run("one", policy="gone")
    world.add_run("two")
    world.run()
    real = world.cluster.list

    def broken(kind: Any, *args: Any, **more: Any) -> Any:
        yield from () if kind == DISK_BACKUP else real(kind, *args, **more)
        if kind == DISK_BACKUP:
            raise UnavailableError("in the middle")

    monkeypatch.setattr(world.cluster, "list", broken)
    world.tick.once()
    assert world.figures.is_known and world.told("longboat_stored_bytes") == {}
    monkeypatch.undo()
    world.tick = Tick(world.context(), WorkQueue(lambda key: None), Owners(), figures=world.figures)
    world.tick.once()
    assert sum(world.told("longboat_stored_bytes").values()) == 14.0


def test_policies_stay_known_while_the_api_server_is_away(world: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    world.tick.once()
    before = world.told("longboat_tick_timestamp_seconds")
    world.clock.by(minutes=10)

    def away(*args: Any, **more: Any) -> Any:
        raise UnavailableError("away")
        yield

    monkeypatch.setattr(world.cluster, "list", away)
    world.tick.once()
    assert world.told("longboat_policy_info") != {}
    assert world.told("longboat_tick_timestamp_seconds") == before, "it has to be seen that these are old"


def test_backup_that_hangs_is_told_with_its_age(world: Watched) -> None:
    world.add("DiskBackup", "hangs", {"policyRef": {"name": "daily"}})
    begun = world.clock().timestamp()
    world.tick.once()
    assert world.told("longboat_backups_unfinished") == {("shop", "daily"): 1.0}
    assert world.told("longboat_backup_oldest_unfinished_timestamp_seconds") == {("shop", "daily"): begun}
    world.set_status("hangs", phase="Failed")
    world.clock.by(minutes=6)
    world.tick.once()
    assert world.told("longboat_backups_unfinished") == {}


@pytest.mark.parametrize(("status", "up"), [("True", 1.0), ("False", 0.0), ("Unknown", None)])
def test_store_that_is_away_is_down(world: Watched, status: str, up: float | None) -> None:
    store = world.cluster.get(BACKUP_STORE, "offsite")
    assert store is not None
    its = {
        "type": "Available",
        "status": status,
        "reason": "Any",
        "message": "",
        "lastTransitionTime": "2026-01-07T10:17:00Z",
    }
    world.cluster.update_status(store | {"status": {"conditions": [its], "lastCheckTime": "2026-01-07T10:17:00Z"}})
    world.tick.once()
    assert world.told("longboat_store_up") == ({} if up is None else {("offsite",): up})
    assert world.told("longboat_store_last_check_timestamp_seconds") == {("offsite",): world.clock().timestamp()}


def protected(world: Watched) -> dict[str, float]:
    world.tick.once()
    world.figures.machines(world.context())
    return {labels[1]: value for labels, value in world.told("longboat_vm_protected").items()}


def test_machine_without_a_policy_is_told_and_one_of_which_a_disk_has_one_is_not(world: Watched) -> None:
    for name in ("web", "bare", "claim"):
        world.add_vm(name, "data")
    world.add_policy("disk", target={"disk": {"virtualMachine": "web", "name": "data"}})
    world.add_policy("claim", target={"disk": {"persistentVolumeClaim": "claim-data"}})
    for name in ("disk", "claim"):
        world.run(name)
    assert protected(world) == {"db": 1.0, "web": 1.0, "claim": 1.0, "bare": 0.0}
    world.cluster.delete(BACKUP_POLICY, "daily", SHOP)
    world.cluster.delete(VIRTUAL_MACHINE, "bare", SHOP)
    assert protected(world) == {"db": 0.0, "web": 1.0, "claim": 1.0}


def test_machine_is_not_called_unprotected_where_not_all_targets_are_told(
    world: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add_vm("bare", "data")
    monkeypatch.setattr(metrics, "MOST_TARGETS", 1)
    assert protected(world) == {}


def count(size: int) -> PruneCount:
    return PruneCount(objects=1, bytes=size)


def add_namespace(world: Watched, name: str, uid: str) -> None:
    world.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    world.cluster.patch(NAMESPACE, name, [{"op": "replace", "path": "/metadata/uid", "value": uid}])


def add_repository(world: Watched, uid: str, namespace: str, *, pruned: bool = True, **more: Any) -> None:
    """Note down what the upkeep knows of a repository, first seen when its namespace had this name."""
    result = PruneResult(dry_run=False, manifests=1, leases=0, removed={}, freed=count(0), condemned=count(1),
                         waiting=count(2), later=count(4), leased=count(8), live=count(100),
                         live_by_claim={"db-data": 70, "": 30})  # fmt: skip
    more = {"store": "offsite", "seen": world.clock(), "prune": PruneRuns(result=result if pruned else None)} | more
    record = RepositoryRecord(namespace=namespace, namespace_uid=uid, **more)
    maintenance_records.add(world.context(), record)


LIVE = "longboat_repository_live_bytes"


def metered(world: Watched, name: str = LIVE) -> dict[tuple[str, ...], float]:
    world.figures.repositories(world.context())
    return world.told(name)


def test_namespace_is_charged_for_what_its_backups_need_and_not_for_what_prune_still_removes(world: Watched) -> None:
    add_namespace(world, "web", "a")
    add_namespace(world, "new", "d")
    for uid, namespace in (("a", "web"), ("b", ""), ("c", "")):
        add_repository(world, uid, namespace)
    add_repository(world, "d", "new", pruned=False)
    assert metered(world) == {("offsite", "web"): 100, ("offsite", "(deleted)"): 200}
    assert world.told("longboat_store_used_bytes") == {("offsite", "web"): 115, ("offsite", "(deleted)"): 230}
    claims = {labels[2]: size for labels, size in world.told("longboat_claim_live_bytes").items() if labels[1] == "web"}
    assert claims == {"db-data": 70, "(several)": 30}


def test_new_namespace_is_not_charged_for_what_the_old_one_of_its_name_has_left(world: Watched) -> None:
    add_namespace(world, "web", "old")
    add_repository(world, "old", "web")
    assert metered(world) == {("offsite", "web"): 100}
    world.cluster.delete(NAMESPACE, "web")
    assert metered(world) == {("offsite", "(deleted)"): 100}
    add_namespace(world, "web", "new")
    assert metered(world) == {("offsite", "(deleted)"): 100}
    assert {labels[1] for labels in world.told("longboat_claim_live_bytes")} == {"(deleted)"}
    add_repository(world, "new", "web")
    assert metered(world) == {("offsite", "(deleted)"): 100, ("offsite", "web"): 100}


def test_nobody_is_charged_for_what_lies_in_a_store_that_is_gone(world: Watched) -> None:
    add_repository(world, "a", "")
    add_repository(world, "b", "", store="another")
    assert metered(world) == {("offsite", "(deleted)"): 100}
    world.cluster.delete(BACKUP_STORE, "offsite")
    assert metered(world) == {}


def test_nobody_is_charged_for_what_was_found_where_the_store_does_not_lead_any_more(world: Watched) -> None:
    store = BackupStore.model_validate(world.cluster.get(BACKUP_STORE, "offsite"))
    record = RepositoryRecord(store="offsite", namespace="", namespace_uid="a", seen=world.clock())
    begun = plan.begin(record, "prune", store, world.clock(), "token")
    result = PruneResult(dry_run=False, manifests=1, leases=0, removed={}, freed=count(0), condemned=count(0),
                         waiting=count(0), later=count(0), leased=count(0), live=count(100))  # fmt: skip
    maintenance_records.add(world.context(), plan.pruned(begun, result, world.clock()))
    assert metered(world) == {("offsite", "(deleted)"): 100}
    for path, value in (("endpoint", "https://other.example.net"), ("bucket", "other"), ("prefix", "other")):
        was = world.cluster.get(BACKUP_STORE, "offsite")["spec"]["s3"]
        world.cluster.patch(BACKUP_STORE, "offsite", [{"op": "add", "path": f"/spec/s3/{path}", "value": value}])
        assert metered(world) == {}, path
        world.cluster.patch(BACKUP_STORE, "offsite", [{"op": "replace", "path": "/spec/s3", "value": was}])
        assert metered(world) == {("offsite", "(deleted)"): 100}


def test_nobody_is_charged_for_a_repository_that_is_not_in_the_bucket_any_more(world: Watched) -> None:
    add_repository(world, "a", "", missing=world.clock())
    assert metered(world) == {}


def test_bad_object_is_left_out_and_the_others_are_told(world: Watched) -> None:
    world.add_policy("other")
    world.add_run("one", policy="gone")
    world.cluster.objects[BACKUP_POLICY, SHOP, "daily"]["status"]["targets"] = [{"name": 3}]
    world.cluster.objects[DISK_BACKUP, SHOP, "one"]["status"]["disks"] = "nonsense"
    world.tick.once()
    assert [labels[1] for labels in world.told("longboat_policy_info")] == ["other"]


def test_suspicion_is_told_by_policy(world: Watched) -> None:
    disk = {"name": "data", "phase": "Completed", "claim": {"name": "db-data", "uid": "u"}}
    world.add_run("one", disks=[disk | {"suspectedBy": "two"}])
    world.add_run("two", disks=[disk | {"mismatch": "bytes 1 to 2"}])
    world.run()
    world.tick.once()
    assert world.told("longboat_suspect_backups") == {("shop", "daily"): 1.0}
    assert world.told("longboat_change_tracking_mismatches") == {("shop", "daily"): 1.0}

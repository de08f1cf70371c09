"""Two policies of one slot: one cut and one export for both, two backups, and each is restored without the other."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from tests import installation
from tests.cluster.cluster import Cluster
from tests.e2e.workloads import Namespace, Object, claim

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
LEAD = timedelta(seconds=25)
CUTS = "volumesnapshots"


@pytest.fixture
def shop(namespace: Namespace, kubevirt_cluster: Cluster) -> Namespace:
    """A namespace with a stopped machine of two disks."""
    namespace.apply(claim("db-root"), claim("db-data"))
    volumes = [{"name": each, "persistentVolumeClaim": {"claimName": f"db-{each}"}} for each in ("root", "data")]
    devices = {"disks": [{"name": each, "disk": {"bus": "virtio"}} for each in ("root", "data")]}
    domain = {"devices": devices, "resources": {"requests": {"memory": "64Mi"}}}
    spec = {"runStrategy": "Halted", "template": {"spec": {"domain": domain, "volumes": volumes}}}
    namespace.apply(
        {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "db"}, "spec": spec}
    )
    return namespace


class Seen:
    """What the API server has seen made for a namespace: VolumeSnapshots in it, and export Jobs."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.snapshots: set[str] = set()
        self.jobs: set[str] = set()

    def look(self) -> None:
        # The disks' automatic snapshots are not of backups.
        labelled = ((each["metadata"], each["metadata"].get("labels") or {}) for each in self.namespace.items(CUTS))
        self.snapshots |= {meta["uid"] for meta, its in labelled if its.get("longboat.dev/owner-kind") == "DiskBackup"}
        label = f"longboat.dev/owner-namespace={self.namespace.name}"
        found = self.namespace.cluster.kubectl("-n", installation.NAMESPACE, "get", "jobs", "-l", label, "-o", "json")
        self.jobs |= {each["metadata"]["uid"] for each in json.loads(found)["items"]}


def _policy(shop: Namespace, name: str, target: Object, slot: datetime, keep: str) -> Object:
    schedule = {"cron": f"{slot.minute} {slot.hour} {slot.day} {slot.month} *"}
    return shop.ours("BackupPolicy", name, {"target": target, "schedule": schedule, "retention": {"keepFor": keep}})


def _next_slot() -> datetime:
    """Return the next full minute that is far enough away for the policies to be there before."""
    return (datetime.now(UTC) + LEAD + timedelta(minutes=1)).replace(second=0, microsecond=0)


def _run_of(shop: Namespace, policy: str) -> Object | None:
    found = (each for each in shop.items("diskbackups") if each["spec"]["policyRef"]["name"] == policy)
    return next(found, None)


def test_weekly_and_daily_policies_of_one_slot_read_the_disk_once(shop: Namespace) -> None:
    root, data = shop.write("db-root", seed=1), shop.write("db-data", seed=2)
    slot, seen = _next_slot(), Seen(shop)
    whole, one = {"virtualMachine": {"name": "db"}}, {"disk": {"virtualMachine": "db", "name": "data"}}
    shop.apply(_policy(shop, "daily", one, slot, "7d"), _policy(shop, "weekly", whole, slot, "90d"))

    def ended() -> list[Object]:
        seen.look()
        runs = [each for policy in ("weekly", "daily") if (each := _run_of(shop, policy))]
        phases = [(each.get("status") or {}).get("phase") for each in runs]
        return runs if len(runs) == 2 and set(phases) <= {"Completed", "PartiallyFailed", "Failed"} else []

    weekly, daily = shop.until("both runs end", ended, 300)
    assert [each["status"]["phase"] for each in (weekly, daily)] == ["Completed", "Completed"], (weekly, daily)
    assert daily["status"]["sharedCut"]["name"] == weekly["metadata"]["name"], daily["status"]
    assert "sharedCut" not in weekly["status"]
    assert daily["status"]["cut"] == weekly["status"]["cut"]
    assert (len(seen.snapshots), len(seen.jobs)) == (2, 2), f"each disk once: {seen.snapshots}, {seen.jobs}"
    assert daily["status"]["storedBytes"] == 0 < weekly["status"]["storedBytes"]
    assert {each["name"] for each in weekly["status"]["disks"]} == {"root", "data"}
    _restore(shop, "from-daily", daily, data)
    shop.kubectl("delete", "diskbackup", weekly["metadata"]["name"], "--timeout=60s")
    shop.write("db-data", seed=3)
    _restore(shop, "from-daily-alone", daily, data)
    assert root != data
    shop.kubectl("delete", "backuppolicy", "weekly", "daily")
    shop.assert_nothing_left()


def test_the_larger_backup_is_whole_when_the_one_that_shared_its_cut_is_deleted(shop: Namespace) -> None:
    data = shop.write("db-data", seed=4)
    slot, whole = _next_slot(), {"virtualMachine": {"name": "db"}}
    shop.apply(*(_policy(shop, name, whole, slot, "7d") for name in ("first", "second")))
    runs = {}
    for name in ("first", "second"):
        run = shop.until(f"a run of {name}", lambda name=name: _run_of(shop, name), 150)
        runs[name] = shop.ended("diskbackup", run["metadata"]["name"], 300)
    shared = [name for name, run in runs.items() if "sharedCut" in run["status"]]
    assert shared == ["second"], runs
    shop.kubectl("delete", "diskbackup", runs["second"]["metadata"]["name"], "--timeout=60s")
    _restore(shop, "from-first", runs["first"], data)


def _restore(shop: Namespace, name: str, backup: Object, checksum: str) -> None:
    source = {"diskBackup": {"name": backup["metadata"]["name"], "disk": "data"}}
    restored = shop.restore(name, source)
    assert restored["status"]["phase"] == "Completed", restored["status"]
    assert shop.checksum(name) == checksum

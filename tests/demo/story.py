"""The story: a running machine with disks A, B and C, backed up, destroyed in part, and restored while it runs.

Every chapter raises StoryError if anything is not as told.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, cast

from tests.cluster.cluster import Cluster
from tests.cluster.kubevirt import guests
from tests.cluster.kubevirt.guests import Disk, Guest
from tests.cluster.progress import wait_until
from tests.demo import objects
from tests.demo.narrator import Narrator
from tests.demo.objects import OURS, VM
from tests.demo.place import MIB, Place

DISKS = {"disk-a": "the system", "disk-b": "logs", "disk-c": "the database"}
Object = dict[str, Any]


class StoryError(AssertionError):
    """Something is not as told."""


class Story:
    """One telling in one place; ``checksum`` is that of the data on disk C before it is destroyed."""

    def __init__(self, place: Place, narrator: Narrator) -> None:
        self.place = place
        self.tell = narrator
        self.checksum = ""
        self.newest = ""
        # A guest needs nothing of its cluster but kubectl.
        self.cluster = cast(Cluster, place.cluster)
        self.guest = Guest(self.cluster, place.namespace, VM)

    def run(self) -> None:
        """Tell it from beginning to end."""
        self.machine()
        self.policies()
        self.ad_hoc_runs()
        self.stored_once()
        self.snapshot()
        self.schedule_survives_a_kill()
        self.destroy()
        self.restore_from_backup()
        self.restore_from_snapshot()
        self.show_everything()

    def machine(self) -> None:
        """A running machine with three disks, data on two of them."""
        self.make_namespace()
        self.tell.chapter("A virtual machine with disks A, B and C")
        self.make_machine()
        for disk in ("disk-b", "disk-c"):
            mount = f"mkdir -p /mnt/{disk} && mount {self.device(disk)} /mnt/{disk}"
            self.guest.run(f"mountpoint -q /mnt/{disk} || {{ mkfs.ext4 -q -F {self.device(disk)} && {mount}; }}")
        self.guest.run("head -c 20000000 /dev/urandom > /mnt/disk-c/orders.db; head -c 3000000 /dev/urandom > "
                       "/mnt/disk-b/app.log; sync")  # fmt: skip
        self.checksum = self.sum("/mnt/disk-c/orders.db")
        self.show("get", "virtualmachineinstances,persistentvolumeclaims", "-n", self.place.namespace)
        self.tell.fact(f"in the guest: sha256 of orders.db on disk C is {self.checksum[:16]}…")

    def make_namespace(self) -> None:
        """An empty namespace: what an earlier telling has left is removed, and nothing else ever."""
        name = self.place.namespace
        found = self.cluster.kubectl("get", "namespace", name, "--ignore-not-found", "-o", "json")
        if found:
            ours = OURS.items() <= json.loads(found)["metadata"].get("labels", {}).items()
            self.require(ours, f"namespace {name} is free, or of an earlier telling: choose another with --namespace")
            self.tell.fact(f"removing namespace {name} of an earlier telling")
            self.cluster.kubectl("delete", "namespace", name, "--timeout=300s")
        self.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(objects.namespace(name)))

    def make_machine(self) -> None:
        """Create and boot the machine."""
        sizes = {"disk-a": guests.ROOT_SIZE, "disk-b": "256Mi", "disk-c": "256Mi"}
        for disk, size in sizes.items():
            self.apply(guests.claim(f"db-{disk}", size, storage_class=self.place.storage_class))
        self.apply(objects.fill_root_disk("db-disk-a", self.place.guest_image))
        self.kubectl("wait", "--for=condition=Complete", "--timeout=300s", "job/fill-db-disk-a")
        self.kubectl("delete", "job/fill-db-disk-a", "--cascade=foreground")
        self.guest.create([Disk(name, f"db-{name}") for name in DISKS])
        self.guest.start()

    def policies(self) -> None:
        """Two policies: weekly on the machine, daily on disk C."""
        self.tell.chapter("A weekly policy on the machine, a daily one on disk C")
        self.apply(objects.weekly_on_machine())
        self.apply(objects.daily_on_disk("disk-c"))
        for name in ("db-weekly", "db-disk-c-daily"):
            self.kubectl("wait", "--for=condition=Ready", f"backuppolicy/{name}", "--timeout=60s")
        self.show("get", "backuppolicies", "-n", self.place.namespace)

    def ad_hoc_runs(self) -> None:
        """Both run once, by hand."""
        self.tell.chapter("Both run once, by hand")
        for name in ("db-weekly", "db-disk-c-daily"):
            created = self.create(objects.run_of(name))
            backup = self.completed_backup(created)
            self.verdict(backup)
        self.show("get", "diskbackups", "-n", self.place.namespace)

    def verdict(self, backup: Object) -> None:
        """The backup says how consistent it is, and it is as good as it can be."""
        status = backup["status"]
        self.tell.fact(f"{backup['metadata']['name']}: {status['consistency']}: {status['consistencyReason']}")
        self.require(status["consistency"] == "Application", "the guest was frozen for the cut", backup)
        self.require(status.get("sameMoment") is True, "all disks were captured at the same moment", backup)

    def stored_once(self) -> None:
        """The second policy's backup of disk C costs next to nothing."""
        weekly, daily = (self.newest_backup(name) for name in ("db-weekly", "db-disk-c-daily"))
        first = self.disk(weekly, "disk-c")
        second = self.disk(daily, "disk-c")
        self.require(second["mode"] == "Incremental", "the second backup of disk C is incremental", daily)
        self.require(second["storedBytes"] < MIB < first["storedBytes"], "disk C is stored once, not twice", daily)
        self.tell.good(f"disk C is stored once: {first['storedBytes'] / MIB:.1f} MiB by the weekly policy, "
                       f"{second['storedBytes'] / MIB:.2f} MiB more by the daily one")  # fmt: skip

    def snapshot(self) -> None:
        """An ad-hoc snapshot, local and at once."""
        self.tell.chapter("An ad-hoc snapshot of disk C")
        self.apply(objects.snapshot("before-upgrade", "disk-c"))
        self.kubectl("wait", "--for=condition=Ready", "disksnapshot/before-upgrade", "--timeout=60s")
        self.show("get", "disksnapshots", "-n", self.place.namespace)

    def schedule_survives_a_kill(self) -> None:
        """A policy that runs every minute; the operator is killed once; there is one DiskBackup per slot."""
        self.tell.chapter("A policy that fires every minute, and an operator that is killed")
        self.apply(objects.minutely_on_disk("disk-c"))
        self.until("the first slot has a backup", lambda: self.backups_of("db-disk-c-minutely"), 90)
        self.kill_operator()
        self.until("three slots have backups", lambda: len(self.completed_slots()) >= 3, 300)
        self.patch_suspended("db-disk-c-minutely")
        self.until("no run is left", lambda: self.all_ended("db-disk-c-minutely"), 120)
        slots = [each["spec"]["slot"] for each in self.backups_of("db-disk-c-minutely")]
        self.require(len(slots) == len(set(slots)), f"one DiskBackup per slot: {slots}")
        self.require(_consecutive(slots), f"no slot was missed: {slots}")
        self.tell.good(f"{len(slots)} slots, {len(slots)} backups, though the operator was killed")
        self.newest = self.newest_backup("db-disk-c-minutely")["metadata"]["name"]
        self.show("get", "diskbackups", "-n", self.place.namespace)

    def destroy(self) -> None:
        """The data on disk C is gone."""
        self.tell.chapter("Disaster: the data on disk C is overwritten inside the guest")
        self.guest.run(f"umount /mnt/disk-c; dd if=/dev/zero of={self.device('disk-c')} bs=1M count=64 conv=fsync")
        mounted = self.guest.execute(["mount", self.device("disk-c"), "/mnt/disk-c"])
        self.require(mounted.exit_code != 0, "disk C cannot be mounted any more")
        self.tell.fact("in the guest: mount: no file system on disk C")

    def restore_from_backup(self) -> None:
        """The newest backup of disk C, into a new disk, plugged into the running machine."""
        self.tell.chapter(f"Restore from the newest backup, {self.newest}")
        source = {"diskBackup": {"name": self.newest, "disk": "disk-c"}}
        self.restored("db-c-from-backup", source, "from-backup")

    def restore_from_snapshot(self) -> None:
        """The same from the local snapshot."""
        self.tell.chapter("Restore from the snapshot")
        self.restored("db-c-from-snapshot", {"diskSnapshot": {"name": "before-upgrade"}}, "from-snapshot")

    def restored(self, name: str, source: Object, disk_name: str) -> None:
        """Restore, attach, mount in the guest and compare."""
        self.apply(objects.restore(name, source, disk_name))
        done = self.until(f"restore {name} ends", lambda: self.ended("restore", name), 300)
        self.require(done["status"]["phase"] == "Completed", f"restore {name} is complete", done)
        self.show("get", "restores", "-n", self.place.namespace)
        device = self.device(done["status"]["serial"])
        self.guest.run(f"mkdir -p /mnt/{disk_name} && mount -o ro {device} /mnt/{disk_name}")
        found = self.sum(f"/mnt/{disk_name}/orders.db")
        self.tell.fact(f"in the guest: sha256 of orders.db on {device} is {found[:16]}…")
        self.require(found == self.checksum, "the guest reads the old data on the new disk")
        self.tell.good("the guest reads the old data on the new disk")

    def show_everything(self) -> None:
        """All kinds, and what lies in the bucket."""
        self.tell.chapter("What there is now")
        self.show("get", "longboat", "-n", self.place.namespace)
        self.show("get", "backupstores")
        self.show_bucket()
        self.require(not self.leftovers(), f"nothing is left in the operator's namespace: {self.leftovers()}")

    def show_bucket(self) -> None:
        """What the namespace has in the bucket, where that can be seen."""
        if self.place.bucket:
            uid = self.cluster.kubectl("get", "namespace", self.place.namespace, "-o", "jsonpath={.metadata.uid}")
            self.tell.fact("in the bucket:")
            for line in self.place.bucket(uid):
                self.tell.fact("  " + line)

    def kill_operator(self) -> None:
        """Kill the operator's pod without grace."""
        pods = ["-n", self.place.operator_namespace, "-l", "app.kubernetes.io/name=longboat"]
        self.show("delete", "pod", *pods, "--grace-period=0", "--force")

    def leftovers(self) -> list[str]:
        """Jobs, claims and snapshots of movers that are still there."""
        kinds = "jobs,persistentvolumeclaims,volumesnapshots"
        # What a disk keeps for its next backup is no leftover.
        ours = f"longboat.dev/owner-namespace={self.place.namespace},longboat.dev/owner-kind!=Disk"
        return self.cluster.kubectl("-n", self.place.operator_namespace, "get", kinds, "-l", ours, "-o", "name").split()

    def completed_backup(self, name: str) -> Object:
        """Wait until a DiskBackup has ended; it must be complete."""
        ended: Object = self.until(f"backup {name} ends", lambda: self.ended("diskbackup", name), 300)
        self.require(ended["status"]["phase"] == "Completed", f"backup {name} is complete", ended)
        return ended

    def ended(self, kind: str, name: str) -> Object | None:
        """The object, once its phase is a last one."""
        found: Object = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return found if found.get("status", {}).get("phase") in ("Completed", "PartiallyFailed", "Failed") else None

    def backups_of(self, policy: str) -> list[Object]:
        """The DiskBackups of a policy."""
        items = json.loads(self.kubectl("get", "diskbackups", "-o", "json"))["items"]
        return [each for each in items if each["spec"]["policyRef"]["name"] == policy]

    def newest_backup(self, policy: str) -> Object:
        """The newest DiskBackup of a policy."""
        return max(self.backups_of(policy), key=lambda each: str(each["metadata"]["creationTimestamp"]))

    def completed_slots(self) -> list[Object]:
        """The complete backups of the policy that runs every minute."""
        found = self.backups_of("db-disk-c-minutely")
        return [each for each in found if each.get("status", {}).get("phase") == "Completed"]

    def all_ended(self, policy: str) -> bool:
        """Whether every run of a policy has ended, and well."""
        return all(each.get("status", {}).get("phase") == "Completed" for each in self.backups_of(policy))

    def patch_suspended(self, policy: str) -> None:
        """Suspend a policy."""
        self.show(
            "patch",
            "backuppolicy",
            policy,
            "-n",
            self.place.namespace,
            "--type=merge",
            "-p",
            '{"spec":{"suspend":true}}',
        )

    def disk(self, backup: Object, name: str) -> Object:
        """One disk of a backup."""
        found: Object = next(each for each in backup["status"]["disks"] if each["name"] == name)
        return found

    def device(self, disk: str) -> str:
        """The device of a disk in the guest, by its serial number."""
        found: str = self.until(f"the guest sees disk {disk}", lambda: self.guest.disks().get(disk), 30)
        return found

    def sum(self, path: str) -> str:
        """The checksum of a file in the guest, read from the disk and not from the guest's memory."""
        return self.guest.run(f"echo 3 > /proc/sys/vm/drop_caches; sha256sum {path}").split()[0]

    def create(self, obj: Object) -> str:
        """Create an object as `kubectl create` does and return its name."""
        made = json.loads(
            self.cluster.kubectl("create", "-n", self.place.namespace, "-o", "json", "-f", "-", stdin=json.dumps(obj))
        )
        self.tell.fact(f"created {made['kind']} {made['metadata']['name']}")
        return str(made["metadata"]["name"])

    def apply(self, obj: Object) -> None:
        """Apply an object to the namespace as `kubectl apply` does."""
        self.cluster.kubectl("apply", "-n", self.place.namespace, "-f", "-", stdin=json.dumps(obj))

    def kubectl(self, *arguments: str) -> str:
        """Run kubectl in the namespace without showing it."""
        return self.cluster.kubectl("-n", self.place.namespace, *arguments)

    def show(self, *arguments: str) -> None:
        """Run kubectl and show it."""
        self.tell.command("kubectl " + " ".join(arguments), self.cluster.kubectl(*arguments))

    def require(self, holds: bool, claim: str, evidence: Object | None = None) -> None:
        """Raise StoryError, with the object's status, if a claim does not hold."""
        if not holds:
            details = json.dumps(evidence.get("status"), indent=2) if evidence else ""
            raise StoryError(f"not as told: {claim}\n{details}")

    def until(self, claim: str, look: Callable[[], Any], seconds: float) -> Any:
        """Look twice a second until something is there; raise StoryError after the time."""

        def everything() -> str:
            return self.kubectl("get", "longboat", "-o", "wide")

        return wait_until(look, seconds, claim, 0.5, error=StoryError, evidence=everything)


def _consecutive(slots: list[str]) -> bool:
    moments = sorted(datetime.fromisoformat(slot) for slot in slots)
    return all(later - earlier == timedelta(minutes=1) for earlier, later in pairwise(moments))

"""A hostile tenant, who has all rights in a namespace of their own: refused or harmless, and no trouble for others."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.progress import ClusterError
from tests.e2e.workloads import Namespace, Object, claim, of_backup

pytestmark = pytest.mark.cluster
# The administrator of a virtual cluster or of a team's namespace: every right in it, those on statuses too.
MALLORY = "mallory"
STATUSES = "longboat-statuses"


@dataclass(frozen=True)
class Tenants:
    """Two namespaces with a disk, a policy and a backup named `nightly` each; Mallory rules the second."""

    victim: Namespace
    mallory: Namespace

    def attempt(self, *arguments: str, stdin: Object | None = None) -> str:
        """Run kubectl as Mallory in her namespace; raises ClusterError with the refusal."""
        text = json.dumps(stdin) if stdin else None
        return self.mallory.kubectl(f"--as={MALLORY}", *arguments, stdin=text)


@pytest.fixture(scope="module")
def tenants(longboat: Cluster) -> Iterator[Tenants]:
    names = [f"tenants-{who}-{time.time_ns():x}" for who in ("victim", "mallory")]
    found = Tenants(*(Namespace(longboat, name) for name in names))
    for number, each in enumerate((found.victim, found.mallory)):
        each.apply(claim("disk", "16Mi"))
        each.write("disk", seed=30 + number, mebibytes=4)
        each.policy("nightly", "disk")
    binding = ["create", "rolebinding", MALLORY, "--clusterrole=cluster-admin", f"--user={MALLORY}"]
    found.mallory.kubectl(*binding)
    found.victim.apply(found.victim.ours("DiskBackup", "nightly", {"policyRef": {"name": "nightly"}}))
    theirs = found.victim.ended("diskbackup", "nightly")
    assert theirs["status"]["phase"] == "Completed", theirs["status"]
    # As if it were hers already: name, status and all.
    found.attempt("create", "-f", "-", stdin=theirs | {"metadata": {"name": "nightly"}})
    own = found.mallory.ended("diskbackup", "nightly")
    assert own["status"]["phase"] == "Completed", own["status"]
    yield found
    for name in names:
        longboat.kubectl("delete", "namespace", name, "--wait=false")


def backup_of(place: Namespace) -> Object:
    found = place.get("diskbackup", "nightly")
    assert found
    return found


def test_a_backup_of_the_same_name_as_anothers_is_ones_own(tenants: Tenants) -> None:
    own = backup_of(tenants.mallory)
    assert not own["status"].get("adopted")
    tenants.mallory.restore("own", of_backup(own))
    assert tenants.mallory.checksum("own") == tenants.mallory.checksum("disk")
    assert tenants.mallory.checksum("own") != tenants.victim.checksum("disk")


# What Mallory changes in the victim's status, so that more and more of it is plausible; and why it is no use to her.
FORGED = {
    "copied": ((), {"RepositoryReplaced"}),
    "same-id": (("id",), {"RepositoryMismatch"}),
    "her-own": (("id", "repository"), {"BackupNotFound", "ManifestNotFound"}),
}


def forge(tenants: Tenants, name: str, own: tuple[str, ...]) -> None:
    """Write the victim's status, with some fields of its store from Mallory's own, to a DiskBackup of hers."""
    status = copy.deepcopy(backup_of(tenants.victim)["status"])
    status["store"] |= {field: backup_of(tenants.mallory)["status"]["store"][field] for field in own}
    patch = json.dumps({"status": status})
    tenants.attempt("patch", "diskbackup", name, "--subresource=status", "--type=merge", "-p", patch)


def empty_backup(tenants: Tenants, name: str) -> None:
    made = tenants.mallory.ours("DiskBackup", name, {"policyRef": {"name": "nobody-runs-this"}})
    tenants.attempt("create", "-f", "-", stdin=made)


def test_a_forged_status_is_refused(tenants: Tenants) -> None:
    empty_backup(tenants, "refused")
    with pytest.raises(ClusterError, match="written by the operator alone"):
        forge(tenants, "refused", ())


@pytest.fixture
def statuses_open(longboat: Cluster) -> Iterator[None]:
    """A cluster whose administrator has turned off that statuses are the operator's."""
    binding = json.loads(longboat.kubectl("get", "validatingadmissionpolicybinding", STATUSES, "-o", "json"))
    longboat.kubectl("delete", "validatingadmissionpolicybinding", STATUSES)
    yield
    kept = {key: binding["metadata"].get(key) or {} for key in ("name", "labels", "annotations")}
    longboat.kubectl("create", "-f", "-", stdin=json.dumps(binding | {"metadata": kept}))


def test_a_forged_status_that_gets_through_reads_nobody_elses_data(tenants: Tenants, statuses_open: None) -> None:
    mallory = tenants.mallory

    def through(name: str, own: tuple[str, ...]) -> bool:
        # A policy bites for a moment after it has gone.
        try:
            forge(tenants, name, own)
        except ClusterError:
            return False
        return True

    for name, (own, _) in FORGED.items():
        empty_backup(tenants, name)
        mallory.until("the status is forged", lambda name=name, own=own: through(name, own), 30)
        wish = {"source": {"diskBackup": {"name": name}}, "claim": {"name": name}}
        tenants.attempt("create", "-f", "-", stdin=mallory.ours("Restore", name, wish))
    for name, (_, reasons) in FORGED.items():
        stalled = mallory.condition("restore", name, "Stalled", 120)()
        assert stalled["reason"] in reasons, stalled
        claimed = mallory.get("pvc", name)
        assert claimed is None or "volumeName" not in claimed["spec"]
        # Deleting it must not reach into the other's repository either.
        tenants.attempt("delete", "restore,diskbackup", name, "--wait=false")
    restored = tenants.victim.restore("still-there", of_backup(backup_of(tenants.victim)))
    assert restored["status"]["phase"] == "Completed", restored["status"]
    assert tenants.victim.checksum("still-there") == tenants.victim.checksum("disk")


def test_a_claim_that_is_made_to_look_like_a_restores_is_left_alone(tenants: Tenants) -> None:
    mallory = tenants.mallory
    theirs = backup_of(tenants.victim)
    trap = claim("trap", "16Mi")
    trap["metadata"]["annotations"] = {"longboat.dev/restore-uid": theirs["metadata"]["uid"]}
    trap["spec"]["dataSourceRef"] = {"apiGroup": "longboat.dev", "kind": "Restore", "name": "trap"}
    tenants.attempt("create", "-f", "-", stdin=trap)
    mallory.apply(mallory.ours("DiskSnapshot", "own", {"disk": {"persistentVolumeClaim": "disk"}}))
    wish = {"source": {"diskSnapshot": {"name": "own"}}, "claim": {"name": "trap"}}
    tenants.attempt("create", "-f", "-", stdin=mallory.ours("Restore", "trap", wish))
    mallory.condition("restore", "trap", "Stalled")("ClaimExists")
    found = mallory.get("pvc", "trap")
    assert found and "volumeName" not in found["spec"], "nobody fills what no Restore has made"
    mallory.kubectl("delete", "pvc", "trap")


def test_a_full_quota_is_named_and_what_it_stopped_goes_on_when_there_is_room(tenants: Tenants) -> None:
    mallory = tenants.mallory
    hard = {"requests.storage": "16Mi", "count/volumesnapshots.snapshot.storage.k8s.io": "0"}
    quota: Object = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full"}}
    mallory.apply(quota | {"spec": {"hard": hard}})
    mallory.kubectl("wait", "--for=jsonpath={.status.hard}", "--timeout=30s", "resourcequota/full")
    mallory.apply(mallory.ours("DiskBackup", "no-room", {"policyRef": {"name": "nightly"}}))
    mallory.apply(mallory.ours("DiskSnapshot", "no-room", {"disk": {"persistentVolumeClaim": "disk"}}))
    own = {"source": {"diskBackup": {"name": "nightly"}}, "claim": {"name": "no-room"}}
    mallory.apply(mallory.ours("Restore", "no-room", own))
    others = tenants.victim.backup("nightly")
    assert others["status"]["phase"] == "Completed", others["status"]
    for kind, reason in (("restore", "ClaimRefused"), ("disksnapshot", "SnapshotRefused")):
        said = mallory.condition(kind, "no-room", "Stalled")(reason)
        assert "exceeded quota: full" in said["message"], said
    refused = mallory.ended("diskbackup", "no-room")
    assert refused["status"]["phase"] == "Failed", refused["status"]
    assert "exceeded quota: full" in refused["status"]["disks"][0]["message"]
    mallory.kubectl("delete", "resourcequota", "full")
    assert mallory.ended("restore", "no-room")["status"]["phase"] == "Completed"
    assert mallory.ended("disksnapshot", "no-room")["status"]["phase"] == "Ready"
    assert mallory.backup("nightly")["status"]["phase"] == "Completed"


def test_nothing_of_a_tenant_is_left_in_the_operators_namespace(tenants: Tenants) -> None:
    for each in (tenants.victim, tenants.mallory):
        each.assert_nothing_left()

"""Automatic snapshots: replaced only by one that is ready, opted out of by a label, made by nobody but the operator.

The machines are never started: a disk of a stopped machine gets its snapshots as well.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests import installation
from tests.cluster.cluster import Cluster
from tests.cluster.kubevirt.guests import Disk, Guest
from tests.cluster.progress import ClusterError
from tests.e2e.workloads import Namespace, Object, claim

pytestmark = pytest.mark.cluster
OUT = "longboat.dev/automatic-snapshots=disabled"


@pytest.fixture(scope="module")
def place(impatient: Cluster, kubevirt_cluster: Cluster) -> Iterator[Namespace]:
    """Machines with disks of which some are opted out; the machine `out` as a whole."""
    found = Namespace(kubevirt_cluster, f"automatic-{time.time_ns():x}", standard="baseline")
    disks = ("db-data", "db-held", "db-out", "out-data")
    found.apply(*[claim(disk, "16Mi") for disk in disks])
    found.kubectl("label", "pvc", "db-out", OUT)
    Guest(found.cluster, found.name, "out").create([Disk("data", "out-data")], labels=dict([OUT.split("=")]))
    Guest(found.cluster, found.name, "db").create([Disk(disk.removeprefix("db-"), disk) for disk in disks[:3]])
    found.kubectl("wait", "--for=jsonpath={.status.phase}=Bound", "--timeout=60s", "pvc", "--all")
    yield found
    kubevirt_cluster.faults.remove("held")
    kubevirt_cluster.kubectl("delete", "namespace", found.name, "--wait=false")


@pytest.fixture(scope="module")
def opted_out(place: Namespace) -> Iterator[Namespace]:
    """A namespace that is opted out, with a machine that is not by itself."""
    found = Namespace(place.cluster, f"{place.name}-out", standard="baseline")
    place.cluster.kubectl("label", "namespace", found.name, OUT)
    found.apply(claim("db-data", "16Mi"))
    Guest(place.cluster, found.name, "db").create([Disk("data", "db-data")])
    found.kubectl("wait", "--for=jsonpath={.status.phase}=Bound", "--timeout=60s", "pvc", "--all")
    yield found
    place.cluster.kubectl("delete", "namespace", found.name, "--wait=false")


def automatic(place: Namespace, disk: str, phase: str = "") -> set[str]:
    """The names of a claim's automatic snapshots, of one phase or of any."""
    return {
        each["metadata"]["name"]
        for each in place.items("disksnapshots")
        if each["spec"]["origin"] == "Automatic"
        and each["metadata"]["name"].startswith(f"{disk}-auto-")
        and phase in ("", each.get("status", {}).get("phase"))
    }


def test_automatic_snapshot_stays_until_the_next_one_is_ready(place: Namespace, opted_out: Namespace) -> None:
    # What is due is looked for once a minute, and when the operator begins.
    installation.restart(place.cluster)
    first = {
        disk: place.until(f"a snapshot of {disk}", lambda disk=disk: automatic(place, disk, "Ready"), 90)
        for disk in ("db-data", "db-held")
    }
    held = {"claim": f"{place.name}/db-held"}
    place.cluster.faults.inject("held", operation="CreateSnapshot", ready=False, match=held)
    place.until("the next of db-data is ready", lambda: automatic(place, "db-data", "Ready") - first["db-data"], 150)
    place.until("the next of db-held is begun", lambda: automatic(place, "db-held") - first["db-held"])
    installation.restart(place.cluster)
    place.until("the first of db-data goes", lambda: not automatic(place, "db-data") & first["db-data"], 90)
    assert automatic(place, "db-held", "Ready") == first["db-held"], "it is the only one that can be restored"
    place.cluster.faults.remove("held")
    place.until("the next of db-held is ready", lambda: automatic(place, "db-held", "Ready") - first["db-held"], 150)
    installation.restart(place.cluster)
    place.until("the first of db-held goes", lambda: not automatic(place, "db-held") & first["db-held"], 90)
    seen = place.items("disksnapshots") + opted_out.items("disksnapshots")
    assert {each["spec"]["disk"]["name"] for each in seen} == {"data", "held"}, "a claim is opted out"
    assert {each["spec"]["disk"]["virtualMachine"] for each in seen} == {"db"}, "a machine is opted out"
    assert opted_out.items("disksnapshots") == [], "a namespace is opted out"


def test_user_can_not_make_an_automatic_snapshot_nor_call_one_so_later(place: Namespace) -> None:
    spec: Object = {"disk": {"virtualMachine": "db", "name": "data"}}
    with pytest.raises(ClusterError, match="made by the operator alone"):
        place.create(place.ours("DiskSnapshot", "mine-", spec | {"origin": "Automatic"}))
    mine = place.create(place.ours("DiskSnapshot", "mine-", spec))
    with pytest.raises(ClusterError, match="immutable"):
        place.kubectl("patch", "disksnapshot", mine, "--type=merge", '-p={"spec":{"origin":"Automatic"}}')

"""Nobody gets more through the operator than they have themselves: the chart's admission policies and user roles, tried
on a real API server by users with few rights."""

from __future__ import annotations

import copy
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from longboat.api.common import API_VERSION
from tests.cluster.apiserver import ApiServer
from tests.e2e.admission_cases import VALID

MANIFESTS = Path(__file__).parents[2] / "manifests"
PLACE = "admission-policies"
OPERATOR = "system:serviceaccount:longboat-system:longboat"
# May make every namespaced kind of ours, and nothing else.
NEWCOMER = "newcomer"
# May also get and change the machine "db", get the machine "seen" and claims, and make claims.
OWNER = "owner"
# The ClusterRole cluster-admin, in the namespace: what the owner of a virtual cluster or a team's namespace often has.
ADMINISTRATOR = "administrator"

OWNER_RULES = [
    {
        "apiGroups": ["kubevirt.io"],
        "resources": ["virtualmachines"],
        "resourceNames": ["db"],
        "verbs": ["get", "update"],
    },
    {"apiGroups": ["kubevirt.io"], "resources": ["virtualmachines"], "resourceNames": ["seen"], "verbs": ["get"]},
    {"apiGroups": ["kubevirt.io"], "resources": ["virtualmachines"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["get", "create"]},
]
DISK = {"virtualMachine": "db", "name": "data"}
RESTORE = VALID["Restore"]
ATTACHED = {**RESTORE, "attach": {"virtualMachine": "db", "diskName": "restored"}}
ATTACHED_ELSEWHERE = {**RESTORE, "attach": {"virtualMachine": "seen", "diskName": "restored"}}
NO_GET_VM = "you may not get VirtualMachine db in namespace admission-policies, so you may not back it up either"


def _policy(target: dict[str, Any]) -> dict[str, Any]:
    return {**VALID["BackupPolicy"], "target": target}


class Users:
    """Creates objects as users, by impersonation."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server

    def create(self, user: str, kind: str, spec: dict[str, Any], name: str | None = None) -> None:
        """Try to create an object, without keeping it; CalledProcessError carries the refusal in stderr."""
        meta = {"name": name or "attempt", "namespace": PLACE}
        obj = {"apiVersion": API_VERSION, "kind": kind, "metadata": meta, "spec": spec}
        self.run(user, "create", "--dry-run=server", "-f", "-", stdin=json.dumps(obj))

    def run(self, user: str, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as a user."""
        return self.server.kubectl(f"--as={user}", *arguments, stdin=stdin)


def _binding(user: str, name: str, kind: str, role: str) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": PLACE},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }


def _rights() -> list[dict[str, Any]]:
    rights = [
        _binding(user, f"{user}-{role}", "ClusterRole", f"longboat-{role}")
        for user in (NEWCOMER, OWNER)
        for role in ("view", "edit")
    ]
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "owner", "namespace": PLACE},
        "rules": OWNER_RULES,
    }
    administrator = _binding(ADMINISTRATOR, "administrator", "ClusterRole", "cluster-admin")
    return [*rights, role, _binding(OWNER, "owner", "Role", "owner"), administrator]


def _policies() -> list[dict[str, Any]]:
    """The chart's policies, held to this module's namespace: other tests share the API server."""
    documents = [each for each in yaml.safe_load_all((MANIFESTS / "admission-policies.yaml").read_text()) if each]
    for each in documents:
        if each["kind"] == "ValidatingAdmissionPolicyBinding":
            selector = {"matchLabels": {"kubernetes.io/metadata.name": PLACE}}
            anything = {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"]}
            # A selector of namespaces alone would let through to the policies what has no namespace.
            rules = [anything | {"scope": "Namespaced"}]
            each["spec"]["matchResources"] = {"namespaceSelector": selector, "resourceRules": rules}
    return documents


@pytest.fixture(scope="module")
def users(apiserver: ApiServer) -> Users:
    """Users with few rights, in a namespace where the policies bite."""
    namespaces = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": n}} for n in (PLACE, "longboat-system")
    ]
    apiserver.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(MANIFESTS / "crds.yaml"))
    apiserver.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump_all(namespaces))
    apiserver.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(MANIFESTS / "rbac.yaml"))
    apiserver.kubectl(
        "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump_all([*_policies(), *_rights()])
    )
    apiserver.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    found = Users(apiserver)
    _wait_until_policies_bite(found)
    return found


def _wait_until_policies_bite(users: Users) -> None:
    """A new policy takes some seconds to bite; all of them have to."""
    waiting: list[Callable[[], object]] = [
        lambda: users.create(OWNER, "DiskSnapshot", {"disk": DISK, "origin": "Automatic"}),
        lambda: users.create(NEWCOMER, "BackupPolicy", _policy({"disk": DISK})),
        lambda: users.create(NEWCOMER, "Restore", ATTACHED),
        lambda: _forge(users, "restores", _kept(users.server, "Restore"), {"phase": "Completed"}),
    ]
    for _ in range(60):
        while waiting and _refused(waiting[0]):
            waiting.pop(0)
        if not waiting:
            return
        time.sleep(0.5)
    raise AssertionError(f"{len(waiting)} of the policies did not bite within 30 s")


def _refused(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except subprocess.CalledProcessError as error:
        return "ValidatingAdmissionPolicy" in str(error.stderr)
    return False


def _kept(server: ApiServer, kind: str) -> str:
    """Make an object whose status can be written, and return its name."""
    name = f"forged-{kind.lower()}"
    meta = {"name": name, "namespace": PLACE}
    obj = {"apiVersion": API_VERSION, "kind": kind, "metadata": meta, "spec": VALID[kind]}
    server.kubectl("apply", "-f", "-", stdin=json.dumps(obj))
    return name


def _forge(users: Users, plural: str, name: str, status: dict[str, Any]) -> None:
    patch = json.dumps({"status": status})
    users.run(ADMINISTRATOR, *("patch", plural, name, "-n", PLACE, "--type=merge", "-p", patch, "--subresource=status"))


# Each breaks just one policy: of two that refuse, either may answer.
REFUSED = [
    (
        OWNER,
        "DiskSnapshot",
        {"disk": DISK, "origin": "Automatic"},
        "automatic snapshots are made by the operator alone",
    ),
    (NEWCOMER, "DiskSnapshot", {"disk": DISK}, NO_GET_VM),
    (NEWCOMER, "BackupPolicy", _policy({"disk": DISK}), NO_GET_VM),
    (NEWCOMER, "BackupPolicy", _policy({"virtualMachine": {"name": "db"}}), NO_GET_VM),
    (OWNER, "BackupPolicy", _policy({"virtualMachine": {"name": "other"}}), "you may not get VirtualMachine other"),
    (
        NEWCOMER,
        "BackupPolicy",
        _policy({"disk": {"persistentVolumeClaim": "db-data"}}),
        "you may not get PersistentVolumeClaim db-data",
    ),
    (
        NEWCOMER,
        "BackupPolicy",
        _policy({"selector": {"matchLabels": {"tier": "prod"}}}),
        "spec.target.selector: you may not list VirtualMachines in namespace admission-policies",
    ),
    (NEWCOMER, "DiskBackup", {"policyRef": {"name": "p"}, "virtualMachine": "db"}, NO_GET_VM),
    (NEWCOMER, "Restore", RESTORE, "spec.claim: you may not create PersistentVolumeClaims"),
    (NEWCOMER, "Restore", ATTACHED, "spec.attach.virtualMachine: you may not update VirtualMachine db"),
    (OWNER, "Restore", ATTACHED_ELSEWHERE, "spec.attach.virtualMachine: you may not update VirtualMachine seen"),
]
ALLOWED = [
    (OPERATOR, "DiskSnapshot", {"disk": DISK, "origin": "Automatic"}),
    (OPERATOR, "DiskBackup", {"policyRef": {"name": "p"}, "virtualMachine": "db"}),
    (OWNER, "DiskSnapshot", {"disk": DISK}),
    (OWNER, "BackupPolicy", _policy({"disk": DISK})),
    (OWNER, "BackupPolicy", _policy({"disk": {"persistentVolumeClaim": "db-data"}})),
    (OWNER, "BackupPolicy", _policy({"selector": {"matchLabels": {"tier": "prod"}}})),
    (OWNER, "DiskBackup", {"policyRef": {"name": "p"}}),
    (OWNER, "Restore", RESTORE),
    (OWNER, "Restore", ATTACHED),
]


@pytest.mark.parametrize(("user", "kind", "spec", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_a_user_cannot_have_the_operator_do_what_they_may_not(
    users: Users, user: str, kind: str, spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        users.create(user, kind, spec)
    assert message in caught.value.stderr


@pytest.mark.parametrize(("user", "kind", "spec"), ALLOWED, ids=lambda value: str(value)[:60])
def test_who_has_the_rights_is_let_through(users: Users, user: str, kind: str, spec: dict[str, Any]) -> None:
    users.create(user, kind, spec)


SOURCES = [
    ({"diskBackup": {"name": "b", "disk": "data"}}, "spec.source.diskBackup: you may not get DiskBackup b"),
    ({"diskSnapshot": {"name": "s"}}, "spec.source.diskSnapshot: you may not get DiskSnapshot s"),
]


@pytest.mark.parametrize(("source", "message"), SOURCES, ids=str)
def test_who_may_not_see_a_backup_cannot_restore_from_it(
    users: Users, apiserver: ApiServer, source: dict[str, Any], message: str
) -> None:
    rules = [
        {"apiGroups": ["longboat.dev"], "resources": ["restores"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["create"]},
    ]
    role = copy.deepcopy(next(each for each in _rights() if each["kind"] == "Role"))
    role["metadata"]["name"], role["rules"] = "restorer", rules
    rights = yaml.safe_dump_all([role, _binding("restorer", "restorer", "Role", "restorer")])
    apiserver.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=rights)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        users.create("restorer", "Restore", {**RESTORE, "source": source})
    assert message in caught.value.stderr


def test_a_policy_can_be_suspended_by_who_may_not_see_its_machine(users: Users, apiserver: ApiServer) -> None:
    name = "suspended-by-newcomer"
    meta = {"name": name, "namespace": PLACE}
    obj = {"apiVersion": API_VERSION, "kind": "BackupPolicy", "metadata": meta, "spec": VALID["BackupPolicy"]}
    apiserver.kubectl("apply", "-f", "-", stdin=json.dumps(obj))
    patch = ["-n", PLACE, "patch", "backuppolicies", name, "--type=merge", "-p"]
    users.run(NEWCOMER, *patch, '{"spec":{"suspend":true}}')
    with pytest.raises(subprocess.CalledProcessError) as caught:
        users.run(NEWCOMER, *patch, '{"spec":{"target":{"disk":{"name":"root"}}}}')
    assert NO_GET_VM in caught.value.stderr


@pytest.mark.parametrize("kind", ["backuppolicies", "diskbackups", "disksnapshots", "restores"])
def test_a_status_is_written_by_the_operator_alone(users: Users, kind: str) -> None:
    asked = ["auth", "can-i", "update", f"{kind}.longboat.dev", "--subresource=status", "-n", PLACE]
    assert users.run(OPERATOR, *asked).strip() == "yes"
    with pytest.raises(subprocess.CalledProcessError):
        users.run(OWNER, *asked)


FORGED = {
    "backuppolicies": ("BackupPolicy", {"nextSlot": "2026-01-01T00:00:00Z"}),
    "diskbackups": ("DiskBackup", {"phase": "Exporting"}),
    "disksnapshots": ("DiskSnapshot", {"phase": "Ready"}),
    "restores": ("Restore", {"phase": "Completed"}),
}


@pytest.mark.parametrize("plural", FORGED)
def test_not_even_the_administrator_of_a_namespace_can_forge_a_status(
    users: Users, apiserver: ApiServer, plural: str
) -> None:
    kind, status = FORGED[plural]
    name = _kept(apiserver, kind)
    users.run(ADMINISTRATOR, "label", "--overwrite", plural, name, "-n", PLACE, "mine=yes")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        _forge(users, plural, name, status)
    assert "written by the operator alone" in caught.value.stderr
    obj = json.loads(apiserver.kubectl("get", plural, name, "-n", PLACE, "-o", "json"))
    users.run(OPERATOR, "replace", "--subresource=status", "-f", "-", stdin=json.dumps(obj | {"status": status}))


def test_stores_are_for_cluster_administrators(users: Users) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        users.run(OWNER, "auth", "can-i", "create", "backupstores.longboat.dev")


@pytest.mark.parametrize("verb", ["get", "list", "create", "delete"])
def test_the_operator_reaches_no_secret_of_a_tenant(users: Users, verb: str) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        users.run(OPERATOR, "auth", "can-i", verb, "secrets", "-n", PLACE)

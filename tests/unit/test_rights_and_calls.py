"""The chart's rights are what the code calls for, and no more: held equal by reading the calls.

A call that names its kind is read from the source; the few that are given one are listed here.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

from longboat.api import KINDS
from longboat.handlers.operator import CHILDREN
from longboat.kube import kinds
from longboat.kube.kinds import Kind

TOP = Path(__file__).parents[2]
SOURCE = TOP / "operator/longboat"
# The clean-up before an uninstallation has an account of its own; the trial does what movers' Jobs need.
OTHERS = {"release_finalizers.py", "trial.py"}
VERBS = {"load": "get", "listed": "list", "delete_this": "delete", "_delete": "delete", "read": "get"} | {
    verb: verb for verb in ("get", "list", "patch", "delete")
}
# Objects that are made are given as they are, not by their kind.
MADE = {
    *("diskbackups", "disksnapshots", "volumesnapshots", "volumesnapshotcontents", "persistentvolumeclaims"),
    *("secrets", "configmaps", "jobs", "events"),
}
# Kinds that a loop goes through.
LOOPED = {"list": "volumesnapshotcontents", "get": "backuppolicies diskbackups disksnapshots restores backupstores"}
# Not through the port Cluster: KubeVirt's subresources, the logs of movers, and what kopf does of itself.
SUBRESOURCES = {
    "virtualmachineinstances/freeze": {"update"},
    "virtualmachineinstances/unfreeze": {"update"},
    "virtualmachines/addvolume": {"update"},
    "pods/log": {"get"},
}
FRAMEWORK = {"customresourcedefinitions": {"list", "watch"}}

Rights = dict[str, set[str]]


def _kind(node: ast.expr) -> Kind | None:
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    found = getattr(kinds, name, None)
    return found if isinstance(found, Kind) else None


def _calls(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (plural, verb) of the calls in a file that name their kind."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        verb = VERBS.get(name)
        yield from ((kind.plural, verb) for each in node.args if verb and (kind := _kind(each)))


@cache
def _called() -> Rights:
    rights: Rights = defaultdict(set)
    for package in ("reconcile", "handlers", "cli"):
        for path in (SOURCE / package).rglob("*.py"):
            if path.name not in OTHERS:
                for plural, verb in _calls(path):
                    rights[plural].add(verb)
    for plural in MADE:
        rights[plural].add("create")
    for verb, plurals in LOOPED.items():
        for plural in plurals.split():
            rights[plural].add(verb)
    for watched in (*KINDS, *CHILDREN):
        rights[watched.plural] |= {"list", "watch"}
    for model in KINDS:
        rights[f"{model.plural}/status"].add("update")
    for plural, verbs in (SUBRESOURCES | FRAMEWORK).items():
        rights[plural] |= verbs
    return rights


def _given() -> Rights:
    rights: Rights = defaultdict(set)
    for role in yaml.safe_load_all((TOP / "manifests/rbac.yaml").read_text()):
        if role["kind"] in ("ClusterRole", "Role") and role["metadata"]["name"] == "longboat-operator":
            for rule in role["rules"]:
                for resource in rule["resources"]:
                    rights[resource] |= set(rule["verbs"])
    return rights


def test_the_operator_has_every_right_that_it_uses_and_no_other() -> None:
    called, given = _called(), _given()
    missing = {f"{verb} {what}" for what, verbs in called.items() for verb in verbs - given[what]}
    needless = {f"{verb} {what}" for what, verbs in given.items() for verb in verbs - called[what]}
    assert (sorted(missing), sorted(needless)) == ([], [])


def test_the_calls_are_seen_at_all() -> None:
    """A renamed helper would make this file blind."""
    called = _called()
    assert {"get", "list"} <= called["persistentvolumeclaims"]
    assert "patch" in called["virtualmachines"]
    assert called["secrets"] == {"get", "create"}

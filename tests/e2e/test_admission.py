"""Each rule of the CRDs, tried on a real API server: what it must refuse, with which words, and what it must accept."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from longboat.api.common import API_VERSION
from longboat.kube import kinds
from longboat.kube.client import ApiServer, connect
from longboat.kube.kinds import CUSTOM_RESOURCE_DEFINITION, Kind
from longboat.kube.port import AlreadyExistsError, RefusedError
from tests.cluster.apiserver import ApiServer as LoneApiServer
from tests.e2e.admission_cases import CHANGES, VALID, Case, Change, accepted, refused

CRDS = Path(__file__).parents[2] / "crds"
PLACE = "admission"
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (kinds.BACKUP_POLICY, kinds.DISK_BACKUP, kinds.DISK_SNAPSHOT, kinds.RESTORE, kinds.BACKUP_STORE)
}
# The API server's words for what a keyword of the schema refuses.
WORDS = {
    "pattern": "should match",
    "enum": "Unsupported value",
    "minimum": "should be greater than or equal to",
    "maximum": "should be less than or equal to",
    "minLength": "should be at least",
    "maxLength": "may not be more than",
    "minItems": "should have at least",
    "maxItems": "must have at most",
    "minProperties": "should have at least",
    "required": "Required value",
}


@pytest.fixture(scope="module")
def server(apiserver: LoneApiServer) -> ApiServer:
    """The API server with the CRDs, and a namespace."""
    found = ApiServer(connect(str(apiserver.kubeconfig)))
    for path in CRDS.glob("*.yaml"):
        with contextlib.suppress(AlreadyExistsError):
            found.create(yaml.safe_load(path.read_text()))
    with contextlib.suppress(AlreadyExistsError):
        found.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PLACE}})
    _wait_until_established(found)
    return found


def _wait_until_established(server: ApiServer) -> None:
    waiting = {f"{kind.plural}.longboat.dev" for kind in KINDS.values()}
    for _ in range(100):
        waiting -= {name for name in waiting if _established(server.get(CUSTOM_RESOURCE_DEFINITION, name))}
        if not waiting:
            # The handler of a kind follows its condition by a moment.
            time.sleep(1)
            return
        time.sleep(0.1)
    raise AssertionError(f"not established after 10 s: {waiting}")


def _established(definition: dict[str, Any] | None) -> bool:
    conditions = ((definition or {}).get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


def _object(case: Case) -> dict[str, Any]:
    place = {"namespace": PLACE} if KINDS[case.kind].namespaced else {}
    return {
        "apiVersion": API_VERSION,
        "kind": case.kind,
        "metadata": {"generateName": "case-", **place},
        "spec": case.spec(),
    }


def _delete(server: ApiServer, obj: dict[str, Any]) -> None:
    server.delete(KINDS[obj["kind"]], obj["metadata"]["name"], obj["metadata"].get("namespace", ""))


@pytest.mark.parametrize("case", list(refused()), ids=str)
def test_bad_input_is_refused_with_the_field_and_what_was_expected(server: ApiServer, case: Case) -> None:
    assert case.refusal
    with pytest.raises(RefusedError) as caught:
        _delete(server, server.create(_object(case)))
    message = str(caught.value)
    field = f"spec.{case.field}".removesuffix(".").removesuffix("[]")
    assert field in message
    assert WORDS.get(case.refusal, case.refusal) in message


@pytest.mark.parametrize("case", list(accepted()), ids=str)
def test_good_input_is_accepted(server: ApiServer, case: Case) -> None:
    created = server.create(_object(case))
    _delete(server, created)
    assert _holds(created["spec"], case.spec())


def _holds(stored: Any, asked: Any) -> bool:
    """Whether everything asked for was stored; defaults may have joined it."""
    if isinstance(asked, dict):
        return all(name in stored and _holds(stored[name], value) for name, value in asked.items())
    return bool(stored == asked)


@pytest.mark.parametrize(("before", "change", "message"), CHANGES, ids=str)
def test_only_what_may_change_can_be_changed(
    server: ApiServer, before: Case, change: Change, message: str | None
) -> None:
    obj = server.create(_object(before))
    field, value = change
    patch = [{"op": "add", "path": f"/spec/{field}".rstrip("/"), "value": value}]
    kind, name, namespace = KINDS[before.kind], obj["metadata"]["name"], obj["metadata"].get("namespace", "")
    try:
        if message is None:
            assert _holds(server.patch(kind, name, patch, namespace)["spec"][field], value)
        else:
            with pytest.raises(RefusedError, match=message):
                server.patch(kind, name, patch, namespace)
    finally:
        _delete(server, obj)


def _constraints(path: str, node: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (field, keyword or CEL message) of everything by which a schema node can refuse a value."""
    yield from ((path, keyword) for keyword in WORDS if keyword in node and keyword != "required")
    yield from ((f"{path}.{name}".lstrip("."), "required") for name in node.get("required", ()))
    yield from ((path, rule["message"]) for rule in node.get("x-kubernetes-validations", ()))
    for name, child in node.get("properties", {}).items():
        yield from _constraints(f"{path}.{name}".lstrip("."), child)
    if "items" in node:
        yield from _constraints(f"{path}[]", node["items"])


@pytest.mark.parametrize("kind", VALID)
def test_every_rule_of_the_schema_has_a_case(kind: str) -> None:
    definition = yaml.safe_load((CRDS / f"{KINDS[kind].plural}.yaml").read_text())
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    tried = {(case.field, case.refusal) for case in refused() if case.kind == kind}
    tried |= {(field, message) for before, (name, _), message in CHANGES if before.kind == kind for field in ("", name)}
    assert set(_constraints("", schema)) - tried == set()


@pytest.mark.parametrize("kind", VALID)
def test_kubectl_names_a_misspelt_field(server: ApiServer, apiserver: LoneApiServer, kind: str) -> None:
    obj = _object(Case(kind, (("keepForever", True),)))
    with pytest.raises(subprocess.CalledProcessError) as caught:
        apiserver.kubectl("create", "-f", "-", stdin=json.dumps(obj))
    assert 'unknown field "spec.keepForever"' in caught.value.stderr

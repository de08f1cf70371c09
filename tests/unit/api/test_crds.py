"""The CRDs teach, fit into an annotation of `kubectl apply`, and are what the models say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from longboat.api import KINDS
from longboat.api.backup_store import LOCAL_ENDPOINT
from longboat.api.common import Resource, parse_duration
from longboat.api.crd import definition
from tests.e2e.admission_cases import LOCAL_HOSTS

LARGEST = 200_000
TYPES = {"object", "array", "string", "integer", "boolean"}


def nodes(path: str, node: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(f"{path}.{name}", child)
    for step in ("items", "additionalProperties"):
        if isinstance(node.get(step), dict):
            yield from nodes(f"{path}[]", node[step])


def schema(kind: type[Resource]) -> dict[str, Any]:
    (version,) = definition(kind)["spec"]["versions"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_crd_fits_into_the_annotation_of_kubectl_apply(kind: type[Resource]) -> None:
    assert len(yaml.safe_dump(definition(kind))) < LARGEST


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_explained_to_kubectl_explain(kind: type[Resource]) -> None:
    silent = [
        path
        for path, node in nodes(kind.__name__, schema(kind))
        if not path.endswith(("metadata", "[]")) and not node.get("description")
    ]
    assert silent == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_node_has_one_type_and_no_reference(kind: type[Resource]) -> None:
    for path, node in nodes(kind.__name__, schema(kind)):
        assert node.get("type") in TYPES, path
        assert not {"$ref", "$defs", "anyOf", "allOf", "title"} & set(node), path


@pytest.mark.parametrize("kind", KINDS)
def test_lists_that_users_write_hold_no_defaults(kind: type[Resource]) -> None:
    inside = [
        path for path, node in nodes("spec", schema(kind)["properties"]["spec"]) if "[]" in path and "default" in node
    ]
    assert inside == []


@pytest.mark.parametrize("kind", KINDS)
def test_printer_columns_point_at_fields_that_exist(kind: type[Resource]) -> None:
    known = {path.removeprefix(kind.__name__) for path, _ in nodes(kind.__name__, schema(kind))}
    for column in kind.columns:
        assert column.json_path in known or column.json_path.startswith(".metadata."), column.json_path


@given(st.integers(1, 99999), st.sampled_from("mhdw"))
def test_duration_means_what_it_says(count: int, unit: str) -> None:
    per = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(days=7)}
    assert parse_duration(f"{count}{unit}") == count * per[unit]


@pytest.mark.parametrize("text", ["", "0d", "1", "d", "1.5h", "-1d", "1 d", "1y", "1d1h", "100000d", "01d"])
def test_what_is_no_duration_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("host", LOCAL_HOSTS)
def test_endpoint_that_leads_to_the_machine_or_its_metadata_is_refused(host: str) -> None:
    assert re.search(LOCAL_ENDPOINT, f"https://{host}")
    assert re.search(LOCAL_ENDPOINT, f"https://{host}/")


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1",
        "10.0.0.10:9000",
        "192.168.0.0",
        "100.64.0.1",
        "1.100.10.1",
        "objects.example.net",
        "s3.0x7.example",
        "0123.example.net",
        "0xcafe.de",
        "1234.r2.example.net",
        "metadata-store.example.net",
        "[fd00::1]",
        "[2001:db8::1]",
    ],
)
def test_endpoint_in_a_private_network_is_accepted(host: str) -> None:
    assert not re.search(LOCAL_ENDPOINT, f"https://{host}")
    assert not re.search(LOCAL_ENDPOINT, f"https://{host}/")

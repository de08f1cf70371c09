"""Every field of a document that is written is in the format's document, with its default or as a required one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from longboat.repository.accepted import AcceptedList
from longboat.repository.closing import ClosingRecord
from longboat.repository.condemned import CondemnedList
from longboat.repository.damage import DamageRecord
from longboat.repository.documents import Document
from longboat.repository.leases import LeaseRecord
from longboat.repository.manifests import BackupManifest, DiskManifest
from longboat.repository.removal import Removal
from longboat.repository.rewrite import RewriteList
from longboat.repository.tombstones import Tombstone

DOCUMENT = (Path(__file__).parents[3] / "docs/reference/repository-format.md").read_text()
REQUIRED = "required"
_HEAD = "| document | field | default | |"


def rows_after(start: str) -> list[list[str]]:
    """Return the cells of the first table's rows after some text of the document."""
    table = DOCUMENT[DOCUMENT.index(start) :].split("| --- |", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()[1:]]


def fields_of(rows: list[list[str]]) -> dict[str, object]:
    """Return each named field with its default, of rows that begin with names and default."""
    return {
        name: json.loads(default.strip("`")) if default else REQUIRED
        for names, default, *_ in rows
        for name in re.findall(r"`(\w+)`", names)
    }


def small_document(name: str) -> dict[str, object]:
    """Return the fields of one of the documents that share a table."""
    found, current = [], ""
    for document, *rest in rows_after(_HEAD):
        current = document.strip("*") or current
        found += [rest] if current == name else []
    return fields_of(found)


def declared(model: type[Document]) -> dict[str, object]:
    """Return the fields that a model reads, with their defaults as in JSON; objects as empty ones."""
    defaults = {
        field.alias: REQUIRED if field.is_required() else field.get_default() for field in model.model_fields.values()
    }
    plain = {name: {} if isinstance(value, Document) else value for name, value in defaults.items()}
    return {str(name): [] if value == () else value for name, value in plain.items()}


@pytest.mark.parametrize(
    ("documented", "model"),
    [
        (fields_of(rows_after("A **disk manifest**:")), DiskManifest),
        (fields_of(rows_after("A **backup manifest**:")), BackupManifest),
        (small_document("tombstone"), Tombstone),
        (small_document("removal"), Removal),
        (small_document("lease"), LeaseRecord),
        (small_document("damage"), DamageRecord),
        (small_document("condemned list"), CondemnedList),
        (small_document("rewrite list"), RewriteList),
        (small_document("closing"), ClosingRecord),
        (small_document("acceptance"), AcceptedList),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_fields_and_defaults_are_those_of_the_document(documented: dict[str, object], model: type[Document]) -> None:
    assert declared(model) == documented

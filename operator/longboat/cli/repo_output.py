"""Tables for people and JSON for machines of what `longboat repo` finds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TextIO

from longboat.cli.repo_contents import Backup, Contents
from longboat.cli.repo_generations import place_of
from longboat.plan.quantities import size_text
from longboat.repository import StoredDisk

Object = dict[str, Any]
_HEAD = ("BACKUP", "MOMENT", "DISKS", "SIZE", "STORED", "CONSISTENCY", "EXPIRY", "DELETED")


def print_json(data: Any, out: TextIO) -> None:
    """Write one JSON value."""
    print(json.dumps(data, indent=2, ensure_ascii=False), file=out)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], out: TextIO, indent: str = "") -> None:
    """Write aligned columns."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print((indent + "  ".join(cells)).rstrip(), file=out)


def contents_json(contents: Contents) -> Object:
    """Return a repository as `repo list -o json` tells it."""
    place = place_of(contents.path)
    return {
        "repository": contents.path,
        "clusterId": place.cluster_id,
        "namespaceUid": place.namespace_uid,
        "number": place.number,
        "closed": _moment(contents.closed) if contents.closed else None,
        "namespaces": contents.namespaces,
        "repositoryId": contents.repository_id,
        "keyId": contents.key_id,
        "backups": [backup_json(each) for each in contents.backups],
        "problems": contents.problems,
    }


def backup_json(backup: Backup) -> Object:
    """Return a backup as JSON: what its manifest says, without the operator's notes."""
    manifest, stone = backup.manifest, backup.tombstone
    return {
        "name": manifest.name,
        "namespace": backup.namespace or None,
        "created": _moment(manifest.created),
        "disks": [disk.model_dump(mode="json", by_alias=True) for disk in manifest.disks],
        "sizeBytes": backup.size_bytes,
        "storedBytes": backup.stored_bytes,
        "consistency": backup.told("status", "consistency"),
        "sameMoment": backup.told("status", "sameMoment"),
        "virtualMachine": backup.told("status", "virtualMachine"),
        "policy": backup.told("status", "policy", "name") or backup.told("diskBackup", "spec", "policyRef", "name"),
        "expiry": manifest.expiry,
        "deleted": stone and {"at": _moment(stone.deleted), "by": stone.deleted_by},
        "complete": backup.complete,
        "problem": backup.problem or None,
    }


def print_contents(contents: Contents, out: TextIO) -> None:
    """Write a repository with its backups for people."""
    names = f" (namespace {', '.join(contents.namespaces)})" if contents.namespaces else ""
    closed = f", closed since {_moment(contents.closed)}" if contents.closed else ""
    print(f"Repository {contents.path}{names}{closed}", file=out)
    if contents.backups:
        print_table(_HEAD, [_row(each) for each in contents.backups], out, "  ")
    elif not contents.problems:
        print("  no backups", file=out)
    for problem in contents.problems:
        print(f"  PROBLEM  {problem}", file=out)
    for note in contents.notes:
        print(f"  NOTE  {note}", file=out)


def print_backup(backup: Backup, path: str, disks: Sequence[tuple[str, StoredDisk | str]], out: TextIO) -> None:
    """Write one backup in full for people."""
    for label, value in _facts(backup, path):
        print(f"{label + ':':<16}{value}", file=out)
    print("disks:", file=out)
    for name, stored in disks:
        print(f"  {name}", file=out)
        for label, value in [("PROBLEM", stored)] if isinstance(stored, str) else _disk_facts(stored):
            print(f"    {label + ':':<12}{value}", file=out)


def disk_json(name: str, stored: StoredDisk | str) -> Object:
    """Return a disk of a backup as JSON: its manifest without the map."""
    if isinstance(stored, str):
        return {"disk": name, "problem": stored}
    manifest = stored.manifest.model_dump(mode="json", by_alias=True, exclude={"map_packs", "pages"})
    return {"disk": name, "manifest": stored.name, "objectId": stored.object_id, **manifest}


def expiry_text(expiry: Any) -> str:
    """Return an expiry rule in a few words."""
    if not isinstance(expiry, dict):
        return "-"
    retention = expiry.get("retention")
    retention = retention if isinstance(retention, dict) else {}
    words = [f"at {expiry['expiresAt']}"] if expiry.get("expiresAt") else []
    if retention.get("keepFor") and not words:
        words.append(str(retention["keepFor"]))
    if retention.get("keepLast"):
        words.append(f"last {retention['keepLast']}")
    return ", ".join([*words, *(["held"] if expiry.get("hold") else [])]) or "-"


def _row(backup: Backup) -> tuple[str, ...]:
    manifest, stone = backup.manifest, backup.tombstone
    return (
        manifest.name,
        _moment(manifest.created),
        ", ".join(disk.disk for disk in manifest.disks),
        size_text(backup.size_bytes) or "",
        size_text(backup.stored_bytes) or "",
        str(backup.told("status", "consistency") or "-"),
        expiry_text(manifest.expiry),
        _moment(stone.deleted) if stone else "-",
    )


def _facts(backup: Backup, path: str) -> Iterator[tuple[str, str]]:
    data = backup_json(backup)
    yield "backup", backup.manifest.name
    yield "repository", path
    for label, key in (("namespace", "namespace"), ("machine", "virtualMachine"), ("policy", "policy")):
        yield label, str(data[key] or "-")
    yield "moment", data["created"]
    reason = backup.told("status", "consistencyReason")
    yield "consistency", f"{data['consistency'] or '-'}{f' ({reason})' if reason else ''}"
    yield "same moment", {True: "yes", False: "no", None: "-"}[data["sameMoment"]]
    yield "size", f"{size_text(backup.size_bytes)}, this backup added {size_text(backup.stored_bytes)} to the store"
    yield "expiry", expiry_text(backup.manifest.expiry)
    if backup.problem:
        yield "PROBLEM", backup.problem
    yield "deleted", f"{data['deleted']['at']} by {data['deleted']['by']}" if data["deleted"] else "no"


def _disk_facts(stored: StoredDisk) -> Iterator[tuple[str, str]]:
    manifest, statistics = stored.manifest, stored.manifest.statistics
    yield "size", f"{size_text(manifest.size_bytes)} ({manifest.size_bytes} bytes)"
    yield "data", f"{size_text(statistics.allocated_bytes)}, added {size_text(statistics.stored_bytes)} to the store"
    yield "claim", f"{manifest.disk.claim_name or '-'} {manifest.disk.claim_uid}".rstrip()
    yield "moment", _moment(manifest.created)
    yield "parent", manifest.parent or f"none ({manifest.full_reason})"
    yield "manifest", stored.name


def _moment(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def print_keys(found: Sequence[Mapping[str, Any]], out: TextIO) -> None:
    """Write for whom the master keys are wrapped."""
    rows = []
    for each in found:
        for recipient in each["recipients"]:
            mine = "yes" if recipient["isKeyAtHand"] else "no"
            rows.append((each["repository"], each["masterKeyId"][:8], recipient["kind"], recipient["keyId"][:8], mine))
    print_table(("REPOSITORY", "MASTER KEY", "WRAPPED FOR", "KEY", "AT HAND"), rows, out)
    for each in found:
        if not each["opened"]:
            print(f"PROBLEM  {each['problem']}", file=out)


def print_rotations(done: Sequence[Mapping[str, Any]], out: TextIO) -> None:
    """Write what a rotation did."""
    rows = [(each["repository"], ", ".join(each["added"]) or "-", str(each["removed"])) for each in done]
    print_table(("REPOSITORY", "ADDED", "REMOVED"), rows, out)


def print_new_masters(done: Sequence[Mapping[str, Any]], out: TextIO) -> None:
    """Write which repositories are written to from now on, and which ones they have closed."""
    rows = [
        (
            each["repository"],
            each["masterKeyId"][:8],
            "made" if each["made"] else "completed",
            ", ".join(f"{path} since {since}" for path, since in each["closed"].items()) or "-",
        )
        for each in done
    ]
    print_table(("REPOSITORY", "MASTER KEY", "", "CLOSED"), rows, out)

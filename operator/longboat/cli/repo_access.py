"""How `longboat repo` reaches a store and its repositories: settings, the key, and which repository is meant."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from longboat.repository import (
    Repository,
    RepositoryError,
    StoreSettings,
    open_repository,
    open_with_recovery,
    parse_recovery_secret,
    parse_store_key,
)
from longboat.repository.errors import KeyTextError
from longboat.repository.key_text import RECOVERY_SECRET_PREFIX
from longboat.repository.layout import BACKUPS, DISKS, HEADER_NAME, KEYS, MAPS, PACKS
from longboat.repository.object_store import ObjectStore, exists

_OURS = {folder.rstrip("/") for folder in (PACKS, MAPS, DISKS, BACKUPS, KEYS)}
_OPTIONS = {"endpoint": "--endpoint", "bucket": "--bucket", "prefix": "--prefix", "path": "--folder"}
_MAX_FILE = 1 << 20
# Each setting's variables, the first one that is set counts. The usual names of S3 programs are read, too.
_VARIABLES = {
    "endpoint": ("LONGBOAT_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "region": ("LONGBOAT_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"),
    "bucket": ("LONGBOAT_BUCKET",),
    "prefix": ("LONGBOAT_PREFIX",),
    "folder": ("LONGBOAT_FOLDER",),
    "type": ("LONGBOAT_STORE_TYPE",),
    "account": ("LONGBOAT_ACCOUNT",),
    "ca_file": ("LONGBOAT_CA_FILE", "AWS_CA_BUNDLE"),
    "key_file": ("LONGBOAT_KEY_FILE",),
    "repository": ("LONGBOAT_REPOSITORY",),
}

_CREDENTIALS = {
    "s3": {"accessKeyId": "AWS_ACCESS_KEY_ID", "secretAccessKey": "AWS_SECRET_ACCESS_KEY"},
    "azure": {
        "account": "AZURE_STORAGE_ACCOUNT",
        "accountKey": "AZURE_STORAGE_KEY",
        "sasToken": "AZURE_STORAGE_SAS_TOKEN",
        "tenantId": "AZURE_TENANT_ID",
        "clientId": "AZURE_CLIENT_ID",
        "clientSecret": "AZURE_CLIENT_SECRET",
    },
}


class UsageError(Exception):
    """The command line, or what it names, can't be used; the message says what was expected."""


@dataclass(frozen=True, repr=False)
class Key:
    """A key that opens repositories: the store's, or the secret half of the recovery pair."""

    kind: Literal["store", "recovery"]
    material: bytes


def setting(arguments: argparse.Namespace, environment: Mapping[str, str], name: str) -> str:
    """Return an option's value, else that of its first variable that is set, else an empty text."""
    given = getattr(arguments, name, None)
    return given or next((environment[each] for each in _VARIABLES[name] if environment.get(each)), "")


def store_settings(arguments: argparse.Namespace, environment: Mapping[str, str]) -> StoreSettings:
    """Return the store that the arguments and variables name. Raises UsageError."""
    data: dict[str, Any] = _json_object(Path(arguments.store)) if arguments.store else {}
    if folder := setting(arguments, environment, "folder"):
        data |= {"type": "folder", "path": str(Path(folder).absolute())}
    elif kind := setting(arguments, environment, "type"):
        data["type"] = kind
    kind = data.setdefault("type", "s3")
    # Whoever has the usual variables of one service set does not mean them for another one.
    known = environment if kind == "s3" else {k: v for k, v in environment.items() if k.startswith("LONGBOAT_")}
    for name in ("prefix",) if folder else ("endpoint", "region", "bucket", "prefix", "account"):
        if value := setting(arguments, known, name):
            data[name] = value
    if ca_file := "" if folder else setting(arguments, known, "ca_file"):
        data["caPem"] = _text(Path(ca_file), "--ca-file")
    try:
        return StoreSettings.model_validate(_credentials(str(kind), environment) | data)
    except ValidationError as error:
        raise UsageError(_explain(error)) from None


def _credentials(kind: str, environment: Mapping[str, str]) -> dict[str, str]:
    if kind == "s3" and environment.get("AWS_SESSION_TOKEN"):
        raise UsageError("AWS_SESSION_TOKEN: temporary credentials are not supported; give an access key of its own")
    names = _CREDENTIALS.get(kind, {})
    found = {field: environment[name] for field, name in names.items() if environment.get(name)}
    if kind == "gcs" and (file := environment.get("GOOGLE_APPLICATION_CREDENTIALS")):
        found["serviceAccountKey"] = _text(Path(file), "GOOGLE_APPLICATION_CREDENTIALS")
    return found


def _explain(error: ValidationError) -> str:
    # Only places and messages are shown: the input holds credentials.
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"]))
    message = f"{_OPTIONS.get(field, field)}: {first['msg']}" if field else first["msg"].removeprefix("Value error, ")
    hint = {
        "endpoint": "give --folder, or --endpoint and --bucket",
        "accessKeyId": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        "serviceAccountKey": "let GOOGLE_APPLICATION_CREDENTIALS name its file",
        "account": "set AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_CLIENT_…",
    }
    remedy = next((text for start, text in hint.items() if message.startswith(start)), "")
    return f"store: {message}" + (f" ({remedy})" if remedy else "")


def read_key(arguments: argparse.Namespace, environment: Mapping[str, str], ask: Callable[[str], str] | None) -> Key:
    """Return the key in --key-file, in $LONGBOAT_KEY, or as a person answers `ask`. Raises UsageError."""
    if file := setting(arguments, environment, "key_file"):
        return parse_key(_text(Path(file), "--key-file"))
    if text := environment.get("LONGBOAT_KEY"):
        return parse_key(text)
    if ask is None:
        raise UsageError("no key: give --key-file FILE or $LONGBOAT_KEY (the store's key, or the recovery secret)")
    return parse_key(ask("Key of the store, or recovery secret: "))


def parse_key(text: str) -> Key:
    """Return the key that a text is. Raises UsageError."""
    try:
        if text.strip().startswith(RECOVERY_SECRET_PREFIX):
            return Key("recovery", parse_recovery_secret(text))
        return Key("store", parse_store_key(text))
    except KeyTextError as error:
        raise UsageError(f"key: {error}") from None


def open_at(store: ObjectStore, path: str, key: Key) -> Repository:
    """Open the repository at a path below the prefix with the key at hand. Raises RepositoryError."""
    opener = open_repository if key.kind == "store" else open_with_recovery
    return opener(store, path, key.material)


def repository_paths(store: ObjectStore) -> list[str]:
    """Return the paths (`<cluster id>/<folder of a namespace>`) of the repositories below the store's prefix."""
    paths = (f"{cluster}/{namespace}" for cluster in store.folders("") for namespace in store.folders(f"{cluster}/"))
    return sorted(path for path in paths if _is_repository(store, path))


def _is_repository(store: ObjectStore, path: str) -> bool:
    ours = _OURS.intersection(store.folders(f"{path}/"))
    # Keys alone are what is left of a rotation that ended before its header, and will be made again.
    return exists(store, f"{path}/{HEADER_NAME}") if ours == {KEYS.rstrip("/")} else bool(ours)


@dataclass(frozen=True)
class Opened:
    """The repositories that a key opens, with their paths in order, and why each of the others does not open."""

    repositories: list[tuple[str, Repository]]
    unreadable: dict[str, RepositoryError]

    @property
    def problems(self) -> list[str]:
        """What does not open, in words."""
        return [f"repository {path} is unreadable: {error}" for path, error in self.unreadable.items()]


def open_all(store: ObjectStore, paths: Iterable[str], key: Key) -> Opened:
    """Open each repository; if none opens, or the store is away, RepositoryError says why."""
    opened = Opened([], {})
    for path in paths:
        try:
            opened.repositories.append((path, open_at(store, path, key)))
        except RepositoryError as error:
            if error.retryable:
                raise
            opened.unreadable[path] = error
    if opened.unreadable and not opened.repositories:
        raise next(iter(opened.unreadable.values()))
    return opened


def _text(path: Path, option: str) -> str:
    try:
        with path.open() as file:
            return file.read(_MAX_FILE)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option} {path}: can not be read: {error}") from None


def _json_object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(_text(path, "--store"))
    except ValueError as error:
        raise UsageError(f"--store {path}: expected JSON: {error}") from None
    if not isinstance(data, dict):
        raise UsageError(f"--store {path}: expected a JSON object with type, endpoint, bucket, prefix, …")
    return data

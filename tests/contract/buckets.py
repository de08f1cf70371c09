"""Buckets of the real S3 server with three users and the policies that docs/how-to/stores.md tells administrators."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from longboat.repository import StoreSettings
from longboat.repository.bucket_clients import Patience
from longboat.repository.s3_requests import S3Requests
from tests.cluster.s3 import RemoteStore

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "stores.md"
LOCK_DAYS = 30
Kind = Literal["plain", "versions", "locked"]


@dataclass(frozen=True)
class Bucket:
    """How each user reaches the bucket; `root` may do everything."""

    kind: Kind
    root: StoreSettings
    export: StoreSettings
    restore: StoreSettings
    maintenance: StoreSettings


def make_bucket(remote: RemoteStore, kind: Kind) -> Bucket:
    """Make a bucket of a kind, its users, and its policy."""
    name = f"{kind}-{os.urandom(4).hex()}"
    server = remote.settings()
    remote.create_bucket(name, object_lock=kind == "locked")
    root = StoreSettings(
        type="s3",
        endpoint=server.endpoint,
        region=server.region,
        bucket=name,
        prefix="prod",
        ca_pem=server.ca_pem,
        access_key_id=server.access_key_id,
        secret_access_key=server.secret_access_key,
    )
    users = {
        purpose: {"access_key_id": f"{name}-{purpose}", "secret_access_key": remote.create_user(f"{name}-{purpose}")}
        for purpose in ("export", "restore", "maintenance")
    }
    _prepare(root, kind)
    return Bucket(kind, root, **{purpose: root.model_copy(update=user) for purpose, user in users.items()})


_VERSIONING = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
_LOCK = (
    "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>"
    f"<Mode>GOVERNANCE</Mode><Days>{LOCK_DAYS}</Days></DefaultRetention></Rule></ObjectLockConfiguration>"
).encode()


def send(settings: StoreSettings, method: str, key: str = "", body: bytes = b"", **query: str) -> None:
    """Send a request as an administrator, or an attacker, with these credentials; raises a StoreError."""
    S3Requests(settings, Patience(retries=1)).send(method, key, query, f"{method} {key}", body)


def documented_policy(bucket: str, condition: bool = False) -> dict[str, Any]:
    """Return the statements of the page as one policy, with the server's way to name users."""
    text = PAGE.read_text().replace("arn:aws:iam::111122223333:user/longboat-", f"{bucket}-")
    blocks = re.findall(r"^```json\n(.*?)^```", text.replace("longboat-backups", bucket), re.DOTALL | re.MULTILINE)
    statements = [each for block in blocks for each in json.loads(block)["Statement"]]
    if not condition:
        statements = [{key: value for key, value in each.items() if key != "Condition"} for each in statements]
    return {"Version": "2012-10-17", "Statement": statements}


def _prepare(root: StoreSettings, kind: Kind) -> None:
    if kind == "versions":
        send(root, "PUT", body=_VERSIONING, versioning="")
    if kind == "locked":
        send(root, "PUT", body=_LOCK, **{"object-lock": ""})
    send(root, "PUT", body=json.dumps(documented_policy(root.bucket)).encode(), policy="")

"""The object store of the remote cluster: a real S3 server with TLS, in a directory and with a lifetime of its own."""

from __future__ import annotations

import datetime
import json
import secrets
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.cluster import binaries, processes
from tests.cluster.network import REMOTE_ADDRESS
from tests.cluster.pki import Authority, write_private
from tests.cluster.progress import ClusterError, say, wait_until

REGION = "remote-1"
BUCKET = "backups"
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class S3Settings:
    """How to reach the store: `endpoint` from the host, `pod_endpoint` from pods of the local cluster."""

    endpoint: str
    pod_endpoint: str
    bucket: str
    region: str
    access_key_id: str
    secret_access_key: str
    ca_file: str
    ca_pem: str

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


class RemoteStore:
    """One store, in `directory`; its port, keys and certificate stay the same from the first start until remove()."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._data = directory / "data"
        self._record = directory / "record.json"

    def settings(self) -> S3Settings:
        """Raises ClusterError if the store was never started."""
        record = self._read()
        ca_file = self.directory / "tls" / "ca.crt"
        return S3Settings(
            endpoint=f"https://{LOOPBACK}:{record['port']}",
            pod_endpoint=f"https://{REMOTE_ADDRESS}:{record['port']}",
            bucket=BUCKET,
            region=REGION,
            access_key_id=str(record["access_key_id"]),
            secret_access_key=str(record["secret_access_key"]),
            ca_file=str(ca_file),
            ca_pem=ca_file.read_text(),
        )

    def is_running(self) -> bool:
        return bool(processes.find(str(self._data)))

    def addresses(self) -> list[str]:
        """Where the server listened when it was last started."""
        return list(self._read()["addresses"]) if self._record.exists() else []

    def start(self, addresses: Sequence[str] = ()) -> S3Settings:
        """Have the server listen on loopback and on `addresses` (those of the last start if none are given)."""
        wanted = [LOOPBACK, *(addresses or self.addresses())]
        wanted = list(dict.fromkeys(wanted))
        if not (self.is_running() and set(wanted) <= set(self.addresses())):
            self.stop()
            self._prepare(wanted)
            self._launch(wanted)
            self._ensure_bucket(BUCKET)
        return self.settings()

    def stop(self) -> None:
        """End the server as a power cut would; the data stays."""
        processes.kill_all(str(self._data))

    def remove(self) -> None:
        """Stop and delete everything that was stored."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def create_bucket(self, name: str, owner: str = "", object_lock: bool = False) -> None:
        """Make a bucket, by default the administrator's; raises ClusterError if it cannot be made."""
        lock = ["--object-lock-enabled-for-bucket"] if object_lock else []
        self._admin("create-bucket", "--bucket", name, "--owner", owner or self.settings().access_key_id, *lock)

    def create_user(self, access_key_id: str) -> str:
        """Make a user who may use buckets of their own only (see create_bucket), and return the secret access key."""
        secret = secrets.token_urlsafe(24)
        self._admin("create-user", "--access", access_key_id, "--secret", secret, "--role", "user")
        return secret

    def change_secret(self, access_key_id: str) -> str:
        """Give a user another secret access key, and return it; the one before is refused from then on."""
        secret = secrets.token_urlsafe(24)
        self._admin("update-user", "--access", access_key_id, "--secret", secret)
        return secret

    def take_bucket_away(self, name: str) -> None:
        """Have the server know no such bucket any more; nothing of it is lost."""
        (self._data / name).rename(self.directory / f"away-{name}")

    def put_bucket_back(self, name: str) -> None:
        """Undo take_bucket_away()."""
        (self.directory / f"away-{name}").rename(self._data / name)

    def _read(self) -> dict[str, Any]:
        if not self._record.exists():
            raise ClusterError(f"no object store in {self.directory}: start one with `python -m tests.cluster up`")
        return dict(json.loads(self._record.read_text()))

    def _prepare(self, addresses: list[str]) -> None:
        """Make what does not change once; note the addresses of this start."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in ("data", "versions", "users"):
            (self.directory / folder).mkdir(parents=True, exist_ok=True)
        if not (self.directory / "tls" / "server.crt").exists():
            authority = Authority(self.directory / "tls", "longboat-remote-store", datetime.datetime.now(datetime.UTC))
            authority.issue("server", "remote-store", hosts=(LOOPBACK, "localhost", REMOTE_ADDRESS))
        record = self._read() if self._record.exists() else _new_record()
        write_private(self._record, json.dumps(record | {"addresses": addresses}).encode())

    def _launch(self, addresses: list[str]) -> None:
        settings, port = self.settings(), self._read()["port"]
        tls = self.directory / "tls"
        command = [str(binaries.program("versitygw")), "--region", REGION, "--keep-alive", "--quiet"]
        command += [part for address in addresses for part in ("--port", f"{address}:{port}")]
        command += ["--cert", str(tls / "server.crt"), "--key", str(tls / "server.key")]
        command += ["--iam-dir", str(self.directory / "users"), "--health", "/healthz"]
        command += ["posix", "--versioning-dir", str(self.directory / "versions"), str(self._data)]
        # Keys go by the environment: every user of the machine can read command lines.
        keys = {"ROOT_ACCESS_KEY": settings.access_key_id, "ROOT_SECRET_KEY": settings.secret_access_key}
        with (self.directory / "versitygw.log").open("ab") as log:
            subprocess.run(
                ["setsid", "--fork", *command], env=keys, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True
            )
        wait_until(lambda: answers(int(port)), 15, f"S3 server; its log is {log.name}")
        say(f"S3 server at {settings.endpoint}")

    def _ensure_bucket(self, name: str) -> None:
        if not (self._data / name).exists():
            self.create_bucket(name)

    def _admin(self, *arguments: str) -> None:
        settings = self.settings()
        environment = {
            "ADMIN_ACCESS_KEY": settings.access_key_id,
            "ADMIN_SECRET_KEY": settings.secret_access_key,
            "ADMIN_REGION": REGION,
            "ADMIN_ENDPOINT_URL": settings.endpoint,
            "SSL_CERT_FILE": settings.ca_file,
        }
        command = [str(binaries.program("versitygw")), "admin", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"versitygw admin {arguments[0]} failed: {(done.stdout + done.stderr).strip()}")


def _new_record() -> dict[str, Any]:
    return {"port": free_port(), "access_key_id": secrets.token_hex(10), "secret_access_key": secrets.token_urlsafe(30)}


def free_port() -> int:
    """Return a port of loopback that nobody listens at."""
    with socket.create_server((LOOPBACK, 0)) as free:
        return int(free.getsockname()[1])


def answers(port: int) -> bool:
    """Tell whether somebody listens at a port of loopback."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False

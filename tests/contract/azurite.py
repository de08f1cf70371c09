"""Azurite, Microsoft's emulator of Azure Blob Storage: pinned by a lock file of npm, cached."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import secrets
import shutil
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote, urlencode

from longboat.repository import StoreSettings
from tests.cluster.paths import PACKAGE, cache_dir, content_key, locked
from tests.cluster.progress import ClusterError, say
from tests.cluster.s3 import free_port
from tests.contract.servers import tls_for, wait_for

ACCOUNT = "devstoreaccount1"
CONTAINER = "backups"
_VERSION = "2021-12-02"
_SOURCE = PACKAGE / "build" / "azurite"


def available() -> bool:
    """Tell whether the machine has what Azurite needs."""
    return shutil.which("node") is not None and shutil.which("npm") is not None


def program() -> Path:
    """Return the script that `node` runs; it is installed first if it is not cached."""
    locks = [_SOURCE / name for name in ("package.json", "package-lock.json")]
    target = cache_dir() / "npm" / f"azurite-{content_key(*[each.read_bytes() for each in locks])}"
    if not target.exists():
        with locked("install-azurite"):
            if not target.exists():
                _install(locks, target)
    return target / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"


def _install(locks: list[Path], target: Path) -> None:
    """Install into a temporary directory and rename it, so that what is there is whole."""
    say("installing Azurite (a minute)")
    temporary = target.with_name(f".{target.name}.installing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for each in locks:
        shutil.copy(each, temporary)
    command = ["npm", "ci", "--omit=optional", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=temporary, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"`npm ci` failed: {(done.stdout + done.stderr)[-1000:]}")
    temporary.rename(target)


@contextmanager
def running(directory: Path) -> Iterator[StoreSettings]:
    """Run Azurite on loopback, with an account and a container of this run; yield how to reach it."""
    port, key = free_port(), base64.b64encode(secrets.token_bytes(64)).decode()
    certificate, ca_file = tls_for(directory)
    command = ["node", str(program()), "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    command += ["--location", str(directory), "--silent", "--disableTelemetry", "--skipApiVersionCheck"]
    command += ["--cert", str(certificate.certificate), "--key", str(certificate.key)]
    environment = {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{key}", "PATH": "/usr/local/bin:/usr/bin:/bin"}
    with (directory / "azurite.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_for(port, f"Azurite; its log is {log.name}")
        endpoint = f"https://127.0.0.1:{port}/{ACCOUNT}"
        _create_container(endpoint, key, ca_file)
        yield StoreSettings(
            type="azure",
            endpoint=endpoint,
            account=ACCOUNT,
            bucket=CONTAINER,
            account_key=key,
            ca_pem=ca_file.read_text(),
        )
    finally:
        process.kill()
        process.wait()


def sas_token(settings: StoreSettings, permissions: str) -> str:
    """Return a token for the container with these permissions (r, c, w, d, l), such as an administrator makes."""
    begin, end = (
        (datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
        for hours in (-1, 1)
    )
    fields = {"sp": permissions, "st": begin, "se": end, "spr": "https", "sv": _VERSION, "sr": "c"}
    resource = f"/blob/{settings.account}/{settings.bucket}"
    # Permissions, start, expiry, resource, identifier, IP, protocol, version, resource kind, and seven that are unused.
    parts = [permissions, begin, end, resource, "", "", "https", _VERSION, "c", *[""] * 7]
    return urlencode(fields | {"sig": _sign(settings.account_key, "\n".join(parts))}, quote_via=quote)


def _create_container(endpoint: str, key: str, ca_file: Path) -> None:
    date = formatdate(usegmt=True)
    to_sign = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{_VERSION}\n"
    to_sign += f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
    headers: Mapping[str, str] = {
        "x-ms-date": date,
        "x-ms-version": _VERSION,
        "Authorization": f"SharedKey {ACCOUNT}:{_sign(key, to_sign)}",
    }
    request = urllib.request.Request(f"{endpoint}/{CONTAINER}?restype=container", method="PUT", headers=dict(headers))
    urllib.request.urlopen(request, context=ssl.create_default_context(cafile=str(ca_file)), timeout=10).close()


def _sign(key: str, text: str) -> str:
    return base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()

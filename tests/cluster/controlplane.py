"""Command lines of etcd and the Kubernetes control plane, the same for the whole cluster and for a lone API server."""

from __future__ import annotations

import datetime
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.pki import Authority, Certificate, new_key

SERVICE_RANGE = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"


@dataclass(frozen=True)
class ControlPlanePki:
    """What the control plane proves itself with; the front proxy's clients are told from ours by their name."""

    authority: Authority
    apiserver: Certificate
    admin: Certificate
    front_proxy: Certificate
    service_account_key: Path

    @property
    def ca(self) -> Certificate:
        return self.authority.files


def make_pki(directory: Path, hosts: Sequence[str], now: datetime.datetime) -> ControlPlanePki:
    """Make an authority and the control plane's certificates; the API server's is valid for `hosts`."""
    authority = Authority(directory, "longboat-test-cluster", now)
    names = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
    service_account_key = directory / "service-account.key"
    new_key(service_account_key)
    return ControlPlanePki(
        authority=authority,
        apiserver=authority.issue("apiserver", "kube-apiserver", hosts=(*names, "127.0.0.1", SERVICE_ADDRESS, *hosts)),
        admin=authority.issue("admin", "admin", organization="system:masters"),
        front_proxy=authority.issue("front-proxy", "front-proxy"),
        service_account_key=service_account_key,
    )


def etcd_command(data: Path, client_url: str, peer_url: str) -> list[str]:
    """Etcd for one member whose data may be lost with the machine: no fsync, and a quick first election."""
    return [
        "etcd",
        f"--data-dir={data}",
        f"--listen-client-urls={client_url}",
        f"--advertise-client-urls={client_url}",
        f"--listen-peer-urls={peer_url}",
        f"--initial-advertise-peer-urls={peer_url}",
        f"--initial-cluster=default={peer_url}",
        "--heartbeat-interval=10",
        "--election-timeout=100",
        "--auto-compaction-retention=1",
        "--quota-backend-bytes=2147483648",
        "--unsafe-no-fsync",
    ]


def apiserver_command(binaries: Path, pki: ControlPlanePki, etcd_url: str, bind: str, port: int) -> list[str]:
    """The API server; aggregated APIs and webhooks are reached by endpoint, since nothing serves service addresses."""
    return [
        str(binaries / "kube-apiserver"),
        f"--etcd-servers={etcd_url}",
        f"--bind-address={bind}",
        f"--secure-port={port}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--allow-privileged=true",
        "--authorization-mode=Node,RBAC",
        f"--client-ca-file={pki.ca.certificate}",
        f"--tls-cert-file={pki.apiserver.certificate}",
        f"--tls-private-key-file={pki.apiserver.key}",
        f"--service-account-key-file={pki.service_account_key}",
        f"--service-account-signing-key-file={pki.service_account_key}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--requestheader-client-ca-file={pki.ca.certificate}",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki.front_proxy.certificate}",
        f"--proxy-client-key-file={pki.front_proxy.key}",
        "--enable-aggregator-routing=true",
        # The default waits for load balancers to forget a server that stops; there are none.
        "--shutdown-delay-duration=0s",
    ]


def client_context(pki_directory: Path) -> ssl.SSLContext:
    """A TLS context of the cluster's administrator, from the files that make_pki wrote."""
    context = ssl.create_default_context(cafile=str(pki_directory / "ca.crt"))
    context.load_cert_chain(pki_directory / "admin.crt", pki_directory / "admin.key")
    return context


def is_ready(server: str, context: ssl.SSLContext, path: str = "/readyz") -> bool:
    """Whether the API server at `server` (an https address) answers 200 on `path`."""
    try:
        with urllib.request.urlopen(f"{server}{path}", context=context, timeout=5) as answer:
            return int(answer.status) == 200
    except (urllib.error.URLError, OSError):
        return False

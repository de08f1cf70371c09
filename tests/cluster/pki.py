"""Certificates and kubeconfigs of a local cluster: one authority per cluster, keys readable by the owner only."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFETIME = datetime.timedelta(days=365)
# A clock that is a little behind the machine's must not find a certificate from the future.
_BACKDATED = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Certificate:
    """The files of a certificate and its key."""

    directory: Path
    name: str

    @property
    def certificate(self) -> Path:
        return self.directory / f"{self.name}.crt"

    @property
    def key(self) -> Path:
        return self.directory / f"{self.name}.key"


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, at no moment readable by others."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(data)


def new_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key and write it as PEM, in the one form that Kubernetes also takes a public key from."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    write_private(path, pem)
    return key


class Authority:
    """A certificate authority whose files are ca.crt and ca.key in a directory; made anew for each instance."""

    def __init__(self, directory: Path, common_name: str, now: datetime.datetime) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.files = Certificate(directory, "ca")
        self._now = now
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        self._key = new_key(self.files.key)
        builder = self._builder(self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        self._sign(builder.add_extension(usage, critical=True), self.files.certificate)

    def issue(self, name: str, common_name: str, organization: str = "", hosts: Sequence[str] = ()) -> Certificate:
        """Issue a certificate for clients, and with `hosts` (names or addresses) also for a server."""
        files = Certificate(self.files.directory, name)
        key = new_key(files.key)
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
        subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = self._builder(subject, key.public_key())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if hosts:
            alternatives = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            builder = builder.add_extension(alternatives, critical=False)
        self._sign(builder, files.certificate)
        return files

    def _builder(self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder(subject_name=subject, issuer_name=self._name, public_key=public_key)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(self._now - _BACKDATED).not_valid_after(self._now + _LIFETIME)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        own = x509.SubjectKeyIdentifier.from_public_key(public_key)
        return builder.add_extension(identifier, critical=False).add_extension(own, critical=False)

    def _sign(self, builder: x509.CertificateBuilder, path: Path) -> None:
        path.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def write_kubeconfig(path: Path, server: str, authority: Certificate, user: Certificate, cluster_name: str) -> None:
    """Write a kubeconfig with the certificates in it, so that it can be copied anywhere."""

    def embedded(file: Path) -> str:
        return base64.b64encode(file.read_bytes()).decode()

    cluster = {"server": server, "certificate-authority-data": embedded(authority.certificate)}
    credentials = {
        "client-certificate-data": embedded(user.certificate),
        "client-key-data": embedded(user.key),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": cluster_name,
        "clusters": [{"name": cluster_name, "cluster": cluster}],
        "users": [{"name": user.name, "user": credentials}],
        "contexts": [{"name": cluster_name, "context": {"cluster": cluster_name, "user": user.name}}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, yaml.safe_dump(config).encode())

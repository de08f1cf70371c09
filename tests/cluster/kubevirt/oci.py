"""OCI archives made of ready layer tars, without a registry or a container tool."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Image:
    """What an archive shall hold: an image's full name, its numeric user, and its layers' tars, lowest first."""

    name: str
    user: str
    layers: tuple[Path, ...]


@dataclass(frozen=True)
class Blob:
    """A layer's tar with its digest ("sha256:…") and size in bytes."""

    path: Path
    digest: str
    size: int


def write_archive(archive: Path, images: Sequence[Image]) -> None:
    """Write images into one archive, in which layers that several of them have are stored once.

    Layers are stored uncompressed: the archive never leaves the machine, and importing it is then fastest.
    """
    blobs = {path: _blob(path) for image in images for path in image.layers}
    with tarfile.open(archive, "w") as tar:
        _add(tar, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        entries = [_add_image(tar, image, [blobs[path] for path in image.layers]) for image in images]
        _add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": entries}).encode())
        for blob in blobs.values():
            _add_layer(tar, blob)


def _blob(path: Path) -> Blob:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Blob(path, f"sha256:{digest}", path.stat().st_size)


def _add_image(tar: tarfile.TarFile, image: Image, layers: Sequence[Blob]) -> dict[str, Any]:
    """Add one image's configuration and manifest; return its entry of the index, by whose names containerd goes."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"User": image.user, "Env": [_PATH]},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _add_document(tar, _CONFIG, config),
        "layers": [{"mediaType": _LAYER, "digest": layer.digest, "size": layer.size} for layer in layers],
    }
    names = {"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": image.name}
    return _add_document(tar, _MANIFEST, manifest) | {"annotations": names}


def _add_document(tar: tarfile.TarFile, media_type: str, document: Mapping[str, Any]) -> dict[str, Any]:
    content = json.dumps(document, sort_keys=True).encode()
    digest = hashlib.sha256(content).hexdigest()
    name = f"blobs/sha256/{digest}"
    if name not in tar.getnames():  # Images of the same user share their configuration.
        _add(tar, name, content)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _add_layer(tar: tarfile.TarFile, blob: Blob) -> None:
    entry = tarfile.TarInfo(f"blobs/sha256/{blob.digest.removeprefix('sha256:')}")
    entry.size = blob.size
    with blob.path.open("rb") as stream:
        tar.addfile(entry, stream)

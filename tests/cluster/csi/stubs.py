"""The gRPC stubs: generated from the protocol files of two Go modules into the cache, never into the tree."""

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MODULES = Path(__file__).parent / "modules"
# Module, its file, and the name the stubs get: two files called api.proto could not live in one process.
PROTOS = (
    ("github.com/container-storage-interface/spec", "csi.proto", "csi.proto"),
    ("k8s.io/kubelet", "pkg/apis/pluginregistration/v1/api.proto", "pluginregistration.proto"),
)


def default_cache() -> Path:
    """$LONGBOAT_CACHE, else the user's cache folder."""
    if os.environ.get("LONGBOAT_CACHE"):
        return Path(os.environ["LONGBOAT_CACHE"])
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "longboat"


def ensure_stubs(cache: Path) -> Path:
    """The folder that holds csi_pb2 and its like, made first if the cache has none for these versions.

    Raises RuntimeError, saying what to do, when Go or a module cannot be had.
    """
    folder = cache / "csi-stubs" / _key()
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as draft:
            _generate(Path(draft))
            _publish(Path(draft), folder)
    return folder


def activate(cache: Path) -> None:
    """Makes csi_pb2 and its like importable in this process."""
    folder = str(ensure_stubs(cache))
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _key() -> str:
    parts = [(MODULES / "go.sum").read_text(), importlib.metadata.version("grpcio-tools"), repr(PROTOS)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _publish(draft: Path, folder: Path) -> None:
    """A whole folder appears at once; another process may have been first, with the same content."""
    ready = draft / "ready"
    ready.mkdir()
    for path in draft.glob("*.py"):
        path.rename(ready / path.name)
    try:
        ready.rename(folder)
    except OSError:
        if not folder.exists():
            raise


def _generate(draft: Path) -> None:
    from grpc_tools import protoc  # Slow to import, and needed once per version.

    for module, source, name in PROTOS:
        shutil.copyfile(_module_folder(module) / source, draft / name)
    bundled = Path(protoc.__file__).parent / "_proto"
    names = [name for _, _, name in PROTOS]
    arguments = ["protoc", f"-I{draft}", f"-I{bundled}", f"--python_out={draft}", f"--grpc_python_out={draft}", *names]
    if protoc.main(arguments):
        raise RuntimeError(f"protoc failed on {', '.join(names)}; its messages are above")


def _module_folder(module: str) -> Path:
    """Where Go keeps the module, downloaded if needed and checked against modules/go.sum."""
    if not shutil.which("go"):
        raise RuntimeError("go is missing: install Go 1.26 or newer, it fetches the protocol files of the CSI driver")
    command = ["go", "mod", "download", "-json", module]
    done = subprocess.run(command, cwd=MODULES, capture_output=True, text=True, check=False)
    facts = json.loads(done.stdout or "{}")
    if done.returncode or "Dir" not in facts:
        raise RuntimeError(f"{' '.join(command)}: {facts.get('Error') or done.stderr.strip()}")
    return Path(facts["Dir"])

"""csi-sanity, the conformance tests of CSI drivers: built into the cache from the versions that modules/ pins."""

import hashlib
import shutil
import subprocess
from pathlib import Path

from tests.cluster.csi.stubs import MODULES

PACKAGE = "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity"


def ensure_sanity(cache: Path) -> Path:
    """The program, built first if the cache has none for these versions (half a minute).

    Raises RuntimeError, saying what to do, when it cannot be built.
    """
    if not shutil.which("go"):
        raise RuntimeError("go is missing: install Go 1.26 or newer, csi-sanity is built with it")
    key = hashlib.sha256((MODULES / "go.sum").read_bytes()).hexdigest()[:16]
    program = cache / "csi-sanity" / key / "csi-sanity"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        _build(program)
    return program


def _build(program: Path) -> None:
    """Built beside its place and moved there: a build that is killed leaves no half a program."""
    draft = program.with_name("csi-sanity.tmp")
    command = ["go", "build", "-mod=readonly", "-trimpath", "-o", str(draft), PACKAGE]
    done = subprocess.run(command, cwd=MODULES, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    draft.rename(program)

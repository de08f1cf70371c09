"""kind-config.yaml is read by kind's own parser, as kind itself needs Docker to run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cluster import binaries
from tests.cluster.paths import cache_dir, content_key, locked

TOP = Path(__file__).parents[2]
SOURCE = TOP / "tests/kind-config"


@pytest.fixture(scope="module")
def parser() -> Path:
    """A program around kind's parser, built once."""
    key = content_key(*((SOURCE / name).read_bytes() for name in ("main.go", "go.mod", "go.sum")))
    program = cache_dir() / "bin" / f"kind-config-{key}" / "kind-config"
    with locked("build-kind-config"):
        if not program.exists():
            binaries.go(["build", "-trimpath", "-o", f"{program.parent}/", "."], SOURCE)
            (program.parent / "longboat-kind-config").rename(program)
    return program


def _parse(parser: Path, config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([parser, config], capture_output=True, text=True, check=False)


def test_kind_takes_the_configuration(parser: Path) -> None:
    result = _parse(parser, TOP / "kind-config.yaml")
    assert (result.stdout, result.stderr) == ("longboat: 2 nodes\n", "")


@pytest.mark.parametrize(
    ("right", "wrong"), [("role: worker", "role: wurker"), ("nodes:", "nodez:"), ("v1alpha4", "v1alpha3")]
)
def test_the_parser_refuses_what_kind_would(parser: Path, tmp_path: Path, right: str, wrong: str) -> None:
    text = (TOP / "kind-config.yaml").read_text()
    assert right in text
    (tmp_path / "config.yaml").write_text(text.replace(right, wrong))
    result = _parse(parser, tmp_path / "config.yaml")
    assert result.returncode == 1
    assert result.stderr

"""The roles of the image: named by the failures that each test prevents."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from longboat.__main__ import ROLES, main


@pytest.mark.parametrize("role", ["export", "restore"])
def test_a_mover_imports_neither_kopf_nor_the_kubernetes_client(role: str) -> None:
    code = f"""
import sys
from importlib import import_module
import longboat.__main__ as roles
import_module(roles.ROLES[{role!r}][0]).main
print([name for name in ("kopf", "kubernetes", "aiohttp") if name in sys.modules])
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == "[]"


def test_an_unknown_role_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["dance"])
    assert caught.value.code == 2
    assert "operator" in capsys.readouterr().err


def test_the_help_names_every_role(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(role in text for role in ROLES)


def test_the_arguments_reach_the_role(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "generate"]) == 0
    assert "longboat-key-1-" in capsys.readouterr().out

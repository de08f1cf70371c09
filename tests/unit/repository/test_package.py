"""The names of the package are loaded when they are asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType

import longboat.repository
from longboat.repository import open_store, prune, verify


def test_every_name_of_the_package_is_there() -> None:
    found = {name: getattr(longboat.repository, name) for name in longboat.repository.__all__}
    assert not [name for name, value in found.items() if isinstance(value, ModuleType)]


def test_a_function_is_not_hidden_by_the_module_of_its_name() -> None:
    program = (
        "import longboat.repository.prune, longboat.repository.check, longboat.repository.verify\n"
        "from longboat.repository import open_store, prune, verify\n"
        "assert callable(open_store) and callable(prune) and callable(verify)"
    )
    _python(program)
    assert callable(open_store) and callable(prune) and callable(verify)


def test_the_start_of_a_mover_is_not_spent_on_what_it_does_not_use() -> None:
    others = ("obstore", "urllib3", "grpc", "longboat.repository.prune", "longboat.repository.verify")
    program = (
        "import sys, longboat.mover.export_disk, longboat.mover.restore_disk\n"
        f"print([name for name in {others!r} if name in sys.modules])"
    )
    assert _python(program) == "[]"


def _python(program: str) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()

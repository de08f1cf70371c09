"""One image, several roles: `longboat operator | export | restore | verify | prune | repo | check | key | …`.

A role's code is imported when it is asked for: a mover needs neither kopf nor the Kubernetes client.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from longboat import __version__

ROLES = {
    "operator": ("longboat.handlers.main", "run the operator"),
    "export": ("longboat.mover.export_disk", "copy a disk into a repository (run by Jobs)"),
    "restore": ("longboat.mover.restore_disk", "write a disk from a repository (run by Jobs)"),
    "verify": ("longboat.mover.verify", "see whether a repository is whole, as a job file says; by hand: repo verify"),
    "prune": ("longboat.mover.prune", "delete what no backup refers to, as a job file says; by hand: repo prune"),
    "repo": ("longboat.cli.repo", "list, restore, export and check backups without a cluster"),
    "check": ("longboat.cli.check", "say what works in this cluster, what will not, and what to do"),
    "key": ("longboat.cli.key", "make keys for BackupStores"),
    "release-finalizers": ("longboat.cli.release_finalizers", "stop the operator and let go of objects, to uninstall"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a role with the rest of the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="longboat",
        description="Disk backups for KubeVirt.",
        epilog="\n".join(f"  {role:20}{what}" for role, (_, what) in ROLES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"longboat {__version__}")
    parser.add_argument("role", choices=ROLES, metavar="role", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="see `longboat <role> --help`")
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    return _load(ROLES[options.role][0])(options.arguments)


def _load(module: str) -> Callable[[Sequence[str]], int]:
    # What imports make stays: looking through it for garbage, again and again, costs a tenth of a short program's time.
    gc.disable()
    run: Callable[[Sequence[str]], int] = import_module(module).main
    gc.freeze()
    gc.enable()
    return run


if __name__ == "__main__":
    sys.exit(main())

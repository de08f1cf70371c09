"""The command line of `longboat repo`."""

from __future__ import annotations

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

EXIT_CODES = """\
exit codes: 0 done, 1 failed or damage found, 2 wrong usage, 3 failed but trying again may help, 130 interrupted

The store: --folder, or --endpoint and --bucket with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or --store FILE.
The key: --key-file, or $LONGBOAT_KEY, or it is asked for: the store's key (longboat-key-1-…) or the recovery secret
(longboat-recovery-secret-1-…). Every option of the store has a variable, too: LONGBOAT_ENDPOINT, LONGBOAT_BUCKET, …
"""


_ACCEPT_LATE = "also what came too late after its repository had been closed"


def parser() -> argparse.ArgumentParser:
    """Return the parser; `command` names the subcommand, `key_command` that of `key`."""
    top = argparse.ArgumentParser(
        prog="longboat repo",
        description="Works on backups with nothing but the store and its key: no cluster is needed.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    _list(commands)
    _show(commands)
    _restore(commands)
    _export(commands)
    _mount(commands)
    _verify(commands)
    _prune(commands)
    _key(commands)
    return top


def _command(commands: Commands, name: str, what: str) -> argparse.ArgumentParser:
    made = commands.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    store = made.add_argument_group("store and key")
    store.add_argument(
        "--store", metavar="FILE", help="JSON with type, endpoint, region, bucket, prefix, caPem or path"
    )
    store.add_argument("--type", choices=("s3", "gcs", "azure"), help="kind of the store; s3 if absent")
    store.add_argument("--account", help="storage account of an azure store")
    store.add_argument("--folder", metavar="PATH", help="a folder instead of a bucket")
    store.add_argument("--endpoint", metavar="URL", help="https://host[:port] of the object store")
    store.add_argument("--region", help="its region")
    store.add_argument("--bucket", help="its bucket")
    store.add_argument("--prefix", help="what the BackupStore's spec.s3.prefix says")
    store.add_argument("--ca-file", metavar="FILE", help="certificates that the endpoint's one is checked with")
    store.add_argument("--key-file", metavar="FILE", help="the store's key, or the recovery secret")
    store.add_argument(
        "--repository",
        metavar="NAME",
        help="<cluster id>/<namespace UID>, either, or how it begins; with .<n> one alone of the namespace's",
    )
    made.add_argument("-o", "--output", choices=("table", "json"), default="table", help="form of the output")
    return made


def _list(commands: Commands) -> None:
    made = _command(commands, "list", "list repositories and their backups, deleted ones included")
    made.add_argument("-n", "--namespace", help="only backups made in the namespace of this name")


def _show(commands: Commands) -> None:
    _command(commands, "show", "show one backup in full").add_argument("backup", help="its name")


def _restore(commands: Commands) -> None:
    made = _command(commands, "restore", "write a disk of a backup into a block device or a raw file")
    _disk(made)
    made.add_argument("--size", help="make the file this large, such as 20Gi; the rest reads as zeros")


def _export(commands: Commands) -> None:
    made = _command(commands, "export", "write a disk of a backup into an image file")
    _disk(made)
    made.add_argument("--format", choices=("raw", "qcow2"), default="qcow2", help="%(default)s if absent")


def _mount(commands: Commands) -> None:
    made = _command(commands, "mount", "show the disks of all backups as files, read-only, until it is unmounted")
    made.add_argument("mountpoint", help="an empty folder")
    made.add_argument("-n", "--namespace", help="only backups made in the namespace of this name")
    made.add_argument("--accept-late", action="store_true", help=_ACCEPT_LATE)
    made.add_argument("--cache", default="64Mi", metavar="SIZE", help="of blocks kept in memory (%(default)s)")


def _verify(commands: Commands) -> None:
    made = _command(commands, "verify", "see whether backups are whole and can be read")
    made.add_argument("backups", nargs="*", metavar="backup", help="whose data is sampled; all if absent")
    made.add_argument(
        "--share", type=_percent, default=1.0, metavar="PERCENT", help="of the data to read (%(default)s)"
    )
    made.add_argument(
        "--no-record", dest="record", action="store_false", help="only look: do not note damage down in the repository"
    )


def _prune(commands: Commands) -> None:
    made = _command(commands, "prune", "say what nothing refers to any more, and delete it with --yes")
    made.add_argument("-y", "--yes", action="store_true", help="delete; only told what would be deleted if absent")
    made.add_argument("--dry-run", action="store_true", help="delete nothing, whatever else is given")
    made.add_argument("--allow-most", action="store_true", help="condemn even more than half of the one --repository")
    made.add_argument(
        "--retire",
        action="store_true",
        help="also end closed repositories in which nothing is left: header and keys go",
    )
    made.add_argument(
        "--accept-late",
        nargs="?",
        metavar="CODE",
        const=True,
        default=False,
        help="from now on believe what came too late after the one --repository had been closed, as it was put back or"
        " copied: told first, with a code; accepted with --yes and that code",
    )
    made.add_argument("--grace", default="24h", help="how long packs are condemned before they go (%(default)s)")
    made.add_argument(
        "--repack",
        metavar="SIZE",
        default="0",
        help="download so much, such as 1Gi, to empty mostly dead packs of disks that are not backed up any more",
    )
    made.add_argument(
        "--gone-after",
        metavar="TIME",
        default="45d",
        help="which these are: their newest backup is older (%(default)s)",
    )
    made.add_argument(
        "--living",
        type=_percent,
        metavar="PERCENT",
        default=0,
        help="with --repack, also empty packs of other disks of which backups refer to less than this (%(default)g)",
    )


def _percent(text: str) -> float:
    share = float(text.removesuffix("%"))
    if not 0 <= share <= 100:
        raise argparse.ArgumentTypeError(f"expected 0 to 100, found {text}")
    return share


def _number(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not number:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {text}")
    return number


def _disk(made: argparse.ArgumentParser) -> None:
    made.add_argument("backup", help="the backup's name")
    made.add_argument("target", help="where to write it; a file gets its name when it is complete")
    made.add_argument("--disk", help="the disk's name; not needed if the backup has one only")
    made.add_argument("-f", "--force", action="store_true", help="overwrite without asking")
    made.add_argument(
        "--salvage", action="store_true", help="go on without what is damaged: it is zeros then, and told"
    )
    made.add_argument("--accept-late", action="store_true", help=_ACCEPT_LATE)


def _key(commands: Commands) -> None:
    what = "say who can open the repositories, and change that"
    keys = commands.add_parser("key", help=what, description=what[0].upper() + what[1:] + ".")
    verbs = keys.add_subparsers(dest="key_command", required=True, metavar="command")
    _command(verbs, "list", "list for whom the master keys are wrapped")
    made = _command(verbs, "rotate", "wrap the master keys for another key, or make new master keys")
    made.add_argument("--new-key-file", metavar="FILE", help="the store's new key (longboat key generate)")
    made.add_argument(
        "--recovery-recipient", metavar="KEY", help="also for this public key (longboat-recovery-public-1-…)"
    )
    made.add_argument("--remove-old", action="store_true", help="take all other store keys away; asks first")
    made.add_argument(
        "--new-master",
        action="store_true",
        help="after a leak: a new repository with a fresh master key, to which all is written from then on; asks first",
    )
    made.add_argument(
        "--from", dest="start", type=_number, metavar="N", help="which repository of the namespace it replaces"
    )
    made.add_argument("-y", "--yes", action="store_true", help="do not ask")

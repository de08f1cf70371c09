"""Lists the backups of a repository in a folder, restores their disks, and checks every object."""

import argparse
import sys
from pathlib import Path

from tests.independent_reader.check import check
from tests.independent_reader.errors import ReaderError
from tests.independent_reader.reader import Backup, Repository, find_repository


def main() -> int:
    arguments = parse_arguments()
    try:
        key_text = arguments.key_file.read_text()
        return run(Repository(find_repository(arguments.folder), key_text), arguments)
    except (ReaderError, OSError, UnicodeDecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.independent_reader", description=__doc__)
    parser.add_argument("folder", type=Path, help="a repository, or a folder that has one repository below it")
    parser.add_argument("--key-file", type=Path, required=True, help="a store's key or a recovery secret, as text")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every backup in its newest revision")
    restore = commands.add_parser("restore", help="write a disk, or the tar archive of a small volume, into a new file")
    restore.add_argument("backup")
    restore.add_argument("disk")
    restore.add_argument("target", type=Path)
    commands.add_parser("check", help="read and authenticate every object")
    return parser.parse_args()


def run(repository: Repository, arguments: argparse.Namespace) -> int:
    if arguments.command == "restore":
        repository.restore(arguments.backup, arguments.disk, arguments.target)
        return 0
    failures = check(repository) if arguments.command == "check" else list_backups(repository)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0


def list_backups(repository: Repository) -> list[ReaderError]:
    failures = []
    for each in repository.backups():
        if not isinstance(each, Backup):
            failures.append(each)
            continue
        print(f"{each.name}\trevision {each.revision}\t{each.created}\t{each.state}")
        for disk in each.disks:
            print(f"  {disk.disk}\t{disk.size} bytes\t{disk.manifest}")
    return failures


if __name__ == "__main__":
    sys.exit(main())

"""`longboat repo`: backups with nothing but the store and its key. Knows nothing of Kubernetes."""

from __future__ import annotations

import argparse
import getpass
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from longboat.cli import repo_key, repo_output, repo_prune, repo_restore, repo_verify
from longboat.cli.repo_access import (
    Key,
    UsageError,
    choose_paths,
    open_all,
    open_at,
    parse_key,
    read_key,
    repository_paths,
    setting,
    store_settings,
)
from longboat.cli.repo_arguments import parser
from longboat.cli.repo_contents import Backup, Contents, read_contents, read_disks
from longboat.mover.errors import MoverError
from longboat.repository import (
    ObjectStore,
    Repository,
    RepositoryError,
    find_backup,
    open_store,
    parse_recovery_public,
    read_tombstones,
)
from longboat.repository.errors import BackupNotFoundError, KeyTextError, RepositoryNotFoundError

OK, FAILED, USAGE, RETRY, INTERRUPTED = 0, 1, 2, 3, 130


@dataclass(frozen=True)
class Session:
    """What every command works with: its arguments, the store, the paths of the repositories meant, and the key."""

    arguments: argparse.Namespace
    store: ObjectStore
    paths: list[str]
    key: Key
    console: repo_restore.Console

    @property
    def json(self) -> bool:
        """Whether machines read the output."""
        return bool(self.arguments.output == "json")

    def repositories(self) -> list[tuple[str, Repository]]:
        """Return the repositories that the key opens."""
        return list(open_all(self.store, self.paths, self.key))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit codes are those that its help lists. No mistake of a user's shows a traceback."""
    try:
        arguments = parser().parse_args(argv)
        signal.signal(signal.SIGTERM, _interrupt)
        return run(arguments, os.environ)
    except KeyboardInterrupt:
        print("\nlongboat repo: interrupted; run it again, a restore goes on where it was", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has enough; Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def run(arguments: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Run parsed arguments; return the exit code."""
    try:
        return _COMMANDS[arguments.command](_session(arguments, environment))
    except UsageError as error:
        return _fail(error, USAGE)
    except (RepositoryError, MoverError) as error:
        return _fail(error, RETRY if error.retryable else FAILED)


def _session(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Session:
    store = open_store(store_settings(arguments, environment))
    key = read_key(arguments, environment, getpass.getpass if sys.stdin.isatty() else None)
    paths = choose_paths(repository_paths(store), setting(arguments, environment, "repository"))
    if not paths:
        raise RepositoryNotFoundError(f"{store.describe()}: no repository here; check bucket and prefix")
    return Session(arguments, store, paths, key, repo_restore.Console(sys.stderr, time.monotonic, _confirm))


def _list(session: Session) -> int:
    found = [_contents(session, path) for path in session.paths]
    wanted = session.arguments.namespace
    if wanted:
        found = [each for each in found if wanted in each.namespaces]
        for each in found:
            each.backups = [backup for backup in each.backups if backup.namespace == wanted]
    if session.json:
        repo_output.print_json([repo_output.contents_json(each) for each in found], sys.stdout)
    else:
        for each in found:
            repo_output.print_contents(each, sys.stdout)
    return FAILED if any(each.problems for each in found) else OK


def _contents(session: Session, path: str) -> Contents:
    try:
        return read_contents(path, open_at(session.store, path, session.key))
    except RepositoryError as error:
        if error.retryable:
            raise
        return Contents(path, problems=[str(error)])


def _show(session: Session) -> int:
    path, repository, backup = _find(session)
    disks = read_disks(repository, backup)
    if session.json:
        told = {"repository": path, **repo_output.backup_json(backup), "metadata": backup.manifest.metadata}
        told["diskManifests"] = [repo_output.disk_json(*each) for each in disks]
        repo_output.print_json(told, sys.stdout)
    else:
        repo_output.print_backup(backup, path, disks, sys.stdout)
    return FAILED if any(isinstance(stored, str) for _, stored in disks) else OK


def _restore(session: Session) -> int:
    _, repository, backup = _find(session)
    if backup.tombstone:
        print(f"longboat repo: backup {backup.manifest.name} is deleted, and not yet removed", file=sys.stderr)
    stored = repo_restore.read_disk(repository, repo_restore.choose_disk(backup.manifest, session.arguments.disk))
    outcome = repo_restore.restore(session.arguments, repository, stored, session.console)
    if session.json:
        repo_output.print_json(outcome, sys.stdout)
    else:
        print(repo_restore.outcome_text(outcome))
    return FAILED if outcome.get("lostBytes") else OK


def _verify(session: Session) -> int:
    console, now = session.console, datetime.now(UTC)
    reports = repo_verify.verify_all(session.arguments, session.repositories(), console.err, console.clock, now)
    if session.json:
        repo_output.print_json([repo_verify.report_json(*each) for each in reports], sys.stdout)
    else:
        for each in reports:
            repo_verify.print_report(*each, sys.stdout)
    return OK if all(report.state == "ok" for _, report in reports) else FAILED


def _prune(session: Session) -> int:
    reports = []
    for path, repository in session.repositories():
        report = repo_prune.prune_one(session.arguments, repository, lambda: datetime.now(UTC))
        reports.append(repo_prune.report_json(path, report) | {"note": repo_prune.left_undone(repository, report)})
        if not session.json:
            repo_prune.print_report(path, report, sys.stdout)
    if session.json:
        repo_output.print_json(reports, sys.stdout)
    elif note := next((each["note"] for each in reports if each["note"]), None):
        print(note)
    elif any(each["dryRun"] for each in reports):
        print("Nothing was deleted; --yes does it.")
    return OK


def _key(session: Session) -> int:
    return _list_keys(session) if session.arguments.key_command == "list" else _rotate(session)


def _list_keys(session: Session) -> int:
    found = [repo_key.describe_keys(session.store, path, session.key) for path in session.paths]
    if session.json:
        repo_output.print_json(found, sys.stdout)
    else:
        repo_output.print_keys(found, sys.stdout)
    return OK if all(each["opened"] for each in found) else FAILED


def _rotate(session: Session) -> int:
    rotation = _rotation(session)
    if rotation.remove_old and not session.arguments.yes:
        question = f"Take every other store key away from {len(session.paths)} repositories?"
        if not session.console.confirm(question):
            raise UsageError("nothing was changed")
    # All are opened before the first one is changed: a key that does not fit changes nothing.
    opened = [(path, open_at(session.store, path, session.key)) for path in session.paths]
    done = [repo_key.rotate(session.store, path, repository, rotation) for path, repository in opened]
    if session.json:
        repo_output.print_json(done, sys.stdout)
    else:
        repo_output.print_rotations(done, sys.stdout)
    return OK


def _rotation(session: Session) -> repo_key.Rotation:
    arguments = session.arguments
    new_key = _new_key(arguments.new_key_file) if arguments.new_key_file else None
    recovery = _recipient(arguments.recovery_recipient) if arguments.recovery_recipient else None
    if new_key is None and recovery is None:
        raise UsageError("--new-key-file or --recovery-recipient: at least one is needed")
    if arguments.remove_old and new_key is None:
        raise UsageError("--remove-old: needs --new-key-file, or no store key would be left")
    return repo_key.Rotation(new_key, recovery, arguments.remove_old)


def _new_key(file: str) -> Key:
    try:
        key = parse_key(Path(file).read_text())
    except OSError as error:
        raise UsageError(f"--new-key-file {file}: {error.strerror}") from None
    if key.kind != "store":
        raise UsageError(f"--new-key-file {file}: expected a store's key (longboat-key-1-…), found a recovery secret")
    return key


def _recipient(text: str) -> bytes:
    try:
        return parse_recovery_public(text)
    except KeyTextError as error:
        raise UsageError(f"--recovery-recipient: {error}") from None


def _find(session: Session) -> tuple[str, Repository, Backup]:
    name = session.arguments.backup
    found = []
    for path, repository in session.repositories():
        manifest = find_backup(repository, name)
        if manifest:
            stones = [stone for stone in read_tombstones(repository) if stone.backup_name == name]
            found.append((path, repository, Backup(manifest, stones[0] if stones else None)))
    if len(found) > 1:
        places = ", ".join(path for path, _, _ in found)
        raise UsageError(f"--repository: backup {name!r} is in {len(found)} repositories, name one: {places}")
    if not found:
        raise BackupNotFoundError(f"{session.store.describe()}: no backup {name!r}; see longboat repo list")
    return found[0]


def _confirm(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody is there to be asked: give --force or --yes")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _fail(error: Exception, code: int) -> int:
    print(f"longboat repo: {error}", file=sys.stderr)
    return code


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


_COMMANDS: dict[str, Callable[[Session], int]] = {
    "list": _list,
    "show": _show,
    "restore": _restore,
    "export": _restore,
    "verify": _verify,
    "prune": _prune,
    "key": _key,
}

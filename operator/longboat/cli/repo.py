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
from functools import partial
from pathlib import Path
from typing import Any

from longboat.cli import (
    repo_key,
    repo_mount,
    repo_new_master,
    repo_output,
    repo_prune,
    repo_restore,
    repo_verify,
)
from longboat.cli.mount_contents import gather, only
from longboat.cli.mount_tree import build_tree
from longboat.cli.repo_access import (
    Key,
    Opened,
    UsageError,
    open_all,
    open_at,
    parse_key,
    read_key,
    repository_paths,
    setting,
    store_settings,
)
from longboat.cli.repo_arguments import parser
from longboat.cli.repo_contents import Contents, read_contents, read_disks
from longboat.cli.repo_generations import (
    TOO_LATE,
    Found,
    choose_one,
    choose_paths,
    clear_all_remains,
    closed_since,
    find_everywhere,
    late_in,
)
from longboat.mover.errors import MoverError
from longboat.repository import (
    ObjectStore,
    RepositoryError,
    StoreSettings,
    open_store,
    parse_recovery_public,
)
from longboat.repository.errors import BackupNotFoundError, KeyTextError, RepositoryNotFoundError

OK, FAILED, USAGE, RETRY, INTERRUPTED = 0, 1, 2, 3, 130


@dataclass(frozen=True)
class Session:
    """What every command works with: its arguments, the store, the paths of the repositories meant, and the key."""

    arguments: argparse.Namespace
    settings: StoreSettings
    store: ObjectStore
    paths: list[str]
    key: Key
    console: repo_restore.Console
    wanted: str = ""
    """What --repository says."""

    @property
    def json(self) -> bool:
        """Whether machines read the output."""
        return bool(self.arguments.output == "json")

    def open(self) -> Opened:
        """Open the repositories meant; if none opens, RepositoryError says why."""
        return open_all(self.store, self.paths, self.key)


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
    settings = store_settings(arguments, environment)
    store = open_store(settings)
    key = read_key(arguments, environment, getpass.getpass if sys.stdin.isatty() else None)
    wanted = setting(arguments, environment, "repository")
    paths = choose_paths(repository_paths(store), wanted)
    if not paths:
        raise RepositoryNotFoundError(f"{store.describe()}: no repository here; check bucket and prefix")
    console = repo_restore.Console(sys.stderr, time.monotonic, _confirm)
    return Session(arguments, settings, store, paths, key, console, wanted)


def _list(session: Session) -> int:
    found = [_contents(session, path) for path in session.paths]
    wanted = session.arguments.namespace
    if wanted:
        found = [only(each, wanted) for each in found if wanted in each.namespaces]
    if session.json:
        repo_output.print_json([repo_output.contents_json(each) for each in found], sys.stdout)
    else:
        for each in found:
            repo_output.print_contents(each, sys.stdout)
    return FAILED if any(each.problems for each in found) else OK


def _contents(session: Session, path: str) -> Contents:
    contents = Contents(path)
    try:
        repository = open_at(session.store, path, session.key)
        contents = read_contents(path, repository)
        contents.closed = closed_since(session.store, path, session.key)
        late = late_in(session.store, path, repository, session.key)
        contents.problems += [f"{name}: {TOO_LATE}" for name in late]
    except RepositoryError as error:
        if error.retryable:
            raise
        contents.problems.append(str(error))
    return contents


def _show(session: Session) -> int:
    found = _find(session, accept=True)
    backup, disks = found.backup, read_disks(found.repository, found.backup)
    if session.json:
        told = {"repository": found.path, **repo_output.backup_json(backup), "metadata": backup.manifest.metadata}
        told["diskManifests"] = [repo_output.disk_json(*each) for each in disks]
        repo_output.print_json(told | {"doubt": found.doubt or None}, sys.stdout)
    else:
        repo_output.print_backup(backup, found.path, disks, sys.stdout)
    return FAILED if found.doubt or backup.problem or any(isinstance(stored, str) for _, stored in disks) else OK


def _restore(session: Session) -> int:
    found = _find(session, session.arguments.accept_late)
    if found.backup.tombstone:
        print(f"longboat repo: backup {found.backup.manifest.name} is deleted, and not yet removed", file=sys.stderr)
    if found.backup.problem:
        print(f"longboat repo: {found.backup.problem}", file=sys.stderr)
    disk = repo_restore.choose_disk(found.backup.manifest, session.arguments.disk)
    stored = repo_restore.read_disk(found.repository, disk)
    outcome = repo_restore.restore(session.arguments, found.repository, stored, session.console)
    if session.json:
        repo_output.print_json(outcome, sys.stdout)
    else:
        print(repo_restore.outcome_text(outcome))
    return FAILED if outcome.get("lostBytes") else OK


def _mount(session: Session) -> int:
    # What is missing on this machine is told before anything is read from the store.
    fuse, mountpoint, cache_bytes = repo_mount.prepare(session.arguments)
    arguments = session.arguments
    shown = gather(session.store, session.paths, session.key, arguments.namespace, arguments.accept_late)
    if not shown.files:
        raise BackupNotFoundError(f"{session.store.describe()}: no backup to show. {' '.join(shown.problems)}".rstrip())
    out = repo_mount.Reporter(session.json, shown.problems, sys.stdout, sys.stderr)
    whole = repo_mount.serve(fuse, mountpoint, build_tree(shown.files), cache_bytes, out)
    return OK if whole and not shown.problems else FAILED


def _verify(session: Session) -> int:
    console, opened = session.console, session.open()
    late = partial(late_in, session.store, key=session.key)
    done = repo_verify.verify_all(session.arguments, opened, late, console.err, console.clock, datetime.now(UTC))
    if session.json:
        repo_output.print_json([each.as_json() for each in done], sys.stdout)
    else:
        for each in done:
            repo_verify.print_verified(each, sys.stdout)
    return OK if all(each.good for each in done) else FAILED


def _prune(session: Session) -> int:
    for option in ("allow_most", "accept_late"):
        if getattr(session.arguments, option):
            repo_prune.require_one(session.paths, session.wanted, f"--{option.replace('_', '-')}")
    repo_prune.require_unlocked(session.arguments, session.settings, session.paths)
    done = []
    for each in repo_prune.prune_all(session.arguments, session.open(), session.store, session.key):
        done.append(each)
        if not session.json:
            repo_prune.print_pruned(each, sys.stdout)
    if session.arguments.retire and session.arguments.yes and not session.arguments.dry_run:
        clear_all_remains(session.store, session.paths)
    if session.json:
        repo_output.print_json([each.as_json() for each in done], sys.stdout)
    elif last := repo_prune.last_words(done):
        print(last)
    return OK if all(each.good for each in done) else FAILED


def _key(session: Session) -> int:
    if session.arguments.key_command == "list":
        return _list_keys(session)
    return _new_master(session) if session.arguments.new_master else _rotate(session)


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
        places = "\n  ".join(session.paths)
        question = f"Take every other store key away from {len(session.paths)} repositories?\n  {places}\n"
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


def _new_master(session: Session) -> int:
    arguments = session.arguments
    if arguments.new_key_file or arguments.remove_old:
        raise UsageError(
            "--new-master: not together with --new-key-file or --remove-old; replace the store's key first"
        )
    recovery = _recipient(arguments.recovery_recipient) if arguments.recovery_recipient else None
    # All are opened before the first one is changed: a key that does not fit changes nothing.
    planned = repo_new_master.plan(session.store, session.paths, session.key, recovery, arguments.start)
    question = f"Give {len(planned)} namespaces new master keys? The next backup of each of their disks is a full one."
    if not arguments.yes and not session.console.confirm(question):
        raise UsageError("nothing was changed")
    done = [repo_new_master.rotate(each, session.key, recovery) for each in planned]
    if session.json:
        repo_output.print_json(done, sys.stdout)
    else:
        repo_output.print_new_masters(done, sys.stdout)
    return OK


def _rotation(session: Session) -> repo_key.Rotation:
    arguments = session.arguments
    new_key = _new_key(arguments.new_key_file) if arguments.new_key_file else None
    recovery = _recipient(arguments.recovery_recipient) if arguments.recovery_recipient else None
    if new_key is None and recovery is None:
        raise UsageError("--new-key-file, --recovery-recipient or --new-master: at least one is needed")
    if arguments.start is not None:
        raise UsageError("--from: only with --new-master")
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


def _find(session: Session, accept: bool) -> Found:
    name = session.arguments.backup
    opened = session.open()
    found = find_everywhere(session.store, opened.repositories, session.key, name)
    chosen = choose_one(session.store, found, name, accept, opened.problems)
    if chosen.doubt:
        print(f"longboat repo: {chosen.doubt}", file=sys.stderr)
    return chosen


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
    "mount": _mount,
    "verify": _verify,
    "prune": _prune,
    "key": _key,
}

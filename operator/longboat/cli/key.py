"""`longboat key generate`: a new key for a store, as a Secret, and a recovery pair to keep offline."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from longboat.repository import RecoveryPair, generate_recovery_pair, generate_store_key

_WARNING = """\
Keep the recovery secret OFFLINE: in a safe, a password manager, on paper. It is shown this once and stored nowhere.
With it every backup made with the store can be read; without it, losing the store's key means losing the backups."""

_SECRET = """\
apiVersion: v1
kind: Secret
metadata:
  name: {name}{place}
type: Opaque
immutable: true
stringData:
  key: {key}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. What can be piped goes to stdout, what only a person may see to stderr. Exit code 0 or 2."""
    arguments = _parser().parse_args(argv)
    if arguments.namespace and not arguments.secret:
        print("longboat key generate: -n needs --secret NAME", file=sys.stderr)
        return 2
    pair = generate_recovery_pair() if arguments.recovery else None
    print(_output(generate_store_key(), pair, arguments.secret, arguments.namespace), end="")
    if pair:
        print(_recovery_text(pair), file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="longboat key", description="Keys of backup stores.")
    commands = parser.add_subparsers(dest="command", required=True)
    generate = commands.add_parser(
        "generate",
        help="make a new key",
        description="Makes a new key for a BackupStore. The Secret goes to stdout, the recovery pair to stderr.",
    )
    generate.add_argument("--recovery", action="store_true", help="also make a recovery pair, to keep offline")
    generate.add_argument("--secret", metavar="NAME", help="print a Secret manifest of this name, not the bare key")
    generate.add_argument("-n", "--namespace", help="namespace of the Secret: the operator's")
    return parser


def _output(key: str, pair: RecoveryPair | None, secret: str | None, namespace: str | None) -> str:
    if secret is None:
        return f"{key}\n"
    head = f"# The store's spec.encryption.recoveryRecipient:\n#   {pair.public}\n" if pair else ""
    place = f"\n  namespace: {json.dumps(namespace)}" if namespace else ""
    return f"{head}{_SECRET.format(name=json.dumps(secret), place=place, key=key)}"


def _recovery_text(pair: RecoveryPair) -> str:
    return f"{_WARNING}\n\nrecovery secret:     {pair.secret}\nrecovery recipient:  {pair.public}\n"

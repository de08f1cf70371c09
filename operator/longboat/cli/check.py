"""`longboat check`: what works in this cluster, what does not, and what to do about it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TextIO

from longboat.cli.connection import NO_ANSWER, add_connection_arguments, cluster_of
from longboat.cli.findings import Finding, Verdict, abilities, worst
from longboat.cli.observation import Observation, observe
from longboat.cli.trial import Trial, movers_of, run
from longboat.cli.verdicts import judge
from longboat.kube.port import Cluster, KubeError

OK, FAULTS = 0, 1
_WIDTH = 118
_WORDS = {
    Verdict.OK: ("ok", "yes"),
    Verdict.UNKNOWN: ("?", "not known"),
    Verdict.WARNING: ("warn", "in part"),
    Verdict.NOT_YET: ("next", "not yet"),
    Verdict.ERROR: ("ERROR", "no"),
}
"""The mark of a finding, and the answer to whether something works."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 0: no faults, 1: faults, 2: usage, 3: no answer from the API server."""
    arguments = _parser().parse_args(argv)
    try:
        cluster = cluster_of(arguments)
        seen = observe(cluster, arguments.namespace)
        findings = judge(seen, datetime.now(UTC))
        if arguments.trial:
            findings = [*findings, try_out(cluster, seen, arguments.storage_class)]
    except KubeError as error:
        print(f"longboat check: {error}", file=sys.stderr)
        return NO_ANSWER
    (print_json if arguments.output == "json" else print_table)(findings, sys.stdout)
    return FAULTS if worst(each.verdict for each in findings) == Verdict.ERROR else OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longboat check",
        description="Says what works in this cluster, what does not, and what to do.",
        epilog="exit codes: 0 no errors (`next` is none), 1 errors found, 2 usage, 3 no answer from the API server",
    )
    add_connection_arguments(parser)
    namespace = os.environ.get("LONGBOAT_NAMESPACE", "longboat-system")
    parser.add_argument("-n", "--namespace", default=namespace, help="the operator's namespace (%(default)s)")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="form of the output")
    parser.add_argument("--trial", action="store_true", help="try as a mover to open a block device, in a Job")
    parser.add_argument("--storage-class", help="StorageClass of the trial's claim; the default one if absent")
    return parser


def try_out(cluster: Cluster, seen: Observation, storage_class: str | None) -> Finding:
    """Run the trial as the operator's movers would."""
    if not seen.operators:
        return Finding("movers", "trial", Verdict.UNKNOWN, "no operator, no image to try with", "install the chart")
    return run(cluster, Trial(movers_of(seen.operators[0]), storage_class), time.sleep)


def print_json(findings: Sequence[Finding], out: TextIO) -> None:
    """Write the findings and the abilities as one JSON object."""
    data = {
        "verdict": str(worst(each.verdict for each in findings)),
        "abilities": {str(ability): str(verdict) for ability, verdict in abilities(findings).items()},
        "findings": [
            {
                "area": each.area,
                "subject": each.subject,
                "verdict": str(each.verdict),
                "message": each.message,
                "remedy": each.remedy,
                "affects": [str(ability) for ability in each.affects],
            }
            for each in findings
        ],
    }
    print(json.dumps(data, indent=2, ensure_ascii=False), file=out)


def print_table(findings: Sequence[Finding], out: TextIO) -> None:
    """Write the findings for people: what was found first, what follows from it last."""
    for each in findings:
        print(f"{_WORDS[each.verdict][0]:<6}{each.area}: {each.subject}", file=out)
        for text in (each.message, f"→ {each.remedy}" if each.remedy else ""):
            for line in textwrap.wrap(text, _WIDTH - 6):
                print(f"      {line}", file=out)
    print("\nWhat works:", file=out)
    for ability, verdict in abilities(findings).items():
        print(f"  {_WORDS[verdict][1]:<10}{ability}", file=out)

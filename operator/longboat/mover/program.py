"""What the mover programs have in common: arguments, the termination message, exit codes, being told to stop."""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from longboat.repository import RepositoryError

from .errors import InterruptedMoveError, MoverError
from .jobs import Job, load_job
from .progress import print_line
from .results import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_RETRY,
    EXIT_USAGE,
    Failure,
    Result,
    failure_of,
    write_termination,
)

DEFAULT_TERMINATION = "/dev/termination-log"


def run_program(name: str, model: type[Job], run: Callable[[Job], Result], argv: list[str]) -> int:
    """Load the job, run it, report its result; expected failures never show a traceback."""
    arguments = _parse(name, argv)
    if arguments is None:
        return EXIT_USAGE
    termination = DEFAULT_TERMINATION
    result: Result | Failure
    try:
        job = load_job(model, arguments.job, arguments.secret)
        termination = job.termination_path
        signal.signal(signal.SIGTERM, lambda *_: _stop(Path(termination)))
        result = run(job)
    except Exception as error:
        if not isinstance(error, RepositoryError | MoverError):
            traceback.print_exc(file=sys.stderr)
        result = failure_of(error)
    write_termination(Path(termination), result)
    print_line('{"result": ' + result.model_dump_json(by_alias=True) + "}")
    return _exit_code(result)


def _exit_code(result: Result | Failure) -> int:
    if isinstance(result, Failure):
        return EXIT_RETRY if result.retryable else EXIT_FAILED
    return EXIT_OK


def _parse(name: str, argv: list[str]) -> argparse.Namespace | None:
    parser = argparse.ArgumentParser(prog=f"longboat {name}", description=f"Run one {name} as its job file says.")
    parser.add_argument("--job", type=Path, required=True, help="JSON file that says what to do")
    parser.add_argument("--secret", type=Path, help="JSON file with credentials and key, merged over the job file")
    try:
        return parser.parse_args(argv)
    except SystemExit as stop:
        if stop.code:
            return None
        raise


def _stop(termination: Path) -> NoReturn:
    error = InterruptedMoveError("the pod was told to stop before the move was complete; run it again")
    # Ending the uploads under way may take longer than the pod is given.
    write_termination(termination, failure_of(error))
    raise error

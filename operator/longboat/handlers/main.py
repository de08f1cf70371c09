"""`longboat operator`: settings and logging first, so that what is wrong with them is said in one line."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

import kopf

from longboat.handlers import operator
from longboat.handlers.settings import SettingsError, read_process_settings, read_settings


def main(argv: Sequence[str]) -> int:
    """Run the operator; return 2 when the environment is wrong."""
    parser = argparse.ArgumentParser(prog="longboat operator", description=__doc__)
    parser.add_argument("--liveness", default=operator.LIVENESS, metavar="URL", help="where to answer liveness probes")
    options = parser.parse_args(argv)
    try:
        read_settings(os.environ)
        level = read_process_settings(os.environ).log_level
    except SettingsError as error:
        print(f"longboat operator: {error}", file=sys.stderr)
        return 2
    kopf.configure(debug=level == "DEBUG", log_format=kopf.LogFormat.FULL)
    logging.getLogger().setLevel(level)
    # A line for each event and liveness probe would bury what matters.
    for noisy in ("aiohttp.access", "kopf.activities.probe", "kopf.objects"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    operator.run(options.liveness)
    return 0

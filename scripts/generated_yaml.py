"""How generated YAML looks."""

from __future__ import annotations

import json
from typing import Any

import yaml

HEADER = "# Generated from operator/longboat/api by `make generate`; edits are lost.\n"


def dump(data: Any) -> str:
    """Return data as YAML in the order it has."""
    # The detour over JSON unshares equal parts, which YAML would write as anchors.
    text: str = yaml.safe_dump(json.loads(json.dumps(data)), sort_keys=False, width=120, allow_unicode=True)
    return text

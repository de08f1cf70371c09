"""Writes what is generated from the models: crds/*.yaml. With --check, says what differs and exits with 1."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

from longboat.api import KINDS
from longboat.api.crd import definition

TOP = Path(__file__).resolve().parent.parent
HEADER = "# Generated from operator/longboat/api by `make generate`; edits are lost.\n"


def generated() -> dict[Path, str]:
    """Return the text of every generated file by its path."""
    return {TOP / "crds" / f"{kind.plural}.yaml": HEADER + _yaml(definition(kind)) for kind in KINDS}


def _yaml(data: object) -> str:
    # The detour over JSON unshares equal parts, which YAML would write as anchors.
    return yaml.safe_dump(json.loads(json.dumps(data)), sort_keys=False, width=120, allow_unicode=True)


def main(check: bool) -> int:
    """Write the files, or compare them; return the exit code."""
    stale = {path: text for path, text in generated().items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        print(("stale: " if check else "wrote ") + str(path.relative_to(TOP)))
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))

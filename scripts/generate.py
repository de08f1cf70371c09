"""Writes everything that is generated: CRDs, the chart's copies of them and its dashboard, manifests/, reference pages.

With --check it writes nothing, says what differs and exits with 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP), str(TOP / "operator")]

from longboat.api import KINDS  # noqa: E402
from longboat.api.crd import definition  # noqa: E402
from scripts.generated_chart import chart_crd, manifests  # noqa: E402
from scripts.generated_dashboard import dashboard  # noqa: E402
from scripts.generated_metrics import metrics_reference  # noqa: E402
from scripts.generated_reference import api_reference, values_reference  # noqa: E402
from scripts.generated_yaml import HEADER, dump  # noqa: E402


def written() -> dict[Path, str]:
    """Return the text of every file that is generated from the models and the chart's values, by its path."""
    definitions = {kind.plural: definition(kind) for kind in KINDS}
    crds = {TOP / "crds" / f"{plural}.yaml": HEADER + dump(crd) for plural, crd in definitions.items()}
    copies = {
        TOP / "charts/longboat/templates/crds" / f"{plural}.yaml": chart_crd(crd) for plural, crd in definitions.items()
    }
    reference = TOP / "docs/reference"
    pages = {
        reference / "api.md": api_reference([definitions[kind.plural] for kind in KINDS]),
        reference / "metrics.md": metrics_reference(),
        reference / "values.md": values_reference(TOP / "charts/longboat"),
    }
    return crds | copies | pages | {TOP / "charts/longboat/files/dashboard.json": dashboard()}


def rendered() -> dict[Path, str]:
    """Return the text of every file of manifests/ by its path: the chart with its default values, rendered by helm."""
    return {TOP / "manifests" / name: text for name, text in manifests(TOP / "charts/longboat").items()}


def settle(files: dict[Path, str], check: bool) -> bool:
    """Write the files that differ, or only name them; return whether all were as they should be."""
    stale = {path: text for path, text in files.items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        print(("stale: " if check else "wrote ") + str(path.relative_to(TOP)))
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return not stale


def main(check: bool) -> int:
    """Write or compare; the manifests come last, as they are rendered from what was written before."""
    fresh = settle(written(), check)
    fresh = settle(rendered(), check) and fresh
    return 1 if check and not fresh else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))

"""What is generated and committed is what would be generated now."""

from __future__ import annotations

from pathlib import Path

import yaml

from longboat.api import KINDS
from longboat.api.common import API_VERSION
from scripts import generate

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


def test_generated_files_are_fresh() -> None:
    files = generate.written() | generate.rendered()
    stale = [str(path.relative_to(generate.TOP)) for path, text in files.items() if path.read_text() != text]
    assert stale == [], "run make generate"


def test_no_file_is_left_over_from_a_kind_that_is_gone() -> None:
    for folder in ("crds", "charts/longboat/templates/crds"):
        assert set((generate.TOP / folder).iterdir()) <= set(generate.written())


def test_the_examples_are_valid() -> None:
    models = {kind.model_fields["kind"].default: kind for kind in KINDS}
    paths = sorted(EXAMPLES.glob("*.yaml"))
    assert len(paths) >= 7
    for path in paths:
        for each in yaml.safe_load_all(path.read_text()):
            assert each["apiVersion"] == API_VERSION, path.name
            models[each["kind"]].model_validate(each)

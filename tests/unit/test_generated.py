"""What is generated and committed is what would be generated now."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from longboat.api import KINDS, BackupStore
from longboat.api.common import API_VERSION
from longboat.repository import generate_recovery_pair
from longboat.repository.key_text import RECOVERY_PUBLIC_PREFIX
from scripts import generate

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


def test_generated_files_are_fresh() -> None:
    files = generate.written() | generate.rendered()
    stale = [str(path.relative_to(generate.TOP)) for path, text in files.items() if path.read_text() != text]
    assert stale == [], "run make generate"


def test_no_file_is_left_over_from_a_kind_that_is_gone() -> None:
    for folder in ("crds", "charts/longboat/templates/crds"):
        assert set((generate.TOP / folder).iterdir()) <= set(generate.written())


def filled_in(example: str) -> str:
    """What a user must not forget is refused by the API server as it stands in the example."""
    return example.replace(f"{RECOVERY_PUBLIC_PREFIX}…", generate_recovery_pair().public)


def test_a_store_is_not_made_before_its_recovery_recipient_is_filled_in() -> None:
    with pytest.raises(ValidationError, match=r"encryption\.recoveryRecipient"):
        BackupStore.model_validate(yaml.safe_load((EXAMPLES / "store.yaml").read_text()))


def test_the_examples_are_valid() -> None:
    models = {kind.model_fields["kind"].default: kind for kind in KINDS}
    paths = sorted(EXAMPLES.glob("*.yaml"))
    assert len(paths) >= 7
    for path in paths:
        for each in yaml.safe_load_all(filled_in(path.read_text())):
            assert each["apiVersion"] == API_VERSION, path.name
            models[each["kind"]].model_validate(each)

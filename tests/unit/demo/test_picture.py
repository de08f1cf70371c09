"""The picture in the README shows what was printed, and nothing else."""

from __future__ import annotations

import re
from html import unescape
from xml.etree import ElementTree

from scripts.demo_picture import COLUMNS, PICTURE, drawn, svg

LOG = """
── A cluster with KubeVirt  (0 s)
[   0.3s] cluster demo is up
── Both run once, by hand  (40 s)
   created DiskBackup db-weekly-ch5c8
   $ kubectl get diskbackups -n shop
     NAME              POLICY      PHASE       CONSISTENCY   SAME MOMENT   STORED     AGE
     db-weekly-ch5c8   db-weekly   Completed   Application   true          41492250   24s
   $ kubectl get longboat -n shop
     NAME   TARGET
     
     NAME   PHASE
   ✓ disk C is stored once: 1 < 2

The cluster is still running. Try next:
  make shell
""".splitlines()  # noqa: W293


def test_chapters_facts_and_the_chosen_columns_are_drawn() -> None:
    assert [*drawn(LOG)] == [
        ("text", ""),
        ("title", "── Both run once, by hand"),
        ("text", "   created DiskBackup db-weekly-ch5c8"),
        ("command", "   $ kubectl get diskbackups -n shop"),
        ("output", "     NAME              PHASE       CONSISTENCY   SAME MOMENT   STORED     AGE"),
        ("output", "     db-weekly-ch5c8   Completed   Application   true          41492250   24s"),
        ("good", "   ✓ disk C is stored once: 1 < 2"),
    ]


def test_the_picture_is_well_formed_and_holds_every_line() -> None:
    picture = ElementTree.fromstring(svg([*drawn(LOG)]))
    texts = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == [text for _, text in drawn(LOG) if text]


def test_the_committed_picture_shows_a_restore_that_went_well() -> None:
    text = unescape(PICTURE.read_text())
    assert text.count("✓ the guest reads the old data on the new disk") == 2
    assert len(set(re.findall(r"sha256 of orders.db on \S+(?: C)? is (\w+)", text))) == 1
    for kind in COLUMNS:
        assert f"kubectl get {kind}" in text

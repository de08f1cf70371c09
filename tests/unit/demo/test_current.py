"""The story on somebody's own cluster: never without being asked, never where it can't be told."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from longboat.cli.findings import Finding, Verdict
from longboat.cli.observation import Observation
from tests.cluster.progress import ClusterError
from tests.demo import current

CHOSEN = {"namespace": "longboat-demo", "storage_class": "fast", "guest_image": "guest:1", "yes": False}
Object = dict[str, Any]


def _arguments(**more: object) -> argparse.Namespace:
    return argparse.Namespace(**{**CHOSEN, "operator_namespace": "longboat-system", **more})


@pytest.mark.parametrize(
    ("area", "subject", "verdict"),
    [
        ("CRDs", "longboat.dev", Verdict.ERROR),
        ("operator", "longboat", Verdict.ERROR),
        ("stores", "offsite", Verdict.ERROR),
        ("stores", "none", Verdict.NOT_YET),
        ("stores", "default", Verdict.WARNING),
        ("KubeVirt", "KubeVirt", Verdict.WARNING),
        ("KubeVirt", "hot-plug", Verdict.WARNING),
    ],
)
def test_what_the_story_needs_is_demanded_with_its_remedy(area: str, subject: str, verdict: Verdict) -> None:
    found = Finding(area, subject, verdict, "it is not there", "install it")
    assert current.problems([found]) == [f"{area}, {subject}: it is not there → install it"]


@pytest.mark.parametrize(
    ("area", "verdict"), [("disks", Verdict.ERROR), ("stores", Verdict.WARNING), ("snapshots", Verdict.UNKNOWN)]
)
def test_what_concerns_others_does_not_stand_in_the_way(area: str, verdict: Verdict) -> None:
    assert current.problems([Finding(area, "another", verdict, "so it is")]) == []


def _class(name: str, default: str | None) -> Object:
    annotations = {"storageclass.kubernetes.io/is-default-class": default} if default else None
    return {"metadata": {"name": name, "annotations": annotations}}


def test_the_default_storage_class_is_taken() -> None:
    classes = (_class("slow", None), _class("old", "false"), _class("fast", "true"))
    assert current.default_class(Observation(storage_classes=classes)) == "fast"
    assert current.default_class(Observation(storage_classes=classes[:2])) == ""


def test_the_question_names_the_cluster_and_what_is_made_there() -> None:
    text = current.question("production", _arguments())
    for named in (
        "production",
        "namespace longboat-demo",
        "StorageClass fast",
        "kill the operator's pod in longboat-system",
    ):
        assert named in text


@pytest.mark.parametrize(("answer", "terminal"), [("y", True), ("", True), ("yes", False)])
def test_nothing_happens_without_a_yes_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, answer: str, terminal: bool
) -> None:
    asked = _asked(monkeypatch, answer, terminal)
    with pytest.raises(ClusterError):
        current.place(_arguments())
    assert asked == [["config", "current-context"]]


def _asked(monkeypatch: pytest.MonkeyPatch, answer: str, terminal: bool) -> list[list[str]]:
    """Replace kubectl and the terminal; return the list that gets each call of kubectl."""
    calls: list[list[str]] = []

    def kubectl(*arguments: str, stdin: str | None = None) -> str:
        calls.append([*arguments])
        return "production\n"

    monkeypatch.setattr(current, "_kubectl", kubectl)
    monkeypatch.setattr(current.shutil, "which", lambda _: "/usr/bin/kubectl")
    monkeypatch.setattr(current.sys.stdin, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    monkeypatch.setattr(current, "connect", lambda *_: pytest.fail("the cluster was looked at"))
    return calls

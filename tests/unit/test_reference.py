"""The reference pages name everything that users can come across."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from longboat.__main__ import ROLES

TOP = Path(__file__).parents[2]
SOURCE = TOP / "operator/longboat"
REFERENCE = TOP / "docs/reference"
# Calls whose first argument is a reason, and classes whose attribute `reason` is one.
CALLS = {"Problem", "StoreProblemError", "Failure"}
# Written with what they describe.
ELSEWHERE = {
    "docs/README.md: reference/repository-format.md",
    "docs/explanation/architecture.md: ../reference/repository-format.md",
}
INTERNAL = {"ObjectNotFound", "ObjectExists", "PreconditionFailed"}


def _reasons() -> Iterator[str]:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            yield from _reasons_of(node)


def _reasons_of(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in CALLS:
        given = [*node.args[:1], *(keyword.value for keyword in node.keywords if keyword.arg == "reason")]
        yield from (str(each.value) for each in given if isinstance(each, ast.Constant))
    if isinstance(node, ast.ClassDef):
        for statement in node.body:
            is_reason = isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "reason"
            if is_reason and isinstance(statement.value, ast.Constant):
                yield str(statement.value.value)


def test_every_reason_is_explained() -> None:
    page = (REFERENCE / "conditions.md").read_text()
    reasons = {each for each in _reasons() if re.fullmatch("[A-Z][A-Za-z]+", each)} - INTERNAL
    assert len(reasons) > 40
    assert sorted(each for each in reasons if f"`{each}`" not in page) == []


def test_every_label_and_annotation_is_listed() -> None:
    page = (REFERENCE / "labels-and-annotations.md").read_text()
    keys = set()
    for path in SOURCE.rglob("*.py"):
        keys |= set(re.findall(r"\"(longboat\.dev/[a-z-]+)\"", path.read_text()))
    assert len(keys) > 10
    assert sorted(key for key in keys if f"`{key}`" not in page) == []


def test_every_command_is_listed() -> None:
    page = (REFERENCE / "commands.md").read_text()
    assert [role for role in ROLES if f"`longboat {role}" not in page] == []


def test_links_of_the_documentation_lead_somewhere() -> None:
    pages = [*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md"), *(TOP / "tests").rglob("README.md")]
    lost = {f"{page.relative_to(TOP)}: {link}" for page in pages for link in _lost_links(page)}
    assert lost - ELSEWHERE == set()


def _lost_links(page: Path) -> list[str]:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    local = (link for link in links if not re.match(r"[a-z]+:", link) and "…" not in link)
    return [link for link in local if not (page.parent / link).exists()]

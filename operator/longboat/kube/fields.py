"""Field selectors: which objects of a list are wanted, by what they say in their spec and status.

Those of our kinds that can be asked for are in the CRDs (``selectable``). An API server that does not know them, before
Kubernetes 1.31, refuses; then the whole list is read and what is not wanted is left out here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Object = dict[str, Any]


def matches(obj: Object, fields: Iterable[str]) -> bool:
    """Return whether an object is selected by all of the fields, each "path=value" or "path!=value"."""
    return all(_matches(obj, field) for field in fields)


def _matches(obj: Object, field: str) -> bool:
    path, _, value = field.partition("=")
    wanted = not path.endswith("!")
    return (_value(obj, path.removesuffix("!")) == value) is wanted


def _value(obj: Any, path: str) -> str:
    """Return what a field says; one that is absent is empty to selectors."""
    for step in path.split("."):
        obj = (obj or {}).get(step)
    return "" if obj is None else str(obj).lower() if isinstance(obj, bool) else str(obj)

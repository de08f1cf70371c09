"""What stands in the way of a request, in the form of a condition."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A reason (constant, CamelCase) and a message that names object, field, what was expected and the remedy.

    ``final`` says that no change of the surroundings can help: only another object with another spec can. ``passing``
    says that it is a store that does not answer, so that it is not known yet what it holds.
    """

    reason: str
    message: str
    final: bool = False
    passing: bool = False

"""Deletion: named by the failures that each test prevents."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longboat.plan.deletion import Act, Facts, decide, gave_up

FACTS = Facts(
    has_data=True,
    tombstoned=False,
    namespace_going=False,
    kind_going=False,
    answer=None,
    age=timedelta(seconds=5),
    deletions=1,
    limit=10,
    hold=False,
)


@pytest.mark.parametrize(
    ("changes", "act"),
    [
        ({}, Act.BURY),
        ({"has_data": False}, Act.RELEASE),
        ({"tombstoned": True, "deletions": 99}, Act.RELEASE),
        ({"namespace_going": True}, Act.RELEASE),
        ({"kind_going": True}, Act.RELEASE),
        ({"age": timedelta(seconds=1)}, Act.WAIT),
        ({"deletions": 10}, Act.BURY),
        ({"deletions": 11}, Act.HOLD),
        ({"deletions": 11, "answer": "true"}, Act.BURY),
        ({"deletions": 11, "answer": "false"}, Act.RELEASE),
        ({"deletions": 11, "answer": "perhaps"}, Act.HOLD),
        ({"deletions": 11, "answer": "true", "namespace_going": True}, Act.RELEASE),
        ({"hold": True}, Act.HOLD),
        ({"hold": True, "tombstoned": True}, Act.HOLD),
        ({"hold": True, "answer": "true"}, Act.BURY),
        ({"hold": True, "answer": "true", "tombstoned": True}, Act.RELEASE),
        ({"hold": True, "answer": "false"}, Act.RELEASE),
        ({"hold": True, "answer": "perhaps"}, Act.HOLD),
        ({"hold": True, "has_data": False}, Act.RELEASE),
        ({"hold": True, "namespace_going": True}, Act.RELEASE),
        ({"hold": True, "kind_going": True}, Act.RELEASE),
    ],
)
def test_decisions(changes: dict[str, object], act: Act) -> None:
    assert decide(replace(FACTS, **changes)).act is act  # type: ignore[arg-type]


histories = st.builds(
    lambda data, count, answer: replace(FACTS, has_data=data, deletions=count, answer=answer),
    st.booleans(),
    st.integers(0, 50),
    st.sampled_from([None, "true", "false"]),
)


@given(histories)
def test_nothing_is_removed_while_namespace_or_kind_goes(facts: Facts) -> None:
    assert decide(replace(facts, namespace_going=True)).act is Act.RELEASE
    assert decide(replace(facts, kind_going=True)).act is Act.RELEASE


def test_a_held_deletion_says_how_to_answer_it() -> None:
    message = decide(replace(FACTS, deletions=12)).message
    assert 'longboat.dev/confirm-deletion="true"' in message
    assert 'longboat.dev/confirm-deletion="false"' in message


def test_what_is_on_hold_says_how_it_goes_nevertheless() -> None:
    verdict = decide(replace(FACTS, hold=True))
    assert verdict.reason == "OnHold"
    assert "spec.hold to false" in verdict.message
    assert 'longboat.dev/confirm-deletion="true"' in verdict.message
    assert 'longboat.dev/confirm-deletion="false"' in verdict.message


def test_giving_up_keeps_the_data_and_says_so() -> None:
    verdict = gave_up("StoreUnreachable: no answer")
    assert verdict.act is Act.RELEASE
    assert "stays in the store" in verdict.message

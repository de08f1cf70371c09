"""Sizes as Kubernetes writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longboat.plan.quantities import bytes_of, quantity_of, size_text


@pytest.mark.parametrize(
    ("text", "size"),
    [("1Gi", 1 << 30), ("1.5Gi", 3 << 29), ("2G", 2_000_000_000), ("1e3", 1000), ("128974848", 128974848), ("5k", 5000),
     ("1E", 10**18), ("1500m", 2)],
)  # fmt: skip
def test_a_size_is_read_as_kubernetes_means_it(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "1gi", "-1", "ten"])
def test_what_is_no_size_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        bytes_of(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, None), (0, "0"), (1023, "1023"), (1024, "1Ki"), (41_492_250, "39.6Mi"), (576 << 20, "576Mi"),
     ((1 << 20) - 1, "1Mi"), ((100 << 10) - 1, "100Ki"), (3 << 29, "1.5Gi"), (1 << 60, "1Ei"), (1 << 70, "1024Ei")],
)  # fmt: skip
def test_a_size_in_a_table_is_short(size: int | None, text: str | None) -> None:
    assert size_text(size) == text


@given(st.integers(0, 1 << 60))
def test_a_size_in_a_table_is_right_to_the_digits_shown(size: int) -> None:
    text = size_text(size) or ""
    assert len(text) <= 6 and abs(bytes_of(text) - size) <= size * 0.05


@given(st.integers(0, 1 << 60))
def test_no_byte_is_lost_on_the_way(size: int) -> None:
    assert bytes_of(quantity_of(size)) == size

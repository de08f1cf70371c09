"""Sizes as Kubernetes writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longboat.plan.quantities import bytes_of, quantity_of


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


@given(st.integers(0, 1 << 60))
def test_no_byte_is_lost_on_the_way(size: int) -> None:
    assert bytes_of(quantity_of(size)) == size

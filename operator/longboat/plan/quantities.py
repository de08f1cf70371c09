"""Sizes as Kubernetes writes them."""

from __future__ import annotations

import re
from decimal import Decimal

_UNITS = {
    "": 1,
    "m": Decimal("0.001"),
    **{unit: 1000**power for power, unit in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{unit: 1024**power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
}
_QUANTITY = re.compile(r"^([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE]([+-]?[0-9]{1,3})|([A-Za-z]*))$")


def bytes_of(quantity: str | int) -> int:
    """Return a quantity of bytes, rounded up; raise ValueError naming a text that is none.

    >>> bytes_of("1.5Gi"), bytes_of("1e3"), bytes_of(7)
    (1610612736, 1000, 7)
    """
    match = _QUANTITY.match(str(quantity))
    if match is None or (match[3] or "") not in _UNITS:
        raise ValueError(f"{quantity!r} is not a size in bytes, such as 10Gi")
    exact = Decimal(match[1]) * (Decimal(10) ** int(match[2]) if match[2] else _UNITS[match[3] or ""])
    return int(exact.to_integral_value(rounding="ROUND_CEILING"))


def size_text(size: int | None) -> str | None:
    """Return bytes as people read them in tables: about three digits, in the unit that fits; None for None.

    >>> size_text(603979776), size_text(41492250), size_text(1000)
    ('576Mi', '39.6Mi', '1000')
    """
    if size is None or size < 1024:
        return None if size is None else str(size)
    for unit in ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"):
        count = size / int(_UNITS[unit])
        text = f"{count:.1f}".removesuffix(".0") if count < 99.95 else f"{count:.0f}"
        # What is rounded up to 1024 of a unit is one of the next.
        if float(text) < 1024:
            break
    return f"{text}{unit}"


def quantity_of(size: int) -> str:
    """Return bytes as a quantity, in the largest binary unit that is exact.

    >>> quantity_of(3 << 30), quantity_of(1000)
    ('3Gi', '1000')
    """
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        factor = int(_UNITS[unit])
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)

"""A cache that is bounded by what its values weigh, not by how many they are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class WeightedCache(Generic[K, V]):
    """The values used last, up to `capacity` bytes; safe to use from many threads."""

    def __init__(self, capacity: int) -> None:
        """Make an empty cache."""
        self.capacity, self.weight = capacity, 0
        self._items: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: K) -> V | None:
        """Return a value, which counts as used now, or None."""
        with self._lock:
            if key not in self._items:
                return None
            self._items.move_to_end(key)
            return self._items[key][0]

    def put(self, key: K, value: V, weight: int) -> None:
        """Keep a value of so many bytes, and drop what was used longest ago; one that is too large is not kept."""
        with self._lock:
            self.weight += weight - self._items.pop(key, (value, 0))[1]
            self._items[key] = value, weight
            while self.weight > self.capacity:
                self.weight -= self._items.popitem(last=False)[1][1]

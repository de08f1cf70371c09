"""Faults that tests put into the driver while it runs: one small JSON file each, in `faults/` of the state folder.

The driver reads the folder at every call; README.md documents the fields. `Faults` is the side of the tests.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path

import grpc

from tests.cluster.csi.errors import CsiError

PHASES = ("before", "after", "midway")
LIES = ("", "omit", "nothing", "outside", "backwards")
MATCHES = ("name", "volume", "claim", "object")

Midway = Callable[[Iterable[tuple[int, int]], int], Iterator[tuple[int, int]]]
"""What becomes of the ranges of a stream of block metadata, of a volume of so many bytes, on their way."""


@dataclass(frozen=True)
class Fault:
    """What shall go wrong. `times` counts the calls it hits; 0 means every call.

    A stream of block metadata fails `midway`, after so many `ranges`, or has a `lie` told in it.
    """

    operation: str
    phase: str = "before"
    delay: float = 0.0
    code: str = ""
    message: str = ""
    ready: bool = True
    times: int = 0
    match: dict[str, str] = field(default_factory=dict)
    ranges: int = 0
    lie: str = ""

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise ValueError(f"fault.phase: expected one of {PHASES}, got {self.phase!r}")
        if self.code and self.code not in grpc.StatusCode.__members__:
            raise ValueError(f"fault.code: expected a gRPC status like RESOURCE_EXHAUSTED, got {self.code!r}")
        if self.lie not in LIES:
            raise ValueError(f"fault.lie: expected one of {LIES}, got {self.lie!r}")
        if not set(self.match) <= set(MATCHES):
            raise ValueError(f"fault.match: expected keys out of {MATCHES}, got {sorted(self.match)}")

    def fits(self, operation: str, phase: str, subject: Mapping[str, str]) -> bool:
        """Whether this call is meant: each pattern of `match` is a shell glob over that part of the subject."""
        if (self.operation, self.phase) != (operation, phase):
            return False
        return all(fnmatchcase(subject.get(key, ""), pattern) for key, pattern in self.match.items())


def _read(path: Path) -> Fault:
    known = {each.name for each in fields(Fault)}
    values = json.loads(path.read_text())
    if not set(values) <= known:
        raise ValueError(f"{path.name}: expected fields out of {sorted(known)}, got {sorted(values)}")
    return Fault(**values)


class Faults:
    """The faults of a driver, from outside: `Faults(state).inject("no-space", operation="CreateSnapshot", …)`."""

    def __init__(self, state: Path) -> None:
        """`state`: the folder given to the driver as --state, seen from here."""
        self._folder = state / "faults"
        self._used = self._folder / "used"

    def inject(
        self,
        name: str,
        *,
        operation: str,
        phase: str = "before",
        delay: float = 0.0,
        code: str = "",
        message: str = "",
        ready: bool = True,
        times: int = 0,
        match: Mapping[str, str] | None = None,
        ranges: int = 0,
        lie: str = "",
    ) -> None:
        """Puts a fault in place, at once, replacing one of the same name; raises ValueError for one that cannot be."""
        fault = Fault(operation, phase, delay, code, message, ready, times, dict(match or {}), ranges, lie)
        self._used.mkdir(parents=True, exist_ok=True)
        (self._used / name).unlink(missing_ok=True)
        draft = self._folder / f".{name}.tmp"
        draft.write_text(json.dumps(asdict(fault)))
        draft.rename(self._folder / f"{name}.json")

    def used(self, name: str) -> int:
        """How many calls the fault has hit so far."""
        try:
            return int((self._used / name).read_text())
        except FileNotFoundError:
            return 0

    def remove(self, name: str) -> None:
        """Calls that it holds up already stay held up."""
        (self._folder / f"{name}.json").unlink(missing_ok=True)

    def clear(self) -> None:
        for path in [*self._folder.glob("*.json"), *self._used.glob("*")]:
            path.unlink(missing_ok=True)

    def all(self) -> dict[str, Fault]:
        """The faults in place, by name; raises ValueError for a file that is no fault."""
        found = {}
        for path in sorted(self._folder.glob("*.json")):
            try:
                found[path.stem] = _read(path)
            except FileNotFoundError:
                continue
        return found

    def count(self, name: str) -> None:
        self._used.mkdir(parents=True, exist_ok=True)
        draft = self._folder / f".{name}.used.tmp"
        draft.write_text(str(self.used(name) + 1))
        draft.rename(self._used / name)


class Injector:
    """The side of the driver: asked at the set points of every operation."""

    def __init__(self, state: Path, sleep: Callable[[float], None] = time.sleep) -> None:
        self._faults, self._sleep = Faults(state), sleep
        self._counting = threading.Lock()

    def before(self, operation: str, **subject: str) -> None:
        """At the start of a call: may sleep, and may raise CsiError."""
        self._meet(operation, "before", subject)

    def after(self, operation: str, **subject: str) -> None:
        """When the work is done and the answer is not yet sent; only in the call that did the work."""
        self._meet(operation, "after", subject)

    def midway(
        self, operation: str, subject: Mapping[str, str], ranges: Iterable[tuple[int, int]], size: int
    ) -> Iterator[tuple[int, int]]:
        """The ranges of a stream as faults make them; may raise CsiError in their midst."""
        for name, fault in self._faults.all().items():
            if fault.fits(operation, "midway", subject) and self._take(name, fault):
                ranges = self._disturbed(name, fault, told(fault.lie, ranges, size))
        return iter(ranges)

    def _disturbed(self, name: str, fault: Fault, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        for number, each in enumerate(ranges):
            if number == fault.ranges:
                self._strike(name, fault)
            yield each

    def ready(self, **subject: str) -> bool:
        """Whether a snapshot is to be called ready to use, as long as a fault does not say otherwise."""
        faults = self._faults.all().values()
        return not any(each.fits("CreateSnapshot", "before", subject) and not each.ready for each in faults)

    def _meet(self, operation: str, phase: str, subject: Mapping[str, str]) -> None:
        for name, fault in self._faults.all().items():
            if fault.fits(operation, phase, subject) and fault.ready and self._take(name, fault):
                self._strike(name, fault)

    def _take(self, name: str, fault: Fault) -> bool:
        with self._counting:
            if fault.times and self._faults.used(name) >= fault.times:
                return False
            self._faults.count(name)
            return True

    def _strike(self, name: str, fault: Fault) -> None:
        if fault.delay:
            self._sleep(fault.delay)
        if fault.code:
            raise CsiError(grpc.StatusCode[fault.code], fault.message or f"fault {name!r} put in by a test")


def told(lie: str, ranges: Iterable[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """What a lying tracker makes of the ranges of a volume of `size` bytes."""
    match lie:
        case "omit":
            # The second, the fourth, …: what is left looks as if it were all.
            yield from (each for number, each in enumerate(ranges) if number % 2 == 0)
        case "nothing":
            return
        case "outside":
            yield from ranges
            yield size, size + 4096
        case "backwards":
            yield from reversed(list(ranges))
        case _:
            yield from ranges

"""What is read of a disk, page by page: pure arithmetic on ranges, without any I/O.

A span is a stretch of whole blocks, at most a segment long and within one page; only the disk's last block may be cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

_AUDIT_SPAN = 256 << 10  # An audit reads stretches of about this many bytes,
_AUDIT_DENSITY = 10  # in one page out of so many at a small share, so that few pages of the parent have to be fetched,
_AUDIT_PAGES = 16  # but of a small disk's pages at least about so many.


class Span(NamedTuple):
    """Bytes to read, and whether they are read only to see that they are what they are believed to be (`audit`).

    What is stored `anew` although nobody reports it as changed has to be that as well.
    """

    offset: int
    length: int
    audit: bool = False
    anew: bool = False


class PagePlan(NamedTuple):
    """What is read of one page; spans don't overlap."""

    number: int
    spans: list[Span]


def plan_pages(
    size: int, page_bytes: int, segment: int, block: int, ranges: Iterable[tuple[int, int]]
) -> Iterator[PagePlan]:
    """Yield every page of a disk of `size` bytes with the spans that cover the ranges, in order.

    `ranges` are (start, end) in ascending order. A page is a multiple of a segment, a segment one of a block.
    """
    page, spans, following = 0, list[Span](), 0
    for start, end in ranges:
        at, until = max(start // block * block, following), min(-(-end // block) * block, size)
        following = max(following, -(-end // block) * block)
        while at < until:
            stop = min((at // segment + 1) * segment, until)
            while page < at // page_bytes:
                yield PagePlan(page, spans)
                page, spans = page + 1, []
            _append(spans, at, stop, segment)
            at = stop
    while page < -(-size // page_bytes):
        yield PagePlan(page, spans)
        page, spans = page + 1, []


def _append(spans: list[Span], start: int, end: int, segment: int) -> None:
    # What follows without a gap in the same segment is read in one go.
    if spans and spans[-1].offset + spans[-1].length == start and start % segment:
        start = spans.pop().offset
    spans.append(Span(start, end - start))


class Auditor:
    """Chooses at random what to read of the blocks that nobody reports as changed."""

    def __init__(self, share: float, pages: int, block: int, chance: Callable[[], float]) -> None:
        """Choose about `share` (0 to 1) of the bytes of a disk of so many pages; `chance` is uniform in [0, 1)."""
        self._of_pages = min(1.0, max(_AUDIT_DENSITY * share, min(1.0, _AUDIT_PAGES / max(1, pages)))) if share else 0.0
        self._of_spans = share / self._of_pages if share else 0.0
        self._step = max(block, _AUDIT_SPAN // block * block)
        self._chance = chance

    def extend(self, plan: PagePlan, page_start: int, page_end: int) -> PagePlan:
        """Return the plan with audits of what it leaves out."""
        if not self._of_pages or self._chance() >= self._of_pages:
            return plan
        audits = [span for span in self._gaps(plan, page_start, page_end) if self._chance() < self._of_spans]
        return PagePlan(plan.number, sorted([*plan.spans, *audits])) if audits else plan

    def _gaps(self, plan: PagePlan, page_start: int, page_end: int) -> Iterator[Span]:
        at = page_start
        for span in [*plan.spans, Span(page_end, 0)]:
            for start in range(at, span.offset, self._step):
                yield Span(start, min(self._step, span.offset - start), audit=True)
            at = span.offset + span.length


def with_blocks(
    plan: PagePlan, blocks: Iterable[int], page_start: int, block: int, segment: int, size: int
) -> PagePlan:
    """Return the plan with further blocks (numbers within the page) that are to be stored, whatever was planned."""
    wanted = {page_start + number * block for number in blocks}
    for span in plan.spans:
        wanted -= set(range(span.offset, span.offset + span.length, block)) if not span.audit else set()
    if not wanted:
        return plan
    kept = [part for span in plan.spans for part in ([span] if not span.audit else _left(span, wanted, block))]
    more = list[Span]()
    for offset in sorted(wanted):
        if offset < size:
            _append(more, offset, min(offset + block, size), segment)
    return PagePlan(plan.number, sorted([*kept, *(span._replace(anew=True) for span in more)]))


def _left(audit: Span, wanted: set[int], block: int) -> Iterator[Span]:
    """Yield what is left of an audit without some blocks: of the others it tells as much as before."""
    start, end = audit.offset, audit.offset + audit.length
    for offset in sorted(wanted.intersection(range(start, end, block))):
        if start < offset:
            yield audit._replace(offset=start, length=offset - start)
        start = offset + block
    if start < end:
        yield audit._replace(offset=start, length=end - start)

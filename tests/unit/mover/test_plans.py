"""The pure parts of both pipelines: which segments are read, which ranges are fetched, which runs are written."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from longboat.mover.read_plan import Auditor, PagePlan, Span, plan_pages, with_blocks
from longboat.mover.restore_plan import (
    MAX_GAP,
    MAX_RANGE,
    BlockTarget,
    block_runs,
    coalesce,
    hole_runs,
    merged,
    steps,
)
from longboat.repository.pages import FrameRef, build_page

BLOCK, SEGMENT, PAGE = 4, 16, 64
SIZES = st.integers(0, 1000)
EDGES = st.lists(st.integers(0, 1000), max_size=20)


def ranges_of(size: int, edges: list[int]) -> list[tuple[int, int]]:
    """Return ascending ranges within a disk, some of them touching."""
    cuts = sorted(min(edge, size) for edge in edges)
    return [(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False) if a < b]


def bytes_of(spans: Iterable[Span]) -> list[int]:
    return [byte for span in spans for byte in range(span.offset, span.offset + span.length)]


@given(SIZES, EDGES)
def test_every_byte_of_data_is_read_once_and_every_page_comes_once(size: int, edges: list[int]) -> None:
    ranges = ranges_of(size, edges)
    plan = list(plan_pages(size, PAGE, SEGMENT, BLOCK, ranges))
    assert [page.number for page in plan] == list(range(-(-size // PAGE)))
    read = bytes_of(span for page in plan for span in page.spans)
    assert read == sorted(set(read))
    assert {byte for start, end in ranges for byte in range(start, end)} <= set(read)
    for number, spans in plan:
        for span in spans:
            assert span.offset % BLOCK == 0 and (span.length % BLOCK == 0 or span.offset + span.length == size)
            assert span.offset // SEGMENT == (span.offset + span.length - 1) // SEGMENT
            assert span.offset // PAGE == number
    # Nothing is read that shares no block with a range.
    blocks = {byte // BLOCK for start, end in ranges for byte in range(start, end)}
    assert {byte // BLOCK for byte in read} == blocks


@given(SIZES, EDGES, st.sampled_from([0.0, 0.01, 0.3, 1.0]), st.randoms(use_true_random=False))
def test_audits_are_of_what_is_not_read_anyway(size: int, edges: list[int], share: float, random: Random) -> None:
    auditor = Auditor(share, -(-size // PAGE), BLOCK, random.random)
    for plan in plan_pages(size, PAGE, SEGMENT, BLOCK, ranges_of(size, edges)):
        end = min(size, (plan.number + 1) * PAGE)
        audited = auditor.extend(plan, plan.number * PAGE, end)
        assert [span for span in audited.spans if not span.audit] == plan.spans
        read = bytes_of(audited.spans)
        assert read == sorted(set(read))
        if share == 1.0:
            assert read == list(range(plan.number * PAGE, end))
        if share == 0.0:
            assert audited == plan


def test_about_the_asked_share_is_audited() -> None:
    pages, page = 400, 256 << 20
    auditor = Auditor(0.01, pages, 64 << 10, Random(7).random)
    plans = (auditor.extend(PagePlan(n, []), n * page, (n + 1) * page) for n in range(pages))
    audited = [sum(span.length for span in plan.spans) for plan in plans]
    assert 0.005 < sum(audited) / (pages * page) < 0.02
    # The parent's map is fetched for few pages only.
    assert sum(map(bool, audited)) < pages / 4


@given(SIZES, EDGES, st.sets(st.integers(0, PAGE // BLOCK - 1)), st.randoms(use_true_random=False))
def test_blocks_that_have_to_be_read_are_read_once_and_not_audited(
    size: int, edges: list[int], wanted: set[int], random: Random
) -> None:
    auditor = Auditor(0.5, 1, BLOCK, random.random)
    for plan in plan_pages(size, PAGE, SEGMENT, BLOCK, ranges_of(size, edges)):
        start = plan.number * PAGE
        audited = auditor.extend(plan, start, min(size, start + PAGE))
        spans = with_blocks(audited, wanted, start, BLOCK, SEGMENT, size).spans
        assert all(span.length <= SEGMENT for span in spans if not span.audit)
        assert bytes_of(spans) == sorted(set(bytes_of(spans)))
        read = set(bytes_of(span for span in spans if not span.audit))
        # What was to be checked is checked, as an audit or as what is stored anew: both are compared.
        compared = set(bytes_of(span for span in spans if span.audit or span.anew))
        assert set(bytes_of(span for span in audited.spans if span.audit)) <= compared
        assert read - compared == set(bytes_of(plan.spans))
        assert {start + n * BLOCK for n in wanted if start + n * BLOCK < size} <= read


LENGTHS = st.lists(st.tuples(st.integers(0, 2 * MAX_GAP), st.integers(28, MAX_RANGE // 3)), min_size=1, max_size=20)


@given(LENGTHS, st.integers(1, 3))
def test_neighbouring_frames_are_fetched_together_within_bounds(lengths: list[tuple[int, int]], packs: int) -> None:
    frames, at = [], 48
    for number, (gap, length) in enumerate(lengths):
        frames.append(FrameRef(bytes([number % packs]) * 16, at + gap, length, 1))
        at += gap + length
    fetches = list(coalesce({frame: [] for frame in reversed(frames)}))
    assert sorted(frame for fetch in fetches for frame, _ in fetch.frames) == sorted(frames)
    for fetch in fetches:
        assert {frame.pack for frame, _ in fetch.frames} == {fetch.pack}
        assert fetch.length <= MAX_RANGE
        for (one, _), (two, _) in zip(fetch.frames, fetch.frames[1:], strict=False):
            assert 0 <= two.offset - one.offset - one.length <= MAX_GAP


def test_overlapping_frames_of_a_hostile_map_are_fetched_apart() -> None:
    one, two = FrameRef(b"p" * 16, 48, 100, 1), FrameRef(b"p" * 16, 60, 100, 1)
    assert len(list(coalesce({one: [], two: []}))) == 2


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_hole_runs_are_the_blocks_without_a_place(data: list[bool]) -> None:
    frame = FrameRef(b"p" * 16, 48, 100, 1)
    page = build_page(bytes(16 * len(data)), [(frame, 0) if there else None for there in data])
    holes = [block for first, count in hole_runs(page, len(data)) for block in range(first, first + count)]
    assert holes == [index for index, there in enumerate(data) if not there]
    assert list(hole_runs(None, 7)) == [(0, 7)]


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 20)), min_size=1, max_size=12, unique=True))
def test_block_runs_write_every_target_once(pairs: list[tuple[int, int]]) -> None:
    targets = sorted(BlockTarget(slot, block, b"") for slot, block in pairs)
    written = [(slot + i, block + i) for slot, block, count in block_runs(targets) for i in range(count)]
    assert sorted(written) == sorted(pairs)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), max_size=12))
def test_touching_runs_are_joined_and_none_is_lost(pairs: list[tuple[int, int]]) -> None:
    runs, at = [], 0
    for gap, count in pairs:
        runs.append((at + gap, count))
        at += gap + count
    joined = list(merged(runs))
    assert [n for start, count in joined for n in range(start, start + count)] == [
        n for start, count in runs for n in range(start, start + count)
    ]
    assert all(start + count < after for (start, count), (after, _) in pairwise(joined))


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 9))
def test_steps_cover_a_range_once(offset: int, length: int, step: int) -> None:
    parts = list(steps(offset, length, step))
    assert [n for at, size in parts for n in range(at, at + size)] == list(range(offset, offset + length))
    assert all(0 < size <= step for _, size in parts)

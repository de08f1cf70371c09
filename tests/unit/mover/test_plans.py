"""The pure parts of both pipelines: which segments are read, which ranges are fetched, which runs are written."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from longboat.mover.export_pipeline import plan_segments
from longboat.mover.restore_pipeline import MAX_GAP, MAX_RANGE, BlockTarget, block_runs, coalesce, hole_runs
from longboat.repository.pages import FrameRef, build_page

SEGMENT, PAGE = 16, 64


@given(st.integers(0, 1000), st.lists(st.integers(0, 1000), max_size=20))
def test_every_byte_of_data_is_read_once_and_every_page_comes_once(size: int, edges: list[int]) -> None:
    cuts = sorted({edge for edge in edges if edge < size})
    ranges = list(zip(cuts[::2], cuts[1::2], strict=False))
    plan = list(plan_segments(size, PAGE, SEGMENT, ranges))
    assert [page for page, _ in plan] == list(range(-(-size // PAGE)))
    offsets = [offset for _, page in plan for offset in page]
    assert offsets == sorted(set(offsets))
    assert all(offset // PAGE == page for page, offsets in plan for offset in offsets)
    read = {byte for offset in offsets for byte in range(offset, offset + SEGMENT)}
    assert all(byte in read for start, end in ranges for byte in range(start, end))
    assert all(any(start < at + SEGMENT and at < end for start, end in ranges) for at in offsets)


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

"""Which frames are read: the published rule, as laws, and the one place where it is bettered."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomvideo.media.frames import (
    even_frames,
    frames_to_read,
    leading_frames,
    reading_stride,
    select_frames,
    whole_stride,
)

TABLES = Path(__file__).parents[3] / "shared" / "golden" / "loomvideo" / "tables.json"

rates = st.floats(1, 240)
counts = st.integers(1, 400)


@given(rates, counts, rates, counts, st.floats(0, 1))
def test_selected_frames_run_forwards_inside_the_clip_and_number_1_plus_4n(fps, count, target_fps, longest, start):
    indices = select_frames(fps, count, target_fps=target_fps, max_frames=longest, clip_start_ratio=start)
    assert indices == sorted(indices)
    assert all(0 <= index < count for index in indices)
    assert len(indices) % 4 == 1
    assert len(indices) <= longest


@given(rates, counts, rates, counts)
def test_a_clip_is_read_from_its_first_frame(fps, count, target_fps, longest):
    assert select_frames(fps, count, target_fps=target_fps, max_frames=longest)[0] == 0
    assert frames_to_read(fps, count, target_fps=target_fps, max_frames=longest)[0] == 0


@given(rates, counts, rates, counts)
def test_a_shorter_clip_gives_the_first_frames_of_a_longer_one(fps, count, target_fps, longest):
    longer = frames_to_read(fps, 10 * count, target_fps=target_fps, max_frames=longest)
    shorter = frames_to_read(fps, count, target_fps=target_fps, max_frames=longest)
    assert shorter == longer[: len(shorter)]


@given(rates, rates, counts)
def test_a_long_clip_gives_all_the_frames_that_were_asked_for(fps, target_fps, longest):
    indices = frames_to_read(fps, 10**9, target_fps=target_fps, max_frames=longest)
    assert len(indices) == whole_stride(longest)


@given(counts)
def test_a_clip_at_the_models_own_rate_is_read_frame_by_frame(count):
    assert frames_to_read(24, count, target_fps=24, max_frames=500) == list(range(whole_stride(count)))


def test_a_slower_clip_repeats_frames_and_a_faster_one_leaves_some_out():
    assert select_frames(12, 3, target_fps=24, max_frames=9) == [0, 0, 1, 2, 2]
    assert select_frames(48, 30, target_fps=24, max_frames=9) == [0, 2, 4, 6, 8, 10, 12, 14, 16]


def test_the_last_start_is_the_one_from_which_the_whole_length_still_fits():
    last = select_frames(24, 100, target_fps=24, max_frames=33, clip_start_ratio=1.0)
    assert last == list(range(67, 100))


def test_rates_of_television_do_not_lose_the_last_four_frames():
    assert len(select_frames(29.97, 400, target_fps=24, max_frames=121)) == 117
    assert len(frames_to_read(29.97, 400, target_fps=24, max_frames=121)) == 121


@pytest.mark.parametrize("bad", [(0, 10, 24, 9), (24, 0, 24, 9), (24, 10, -1, 9), (24, 10, 24, 0)])
def test_numbers_that_are_not_positive_are_named(bad):
    fps, count, target_fps, longest = bad
    with pytest.raises(ValueError, match=f"num_frames={count}, max_frames={longest}"):
        select_frames(fps, count, target_fps=target_fps, max_frames=longest)


def test_every_published_row_is_met():
    if not TABLES.exists():
        pytest.skip(f"the published tables are not at {TABLES.parent.name}/{TABLES.name} beside the repository")
    tables = json.loads(TABLES.read_text())
    for row in tables["load_video_indices"]:
        rule = {"target_fps": row["target_fps"], "max_frames": row["target_num_frames"]}
        assert select_frames(row["video_fps"], row["video_frames"], **rule) == row["indices"], row
    for row in tables["training_read_video_indices"]:
        rule = {"target_fps": row["fps"], "max_frames": row["num_frames"], "clip_start_ratio": row["clip_start_ratio"]}
        assert select_frames(row["video_fps"], row["video_frames"], **rule) == row["indices"], row


@pytest.mark.parametrize("num_frames", [1, 2, 7, 8, 9, 240])
def test_even_frames_span_the_whole_clip_in_order(num_frames):
    indices = even_frames(num_frames, 8)
    assert (len(indices), indices[0], indices[-1]) == (8, 0, num_frames - 1)
    assert indices == sorted(indices)
    assert np.ptp(np.diff(indices)) <= 1


@given(st.integers(1, 300), st.integers(1, 100), st.floats(0.1, 60))
def test_leading_frames_are_evenly_spaced_never_past_the_end_and_1_plus_4n(num_frames, most, step):
    indices = leading_frames(num_frames, most, step)
    assert indices[0] == 0
    assert indices[-1] < num_frames
    assert len(indices) == whole_stride(min(num_frames, most))
    assert len(set(np.diff(indices))) <= 1


@given(st.integers(1, 400), st.integers(1, 100), st.integers(1, 10), st.integers(0, 50))
def test_a_reading_stride_is_the_largest_that_leaves_enough_frames(num_frames, wanted, stride, skip):
    if wanted + skip > num_frames:
        with pytest.raises(ValueError, match="skip fewer"):
            reading_stride(num_frames, wanted, stride, skip=skip)
        return
    found = reading_stride(num_frames, wanted, stride, skip=skip)
    assert 1 <= found <= stride
    assert wanted * found + skip <= num_frames
    assert found == stride or wanted * (found + 1) + skip > num_frames

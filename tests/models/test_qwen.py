"""How pictures and frames are put before the language model."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loomvideo.models.qwen import (
    FrameRule,
    PixelBudget,
    fitted_size,
    patchify,
    picture,
    processor_frames,
    subsample,
    timestamps,
    video,
)

BUDGET = PixelBudget(64 * 64, 256 * 256)
SIDES = st.integers(1, 4000)


@given(SIDES, SIDES, st.integers(1, 8))
def test_a_fitted_size_is_of_whole_merge_blocks_and_inside_the_budget(height, width, num_frames):
    fitted = fitted_size(height, width, BUDGET, num_frames)
    assert all(size >= 32 and size % 32 == 0 for size in fitted)
    narrow = min(fitted) == 32  # a thin picture cannot be shrunk below one block
    assert narrow or num_frames * fitted[0] * fitted[1] <= BUDGET.largest


@given(st.integers(1, 500), st.integers(1, 30), st.integers(1, 6))
def test_subsampling_keeps_order_both_ends_and_enough_frames(num_frames, factor, min_frames):
    kept = subsample(num_frames, FrameRule(factor, min_frames))
    assert kept == sorted(set(kept))
    assert kept[0] == 0
    assert len(kept) == 1 or kept[-1] == num_frames - 1
    assert len(kept) >= min(num_frames, min_frames)


@given(st.integers(16, 121))
def test_the_published_rule_made_safe_never_hands_over_a_single_frame(num_frames):
    assert len(processor_frames(len(subsample(num_frames, FrameRule())))) >= 2


def test_a_clip_of_17_frames_shows_four_of_them_under_the_built_in_rule():
    assert subsample(17, FrameRule(factor=15, min_frames=4)) == [0, 5, 10, 16]
    assert processor_frames(4) == [0, 1, 2, 3]


def test_an_odd_last_frame_is_its_own_pair():
    assert timestamps([0, 1, 2]) == ("<0.0 seconds>", "<0.1 seconds>")


def test_a_single_video_frame_is_refused():
    with pytest.raises(ValueError, match="give it as a picture"):
        processor_frames(1)


def test_patch_rows_stand_in_merge_blocks_and_hold_channel_time_row_column():
    frames = np.random.default_rng(0).integers(0, 256, (4, 64, 96, 3), dtype=np.uint8)
    rows = patchify(frames)
    assert rows.shape == (2 * 4 * 6, 3 * 2 * 16 * 16)
    index = 1 * 24 + (0 * 3 + 1) * 4 + 2  # second frame pair, second block of the first row, its lower left patch
    expected = frames[2:4, 16:32, 32:48].transpose(3, 0, 1, 2).reshape(-1)
    torch.testing.assert_close(rows[index], torch.from_numpy(expected / 127.5 - 1).float(), rtol=0, atol=1e-6)


def test_a_picture_is_two_equal_frames_and_a_clip_of_three_repeats_its_last():
    pixels = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    still = picture(pixels[0], BUDGET)
    assert still.grid == (1, 4, 4)
    torch.testing.assert_close(still.rows, patchify(pixels[[0, 0]]))
    clip = video(pixels, FrameRule(), BUDGET)
    assert clip.grid == (2, 4, 4)
    torch.testing.assert_close(clip.rows, patchify(pixels[[0, 1, 2, 2]]))

"""Boxes for reference pictures, and sizes of reference clips."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loomvideo.media.letterbox import area_size, box_size, cut_corner, letterbox

AREA, MULTIPLE = 407_040, 16
SIDES = st.integers(16, 4000)


@settings(deadline=None)
@given(SIDES, SIDES)
def test_a_box_is_of_multiples_and_as_near_to_the_area_as_its_ratio_lets_it(height, width):
    box = box_size(height, width, AREA, MULTIPLE)
    assert all(side % MULTIPLE == 0 and side > 0 for side in box)
    if max(height, width) < 4 * min(height, width):
        assert box[0] * box[1] == pytest.approx(AREA, rel=0.05)
        assert box[1] / box[0] == pytest.approx(width / height, rel=0.3)


@pytest.mark.parametrize("size", [(480, 848), (30, 53), (333, 1000)])
def test_nothing_of_a_picture_is_cut_and_the_rest_is_white_on_both_sides_alike(size):
    boxed = letterbox(np.zeros((*size, 3), np.uint8), AREA, MULTIPLE)
    assert boxed.shape[:2] == box_size(*size, AREA, MULTIPLE)
    dark = (boxed < 128).all(axis=-1)
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    assert width / height == pytest.approx(size[1] / size[0], rel=0.02)
    assert (height, width)[0] == boxed.shape[0] or (height, width)[1] == boxed.shape[1]
    assert abs(rows[0] - (boxed.shape[0] - 1 - rows[-1])) <= 1
    assert abs(columns[0] - (boxed.shape[1] - 1 - columns[-1])) <= 1
    assert (boxed[~dark] == 255).all()


def test_a_picture_of_the_boxs_own_size_stays_as_it_is():
    picture = np.random.default_rng(0).integers(0, 256, (80, 96, 3), dtype=np.uint8)
    assert np.array_equal(letterbox(picture, 80 * 96, MULTIPLE), picture)


@given(SIDES, SIDES)
def test_a_clip_keeps_its_ratio_at_the_area_asked_for(height, width):
    scaled = area_size(height, width, AREA)
    if min(scaled) > 50:
        assert scaled[0] * scaled[1] == pytest.approx(AREA, rel=0.02)
        assert scaled[1] / scaled[0] == pytest.approx(width / height, rel=0.02)


def test_the_corner_stays_where_a_clip_is_cut():
    frames = np.arange(2 * 20 * 40 * 3).reshape(2, 20, 40, 3)
    assert np.array_equal(cut_corner(frames, MULTIPLE), frames[:, :16, :32])

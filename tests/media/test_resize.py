"""Cover and crop: the picture fills the target, keeps its ratio and stays in the middle."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loomvideo.media import resize
from loomvideo.media.resize import cover_crop, cover_size, ratio_crop_size

sides = st.integers(16, 2000)


@given(sides, sides, sides, sides)
def test_the_resized_picture_covers_the_target_and_touches_two_of_its_sides(width, height, target_width, target_height):
    resized_height, resized_width, top, left = cover_size(width, height, target_width, target_height)
    assert resized_height == target_height or resized_width == target_width
    assert resized_height >= target_height
    assert resized_width >= target_width
    assert 0 <= top <= resized_height - target_height
    assert 0 <= left <= resized_width - target_width
    assert abs(2 * top - (resized_height - target_height)) <= 1
    assert abs(2 * left - (resized_width - target_width)) <= 1


@given(st.integers(16, 60), st.integers(16, 60))
def test_a_picture_of_the_right_size_stays_as_it_is(height, width):
    picture = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    np.testing.assert_array_equal(cover_crop(picture, height, width), picture)


def test_a_clip_is_resized_frame_by_frame():
    clip = np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), np.uint8)
    resized = cover_crop(clip, 20, 24)
    assert resized.shape == (3, 20, 24, 3)
    np.testing.assert_array_equal(resized[1], cover_crop(clip[1], 20, 24))


def test_halves_are_rounded_to_even_offsets():
    assert cover_size(1000, 1000, 511, 513) == (513, 513, 0, 1)
    assert cover_size(1920, 1080, 832, 480) == (480, 853, 0, 10)


def test_a_strip_that_covers_a_tall_target_never_becomes_enormous(monkeypatch):
    ramp = np.linspace(0, 255, 16 * 200).reshape(16, 200)[..., None].repeat(3, axis=2).astype(np.uint8)
    exact = cover_crop(ramp, 128, 64)
    monkeypatch.setattr(resize, "MAX_RESIZED_PIXELS", 1000)
    np.testing.assert_allclose(cover_crop(ramp, 128, 64), exact, atol=2)


@given(sides, sides, sides, sides)
def test_a_ratio_crop_is_inside_the_picture_touches_two_sides_and_has_the_target_s_ratio(height, width, rows, columns):
    cropped_height, cropped_width = ratio_crop_size(height, width, rows, columns)
    assert cropped_height <= height
    assert cropped_width <= width
    assert cropped_height == height or cropped_width == width
    assert abs(cropped_height * columns - cropped_width * rows) < max(rows, columns)  # less than a pixel

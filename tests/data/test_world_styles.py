"""Whole-clip styles against the formulas of the world sheet in double precision."""

import numpy as np
import pytest
from scipy import ndimage

from loomvideo.data.world.styles import PICTURE_STYLES, STYLES, apply_style

LINEAR = {
    "black and white": [[0.2126, 0.7152, 0.0722]] * 3,
    "sepia": [[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]],
    "brighter": np.eye(3) * 1.4,
    "darker": np.eye(3) * 0.6,
    "warmer": np.diag([1.15, 1, 0.85]),
    "colder": np.diag([0.85, 1, 1.15]),
}


@pytest.fixture
def clip():
    return np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("style", LINEAR)
def test_a_colour_style_is_its_matrix_clipped(style, clip):
    expected = np.clip(clip / 255 @ np.asarray(LINEAR[style]).T, 0, 1) * 255
    assert np.abs(apply_style(clip, style) - expected).max() <= 0.5 + 1e-3


def test_inverting_twice_gives_the_clip_back(clip):
    np.testing.assert_array_equal(apply_style(clip, "inverted"), 255 - clip)


def test_mirroring_turns_left_to_right_and_backwards_turns_time(clip):
    np.testing.assert_array_equal(apply_style(clip, "mirrored"), clip[:, :, ::-1])
    np.testing.assert_array_equal(apply_style(clip, "played backwards"), clip[::-1])


def test_blur_is_a_gaussian_of_two_percent_of_the_shorter_side_in_each_frame(clip):
    expected = np.stack([ndimage.gaussian_filter(frame / 255, (0.96, 0.96, 0), mode="nearest") for frame in clip]) * 255
    assert np.abs(apply_style(clip, "blurred") - expected).max() <= 0.51


@pytest.mark.parametrize(
    ("height", "width", "block"), [(48, 64, 3), (128, 128, 8), (50, 70, 3), (96, 160, 6), (8, 9, 1)]
)
def test_pixels_become_block_means_of_a_sixteenth_of_the_shorter_side(height, width, block):
    clip = np.random.default_rng(1).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    mosaic = apply_style(clip, "pixelated")
    for top in range(0, height, block):
        for left in range(0, width, block):
            part = np.s_[:, top : top + block, left : left + block]
            assert np.abs(mosaic[part] - clip[part].mean(axis=(1, 2), keepdims=True)).max() <= 0.51


@pytest.mark.parametrize("style", STYLES)
def test_a_style_keeps_shape_and_type_and_leaves_its_input_alone(style, clip):
    before = clip.copy()
    styled = apply_style(clip, style)
    assert (styled.shape, styled.dtype) == (clip.shape, np.uint8)
    np.testing.assert_array_equal(clip, before)


def test_there_are_eleven_styles_and_all_but_backwards_suit_a_picture():
    assert len(STYLES) == 11
    assert set(STYLES) - set(PICTURE_STYLES) == {"played backwards"}


def test_an_unknown_style_is_named_with_the_known_ones(clip):
    with pytest.raises(ValueError, match="style 'glitter' is unknown: use one of black and white, sepia"):
        apply_style(clip, "glitter")

"""Laws of what is published of VILA."""

import math

import pytest
import torch

from loomvideo.models.vila import DownsampleProjector, StackNeighbours, generation_chat, shown_frames


@pytest.mark.parametrize("side", [1, 2, 5, 27])
def test_four_neighbours_become_one_token(side):
    tokens = StackNeighbours()(torch.randn(2, side * side, 3))
    assert tokens.shape == (2, math.ceil(side / 2) ** 2, 12)


def test_neighbours_stand_row_by_row_and_tokens_column_by_column():
    patches = torch.arange(16.0)[None, :, None]  # a grid of four by four
    tokens = StackNeighbours()(patches)[0].tolist()
    assert tokens == [[0, 1, 4, 5], [8, 9, 12, 13], [2, 3, 6, 7], [10, 11, 14, 15]]


def test_an_odd_grid_ends_in_zeros():
    tokens = StackNeighbours()(torch.ones(1, 9, 1))[0]
    assert tokens.sum(1).tolist() == [4, 2, 2, 1]


def test_a_projector_is_saved_and_loaded(tmp_path):
    projector = DownsampleProjector(3, 5)
    projector.save_pretrained(tmp_path)
    features = torch.randn(1, 9, 3)
    torch.testing.assert_close(DownsampleProjector.from_pretrained(tmp_path)(features), projector(features))


@pytest.mark.parametrize("num_frames", [1, 2, 3, 8, 9, 100])
def test_shown_frames_exist(num_frames):
    frames = shown_frames(num_frames)
    assert len(frames) == 8
    assert frames == sorted(frames)
    assert frames[0] == 0
    assert max(frames) < num_frames


def test_every_frame_can_be_given_its_place():
    assert generation_chat("v2v", "snow", system="", num_images=8).count("<image>\n") == 8

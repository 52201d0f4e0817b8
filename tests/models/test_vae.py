"""Pixels as the VAE takes them."""

import numpy as np
import pytest
import torch

from loomvideo.models.vae import to_pixels


def test_the_model_range_is_minus_one_to_one_with_channels_first():
    frames = np.zeros((5, 2, 3, 3), np.uint8)
    frames[..., 1] = 255
    pixels = to_pixels(frames)
    assert pixels.shape == (1, 3, 5, 2, 3)
    assert pixels.dtype == torch.float32
    assert pixels[0, :, 0, 0, 0].tolist() == pytest.approx([-1, 1, -1])

"""Pixels as the VAE takes them."""

import numpy as np
import pytest
import torch

from loomvideo.models.vae import decode, encode, latent_grid, to_pixels, use_channels_last


def test_the_model_range_is_minus_one_to_one_with_channels_first():
    frames = np.zeros((5, 2, 3, 3), np.uint8)
    frames[..., 1] = 255
    pixels = to_pixels(frames)
    assert pixels.shape == (1, 3, 5, 2, 3)
    assert pixels.dtype == torch.float32
    assert pixels[0, :, 0, 0, 0].tolist() == pytest.approx([-1, 1, -1])


@pytest.mark.parametrize("system", ["loomvideo", "vino"])  # Wan's VAE, and HunyuanVideo's
def test_filters_whose_channels_come_last_give_the_same_latents_and_pixels(small_pipeline, system):
    vae = small_pipeline(system).vae
    pixels = torch.rand(1, 3, 5, 64, 64) * 2 - 1
    latents = torch.randn(1, vae.config.get("z_dim") or vae.config["latent_channels"], *latent_grid(vae, 5, 64, 64))
    with torch.no_grad():
        before = encode(vae, pixels), decode(vae, latents)
        use_channels_last(vae)
        after = encode(vae, pixels), decode(vae, latents)
    filters = [module.weight for module in vae.modules() if isinstance(module, torch.nn.Conv3d)]
    assert all(one.is_contiguous(memory_format=torch.channels_last_3d) for one in filters)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

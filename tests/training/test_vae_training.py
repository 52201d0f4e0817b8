"""The built-in VAE's latents are given: frames at a quarter of their size; encoder and decoder learn what follows from it."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from loomvideo.models.vae import latent_grid
from loomvideo.training.vae import (
    CHANNELS,
    NOISE,
    REDUCTION,
    build_vae,
    decoder_loss,
    encode,
    given_latents,
    settle,
    train_decoder,
    train_vae,
    vae_loss,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return build_vae()


def clip(frames=9, height=32, width=48, batch=2):
    return torch.rand(batch, 3, frames, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


# --- the latents


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_given_latents_have_the_shape_of_computed_ones(vae, frames):
    pixels = clip(frames)
    given = given_latents(pixels)
    assert given.shape == (2, CHANNELS, *latent_grid(vae, *pixels.shape[2:]))
    with torch.no_grad():
        assert encode(vae, pixels).mean.shape == given.shape


def test_they_depend_on_the_last_of_the_frames_that_they_stand_for_alone():
    pixels = clip()
    others = clip(batch=2).flip(0)
    others[:, :, [0, 4, 8]] = pixels[:, :, [0, 4, 8]]
    assert torch.equal(given_latents(others), given_latents(pixels))
    assert torch.equal(given_latents(pixels)[:, :, 1], given_latents(pixels[:, :, 4:5])[:, :, 0])


def test_they_are_the_frames_at_a_quarter_of_their_size():
    pixels = clip()
    small = F.pixel_shuffle(given_latents(pixels)[:, :, 2], 16 // REDUCTION)
    torch.testing.assert_close(small, F.avg_pool2d(pixels[:, :, 8], REDUCTION))


def test_distances_between_them_are_distances_between_small_frames():
    one, other = clip(), clip().flip(0)
    small = [F.avg_pool2d(pixels[:, :, ::4].transpose(1, 2).flatten(0, 1), REDUCTION) for pixels in (one, other)]
    found = (given_latents(one) - given_latents(other)).square().sum()
    torch.testing.assert_close(found, (small[0] - small[1]).square().sum())


# --- what is learnt


def test_both_halves_learn_from_a_batch_and_the_decoder_alone_where_the_encoder_stays(vae):
    for loss_of, encoder_learns in ((vae_loss, True), (decoder_loss, False)):
        vae.zero_grad()
        loss_of(vae, clip(5, 32, 32))[0].backward()
        assert any(p.grad is not None and p.grad.any() for p in vae.encoder.parameters()) == encoder_learns
        assert any(p.grad is not None and p.grad.any() for p in vae.decoder.parameters())


def test_an_encoder_comes_nearer_to_the_given_latents_with_every_ten_steps():
    torch.manual_seed(0)
    vae, pixels = build_vae(), clip(1, 32, 32, batch=4)
    optimizer = torch.optim.AdamW(vae.parameters(), 1e-3)
    astray = []
    for _ in range(31):
        loss, figures = vae_loss(vae, pixels)
        astray.append(figures["astray"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sorted(astray[::10], reverse=True) == astray[::10]


def test_the_posterior_is_as_narrow_as_the_noise_that_the_decoder_forgives(vae):
    with torch.no_grad():
        assert encode(vae, clip(1)).std.mean() == pytest.approx(NOISE, rel=1e-3)


def test_a_start_with_other_latents_is_given_these_ones_statistics():
    other = build_vae()
    other.register_to_config(latents_mean=[1.0] * CHANNELS, latents_std=[2.0] * CHANNELS)
    settle(other)
    assert other.config["latents_mean"] == build_vae().config["latents_mean"]
    assert other.config["latents_std"] == build_vae().config["latents_std"]


def test_a_decoder_that_learns_on_leaves_the_latents_as_they_were(tmp_path):
    from diffusers import AutoencoderKLWan

    settings = {"minutes": 0.02, "slice_minutes": 1.0, "device": CPU, "workers": 0}
    train_vae(tmp_path / "vae", None, **settings)
    train_decoder(tmp_path / "decoder", tmp_path / "vae" / "vae", **settings)
    before, after = (AutoencoderKLWan.from_pretrained(tmp_path / part / "vae") for part in ("vae", "decoder"))
    with torch.no_grad():
        assert torch.equal(encode(before, clip(5)).mean, encode(after, clip(5)).mean)
    changed = [name for name, value in after.state_dict().items() if not torch.equal(value, before.state_dict()[name])]
    assert changed
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)
    assert np.allclose(after.config["latents_std"], before.config["latents_std"])

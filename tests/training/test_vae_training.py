"""The built-in VAE's latents are given: frames at a quarter of their size. The encoder is that formula; the decoder learns."""

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch.nn import functional as F

from loomvideo.models.vae import decode_in_turn, encode, frames_a_latent, latent_grid
from loomvideo.training import vae as training
from loomvideo.training.vae import (
    CHANNELS,
    LATENT_STD,
    NOISE,
    OBJECTS,
    PATCH_SIZE,
    REDUCTION,
    WorldFrames,
    build_vae,
    decode,
    decoder_loss,
    given_latents,
    posterior,
    read_frames_alone,
    train_vae,
)

CPU = torch.device("cpu")
MEGABYTES = 9.0  # in half precision, of what a model that is shipped may weigh


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return build_vae().eval().requires_grad_(False)


def clip(frames=9, height=32, width=48, batch=2):
    return torch.rand(batch, 3, frames, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def small_frames(pixels):
    return F.avg_pool2d(pixels.transpose(1, 2).flatten(0, 1), REDUCTION)


# --- the latents


def test_every_frame_has_latents_of_its_own(vae):
    assert frames_a_latent(vae) == 1
    pixels = clip()
    assert given_latents(pixels).shape == (2, CHANNELS, *latent_grid(vae, *pixels.shape[2:])) == (2, CHANNELS, 9, 2, 3)
    assert torch.equal(given_latents(pixels)[:, :, 4:5], given_latents(pixels[:, :, 4:5]))


def test_they_are_the_frames_at_a_quarter_of_their_size():
    pixels = clip()
    small = F.pixel_shuffle(given_latents(pixels)[:, :, 2], PATCH_SIZE // REDUCTION)
    torch.testing.assert_close(small, F.avg_pool2d(pixels[:, :, 2], REDUCTION))


def test_distances_between_them_are_distances_between_small_frames():
    one, other = clip(), clip().flip(0)
    found = (given_latents(one) - given_latents(other)).square().sum()
    torch.testing.assert_close(found, (small_frames(one) - small_frames(other)).square().sum())


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_the_encoder_computes_them(vae, frames):
    for pixels in (clip(frames), clip(frames).sign()):
        torch.testing.assert_close(posterior(vae, pixels).mean, given_latents(pixels), rtol=0, atol=2.5e-3)
        torch.testing.assert_close(encode(vae, pixels), given_latents(pixels) / LATENT_STD, rtol=0, atol=5e-3)


def test_the_posterior_is_as_narrow_as_the_noise_that_the_decoder_forgives(vae):
    torch.testing.assert_close(posterior(vae, clip(5)).std.mean(), torch.tensor(NOISE), rtol=1e-3, atol=0)


# --- the decoder before it has learnt


def test_it_enlarges_frames_bicubically_but_for_their_rim(vae):
    pixels = clip(5, 64, 80)
    large = F.interpolate(small_frames(pixels), scale_factor=REDUCTION, mode="bicubic").clamp(-1, 1)
    expected = large.unflatten(0, (2, 5)).transpose(1, 2)
    inside = (..., slice(PATCH_SIZE, -PATCH_SIZE), slice(PATCH_SIZE, -PATCH_SIZE))
    torch.testing.assert_close(decode(vae, given_latents(pixels))[inside], expected[inside], rtol=0, atol=0.03)


def test_it_is_small_enough_to_be_shipped(vae):
    assert 2 * sum(parameter.numel() for parameter in vae.parameters()) < 1e6 * MEGABYTES


def test_half_precision_changes_little_of_it(vae):
    pixels = clip(5)
    stored = build_vae()
    stored.load_state_dict({name: value.half().float() for name, value in vae.state_dict().items()})
    with torch.no_grad():
        torch.testing.assert_close(posterior(stored, pixels).mean, given_latents(pixels), rtol=0, atol=5e-3)
        found, latents = decode(stored, given_latents(pixels)), given_latents(pixels)
    torch.testing.assert_close(found, decode(vae, latents), rtol=0, atol=5e-3)


# --- what is learnt


def test_objects_count_alike_whatever_their_size_and_more_than_all_else():
    frames = next(iter(WorldFrames(0)))
    pixels, weights = frames.to(CPU)
    assert pixels.shape[2] == 1
    assert pixels.abs().max() <= 1
    assert weights.shape == (len(pixels), 1, 1, *pixels.shape[3:])
    assert (weights >= 1).all()
    torch.testing.assert_close(weights.mean((1, 2, 3, 4)), torch.full((len(pixels),), 1 + OBJECTS), rtol=1e-4, atol=0)


def test_an_error_counts_as_much_as_its_weight_says():
    vae, pixels = build_vae().requires_grad_(False), clip(1, 32, 32)
    pixels[..., 16:] = 0.0  # grey, which is easy
    even = torch.ones(2, 1, 1, 32, 32)
    hard, easy = even.clone(), even.clone()
    hard[..., :16], easy[..., 16:] = 10, 10
    losses = []
    for weights in (easy, even, 3 * even, hard):
        torch.manual_seed(0)
        losses.append(float(decoder_loss(vae, pixels, weights)[0]))
    assert losses[2] == pytest.approx(losses[1])
    assert losses[0] < losses[1] < losses[3]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A few steps' VAE, as it is written."""
    folder = tmp_path_factory.mktemp("vae")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "BATCH", 4)
        train_vae(folder, None, minutes=0.05, slice_minutes=1.0, device=CPU, workers=0)
    return AutoencoderKLWan.from_pretrained(folder / "vae").eval().requires_grad_(False)


def test_training_leaves_the_latents_as_they_are(trained):
    new = build_vae()
    with torch.no_grad():
        assert torch.equal(posterior(trained, clip(5)).mean, posterior(new, clip(5)).mean)
    assert dict(trained.config)["latents_std"] == dict(new.config)["latents_std"]


def test_the_decoder_has_learnt_something(trained, vae):
    assert any(not torch.equal(value, vae.state_dict()[name]) for name, value in trained.state_dict().items())


def test_a_frame_is_decoded_as_it_would_be_alone(trained):
    latents = given_latents(clip(5))
    whole = decode(trained, latents)
    alone = torch.cat([decode(trained, frame) for frame in latents.split(1, dim=2)], dim=2)
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-5)
    parts = iter((latents / LATENT_STD).split((2, 3), dim=2))
    in_turn = torch.cat(list(decode_in_turn(trained, parts, total=5)), dim=1)
    torch.testing.assert_close(2 * in_turn.permute(0, 4, 1, 2, 3) - 1, whole, rtol=0, atol=1e-5)


def test_the_way_it_is_trained_is_the_way_it_is_used(trained):
    latents = given_latents(clip(1))
    used = trained.decoder(latents)
    other = build_vae().requires_grad_(False)
    other.load_state_dict(trained.state_dict())
    read_frames_alone(other)
    torch.testing.assert_close(other.decoder(latents), used, rtol=1e-4, atol=1e-4)


def test_a_decoder_comes_nearer_to_a_picture_with_every_ten_steps():
    torch.manual_seed(0)
    vae, pixels = build_vae(), clip(1, 32, 32, batch=4)
    optimizer, losses = torch.optim.AdamW(vae.decoder.parameters(), 1e-3), []
    for _ in range(31):
        loss, _ = decoder_loss(vae, pixels, torch.ones(4, 1, 1, 32, 32))
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sorted(losses[::10], reverse=True) == losses[::10]

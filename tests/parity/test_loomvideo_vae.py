"""Pixels become the published latents, and latents the published pixels."""

import torch
from golden_set import assert_all_same, each_case

from loomvideo.models.vae import decode, denormalise, encode, normalise, to_pixels


@each_case("loomvideo", "vae")
@torch.no_grad()
def test_every_tensor_of_the_vae(case, vae):
    golden = case.load()
    pixels = to_pixels(golden["pixels_u8"].numpy()) if "pixels_u8" in golden else golden["pixels"]
    posterior = vae.encode(pixels).latent_dist
    computed = {"posterior_mean": posterior.mean, "posterior_std": posterior.std}
    if "eps" in golden:
        computed["latents"] = normalise(vae, posterior.mean + posterior.std * golden["eps"])
        latents = golden["latents"]
    else:  # the case decodes the mean as it is
        latents = normalise(vae, golden["posterior_mean"])
    computed["decoded"] = decode(vae, latents).permute(0, 4, 1, 2, 3) * 2 - 1
    assert_all_same(computed, golden, given={"pixels", "pixels_u8", "eps"})


@each_case("loomvideo", "vae")
@torch.no_grad()
def test_encode_gives_the_normalised_mode(case, vae):
    golden = case.load()
    pixels = to_pixels(golden["pixels_u8"].numpy()) if "pixels_u8" in golden else golden["pixels"]
    computed = {"posterior_mean": denormalise(vae, encode(vae, pixels))}
    assert_all_same(computed, {"posterior_mean": golden["posterior_mean"]}, given=set())

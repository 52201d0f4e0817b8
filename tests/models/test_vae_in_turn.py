"""Decoding a clip in parts gives the pixels of decoding it whole, for both kinds of VAE, and holds no more of a longer one."""

import pytest
import torch
from diffusers import AutoencoderKLWan

from loomvideo.models.vae import decode, decode_in_turn, latent_grid
from vino_parts import small_vae


@pytest.fixture(scope="module", params=["wan", "hunyuan"])
def vae(request, tiny_model):
    torch.manual_seed(0)
    return AutoencoderKLWan.from_pretrained(tiny_model / "vae") if request.param == "wan" else small_vae()


@pytest.mark.parametrize("parts", [[1], [5], [3, 1, 1], [1, 4, 6], [2] * 7], ids=str)
@torch.no_grad()
def test_a_clip_in_parts_is_the_clip_at_once(vae, parts):
    latents = torch.randn(1, 4, sum(parts), 2, 2)
    found = list(decode_in_turn(vae, iter(latents.split(parts, dim=2)), total=sum(parts)))
    torch.testing.assert_close(torch.cat(found, dim=1), decode(vae, latents), rtol=0, atol=1e-5)


@torch.no_grad()
def test_frames_come_before_the_last_part_is_asked_for_and_encoding_meanwhile_does_no_harm(vae):
    latents, asked = torch.randn(1, 4, 13, 2, 2), []
    side = 2 * latent_side(vae)

    def parts():
        for part in latents.split(1, dim=2):
            asked.append(part)
            vae.encode(torch.zeros(1, 3, 5, side, side))
            yield part

    longest, found = 0, []
    for frames in decode_in_turn(vae, parts(), total=13):
        longest = max(longest, 4 * len(asked) - sum(one.shape[1] for one in found))
        found.append(frames)
    assert longest <= 24  # frames of latents that were taken in and are not yet out
    torch.testing.assert_close(torch.cat(found, dim=1), decode(vae, latents), rtol=0, atol=1e-5)


def latent_side(vae):
    return 64 // latent_grid(vae, 1, 64, 64)[1]

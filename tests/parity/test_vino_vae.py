"""Pixels become the published latents with HunyuanVideo's VAE, and latents the published pixels; pictures are boxed."""

import torch
from golden_set import assert_all_same, each_case, numbered

from loomvideo.media.frames import leading_frames
from loomvideo.media.letterbox import cut_corner, letterbox
from loomvideo.models.vae import denormalise, encode, normalise, to_pixels
from loomvideo.systems.vino import encode_references

ALLOWED = 2e-4  # absolute, of decoded frames and sampled latents (fact sheet 10)


def references_of(request, inputs):
    """Pictures and clip as the set's program gives them to the VAE: as long as the clip is, and without any resizing."""
    pictures = [inputs[f"image/{name}"].numpy() for name in request["images"]]
    if request["video"] is None:
        return pictures, None
    clip = inputs[f"video/{request['video']}"].numpy()
    return pictures, cut_corner(clip[leading_frames(len(clip), max_frames=len(clip))], multiple=16)


@torch.no_grad()
def encoded(vae, case, inputs):
    """Latents, posterior means and deviations of a case's references, under the golden names."""
    pictures, clip = references_of(case.params["request"], inputs)
    noises = numbered(inputs, f"posterior_noise/{case.name}", "/")
    modes = encode_references(vae, pictures, clip)
    computed = {} if clip is None else {"ref_video": to_pixels(clip)[0].transpose(0, 1)}
    frames = [picture[None] for picture in pictures] + ([] if clip is None else [clip])
    for i, (pixels, mode, noise) in enumerate(zip(frames, modes, noises, strict=True)):
        posterior = vae.encode(to_pixels(pixels)).latent_dist
        computed[f"ref_mean/{i}"] = denormalise(vae, mode)
        computed[f"ref_std/{i}"] = posterior.std
        computed[f"ref_latent/{i}"] = normalise(vae, posterior.mean + posterior.std * noise)
    return computed


@each_case("vino", "vae")
@torch.no_grad()
def test_every_tensor_of_the_vae(case, vino_vae, vino_inputs):
    golden, latent = case.load(), vino_inputs["vae/latent"]
    computed = {
        "decoded": vino_vae.decode(latent).sample,
        "decoded_short": vino_vae.decode(latent[:, :, :3]).sample,
    }
    for name in ("image", "video"):
        posterior = vino_vae.encode(vino_inputs[f"vae/{name}"]).latent_dist
        computed |= {f"{name}_mean": posterior.mean, f"{name}_std": posterior.std}
        computed[f"{name}_mean"] = denormalise(vino_vae, encode(vino_vae, vino_inputs[f"vae/{name}"]))
    assert_all_same(computed, golden, given=set(), allowed=ALLOWED)


@each_case("vino", "denoiser forward")
def test_references_of_a_case_are_encoded_as_published(case, vino_vae, vino_inputs):
    golden = {name: tensor for name, tensor in case.load().items() if name.startswith("ref_")}
    assert_all_same(encoded(vino_vae, case, vino_inputs), golden, given=set(), allowed=ALLOWED)


@each_case("vino", "letterbox")
def test_pictures_are_boxed_pixel_for_pixel_as_published(case, vino_inputs):
    facts = case.params["facts"]
    computed = {
        f"out/{name.removeprefix('image/')}": torch.from_numpy(
            letterbox(picture.numpy(), facts["max_pixels"], facts["unit"])
        )
        for name, picture in vino_inputs.items()
        if name.startswith("image/")
    }
    assert_all_same(computed, case.load(), given=set())

"""Train the built-in Wan2.2-style VAE on the little world (16 x 16 pixels and 4 frames a latent, 48 channels).

What its latents are is given beforehand: the last of the frames that one stands for, at a quarter of its size, 4 x 4 pixels of
three colours at each place. They keep more of the shapes than an encoder of this size learns to in an hour, and distances
between them are distances between pixels. The encoder learns to compute them, the decoder to make frames of them: what
stands between two latents it has to see from both.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from loomvideo.data.world.render import render
from loomvideo.data.world.scene import BACKGROUNDS, sample_scene
from loomvideo.training.run import Run, RunConfig, batch_scale

CHANNELS = 48
PATCH_SIZE = 4  # of pixels: with Wan2.2's 2, half of the time goes into a few channels at full size
# (frames, side, batch): pictures teach the same filters at a fraction of a clip's cost, so they come first
PICTURES = ((1, 64, 16), (1, 128, 6))
# whole lengths among the clips: trained on 9 frames, the decoder's colours drift over 17
CLIPS = (*PICTURES, (1, 128, 6), (5, 64, 4), (9, 64, 3), (17, 64, 2), (17, 64, 2), (5, 128, 1), (17, 128, 1))
PICTURES_SHARE = 0.3  # of the run
WORLD_FRAMES = 17
PHOTO_SHARE = 0.2
REDUCTION = 4  # of the frames that latents hold, in height and width
LATENT_STD = 0.6  # of their values in -1..1 over the little world
NOISE = 0.03  # in the latents that the decoder learns from: it is to forgive a denoiser's small errors
GIVEN_SHARE = 0.7  # of the decoder's batches; the others have the latents as the encoder computes them


def build_vae() -> AutoencoderKLWan:
    vae = AutoencoderKLWan(
        base_dim=32,
        decoder_base_dim=32,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        is_residual=True,
        in_channels=3 * PATCH_SIZE**2,
        out_channels=3 * PATCH_SIZE**2,
        patch_size=PATCH_SIZE,
        scale_factor_spatial=16,
        scale_factor_temporal=4,
    )
    initialise(vae)
    settle(vae)
    return vae


def settle(vae: AutoencoderKLWan) -> None:
    """What no training changes: the statistics of given latents, and a posterior as narrow as the noise of training."""
    vae.register_to_config(latents_mean=[0.0] * CHANNELS, latents_std=[LATENT_STD] * CHANNELS)
    with torch.no_grad():
        vae.quant_conv.weight[CHANNELS:] = 0
        vae.get_parameter("quant_conv.bias")[CHANNELS:] = 2 * math.log(NOISE)


def initialise(vae: AutoencoderKLWan) -> None:
    """A start that passes pictures through; with torch's own the network first falls to the mean picture and stays there.

    Causal kernels begin as picture filters (nearly all weight on the present frame), and residual branches begin small.
    """
    for name, layer in vae.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Conv3d):
            continue
        fan_in = layer.weight[:, :, -1].numel() if layer.weight.ndim == 5 else layer.weight.numel()
        std = (fan_in / layer.out_channels) ** -0.5
        nn.init.normal_(layer.weight, std=std)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            if layer.weight.ndim == 5:
                layer.weight[:, :, :-1] *= 0.3 if name.endswith("time_conv") else 0.1
            if name.endswith("conv2"):
                layer.weight *= 0.3


class WorldCrops(IterableDataset):
    """Endless batches of uint8 crops (b, t, y, x, 3) of world clips, each of one of ``shapes``."""

    def __init__(self, shapes: tuple[tuple[int, int, int], ...], seed: int, scale: int = 1) -> None:
        self.shapes, self.seed, self.scale = shapes, seed, scale

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        while True:
            frames, side, batch = self.shapes[int(rng.integers(len(self.shapes)))]
            yield torch.from_numpy(np.stack([self._crop(rng, frames, side) for _ in range(batch * self.scale)]))

    def _crop(self, rng: np.random.Generator, frames: int, side: int) -> np.ndarray:
        kinds = ("photo",) if rng.random() < PHOTO_SHARE else BACKGROUNDS
        scene = sample_scene(rng, backgrounds=kinds)
        first = int(rng.integers(WORLD_FRAMES - frames + 1))
        times = (np.arange(frames) + first) / (WORLD_FRAMES - 1)
        height = 128 if side == 128 else int(rng.choice([96, 128, 160]))
        clip = render(scene, height=height, width=height, times=times)
        top, left = (int(rng.integers(height - side + 1)) for _ in range(2))
        return clip[:, top : top + side, left : left + side]


def to_model_range(frames: Tensor, device: torch.device) -> Tensor:
    """uint8 (b, t, y, x, 3) to float (b, 3, t, y, x) in [-1, 1]."""
    return frames.to(device).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def given_latents(pixels: Tensor) -> Tensor:
    """What the latents (b, 48, f, y / 16, x / 16) of pixels (b, 3, 4 * f - 3, y, x) are to be, not normalised."""
    frames = pixels[:, :, ::4]
    small = F.avg_pool2d(frames.transpose(1, 2).flatten(0, 1), REDUCTION)
    return F.pixel_unshuffle(small, 16 // REDUCTION).unflatten(0, (len(pixels), -1)).transpose(1, 2)


def reconstruction_loss(decoded: Tensor, pixels: Tensor, sharpness: float) -> tuple[Tensor, dict[str, float]]:
    """Squared errors, and as much as ``sharpness`` says of absolute ones."""
    error = decoded - pixels
    absolute, squared = error.abs().mean(), error.square().mean()
    # flat ground is most of every frame: errors at edges count again, so that shapes can be told apart
    edges = F.l1_loss(decoded.diff(dim=-1), pixels.diff(dim=-1)) + F.l1_loss(decoded.diff(dim=-2), pixels.diff(dim=-2))
    psnr = 10 * float(torch.log10(4 / squared.detach()))
    kind = "clip" if pixels.shape[2] > 1 else "picture"
    return squared + sharpness * (absolute + edges), {f"psnr_{kind}": psnr}


def encode(vae: AutoencoderKLWan, pixels: Tensor) -> DiagonalGaussianDistribution:
    """The posterior of pixels (b, 3, t, y, x) in [-1, 1]."""
    return vae.encode(pixels, return_dict=False)[0]


def decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Pixels (b, 3, t, y, x), as they were encoded."""
    return vae.decode(latents, return_dict=False)[0]


def vae_loss(vae: AutoencoderKLWan, pixels: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Of encoder and decoder, side by side."""
    computed, given = encode(vae, pixels).mean, given_latents(pixels)
    astray = (computed - given).square().mean()
    latents = given if torch.rand(()) < GIVEN_SHARE else computed
    # squared errors lead: absolute ones, from the start, hold the network at the median picture
    loss, figures = reconstruction_loss(decode(vae, _noised(latents)), pixels, 0.05)
    return loss + astray, figures | {"astray": float(astray.detach())}


def decoder_loss(vae: AutoencoderKLWan, pixels: Tensor) -> tuple[Tensor, dict[str, float]]:
    """The encoder stays as it is."""
    with torch.no_grad():
        latents = given_latents(pixels) if torch.rand(()) < GIVEN_SHARE else encode(vae, pixels).mean
    return reconstruction_loss(decode(vae, _noised(latents)), pixels, 0.2)


def _noised(latents: Tensor) -> Tensor:
    return latents + NOISE * torch.randn_like(latents)


def train_vae(
    folder: Path, start: Path | None, *, minutes: float, slice_minutes: float, device: torch.device, workers: int
) -> None:
    """Train until ``minutes`` are over and write ``folder/vae``; called again it goes on where it stopped.

    ``start`` holds a VAE to go on from; it knows pictures, so clips alone follow.
    """
    torch.manual_seed(0)
    vae = AutoencoderKLWan.from_pretrained(start).float().train() if start else build_vae()
    settle(vae)
    pictures_share = 0.0 if start else PICTURES_SHARE
    config = RunConfig(
        folder=folder, minutes=minutes, slice_minutes=slice_minutes, matrix_rate=0.006, learning_rate=2e-3
    )
    run = Run(config, vae, device)
    loader = DataLoader(WorldCrops(PICTURES, run.steps, batch_scale(device)), batch_size=None, num_workers=workers)
    pictures, clips = iter(loader), None
    while not run.finished:
        if run.progress < pictures_share:
            batch = next(pictures)
        else:
            if clips is None:
                clips = iter(
                    DataLoader(WorldCrops(CLIPS, run.steps, batch_scale(device)), batch_size=None, num_workers=workers)
                )
            batch = next(clips)
        pixels = to_model_range(batch, device)
        run.step(lambda pixels=pixels: vae_loss(vae, pixels))
    run.save()
    run.averaged_model().eval().save_pretrained(folder / "vae")


def train_decoder(
    folder: Path, trained: Path, *, minutes: float, slice_minutes: float, device: torch.device, workers: int
) -> None:
    """Go on training the decoder alone of the VAE in ``trained``, and write ``folder/vae``.

    The latents stay what they are, so a denoiser may be trained on them meanwhile.
    """
    torch.manual_seed(1)
    vae = AutoencoderKLWan.from_pretrained(trained).train()
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    config = RunConfig(
        folder=folder, minutes=minutes, slice_minutes=slice_minutes, matrix_rate=0.004, learning_rate=1e-3
    )
    run = Run(config, vae, device)
    clips = iter(
        DataLoader(WorldCrops(CLIPS, run.steps + 1, batch_scale(device)), batch_size=None, num_workers=workers)
    )
    while not run.finished:
        pixels = to_model_range(next(clips), device)
        run.step(lambda pixels=pixels: decoder_loss(vae, pixels))
    run.save()
    run.averaged_model().eval().save_pretrained(folder / "vae")

"""The built-in Wan2.2-style VAE for the little world: 16 x 16 pixels of one frame a latent, 48 channels.

Its latents are given by a formula: every frame at a quarter of its size, 4 x 4 pixels of three colours at each place. They keep
more of the shapes than an encoder of this size learns to in an hour, and distances between them are distances between pixels.
The encoder is that formula in weights and is never trained, so that a denoiser may learn on the latents from the first minute.
The decoder begins as one that enlarges frames, and learns what of a shape's edge a small frame does not say.
"""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanCausalConv3d,
    WanDecoder3d,
    WanEncoder3d,
    WanResidualBlock,
    WanRMS_norm,
    patchify,
    unpatchify,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from loomvideo.data.world.render import frame_times, object_masks, render
from loomvideo.data.world.scene import BACKGROUNDS, sample_scene
from loomvideo.training.run import Run, RunConfig, batch_scale

PATCH_SIZE = 16  # of pixels: all of a latent's place, so that nothing has to be enlarged inside the network
REDUCTION = 4  # of the frames that latents hold, in height and width
CHANNELS = 3 * (PATCH_SIZE // REDUCTION) ** 2
DECODER_WIDTH = 72
BATCH = 16
FRAMES_A_SCENE = 4  # which is drawn once for all
SIDES = (96, 128, 128, 160)
PHOTO_SHARE = 0.2
OBJECTS = 4.0
WORLD_FRAMES = 17
LATENT_STD = 0.6  # of their values in -1..1 over the little world
NOISE = 0.03  # in the latents that the decoder learns from: it is to forgive a denoiser's small errors
SHARPNESS = 0.2  # absolute errors to squared ones
MATRIX_RATE, RATE = 0.003, 1e-3
STEADY = 1000.0  # a channel's constant value, next to which all others are small: what RMS norms divide by is constant
DECODER_STRAIGHT = 0.125
STRAIGHT = 2.0**-8  # of a number's size before SiLU, which is a half of what is so small, to within its square


def build_vae() -> AutoencoderKLWan:
    vae = AutoencoderKLWan(
        base_dim=CHANNELS + 1,  # the formula's numbers and a constant
        decoder_base_dim=DECODER_WIDTH,
        z_dim=CHANNELS,
        dim_mult=[1],
        num_res_blocks=1,
        temperal_downsample=[],
        is_residual=True,
        in_channels=3 * PATCH_SIZE**2,
        out_channels=3 * PATCH_SIZE**2,
        patch_size=PATCH_SIZE,
        scale_factor_spatial=PATCH_SIZE,
        scale_factor_temporal=1,
        latents_mean=[0.0] * CHANNELS,
        latents_std=[LATENT_STD] * CHANNELS,
    )
    with torch.no_grad():
        for half in (vae.encoder, vae.decoder):
            _pass_through(half)
        _set_encoder(vae)
        _set_decoder(vae)
    return vae


def _pass_through(half: WanEncoder3d | WanDecoder3d) -> None:
    """Residual branches begin with nothing; from `conv_in` to `norm_out` channels keep their values, the first ones those of
    pixels or latents, one is `STEADY`, and norms give them back as they are (that one as 1)."""
    for name, parameter in half.named_parameters():
        if name.endswith(("bias", "conv_in.weight", "conv1.weight", "conv2.weight", "proj.weight", "conv_out.weight")):
            nn.init.zeros_(parameter)
    half.get_parameter("conv_in.bias")[CHANNELS] = STEADY
    for layer in half.modules():
        if isinstance(layer, WanResidualBlock):
            nn.init.normal_(layer.conv1.weight[:, :, -1], std=(9 * layer.in_dim) ** -0.5)
            _keep_values(layer.norm1)
        if isinstance(layer, WanAttentionBlock):
            _keep_values(layer.norm)
    _keep_values(half.norm_out)


def _keep_values(norm: WanRMS_norm) -> None:
    norm.gamma.fill_(STEADY / norm.scale)
    norm.gamma[CHANNELS] = 1 / norm.scale


def _set_encoder(vae: AutoencoderKLWan) -> None:
    """Every patch averaged over squares of its pixels; a posterior as narrow as the noise of training."""
    pixels = torch.eye(3 * PATCH_SIZE**2).view(-1, 3, PATCH_SIZE, PATCH_SIZE)
    patches = patchify(pixels[:, :, None], PATCH_SIZE).flatten(1)  # (pixel, place among a patch's channels)
    means = given_latents(pixels[:, :, None]).flatten(1)  # (pixel, channel)
    encoder = vae.encoder
    encoder.conv_in.weight[:CHANNELS, :, -1, 1, 1] = means.T @ patches
    encoder.norm_out.gamma[:CHANNELS] *= STRAIGHT
    encoder.conv_out.weight[:CHANNELS, :CHANNELS, -1, 1, 1] = torch.eye(CHANNELS) / (STRAIGHT / 2)
    encoder.get_parameter("conv_out.bias")[CHANNELS:] = 2 * math.log(NOISE)
    _set_identity(vae.quant_conv)


def _set_decoder(vae: AutoencoderKLWan) -> None:
    """Frames enlarged bicubically, of each place's latents and those beside it; behind the rim there is grey."""
    decoder, around = vae.decoder, CHANNELS * 3 * 3
    beside = torch.eye(around).view(around, CHANNELS, 3, 3)  # one number at one of nine places
    small = F.pixel_shuffle(beside, PATCH_SIZE // REDUCTION)
    large = F.interpolate(small, scale_factor=REDUCTION, mode="bicubic")
    middle = patchify(large[:, :, None, PATCH_SIZE:-PATCH_SIZE, PATCH_SIZE:-PATCH_SIZE], PATCH_SIZE).flatten(1)
    decoder.conv_in.weight[:CHANNELS, :, -1, 1, 1] = torch.eye(CHANNELS)
    nn.init.normal_(decoder.conv_in.weight[CHANNELS + 1 :, :, -1], std=(9 * CHANNELS) ** -0.5)
    decoder.norm_out.gamma[:CHANNELS] *= DECODER_STRAIGHT
    decoder.conv_out.weight[:, :CHANNELS, -1] = middle.T.view(-1, CHANNELS, 3, 3) / (DECODER_STRAIGHT / 2)
    _set_identity(vae.post_quant_conv)


def _set_identity(layer: WanCausalConv3d) -> None:
    layer.weight[..., 0, 0, 0] = torch.eye(layer.out_channels)
    nn.init.zeros_(layer.get_parameter("bias"))


class Frames(NamedTuple):
    """Of the world, and how much every pixel counts: the objects together `OBJECTS` times as much as all else, each alike
    whatever its size, since flat ground is most of a frame and a small star's points are next to nothing of it."""

    pixels: Tensor  # uint8 (b, y, x, 3)
    weights: Tensor  # float32 (b, y, x)

    def to(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """As pictures, float (b, 3, 1, y, x) in [-1, 1], with weights (b, 1, 1, y, x)."""
        pixels = self.pixels.to(device).permute(0, 3, 1, 2)[:, :, None].float() / 127.5 - 1
        return pixels, self.weights.to(device)[:, None, None]


class WorldFrames(IterableDataset):
    """Endless batches of frames."""

    def __init__(self, seed: int, scale: int = 1) -> None:
        self.seed, self.scale = seed, scale

    def __iter__(self) -> Iterator[Frames]:
        worker = get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        while True:
            side, scenes = int(rng.choice(SIDES)), range(self.scale * BATCH // FRAMES_A_SCENE)
            drawn = [_frames(rng, side) for _ in scenes]
            yield Frames(*(torch.cat(parts) for parts in zip(*drawn, strict=True)))


def _frames(rng: np.random.Generator, side: int) -> Frames:
    kinds = ("photo",) if rng.random() < PHOTO_SHARE else BACKGROUNDS
    scene = sample_scene(rng, backgrounds=kinds, num_objects=3)
    chosen = rng.choice(WORLD_FRAMES, FRAMES_A_SCENE, replace=False)
    pixels = render(scene, height=side, width=side, times=frame_times(WORLD_FRAMES)[chosen])
    masks = object_masks(scene, height=side, width=side, num_frames=WORLD_FRAMES)[:, chosen]
    near = F.max_pool2d((torch.from_numpy(masks) > 0).float(), 2 * REDUCTION + 1, stride=1, padding=REDUCTION)
    alike = near / near.sum((2, 3), keepdim=True).clamp(min=1)
    return Frames(torch.from_numpy(pixels), 1 + OBJECTS * side**2 * alike.mean(0))


def given_latents(pixels: Tensor) -> Tensor:
    """The latents (b, 48, t, y / 16, x / 16) of pixels (b, 3, t, y, x), not normalised."""
    small = F.avg_pool2d(pixels.transpose(1, 2).flatten(0, 1), REDUCTION)
    return F.pixel_unshuffle(small, PATCH_SIZE // REDUCTION).unflatten(0, (len(pixels), -1)).transpose(1, 2)


def posterior(vae: AutoencoderKLWan, pixels: Tensor) -> DiagonalGaussianDistribution:
    """Of pixels (b, 3, t, y, x) in [-1, 1]."""
    return vae.encode(pixels, return_dict=False)[0]


def decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Pixels (b, 3, t, y, x) of latents (b, 48, t, y / 16, x / 16)."""
    return vae.decode(latents, return_dict=False)[0]


def read_frames_alone(vae: AutoencoderKLWan) -> None:
    """Let the decoder see nothing but a frame's own latents: its causal kernels hold zeros for the past and stay so.

    A latent frame says all of its own frame; and plain convolutions of pictures cost a third.
    """
    for layer in vae.decoder.modules():
        if isinstance(layer, WanCausalConv3d):
            layer.forward = partial(_present_alone, layer)


def _present_alone(layer: WanCausalConv3d, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
    weight = layer.weight[:, :, -1]
    frames = F.conv2d(x.transpose(1, 2).flatten(0, 1), weight, layer.bias, padding=weight.shape[-1] // 2)
    return frames.unflatten(0, (len(x), -1)).transpose(1, 2)


def decoder_loss(vae: AutoencoderKLWan, pixels: Tensor, weights: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Squared and absolute errors of pictures (b, 3, 1, y, x) made of noisy latents, their weights (b, 1, 1, y, x)."""
    latents = given_latents(pixels)
    # not `decode`, since from what it cuts at -1 and 1 nothing is learnt
    patches = vae.decoder(vae.post_quant_conv(latents + NOISE * torch.randn_like(latents)))
    decoded = unpatchify(patches, PATCH_SIZE)
    error, weights = decoded - pixels, weights / weights.mean()
    squared, absolute = (weights * error.square()).mean(), (weights * error.abs()).mean()
    # errors at edges count again, so that shapes can be told apart
    edges = (weights[..., 1:] * error.diff(dim=-1).abs()).mean()
    edges = edges + (weights[..., 1:, :] * error.diff(dim=-2).abs()).mean()
    psnr = 10 * float(torch.log10(4 / error.detach().square().mean()))
    of_objects = 10 * float(torch.log10(4 / squared.detach()))
    return squared + SHARPNESS * (absolute + edges), {"psnr": psnr, "psnr_objects": of_objects}


def train_vae(
    folder: Path, start: Path | None, *, minutes: float, slice_minutes: float, device: torch.device, workers: int
) -> None:
    """Train the decoder until ``minutes`` are over and write ``folder/vae``; called again it goes on where it stopped.

    ``start`` holds a VAE to go on from.
    """
    torch.manual_seed(0)
    vae = AutoencoderKLWan.from_pretrained(start).float() if start else build_vae()
    for part in (vae.encoder, vae.quant_conv, vae.post_quant_conv):
        part.requires_grad_(False)
    read_frames_alone(vae)
    config = RunConfig(
        folder=folder, minutes=minutes, slice_minutes=slice_minutes, matrix_rate=MATRIX_RATE, learning_rate=RATE
    )
    run = Run(config, vae, device)
    loader = DataLoader(WorldFrames(run.steps, batch_scale(device)), batch_size=None, num_workers=workers)
    for batch in loader:
        if run.finished:
            break
        pixels, weights = batch.to(device)
        run.step(lambda pixels=pixels, weights=weights: decoder_loss(vae, pixels, weights))
    run.save()
    run.averaged_model().eval().save_pretrained(folder / "vae")

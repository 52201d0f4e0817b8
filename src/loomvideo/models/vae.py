"""Pixels to normalised latents and back, through diffusers' Wan and HunyuanVideo VAEs (fact sheet 5).

b batch   c latent channels   (t, y, x) frames, rows and columns of pixels   (f, ...) latent frames
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLHunyuanVideo, AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from torch import Tensor, nn

from loomvideo.models.offload import fetch, working_device

VAE = AutoencoderKLWan | AutoencoderKLHunyuanVideo


def use_channels_last(vae: VAE) -> None:
    """Lay the filters out with their channels side by side, which changes no result but for rounding."""
    for module in vae.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.to(memory_format=torch.channels_last_3d)
        elif isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.to(memory_format=torch.channels_last)


def to_pixels(frames: np.ndarray) -> Tensor:
    """uint8 frames (t, y, x, 3) -> (1, 3, t, y, x) in -1..1."""
    return torch.from_numpy(np.array(frames)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def frames_a_latent(vae: VAE) -> int:
    """How many frames a latent frame stands for, but for the first, which stands for one."""
    # the two VAEs name the same thing differently
    return int(vae.config.get("scale_factor_temporal") or vae.config["temporal_compression_ratio"])


def latent_grid(vae: VAE, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
    """Latent frames, rows and columns (f, y, x) of a clip of 1 + 4n frames."""
    spatial = vae.config.get("scale_factor_spatial") or vae.config["spatial_compression_ratio"]
    return (num_frames - 1) // frames_a_latent(vae) + 1, height // spatial, width // spatial


def encode(vae: VAE, pixels: Tensor, *, sample: bool = False, generator: torch.Generator | None = None) -> Tensor:
    """Pixels (b, 3, t, y, x) in -1..1 -> normalised latents (b, c, *latent_grid): the posterior's mode, or a sample."""
    encoded: Any = vae.encode(pixels.to(working_device(vae), vae.dtype))
    posterior = encoded.latent_dist
    return normalise(vae, posterior.sample(generator) if sample else posterior.mode())


def decode(vae: VAE, latents: Tensor) -> Tensor:
    """Normalised latents (b, c, f, y, x) -> float32 frames (b, t, y, x, 3) in 0..1."""
    decoded: Any = vae.decode(denormalise(vae, latents).to(working_device(vae), vae.dtype))
    return (decoded.sample.float().clamp(-1, 1) / 2 + 0.5).permute(0, 2, 3, 4, 1)


def decode_in_turn(vae: VAE, latents: Iterable[Tensor], total: int) -> Iterator[Tensor]:
    """What `decode` gives, a few frames (b, t, y, x, 3) at a time, of a clip of `total` latent frames that comes in parts.

    Exactly the same pixels, in memory that does not grow with the clip: Wan's decoder keeps what it has seen of the past,
    HunyuanVideo's works on overlapping tiles of time as diffusers' own does.
    """
    parts = (denormalise(vae, part).to(working_device(vae), vae.dtype) for part in latents)
    decoded = _wan_frames(vae, parts) if isinstance(vae, AutoencoderKLWan) else _hunyuan_frames(vae, parts, total)
    for sample in decoded:
        yield (sample.float().clamp(-1, 1) / 2 + 0.5).permute(0, 2, 3, 4, 1)


def _wan_frames(vae: AutoencoderKLWan, parts: Iterable[Tensor]) -> Iterator[Tensor]:
    seen: list[Tensor | None] = [None] * vae._cached_conv_counts["decoder"]  # its own: encoding clears the VAE's
    patch_size = vae.config["patch_size"]
    for number, frame in enumerate(chain.from_iterable(part.split(1, dim=2) for part in parts)):
        fetch(vae)
        decoded = vae.decoder(vae.post_quant_conv(frame), feat_cache=seen, feat_idx=[0], first_chunk=number == 0)
        yield decoded if patch_size is None else unpatchify(decoded, patch_size=patch_size)


def _hunyuan_frames(vae: AutoencoderKLHunyuanVideo, parts: Iterable[Tensor], total: int) -> Iterator[Tensor]:
    ratio = int(vae.temporal_compression_ratio)
    size, stride = vae.tile_sample_min_num_frames // ratio, vae.tile_sample_stride_num_frames // ratio
    overlap = int(vae.tile_sample_min_num_frames - vae.tile_sample_stride_num_frames)
    if total <= size or not vae.use_framewise_decoding:
        decoded: Any = vae.decode(torch.cat(list(parts), dim=2))
        yield decoded.sample
        return
    held, start, before, left = None, 0, None, (total - 1) * ratio + 1
    for part in parts:  # `held` begins at the latent frame `start`
        held = part if held is None else torch.cat([held, part], dim=2)
        while start < total and held.shape[2] >= min(size + 1, total - start):
            fetch(vae)
            tile = held[:, :, : size + 1]
            tiled: Any = vae.tiled_decode(tile) if vae.use_tiling else None
            whole = vae.decoder(vae.post_quant_conv(tile)) if tiled is None else tiled.sample
            new = whole if before is None else vae.blend_t(before, whole[:, :, 1:], overlap)
            shown = new[:, :, : min(left, stride * ratio + (before is None))]
            before, held, start, left = new, held[:, :, stride:], start + stride, left - shown.shape[2]
            if shown.shape[2]:
                yield shown


def normalise(vae: VAE, latents: Tensor) -> Tensor:
    mean, std = _statistics(vae, latents)
    return (latents - mean) / std


def denormalise(vae: VAE, latents: Tensor) -> Tensor:
    mean, std = _statistics(vae, latents)
    return latents * std + mean


def _statistics(vae: VAE, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel (c, 1, 1, 1), over the data that the VAE's makers measured.

    HunyuanVideo's give one factor for all channels and no mean.
    """
    if "latents_mean" in vae.config:
        mean, std = vae.config["latents_mean"], vae.config["latents_std"]
    else:
        mean, std = [0.0], [1 / vae.config["scaling_factor"]]
    mean, std = latents.new_tensor([mean, std])[..., None, None, None]
    return mean, std

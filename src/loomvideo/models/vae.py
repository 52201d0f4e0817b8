"""Pixels to normalised latents and back, through diffusers' Wan and HunyuanVideo VAEs (fact sheet 5).

b batch   c latent channels   (t, y, x) frames, rows and columns of pixels   (f, ...) latent frames
"""

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLHunyuanVideo, AutoencoderKLWan
from torch import Tensor

VAE = AutoencoderKLWan | AutoencoderKLHunyuanVideo


def to_pixels(frames: np.ndarray) -> Tensor:
    """uint8 frames (t, y, x, 3) -> (1, 3, t, y, x) in -1..1."""
    return torch.from_numpy(np.array(frames)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def latent_grid(vae: VAE, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
    """Latent frames, rows and columns (f, y, x) of a clip of 1 + stride * n frames."""
    config = vae.config  # the two VAEs name the same thing differently
    temporal = config.get("scale_factor_temporal") or config["temporal_compression_ratio"]
    spatial = config.get("scale_factor_spatial") or config["spatial_compression_ratio"]
    return (num_frames - 1) // temporal + 1, height // spatial, width // spatial


def encode(vae: VAE, pixels: Tensor, *, sample: bool = False, generator: torch.Generator | None = None) -> Tensor:
    """Pixels (b, 3, t, y, x) in -1..1 -> normalised latents (b, c, *latent_grid): the posterior's mode, or a sample."""
    encoded: Any = vae.encode(pixels.to(_device(vae), vae.dtype))
    posterior = encoded.latent_dist
    return normalise(vae, posterior.sample(generator) if sample else posterior.mode())


def decode(vae: VAE, latents: Tensor) -> Tensor:
    """Normalised latents (b, c, f, y, x) -> float32 frames (b, t, y, x, 3) in 0..1."""
    decoded: Any = vae.decode(denormalise(vae, latents).to(_device(vae), vae.dtype))
    return (decoded.sample.float().clamp(-1, 1) / 2 + 0.5).permute(0, 2, 3, 4, 1)


def _device(vae: VAE) -> torch.device:
    """Where it computes; offloaded, it lies elsewhere until then."""
    hook: Any = getattr(vae, "_hf_hook", None)
    return vae.device if hook is None else hook.execution_device


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

"""Flow matching as the published system trains it (fact sheet 6): times, noisy latents, velocities, the loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from loomvideo.models.wan import LoomVideoTransformer3DModel

MIN_NOISE = 1e-3  # the noise that remains at t = 0


class Shown(NamedTuple):
    """Latent frames that stand for a clip."""

    frames: tuple[int, ...]
    of: int  # so many


@dataclass(frozen=True, kw_only=True)
class Group:
    """A batch of samples of one shape; b samples, (c, f, y, x) latents, m context tokens of width dm."""

    latents: Tensor  # clean, normalised (b, c, f, y, x)
    noise: Tensor  # standard normal, of the same shape
    time: Tensor  # flow time (b,) in 0..1, 1 is pure noise
    layers: Sequence[Tensor]  # MLLM layer (b, m, dm) of each denoiser block
    context_mask: Tensor | None = None  # (b, m), True at real tokens; None where nothing is padded
    source: Tensor | None = None  # normalised (b, c, f, y, x); zeros in the rows that have no source
    references: Sequence[Tensor] = ()  # normalised (b, c, f', y', x'), in order
    shown: Shown | None = None  # where latents and source are but some of a clip's frames


def dynamic_shift(num_tokens: int, *, base: float = 1.0, base_tokens: int = 64, scale: float = 0.5) -> float:
    """How far times move towards noise for a sample of `num_tokens` target and reference tokens: in base..8."""
    if num_tokens <= 0:
        return base
    return min(max(base + math.log2(num_tokens / base_tokens) * scale, base), 8.0)


def shift_time(time: Tensor, shift: float | Tensor) -> Tensor:
    return shift * time / (1 + (shift - 1) * time)


def sample_time(
    rngs: Sequence[np.random.Generator], shift: float, *, even_share: float = 0.0, even_factor: float = 1.0
) -> Tensor:
    """Flow times (b,), one of each generator: the sigmoid of a standard normal, shifted; of `even_share` of them, drawn
    evenly from 0..1 and shifted `even_factor` times as far."""

    def draw(rng: np.random.Generator) -> tuple[float, float]:
        if even_share and rng.random() < even_share:
            return rng.random(), even_factor * shift
        return float(1 / (1 + np.exp(-rng.standard_normal()))), shift

    times, shifts = torch.tensor([draw(rng) for rng in rngs], dtype=torch.float32).unbind(dim=1)
    return shift_time(times, shifts)


def add_noise(latents: Tensor, noise: Tensor, time: Tensor, *, min_noise: float = MIN_NOISE) -> Tensor:
    """z_t = (1 - t) x + (eps + (1 - eps) t) n, for time (b,)."""
    time = time.to(latents.dtype)[:, None, None, None, None]
    return (1 - time) * latents + (min_noise + (1 - min_noise) * time) * noise


def velocity_target(latents: Tensor, noise: Tensor, *, min_noise: float = MIN_NOISE) -> Tensor:
    """dz/dt = (1 - eps) n - x."""
    return (1 - min_noise) * noise - latents


def error_weights(prediction: str, time: Tensor) -> Tensor:
    """Weights (b, 1, 1, 1, 1) of squared velocity errors at times (b,).

    A predicted velocity's are one. Those of predicted clean latents grow with 1 / t^2 as velocities, and count as what they
    are, errors of the latents: what stands where is decided where there is much noise.
    """
    weights = torch.ones_like(time) if prediction == "velocity" else time.square()
    return weights[:, None, None, None, None]


def whole(latents: Tensor, shown: Shown | None) -> tuple[int, ...]:
    """The shape (f, y, x) of the clip that latents (b, c, f, y, x) are of."""
    frames, rows, columns = latents.shape[-3:]
    return frames if shown is None else shown.of, rows, columns


def frames_of(shown: Shown | None) -> tuple[int, ...] | None:
    return None if shown is None else shown.frames


def predict_velocity(transformer: LoomVideoTransformer3DModel, group: Group) -> Tensor:
    conditions = transformer.prepare(
        group.layers,
        latent_shape=whole(group.latents, group.shown),
        shown=frames_of(group.shown),
        source=group.source,
        references=group.references,
        context_mask=group.context_mask,
    )
    return transformer(add_noise(group.latents, group.noise, group.time), 1000 * group.time, conditions)


def squared_errors(transformer: LoomVideoTransformer3DModel, group: Group) -> Tensor:
    """Weighted squared velocity errors (b, c, f, y, x), float32: to be accumulated over groups."""
    error = predict_velocity(transformer, group) - velocity_target(group.latents, group.noise)
    return error.float().square() * error_weights(transformer.config["prediction"], group.time)


def flow_matching_loss(transformer: LoomVideoTransformer3DModel, groups: Sequence[Group]) -> Tensor:
    """Squared velocity errors of all samples over the number of target elements: large samples weigh more."""
    total = sum(group.latents.numel() for group in groups)
    return torch.stack([squared_errors(transformer, group).sum() for group in groups]).sum() / total

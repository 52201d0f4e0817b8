"""Omni-Video's objectives: weighted flow matching on a table of noise levels, and what its heads are aligned with.

Numbers are sections of Omni-Video's fact sheet.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from loomvideo.models.omnivideo import OmniVideoTransformer3DModel
from loomvideo.systems.omnivideo import GuidanceBranch
from loomvideo.training.objective import add_noise, shift_time, velocity_target

NUM_LEVELS = 1000
IGNORED = -100  # the label of a position that is not learned


@dataclass(frozen=True, kw_only=True)
class ContextGroup:
    """A batch of b samples of one shape, each with its own context."""

    latents: Tensor  # clean, normalised (b, c, f, y, x)
    noise: Tensor  # standard normal, of the same shape
    level: Tensor  # place (b,) in the tables of levels and weights
    contexts: Sequence[Tensor]  # rows (m, dt) of each sample


def level_table(shift: float = 3.0) -> Tensor:
    """Noise levels (1000,) from 1 downwards, float32; a timestep is 1000 times its level (10.1)."""
    return shift_time(1 - torch.arange(NUM_LEVELS, dtype=torch.float64) / NUM_LEVELS, shift).float()


def level_weights(levels: Tensor) -> Tensor:
    """A bell over the timesteps of a table, zero at its lowest and of mean 1 (10.1)."""
    bell = torch.exp(-2 * ((NUM_LEVELS * levels.double() - NUM_LEVELS / 2) / NUM_LEVELS) ** 2)
    bell = bell - bell.min()
    return (bell / bell.mean()).float()


def weighted_flow_loss(transformer: OmniVideoTransformer3DModel, group: ContextGroup, levels: Tensor) -> Tensor:
    """Mean over all elements of the squared velocity error times its sample's weight (10.1)."""
    velocity = predict_velocity(transformer, group, levels)
    error = (velocity - velocity_target(group.latents, group.noise, min_noise=0)).float()
    weights = level_weights(levels).to(error)[group.level]
    return (weights[:, None] * error.square().flatten(1)).mean()


def predict_velocity(transformer: OmniVideoTransformer3DModel, group: ContextGroup, levels: Tensor) -> Tensor:
    """The velocity (b, c, f, y, x) of each sample at its level of the table."""
    time = levels.to(group.latents.device)[group.level]
    conditions = transformer.prepare(group.contexts, latent_shape=group.latents.shape)
    noisy = add_noise(group.latents, group.noise, time, min_noise=0)
    return transformer(noisy, NUM_LEVELS * time, conditions)


def drop_conditions(
    samples: Sequence[GuidanceBranch], unconditional: GuidanceBranch, ratio: float, generator: torch.Generator
) -> list[GuidanceBranch]:
    """Each sample with the given probability told as little as the unconditional branch; its source stays (5)."""
    dropped = torch.rand(len(samples), generator=generator) < ratio
    return [
        replace(sample, states=unconditional.states, text=unconditional.text, items=unconditional.items)
        if drop
        else sample
        for sample, drop in zip(samples, dropped.tolist(), strict=True)
    ]


def alignment_loss(
    tokens: Tensor, target: Tensor, kind: Literal["cosine", "l2", "l2_squared", "mse"] = "cosine"
) -> Tensor:
    """How far the mean of a vision head's tokens (b, q, d) is from picture embeddings (b, d) (2.5).

    "cosine" is the released form, one minus the mean cosine; "l2" the paper's, the mean distance.
    """
    pooled, target = tokens.float().mean(dim=1), target.float()
    if kind == "cosine":
        return 1 - F.cosine_similarity(pooled, target, dim=-1).mean()
    squares = (pooled - target).square()
    if kind == "mse":
        return squares.mean()
    distances = squares.sum(dim=-1)
    return distances.mean() if kind == "l2_squared" else distances.sqrt().mean()


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of logits (b, m, v) and the labels (b, m) one place further, over those that are not -100 (2.5)."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED)

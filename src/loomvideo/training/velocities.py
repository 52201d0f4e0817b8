"""What a denoiser says, told through a recipe's objective.

Recipes give squared errors; post-training compares velocities, and walks along them. The target's velocity is what every
system's denoiser returns, so that it can be kept on its way, at any noisy latents that a batch is made to have.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from loomvideo.sampling.euler import ShiftedEulerScheduler
from loomvideo.training.lora import denoiser_of


@contextmanager
def kept_velocities(model: Any) -> Iterator[list[Tensor]]:
    """While it lasts, every velocity (b, c, f, y, x) of the denoiser in ``model``, float32, is added to the list."""
    kept: list[Tensor] = []

    def keep(denoiser: nn.Module, given: Any, velocity: Tensor) -> None:
        kept.append(velocity.float())

    handle = denoiser_of(model).register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()


def step_times(num_steps: int, shift: float) -> Tensor:
    """Flow times (num_steps + 1,) from 1 to 0, those of `ShiftedEulerScheduler`."""
    scheduler = ShiftedEulerScheduler(shift)
    scheduler.set_timesteps(num_steps)
    return scheduler.times


def placed(batch: Any, latents: Tensor, time: Tensor) -> Any:
    """A recipe's batch whose noisy latents at ``time`` (b,) are ``latents``, whatever little noise its data keep at time 0."""
    pure = (time == 1)[:, None, None, None, None]
    clean_share = (1 - time)[:, None, None, None, None]
    return replace(
        batch,
        latents=torch.where(pure, torch.zeros_like(latents), latents / clean_share.clamp_min(1e-6)),
        noise=torch.where(pure, latents, torch.zeros_like(latents)),
        time=time,
    )


def velocity_at(network: Any, batch: Any, latents: Tensor, time: Tensor) -> Tensor:
    """Of a `trainer.Network`: the velocity (b, c, f, y, x), float32, at ``latents`` of the times ``time`` (b,)."""
    with kept_velocities(network.model) as velocities:
        network(placed(batch, latents, time))
    return velocities[-1]

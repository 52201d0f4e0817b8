"""The sampling loop: it knows no system, no task and no file."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from loomvideo.sampling.caches import EXACT, Branch, GuidedVelocity, Shortcuts

OnVelocity = Callable[[int, Tensor], Tensor]  # (step, guided velocity) -> the velocity to go on with
OnStep = Callable[[int, Tensor, Tensor], Tensor | None]  # (step, timestep, latents) -> latents to go on with, or None


class Scheduler(Protocol):
    """Any of diffusers' flow-matching schedulers."""

    timesteps: Tensor

    def set_timesteps(self, num_inference_steps: int, *, device: torch.device) -> None: ...
    def step(self, velocity: Tensor, timestep: Tensor, latents: Tensor, /, *, return_dict: bool) -> Any: ...


class NotFiniteError(FloatingPointError):
    """A velocity or the latents hold NaN or infinity."""


def sample(
    branches: Sequence[Branch],
    scales: Sequence[float],
    *,
    scheduler: Scheduler,
    noise: Tensor,
    num_inference_steps: int,
    shortcuts: Shortcuts = EXACT,
    on_velocity: OnVelocity | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Latents from noise: at every step the guided velocity moves them one step of the scheduler.

    Args:
        branches: callables of the latents and one scheduler timestep (a scalar tensor), from least to most conditioned;
            each gives velocities (k, *latents.shape), so that k branches of equal shape may run as one batch.
        scales: one guidance scale fewer than there are velocities, in the same order.
        noise: standard normal; its precision is the precision of the solver.
        shortcuts: what is left out of the steps; by default nothing is.
        on_velocity: may change the guided velocity of a step: the solver goes on with what it gives.
        on_step: called after every step; a tensor that it returns replaces the latents.

    Raises:
        NotFiniteError: naming the step at which NaN or infinity appeared.
    """
    scheduler.set_timesteps(num_inference_steps, device=noise.device)
    guided = GuidedVelocity(branches, scales, shortcuts)
    latents = noise
    for step, timestep in enumerate(scheduler.timesteps):
        velocity = guided(step, num_inference_steps, latents, timestep)
        velocity = velocity if on_velocity is None else on_velocity(step, velocity)
        check_finite(velocity, "velocity", step, num_inference_steps)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        check_finite(latents, "latents", step, num_inference_steps)
        if on_step is not None:
            replaced = on_step(step, timestep, latents)
            latents = latents if replaced is None else replaced
    return latents


def check_finite(values: Tensor, name: str, step: int, num_steps: int) -> None:
    if not values.isfinite().all():
        raise NotFiniteError(
            f"the {name} of step {step + 1} of {num_steps} holds NaN or infinity: check the weights, "
            "or use float32 instead of a lower precision"
        )

"""Euler steps on a shifted grid of times, VINO's solver (fact sheet 5)."""

from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from torch import Tensor


@dataclass
class EulerOutput(BaseOutput):
    prev_sample: Tensor


class ShiftedEulerScheduler(SchedulerMixin, ConfigMixin):
    """Times from 1 (noise) to 0 (data), u = 1 - i / steps, moved towards the noise: shift * u / (1 + (shift - 1) * u).

    The denoiser is told `timestep_multiplier` times the time; the published program starts at exactly 999.
    """

    @register_to_config
    def __init__(self, shift: float = 7.0, timestep_multiplier: float = 999.0) -> None:
        self.shift = shift
        self.times = torch.zeros(0)  # (steps + 1,), float32
        self.timesteps = torch.zeros(0)  # (steps,), what the denoiser is told
        self._step = 0

    def set_shift(self, shift: float) -> None:
        """For the next `set_timesteps`: published weights use 5 for one frame and 7 for several."""
        self.shift = shift

    def set_timesteps(self, num_inference_steps: int, *, device: torch.device | str | None = None) -> None:
        u = torch.linspace(1, 0, num_inference_steps + 1)
        self.times = self.shift * u / (1 + (self.shift - 1) * u)
        self.timesteps = (self.config["timestep_multiplier"] * self.times[:-1]).to(device)
        self._step = 0

    def step(
        self, velocity: Tensor, timestep: Tensor, latents: Tensor, /, *, return_dict: bool = True
    ) -> EulerOutput | tuple[Tensor]:
        """The latents at the following time. Steps are taken in order; `timestep` is not looked up.

        Raises RuntimeError after the last step.
        """
        if self._step + 1 >= len(self.times):
            raise RuntimeError(f"all {len(self.timesteps)} steps are taken: call set_timesteps before sampling again")
        moved = latents - float(self.times[self._step] - self.times[self._step + 1]) * velocity
        self._step += 1
        return EulerOutput(prev_sample=moved) if return_dict else (moved,)

"""Wan's own noise levels for diffusers' solvers (fact sheet 8).

Both take diffusers' configuration with prediction_type "flow_prediction" and use_flow_sigmas, and shift their levels by
`flow_shift`. The denoiser is told the truncated timestep, the solver computes with the exact level.
"""

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  a pipeline finds out from it how to load

HIGHEST_LEVEL = 0.999  # of Wan's UniPC: the first of 1000 levels that end before pure noise


class WanUniPCScheduler(UniPCMultistepScheduler):
    """UniPC from level 0.999 to 0 in equal steps before the shift; diffusers' own levels differ by up to 2.5e-3."""

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Begin a run of so many steps."""
        levels = np.linspace(HIGHEST_LEVEL, 0, num_inference_steps + 1)[:-1]
        super().set_timesteps(device=device, sigmas=levels)  # pyright: ignore[reportArgumentType]
        self.set_begin_index(0)  # where truncated timesteps are equal, diffusers would begin at the second


class WanDPMSolverScheduler(DPMSolverMultistepScheduler):
    """DPM-Solver++ from level 1 to 0 in equal steps before the shift."""

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Begin a run of so many steps."""
        super().set_timesteps(num_inference_steps)  # forgets the run before
        levels, shift = np.linspace(1, 0, num_inference_steps + 1), self.config["flow_shift"]
        self.sigmas = torch.from_numpy(shift * levels / (1 + (shift - 1) * levels)).float()
        self.timesteps = (self.sigmas[:-1] * self.config["num_train_timesteps"]).long().to(device)
        self.set_begin_index(0)

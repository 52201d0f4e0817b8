"""Few steps without guidance: progressive distillation (Salimans and Ho, 2022) of a guided teacher (Meng et al., 2023).

The student's steps lie at fixed times. From data noised to one of them the teacher, guided, walks to the following one in
several small steps; the student learns the velocity that takes it there at once:

    v_student(z_t, t) = (z_t - z_s) / (t - s),   z_s where the teacher arrives.

The published recipe halves the steps again and again, each student teaching the next; here the first teacher walks all of
the way, which costs more evaluations and adds no student's error to the next one's. It was taken before adversarial and
distribution-matching recipes because it is a plain regression on a function of what is given: one network learns, nothing
is balanced against anything, and a small model's training cannot fall apart. What it gives up is that many-step samples
may look better than any regression.

b batch   c channels   (f, y, x) latent frames, rows and columns
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loomvideo.checkpoint import model_index
from loomvideo.sampling.euler import ShiftedEulerScheduler
from loomvideo.sampling.guidance import guide
from loomvideo.systems.request import ModelLimits
from loomvideo.training.config import DistillConfig
from loomvideo.training.distributed import shard, share_tokens
from loomvideo.training.lora import denoiser_of
from loomvideo.training.recipe import Draw
from loomvideo.training.trainer import Network, Trainer, repeated_blocks
from loomvideo.training.velocities import kept_velocities, placed, step_times, velocity_at

STUDENT_SEED = 1  # behind a sample's own: which of the steps it is for


class Teacher:
    """The guided velocity of a network that has been trained, and where it leads."""

    def __init__(self, network: Network, num_steps: int) -> None:
        """``num_steps`` are taken for one of the student's."""
        self.network, self.num_steps = network, num_steps

    @torch.no_grad()
    def walk(
        self, branches: Sequence[Any], scales: Sequence[float], latents: Tensor, start: Tensor, end: Tensor
    ) -> Tensor:
        """Latents (b, c, f, y, x) at the times ``end`` (b,) of those at ``start``, by Euler's steps of equal length."""
        length = (start - end) / self.num_steps
        for step in range(self.num_steps):
            time = start - step * length
            velocity = guide([velocity_at(self.network, branch, latents, time) for branch in branches], scales)
            latents = latents - length[:, None, None, None, None] * velocity
        return latents


class DistillTrainer(Trainer):
    """The trainer with another loss."""

    def __init__(
        self, *given: Any, teacher: nn.Module, limits: ModelLimits, distill: DistillConfig, **others: Any
    ) -> None:
        """``teacher`` is what ``recipe.build`` made, once more."""
        super().__init__(*given, **others)
        teacher.requires_grad_(False).eval().to(self.ranks.device)
        network = Network(self.recipe, teacher)
        shard(network, repeated_blocks(teacher), self.ranks, reshard_after_forward=True)
        share_tokens(denoiser_of(teacher), self.ranks)
        self.teacher, self.limits = Teacher(network, distill.teacher_steps), limits
        self.times = step_times(distill.num_inference_steps, distill.flow_shift).to(self.ranks.device)

    def errors(self, group: Sequence[Draw]) -> tuple[Tensor, float]:
        seeded = self.seeded(group)
        places = [
            int(np.random.default_rng([*draw.seed, STUDENT_SEED]).integers(len(self.times) - 1)) for draw in seeded
        ]
        start, end = self.times[places], self.times[[place + 1 for place in places]]
        guidance = self.recipe.guidance(group[0].item, self.limits)
        branches = [
            self.recipe.batch(seeded, self.ranks.device, replace(self.rules, **dropped))
            for dropped in guidance.dropouts
        ]
        batch = branches[-1]
        share = start[:, None, None, None, None]
        latents = (1 - share) * batch.latents + share * batch.noise
        with self._autocast(), kept_velocities(self.network.model) as velocities:
            arrived = self.teacher.walk(branches, guidance.scales, latents, start, end)
            of_recipe, operations = self.flops.counted(self.network, placed(batch, latents, start))
        goal = (latents - arrived) / (start - end)[:, None, None, None, None]
        # the recipe's own errors have no part, but sharded networks must be gone back through from their end
        return (velocities[-1] - goal).square() + 0 * of_recipe, operations


def settle(folder: Path, distill: DistillConfig, last_timestep: float) -> None:
    """Let a model folder's defaults be the student's: its steps, no guidance, Euler on its times."""
    index = model_index(folder)
    for name in ("guidance_scale", "guidance_scale_edit", "guidance_scale_visual"):
        index["limits"][name] = 1.0
    index["limits"] |= {"num_inference_steps": distill.num_inference_steps, "task_defaults": {}}
    index |= {name: distill.flow_shift for name in ("shift_image", "shift_video") if name in index}
    scheduler = ShiftedEulerScheduler(distill.flow_shift, timestep_multiplier=last_timestep)
    index["scheduler"] = [ShiftedEulerScheduler.__module__, ShiftedEulerScheduler.__name__]
    shutil.rmtree(folder / "scheduler")  # its files may be links to another folder's
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")

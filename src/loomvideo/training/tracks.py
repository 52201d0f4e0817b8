"""Where things are at a time, taught before a denoiser learns to draw: of the little world's plans it is known exactly."""

import logging

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from loomvideo.data.world import plans, tasks
from loomvideo.models.tracks import Tracks
from loomvideo.training.features import STATE_ERROR
from loomvideo.training.mllm import fact_directions
from loomvideo.training.run import fast_arithmetic

log = logging.getLogger(__name__)

TASKS = ("t2v", "t2v", "edit_video", "mi2v")
NUM_LESSONS, SCENES = 80, 96  # of so many scenes each
FRAMES, TIMES = 17, 6  # of a lesson, of as many as the clips have
STEPS, RATE = 1200, 2e-3
Lesson = tuple[Tensor, Tensor, Tensor]  # states (m, dm), times (f,), the states then (f, m, dm)


def teach_tracks(tracks: Tracks, device: torch.device) -> None:
    """Teach new tracks where the items of plans are at other times; some two minutes of one core."""
    dim, rng = tracks.first.in_features, np.random.default_rng([11, 0])
    lessons = [lesson(rng, dim) for _ in range(NUM_LESSONS)]
    tracks.to(device)
    optimizer = torch.optim.AdamW(tracks.parameters(), lr=RATE, weight_decay=0.0, fused=True)
    mean = 0.0
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / 50, 1.0) * (1 - step / STEPS)
        states, times, then = (part.to(device) for part in lessons[int(rng.integers(len(lessons)))])
        heard = states + STATE_ERROR * torch.randn_like(states)
        with fast_arithmetic(device):
            said = tracks(heard[None], times)[0]
        loss = (said.float() - then).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mean += (float(loss.detach()) - mean) / min(step + 1, 100)
    log.info("tracks: %d steps, mean squared error %.3f", STEPS, mean)


def lesson(rng: np.random.Generator, dim: int) -> Lesson:
    """The items of some clips' plans, and what they say at some times."""
    task = TASKS[int(rng.integers(len(TASKS)))]
    drawn = [tasks.sample(task, rng, num_frames=FRAMES) for _ in range(SCENES)]
    times = np.sort(rng.choice(FRAMES, size=TIMES, replace=False)) / (FRAMES - 1)
    then = [np.concatenate([plans.codes_at(one, float(time)) for one in drawn]) for time in times]
    states = _states(np.concatenate([plans.codes_of(one) for one in drawn]), dim)
    return states, torch.from_numpy(times).float(), _states(np.stack(then), dim)


def _states(codes: np.ndarray, dim: int) -> Tensor:
    return F.rms_norm(torch.from_numpy(codes) @ fact_directions(dim).T, (dim,))

"""Laws of Wan's noise levels."""

import pytest
import torch

from loomvideo.sampling.sampler import sample
from loomvideo.sampling.schedulers import WanDPMSolverScheduler, WanUniPCScheduler

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
CLASSES = pytest.mark.parametrize("scheduler_class", [WanUniPCScheduler, WanDPMSolverScheduler])


def make(scheduler_class, shift=5.0):
    return scheduler_class(flow_shift=shift, **FLOW)


@CLASSES
@pytest.mark.parametrize("steps", [1, 2, 5, 40, 400])
def test_a_straight_line_ends_at_its_data(scheduler_class, steps):
    """At 400 steps several truncated timesteps are equal, and the first level must still be the first."""
    scheduler = make(scheduler_class)
    data, noise = torch.randn(2, 1, 4, 2, 4, 4)
    first = []
    latents = sample(
        [lambda latents, timestep: first.append(latents) or (noise - data)[None]],
        [],
        scheduler=scheduler,
        noise=data + (noise - data) * start(scheduler_class),
        num_inference_steps=steps,
    )
    assert len(first) == len(scheduler.timesteps) == steps
    torch.testing.assert_close(latents, data, rtol=1e-3, atol=1e-3)


def start(scheduler_class):
    """The first level: on a straight line, the noisy latents stand so far from the data."""
    scheduler = make(scheduler_class)
    scheduler.set_timesteps(2)
    return scheduler.sigmas[0]


@CLASSES
@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 12.0])
def test_levels_fall_to_zero_and_timesteps_are_truncated_levels(scheduler_class, shift):
    scheduler = make(scheduler_class, shift)
    scheduler.set_timesteps(20)
    assert (scheduler.sigmas.diff() < 0).all()
    assert scheduler.sigmas[-1] == 0
    assert len(scheduler.sigmas) == 21
    distance = 1000 * scheduler.sigmas[:-1] - scheduler.timesteps
    assert ((distance > -1e-3) & (distance < 1)).all()
    assert not scheduler.timesteps.is_floating_point()


@CLASSES
def test_equal_steps_before_the_shift(scheduler_class):
    scheduler = make(scheduler_class, shift=3.0)
    scheduler.set_timesteps(10)
    unshifted = scheduler.sigmas / (3 - 2 * scheduler.sigmas)
    torch.testing.assert_close(unshifted.diff(), unshifted.diff()[:1].expand(10), rtol=1e-4, atol=1e-5)


@CLASSES
def test_a_second_run_remembers_nothing_of_the_first(scheduler_class):
    scheduler, noise = make(scheduler_class), torch.randn(1, 4, 2, 4, 4)
    runs = [
        sample([lambda x, t: (x * 0.3)[None]], [], scheduler=scheduler, noise=noise, num_inference_steps=4)
        for _ in range(2)
    ]
    torch.testing.assert_close(*runs, rtol=0, atol=0)


@CLASSES
def test_a_saved_scheduler_is_loaded(scheduler_class, tmp_path):
    make(scheduler_class, shift=3.0).save_pretrained(tmp_path)
    loaded, made = scheduler_class.from_pretrained(tmp_path), make(scheduler_class, shift=3.0)
    for scheduler in (loaded, made):
        scheduler.set_timesteps(7)
    torch.testing.assert_close(loaded.sigmas, made.sigmas, rtol=0, atol=0)

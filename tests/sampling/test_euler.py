"""Laws of the Euler solver on a shifted grid."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from loomvideo.sampling.euler import ShiftedEulerScheduler
from loomvideo.sampling.sampler import sample


@pytest.mark.parametrize("shift", [1.0, 5.0, 7.0])
@pytest.mark.parametrize("steps", [1, 3, 50])
def test_a_straight_line_ends_at_its_data(shift, steps):
    data, noise = torch.randn(2, 1, 4, 2, 4, 4)
    latents = sample(
        [lambda latents, timestep: (noise - data)[None]],
        [],
        scheduler=ShiftedEulerScheduler(shift=shift),
        noise=noise,
        num_inference_steps=steps,
    )
    torch.testing.assert_close(latents, data, rtol=1e-5, atol=1e-5)


def test_times_fall_from_noise_to_data_and_the_first_timestep_is_999():
    scheduler = ShiftedEulerScheduler()
    scheduler.set_timesteps(10)
    assert scheduler.timesteps[0] == 999
    assert scheduler.times[-1] == 0
    assert (scheduler.times.diff() < 0).all()
    assert len(scheduler.timesteps) == 10


def test_a_shift_of_one_is_an_even_grid_and_a_greater_one_stays_longer_with_the_noise():
    even, shifted = ShiftedEulerScheduler(shift=1.0), ShiftedEulerScheduler(shift=7.0)
    for scheduler in (even, shifted):
        scheduler.set_timesteps(8)
    torch.testing.assert_close(even.times, torch.linspace(1, 0, 9))
    assert (shifted.times[1:-1] > even.times[1:-1]).all()


def test_set_shift_holds_from_the_next_grid_on():
    scheduler, other = ShiftedEulerScheduler(shift=7.0), ShiftedEulerScheduler(shift=5.0)
    scheduler.set_shift(5.0)
    for one in (scheduler, other):
        one.set_timesteps(6)
    assert torch.equal(scheduler.times, other.times)


def test_the_steps_are_those_of_diffusers_on_the_same_grid():
    ours, theirs = ShiftedEulerScheduler(shift=5.0), FlowMatchEulerDiscreteScheduler(999, shift=5.0)
    ours.set_timesteps(7)
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / 7, 7))
    torch.testing.assert_close(ours.timesteps, theirs.timesteps)
    latents = other = torch.randn(1, 4, 2, 4, 4)
    for timestep, same in zip(ours.timesteps, theirs.timesteps, strict=True):
        latents = ours.step(latents.sin(), timestep, latents, return_dict=False)[0]
        other = theirs.step(other.sin(), same, other, return_dict=False)[0]
    torch.testing.assert_close(latents, other)


def test_a_step_after_the_last_is_refused_until_the_grid_is_set_again():
    scheduler, latents = ShiftedEulerScheduler(), torch.zeros(1)
    scheduler.set_timesteps(1)
    scheduler.step(latents, scheduler.timesteps[0], latents)
    with pytest.raises(RuntimeError, match="set_timesteps"):
        scheduler.step(latents, scheduler.timesteps[0], latents)
    scheduler.set_timesteps(1)
    assert scheduler.step(latents + 1, scheduler.timesteps[0], latents).prev_sample == -1


def test_a_scheduler_comes_back_from_its_folder(tmp_path):
    ShiftedEulerScheduler(shift=5.0, timestep_multiplier=1000.0).save_pretrained(tmp_path)
    loaded = ShiftedEulerScheduler.from_pretrained(tmp_path)
    assert (loaded.shift, loaded.config.timestep_multiplier) == (5.0, 1000.0)

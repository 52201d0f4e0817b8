"""Laws of the sampling loop."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from loomvideo.sampling.sampler import NotFiniteError, sample


def unipc():
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)


@pytest.mark.parametrize("scheduler", [unipc(), FlowMatchEulerDiscreteScheduler()], ids=["unipc", "euler"])
def test_a_straight_line_ends_at_its_data_whatever_the_scheduler(scheduler):
    data, noise = torch.randn(2, 1, 4, 2, 4, 4)
    latents = sample(
        [lambda latents, timestep: (noise - data)[None]], [], scheduler=scheduler, noise=noise, num_inference_steps=6
    )
    torch.testing.assert_close(latents, data, rtol=1e-4, atol=1e-4)


def test_branches_in_one_batch_equal_branches_in_turn():
    weak, strong = (lambda latents, _, k=k: (k * latents)[None] for k in (0.5, 0.8))
    noise = torch.randn(1, 4, 2, 4, 4)
    run = {"scheduler": unipc(), "noise": noise, "num_inference_steps": 4}
    in_turn = sample([weak, strong], [3.0], **run)
    together = sample([lambda latents, t: torch.cat([weak(latents, t), strong(latents, t)])], [3.0], **run)
    torch.testing.assert_close(in_turn, together, rtol=0, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_velocity_that_is_not_finite_stops_the_run_and_names_the_step(bad):
    steps = []

    def velocity(latents, timestep):
        steps.append(timestep)
        return torch.full_like(latents, bad if len(steps) == 3 else 0.0)[None]

    with pytest.raises(NotFiniteError, match="velocity of step 3 of 5"):
        sample([velocity], [], scheduler=unipc(), noise=torch.randn(1, 1, 1, 2, 2), num_inference_steps=5)


def test_noise_that_is_not_finite_stops_the_run_at_the_first_step():
    noise = torch.full((1, 1, 1, 2, 2), float("nan"))
    with pytest.raises(NotFiniteError, match="latents of step 1 of 5"):
        sample([lambda x, t: torch.zeros_like(x)[None]], [], scheduler=unipc(), noise=noise, num_inference_steps=5)


def test_on_step_sees_every_step_and_may_replace_the_latents():
    seen = []

    def on_step(step, timestep, latents):
        seen.append(step)
        return torch.zeros_like(latents) if step == 2 else None

    latents = sample(
        [lambda x, t: torch.zeros_like(x)[None]],
        [],
        scheduler=unipc(),
        noise=torch.randn(1, 1, 1, 2, 2),
        num_inference_steps=3,
        on_step=on_step,
    )
    assert seen == [0, 1, 2]
    assert not latents.any()

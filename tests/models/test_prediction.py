"""A head that says clean latents: what it is as a velocity, in every system's denoiser."""

import pytest
import torch

from loomvideo.models.prediction import LEAST_TIME, velocity_of
from loomvideo.systems.plan import plan
from loomvideo.systems.request import Request

SHAPE = (2, 3, 1, 4, 4)


@pytest.mark.parametrize("time", [1.0, 0.5, LEAST_TIME])
def test_the_true_clean_latents_give_the_true_velocity(time):
    clean, noise = torch.randn(2, *SHAPE)
    noisy = (1 - time) * clean + time * noise
    found = velocity_of(clean, "clean", noisy, torch.full((2,), 1000 * time))
    torch.testing.assert_close(found, noise - clean, rtol=1e-4, atol=1e-4)


def test_a_step_to_time_zero_along_it_ends_at_what_was_predicted():
    clean, noisy = torch.randn(2, *SHAPE)
    velocity = velocity_of(clean, "clean", noisy, torch.tensor([300.0]))
    torch.testing.assert_close(noisy - 0.3 * velocity, clean)


def test_at_the_end_errors_are_blown_up_no_further():
    clean, noisy = torch.randn(2, *SHAPE)
    found = velocity_of(clean, "clean", noisy, torch.tensor([0.0]))
    torch.testing.assert_close(found, (noisy - clean) / LEAST_TIME)


@pytest.mark.parametrize("system", ["loomvideo", "vino", "omnivideo"])
@torch.no_grad()
def test_every_denoiser_may_predict_either(system, small_pipeline):
    pipe = small_pipeline(system)
    planned = plan(Request(prompt="x", num_frames=1, guidance_scale=1.0), pipe.limits)
    noisy = pipe.draw_noise(planned, torch.Generator().manual_seed(0))
    (branch,), _ = pipe.condition(planned, noisy.shape, posterior=None, batch_branches=True)
    said = branch(noisy, torch.tensor(500.0))
    pipe.transformer.register_to_config(prediction="clean")
    found = branch(noisy, torch.tensor(500.0))
    torch.testing.assert_close(found, (noisy - said) / 0.5, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_source_that_is_added_is_no_part_of_the_noisy_latents(small_pipeline):
    denoiser = small_pipeline("omnivideo").transformer
    noisy, source = torch.randn(2, 1, denoiser.config["in_channels"], 1, 4, 4)
    told = denoiser.prepare([torch.randn(3, denoiser.config["text_dim"])], latent_shape=noisy.shape, added=source)
    said = denoiser(noisy, torch.tensor([500.0]), told)
    denoiser.register_to_config(prediction="clean")
    torch.testing.assert_close(denoiser(noisy, torch.tensor([500.0]), told), (noisy - said) / 0.5)


@pytest.mark.parametrize("system", ["loomvideo", "vino", "omnivideo"])
def test_another_prediction_is_refused(system, small_pipeline):
    denoiser = small_pipeline(system).transformer
    fields = {name: value for name, value in denoiser.config.items() if not name.startswith("_")}
    with pytest.raises(ValueError, match="prediction='noise': a denoiser predicts velocity or clean"):
        type(denoiser)(**{**fields, "prediction": "noise"})

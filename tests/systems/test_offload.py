"""Offloaded weights: every way into a model fetches them, and the result is the same."""

import pytest
import torch
from accelerate import cpu_offload
from diffusers.hooks import apply_group_offloading

REQUEST = {"num_frames": 5, "num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "latent"}


@pytest.fixture(params=["loomvideo", "vino", "omnivideo", "omnivideo2"])
def pipe(request, small_pipeline):
    return small_pipeline(request.param)


def models(pipe):
    return [model for name in pipe.model_cpu_offload_seq.split("->") if (model := pipe.components[name]) is not None]


def test_models_whose_weights_are_fetched_one_by_one_make_the_same_latents(pipe):
    before = pipe("x", **REQUEST).frames
    for model in models(pipe):
        cpu_offload(model, "cpu", offload_buffers=True)
    assert all(parameter.is_meta for parameter in pipe.transformer.parameters())
    assert torch.equal(pipe("x", **REQUEST).frames, before)


def test_a_denoiser_offloaded_in_groups_makes_the_same_latents(pipe, tmp_path):
    """On the disk, so that a weight that is not fetched is no weight at all."""
    before = pipe("x", **REQUEST).frames
    apply_group_offloading(
        pipe.transformer, torch.device("cpu"), offload_type="leaf_level", offload_to_disk_path=str(tmp_path)
    )
    torch.testing.assert_close(pipe("x", **REQUEST).frames, before, rtol=1e-5, atol=1e-5)

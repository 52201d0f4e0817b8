"""Compiled blocks: behind a second size they serve requests of any other."""

import pytest
import torch
from torch._dynamo.utils import counters

SIZES = ((64, 64, 5), (96, 64, 5), (64, 96, 9), (96, 96, 9))  # height, width, frames


@pytest.fixture(params=["loomvideo", "vino", "omnivideo"])
def pipe(request, small_pipeline):
    torch._dynamo.reset()
    counters.clear()
    pipeline = small_pipeline(request.param)
    yield pipeline
    torch._dynamo.reset()


def made(pipe, size, prompt="a red circle"):
    height, width, frames = size
    options = {"num_inference_steps": 1, "guidance_scale": 2.0, "output_type": "latent"}
    return pipe(prompt, height=height, width=width, num_frames=frames, batch_branches=False, **options).frames


@pytest.mark.slow
def test_a_third_size_or_another_prompt_compiles_nothing_anew(pipe):
    eager = [made(pipe, size) for size in SIZES]
    pipe.compile_denoisers(backend="eager")  # traced as for any backend
    compiled = [made(pipe, size) for size in SIZES[:2]]  # the second tells which numbers change
    graphs = counters["stats"]["unique_graphs"]
    assert graphs
    compiled += [made(pipe, size) for size in SIZES[2:]]
    made(pipe, SIZES[1], "a prompt of another length, which is a longer one")
    assert counters["stats"]["unique_graphs"] == graphs
    for latents, exact in zip(compiled, eager, strict=True):
        torch.testing.assert_close(latents, exact, rtol=1e-5, atol=1e-5)

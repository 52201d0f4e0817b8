"""Two ranks carry out whole requests of every system together: guidance branches or tokens over ranks, the same latents."""

from itertools import product

import numpy as np
import pytest
import torch
import torch.distributed as dist

from loomvideo import LoomVideoPipeline, VinoPipeline
from loomvideo.models.vae import decode
from loomvideo.systems.plan import plan
from loomvideo.systems.request import Request
from loomvideo.team import Team
from omnivideo_parts import first_release, second_release
from two_ranks import run

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 40, 56, 3), dtype=np.uint8)
SYSTEMS = ("loomvideo", "vino", "omnivideo", "omnivideo2")
REQUESTS = {  # of one, two and, but for VINO, three guidance branches
    "one": {"num_frames": 5, "guidance_scale": 1.0, "guidance_scale_visual": 1.0},
    "two": {"num_frames": 5, "guidance_scale": 3.0},
    "three": {"source": FRAMES, "guidance_scale": 3.0, "guidance_scale_visual": 2.0},
}
CASES = list(product(SYSTEMS, REQUESTS))


def pipelines(tiny_model, tiny_vino):
    made = {
        "loomvideo": LoomVideoPipeline.from_pretrained(tiny_model),
        "vino": VinoPipeline.from_pretrained(tiny_vino),
        "omnivideo": first_release(tiny_model),
        "omnivideo2": second_release(tiny_model),
    }
    made["omnivideo2"].say = lambda chat: "a caption"  # random weights would talk to the end of their limit
    for pipeline in made.values():
        pipeline.set_progress_bar_config(disable=True)
    return made


def latents(pipeline, request, seed):
    return pipeline("x", **REQUESTS[request], num_inference_steps=2, seed=seed, output_type="latent").frames


def on_a_rank(tiny_model, tiny_vino):
    made = pipelines(tiny_model, tiny_vino)
    for pipeline in made.values():
        pipeline.team = Team(torch.device("cpu"))
    seed = 7 + dist.get_rank()  # the leading rank's counts
    results = {(system, request): latents(made[system], request, seed) for system, request in CASES}
    decoded = {}
    for name in ("loomvideo", "vino"):  # Wan's VAE, and HunyuanVideo's
        decided = plan(Request(prompt="x", **REQUESTS["one"], num_inference_steps=2, seed=seed), made[name].limits)
        decoded[name] = list(made[name].stream(decided))
    torch.manual_seed(0)
    z = torch.randn(1, 4, 3, 2, 5)  # columns that do not divide
    decoded["columns"] = torch.cat(list(Team(torch.device("cpu")).decode_in_turn(made["loomvideo"].vae, [z], 3)), 1)
    decoded["undone"] = decode(made["loomvideo"].vae, z)
    return results, decoded


@pytest.fixture(scope="module")
def alone(tiny_model, tiny_vino):
    return pipelines(tiny_model, tiny_vino)


@pytest.fixture(scope="module")
def ranks(tiny_model, tiny_vino):
    return run(on_a_rank, tiny_model, tiny_vino)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_two_ranks_make_the_latents_of_one(ranks, alone, case):
    system, request = case
    expected = latents(alone[system], request, seed=7)
    for results, _ in ranks:
        torch.testing.assert_close(results[case], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("system", ["loomvideo", "vino"])
def test_the_leading_rank_alone_has_the_frames_and_they_are_those_of_one(ranks, alone, system):
    decided = plan(Request(prompt="x", **REQUESTS["one"], num_inference_steps=2, seed=7), alone[system].limits)
    (_, first), (_, second) = ranks
    assert second[system] == []
    expected = np.concatenate(list(alone[system].stream(decided))).astype(int)
    assert np.abs(np.concatenate(first[system]) - expected).max() <= 1


def test_columns_decoded_by_two_ranks_have_no_seam(ranks):
    for _, decoded in ranks:
        torch.testing.assert_close(decoded["columns"], decoded["undone"], rtol=0, atol=1e-5)

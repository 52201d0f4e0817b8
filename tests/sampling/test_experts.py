"""Laws of denoising by several models."""

import pytest
import torch

from loomvideo.sampling.experts import Experts


def branch(name, log):
    def make():
        log.append(f"make {name}")
        return lambda latents, timestep: log.append(f"{name} {int(timestep)}") or latents[None]

    return make


def test_each_model_serves_its_side_of_the_boundary_and_is_made_when_its_first_step_comes():
    log = []
    experts = Experts(branch("high", log), branch("low", log), boundary=875)
    for timestep in (999, 900, 875, 874, 10):
        experts(torch.zeros(1), torch.tensor(timestep))
    assert log == ["make high", "high 999", "high 900", "high 875", "make low", "low 874", "low 10"]


def test_a_model_that_has_no_step_is_never_made():
    log = []
    Experts(branch("high", log), branch("low", log), boundary=875)(torch.zeros(1), torch.tensor(500))
    assert log == ["make low", "low 500"]


def test_the_branch_before_is_let_go_before_the_next_is_made():
    class Branch:
        alive = 0

        def __init__(self):
            assert Branch.alive == 0
            Branch.alive += 1

        def __del__(self):
            Branch.alive -= 1

        def __call__(self, latents, timestep):
            return latents[None]

    experts = Experts(lambda: Branch(), lambda: Branch(), boundary=500)
    for timestep in (900, 100):
        experts(torch.zeros(1), torch.tensor(timestep))


def test_what_a_model_says_is_handed_on():
    experts = Experts(lambda: lambda x, t: 2 * x, lambda: lambda x, t: 3 * x, boundary=500)
    said = [experts(torch.ones(1), torch.tensor(t)).item() for t in (700, 200, 700)]
    assert said == pytest.approx([2, 3, 2])

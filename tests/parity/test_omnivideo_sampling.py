"""Noise levels, solvers and whole runs from noise to frames are the published ones."""

import pytest
import torch
from diffusers import UniPCMultistepScheduler
from golden_set import assert_same
from omnivideo_set import denoiser, each_case, expert, vae
from test_omnivideo_condition import first_builder, second_builder, told

from loomvideo.models.vae import decode
from loomvideo.sampling.experts import Experts
from loomvideo.sampling.guidance import standard_scale
from loomvideo.sampling.sampler import sample
from loomvideo.sampling.schedulers import WanDPMSolverScheduler, WanUniPCScheduler
from loomvideo.systems.omnivideo import GuidanceBranch
from loomvideo.systems.omnivideo import denoiser as make_branch

SOLVERS = {"unipc": WanUniPCScheduler, "dpm++": WanDPMSolverScheduler}
RELEASED_GUIDANCE, USUAL_GUIDANCE = "cond + s*(cond-uncond)", "uncond + s*(cond-uncond)"


def make_scheduler(case):
    return SOLVERS[case.params.get("solver", "unipc")](
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=case.params["shift"]
    )


def tables(scheduler):
    return {"sigmas": scheduler.sigmas, "timesteps": scheduler.timesteps}


def run_table(case):
    scheduler = make_scheduler(case)
    scheduler.set_timesteps(case.params["steps"])
    return tables(scheduler)


def run_trajectory(case):
    scheduler, inputs = make_scheduler(case), case.inputs()
    velocities, samples = list(inputs["velocities"]), []
    sample(
        [lambda latents, timestep: velocities.pop(0)[None]],
        [],
        scheduler=scheduler,
        noise=inputs["x_init"],
        num_inference_steps=case.params["steps"],
        on_step=lambda step, timestep, latents: samples.append(latents),
    )
    return {"samples": torch.stack(samples), **tables(scheduler)}


def scale(case):
    form = case.params["guidance"]
    assert form in (RELEASED_GUIDANCE, USUAL_GUIDANCE)
    guidance = case.params["guide_scale"]
    return standard_scale(guidance) if form == RELEASED_GUIDANCE else guidance


class RecordingScheduler(WanUniPCScheduler):
    """Keeps the guided velocities."""

    def step(self, velocity, *arguments, **options):
        self.velocities = [*getattr(self, "velocities", []), velocity]
        return super().step(velocity, *arguments, **options)


@torch.no_grad()
def run_sampler(case, branches, scheduler):
    stepped = []
    latents = sample(
        branches,
        [scale(case)],
        scheduler=scheduler,
        noise=case.inputs()["noise"][None],
        num_inference_steps=case.params["steps"],
        on_step=lambda step, timestep, latents: stepped.append(latents),
    )
    return {"latents": latents[0], "step_latents": torch.cat(stepped)}


@torch.no_grad()
def run_first_release(case, batched=True):
    inputs = case.inputs()
    noise = inputs["noise"][None]
    build = first_builder(case, still=noise.shape[2] == 1)
    contexts = [build(told(inputs, text="uncond_context", states="uncond_ar_vision")), build(told(inputs))]
    groups = [contexts] if batched else [[context] for context in contexts]
    branches = [make_branch(denoiser(), group, noise.shape) for group in groups]
    scheduler = make_scheduler(case)
    if "first_guided_velocity" in case.outputs():
        scheduler = RecordingScheduler.from_config(scheduler.config)
    outputs = run_sampler(case, branches, scheduler)
    if "first_guided_velocity" in case.outputs():
        outputs["first_guided_velocity"] = scheduler.velocities[0][0]
    if "frames" in case.outputs():
        outputs["frames"] = decode(vae(), outputs["latents"][None])[0].permute(3, 0, 1, 2) * 2 - 1
    return outputs


@torch.no_grad()
def run_second_release(case, batched=True):
    inputs, shape = case.inputs(), case.inputs()["noise"][None].shape

    def make(file):
        parts = expert(file)
        build = second_builder(case, parts)
        conditional = told(inputs)
        nothing = GuidanceBranch(parts.projection.null_states(), inputs["neg_text"], conditional.source)
        contexts = [build(nothing), build(conditional)]
        if batched:
            return make_branch(parts.transformer, contexts, shape)
        branches = [make_branch(parts.transformer, [context], shape) for context in contexts]
        return lambda latents, timestep: torch.cat([branch(latents, timestep) for branch in branches])

    high, low = (lambda file=file: make(file) for file in (case.entry["weights"] * 2)[:2])
    return run_sampler(case, [Experts(high, low, case.params["boundary"])], make_scheduler(case))


RUNS = {
    "schedulers/*_table_*": run_table,
    "schedulers/*_trajectory_*": run_trajectory,
    "v1_sampling/*": run_first_release,
    "v2/sample_*": run_second_release,
}


@each_case("schedulers/*_table_*")
def test_noise_levels(case):
    case.check(run_table(case))


@each_case("schedulers/*_trajectory_*")
def test_solver_with_prescribed_velocities(case):
    case.check(run_trajectory(case))


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "in_turn"])
@each_case("v1_sampling/*")
def test_whole_run(case, batched):
    case.check(run_first_release(case, batched))


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "in_turn"])
@each_case("v2/sample_*")
def test_whole_run_of_the_second_release(case, batched):
    case.check(run_second_release(case, batched))


@each_case("v2/sample_*")
def test_golden_steps_of_the_second_release_are_on_both_sides_of_the_boundary(case):
    scheduler = make_scheduler(case)
    scheduler.set_timesteps(case.params["steps"])
    assert {bool(t >= case.params["boundary"]) for t in scheduler.timesteps} == {True, False}


@each_case("schedulers/unipc_table_*")
def test_levels_of_diffusers_own_table_are_others(case):
    """Else the scheduler of this package had no reason to be."""
    theirs = UniPCMultistepScheduler.from_config(make_scheduler(case).config)
    theirs.set_timesteps(case.params["steps"])
    with pytest.raises(AssertionError, match="sigmas"):
        assert_same("sigmas", theirs.sigmas, case.outputs()["sigmas"])

"""A whole request of VINO: every branch's ids, markers and velocities, every step, latents and frames are as published."""

import pytest
import torch
from golden_set import assert_all_same, each_case
from test_vino_denoiser import marker_rows
from test_vino_encoder import rows_of
from test_vino_vae import ALLOWED, encoded, references_of

from loomvideo.models.chat import tokenise
from loomvideo.models.vae import decode, denormalise, latent_grid
from loomvideo.sampling.euler import ShiftedEulerScheduler
from loomvideo.sampling.sampler import sample
from loomvideo.systems.vino import denoisers, guidance_branches, read, show

BRANCHES = {1: ["cond"], 2: ["neg_text", "cond"], 3: ["neg_image", "neg_text", "cond"]}  # least to most conditioned


def branches_of(case, latents, inputs, budgets):
    request = case.params["request"]
    clip = None if request["video"] is None else inputs[f"video/{request['video']}"].numpy()
    pictures = [inputs[f"image/{name}"].numpy() for name in request["images"]]
    branches, scales = guidance_branches(
        show(pictures, clip, budgets),
        latents,
        prompt=request["prompt"],
        negative_prompt=request["neg" if case.params["facts"]["num_frames"] == 1 else "negv"],
        guidance_scale=request["g"],
        guidance_scale_image=request["gi"],
        has_base=request["base"],
    )
    return dict(zip(BRANCHES[len(branches)], branches, strict=True)), scales


def recorded(branch, velocities):
    def record(latents, timestep):
        velocity = branch(latents, timestep)
        velocities[-1].extend(velocity)
        return velocity

    return record


@torch.no_grad()
def run(case, parts, inputs, batch_branches):
    """Everything between noise and frames, under the golden names; and the branches."""
    request, noise = case.params["request"], inputs[f"noise/{case.name}"]
    computed = encoded(parts["vae"], case, inputs)
    latents = [computed[name] for name in computed if name.startswith("ref_latent/")]
    branches, scales = branches_of(case, latents, inputs, parts["budgets"])
    readings = [
        read(parts["mllm"], parts["tokenizer"], parts["connector"], branch.chat) for branch in branches.values()
    ]
    functions = denoisers(
        parts["transformer"], list(branches.values()), readings, noise.shape, batch_branches=batch_branches
    )
    scheduler = ShiftedEulerScheduler(shift=request["shift"])
    velocities, starts = [[]], [noise]

    def on_step(step, timestep, stepped):
        velocities.append([])
        starts.append(stepped)

    final = sample(
        [recorded(function, velocities) for function in functions],
        scales,
        scheduler=scheduler,
        noise=noise,
        num_inference_steps=request["steps"],
        on_step=on_step,
    )
    for moment, step in {"step0": velocities[0], "last": velocities[-2]}.items():
        for name, velocity in zip(branches, step, strict=True):
            computed[f"velocity_{moment}/{name}"] = velocity
    computed |= {
        "timesteps": scheduler.times[:-1],
        "dts": -scheduler.times.diff(),
        "latents_steps": torch.cat(starts[:-1]),
        "latents_final": final,
        "decoded": parts["vae"].decode(denormalise(parts["vae"], final)).sample,
        "frames_uint8": decode(parts["vae"], final) * 255,
    }
    return computed, branches, readings


def assert_run_is_golden(computed, golden):
    """Times to rounding; eight-bit frames may differ by one grey level at a rounding edge."""
    times = {name: golden[name] for name in ("timesteps", "dts")}
    assert_all_same(computed, times, given=set(), allowed=1e-6)
    rest = {name: tensor for name, tensor in golden.items() if name not in (*times, "frames_uint8")}
    assert_all_same(computed, rest, given=set(), allowed=ALLOWED)
    frames = {"frames_uint8": golden["frames_uint8"].float()}
    assert_all_same({"frames_uint8": computed["frames_uint8"].floor()}, frames, given=set(), allowed=1)


@pytest.mark.parametrize("batch_branches", [True, False], ids=["batched", "in_turn"])
@each_case("vino", "whole sampling")
def test_every_tensor_of_a_request(case, batch_branches, vino_parts, vino_inputs):
    computed, branches, readings = run(case, vino_parts, vino_inputs, batch_branches)
    assert_run_is_golden(computed, case.load())
    stated = case.params["facts"]["branches"]
    assert set(branches) == set(stated)
    for (name, branch), reading in zip(branches.items(), readings, strict=True):
        inputs = tokenise(vino_parts["tokenizer"], [branch.chat])
        assert reading.text.shape[1] == stated[name]["mllm_tokens"]
        assert len(branch.references) == stated[name]["references_used"]
        assert torch.equal(rows_of(vino_parts["mllm"], branch.chat, inputs.input_ids), marker_rows(stated[name]))
        assert branch.chat.text.split("<|im_end|>")[1].endswith(stated[name]["prompt"])


@each_case("vino", "whole sampling")
def test_the_noise_of_a_request_has_the_shape_of_its_latents(case, vino_vae, vino_inputs):
    facts, request = case.params["facts"], case.params["request"]
    size = latent_grid(vino_vae, facts["num_frames"], facts["height"], facts["width"])
    assert vino_inputs[f"noise/{case.name}"].shape[2:] == size
    clip = references_of(request, vino_inputs)[1]
    if clip is not None:  # an edit is as long and as large as what is edited
        assert clip.shape[:3] == (facts["num_frames"], facts["height"], facts["width"])

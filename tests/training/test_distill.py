"""Few-step distillation: the student goes in one step where the guided teacher goes in many, and a folder says so."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from tiny_training import (
    CPU,
    TinyBatches,
    TinyRecipe,
    config,
    sample,
    trained_in_one_and_in_two_parts,
    validation_groups,
)
from torch import Tensor, nn

from loomvideo.checkpoint import model_index, pipeline_class
from loomvideo.sampling.sampler import sample as walk_down
from loomvideo.systems.plan import plan
from loomvideo.systems.request import ModelLimits, Request
from loomvideo.training.config import ConfigError, DistillConfig, TrainConfig, from_mapping
from loomvideo.training.distill import DistillTrainer, Teacher
from loomvideo.training.distributed import Ranks
from loomvideo.training.launch import run_training
from loomvideo.training.loomvideo import LoomVideoRecipe
from loomvideo.training.objective import Group, add_noise
from loomvideo.training.omnivideo import OmniVideoRecipe
from loomvideo.training.recipe import NO_DROPOUT, NO_TEXT, NOTHING_KEPT, BatchRules, Draw
from loomvideo.training.trainer import Network
from loomvideo.training.velocities import placed, step_times
from loomvideo.training.vino import VinoRecipe

LIMITS = ModelLimits(fps=8, area=64 * 64, max_area=64 * 64, max_frames=1, default_frames=1)
MEAN, SPREAD = 1.0, 0.5  # of the known flow's data


# --- a flow that is known: Gaussian data, of which all is linear


@dataclass(frozen=True)
class Marginals:
    """A batch of the flow between Gaussian data and noise."""

    latents: Tensor
    noise: Tensor
    time: Tensor


class Line(nn.Module):
    """Velocities that are linear in the latents, with weights of their own for each of the student's times; nothing
    but `exact` where it teaches."""

    def __init__(self, times: Tensor, *, exact: bool) -> None:
        super().__init__()
        self.times, self.exact = times[:-1], exact
        self.slope, self.offset = (nn.Parameter(torch.zeros(len(self.times))) for _ in range(2))

    def forward(self, latents: Tensor, time: Tensor) -> Tensor:
        if self.exact:
            return known_velocity(latents, time[:, None, None, None, None])
        place = (time[:, None] - self.times).abs().argmin(1)
        slope, offset = (weights[place][:, None, None, None, None] for weights in (self.slope, self.offset))
        return slope * latents + offset


def known_velocity(latents, time):
    """E[n - x | z] of z = (1 - t) x + t n with x ~ N(MEAN, SPREAD^2)."""
    centred = latents - (1 - time) * MEAN
    variance = ((1 - time) * SPREAD) ** 2 + time**2
    return (time - (1 - time) * SPREAD**2) / variance * centred - MEAN


def known_endpoint(noise):
    """Where its differential equation leads: quantiles go to quantiles."""
    return MEAN + SPREAD * noise


class LineRecipe(TinyRecipe):
    rules = BatchRules()

    def __init__(self, times):
        self.times = times

    def build(self, start=None):
        return Line(self.times, exact=False)

    def batch(self, draws, device, rules=None):
        latents = torch.stack([draw.item["target"] for draw in draws])
        return Marginals(latents, torch.stack([draw.noise(device) for draw in draws]), torch.ones(len(draws)))

    def squared_errors(self, model, batch):
        noisy = add_noise(batch.latents, batch.noise, batch.time, min_noise=0)
        return (model(noisy, batch.time) - (batch.noise - batch.latents)).square()


class Gaussians:
    def __init__(self):
        self.step = 0

    def next(self):
        self.step += 1
        rng = np.random.default_rng(self.step)
        targets = torch.from_numpy(MEAN + SPREAD * rng.standard_normal((64, 1, 1, 2, 2), dtype=np.float32))
        return [[Draw({"target": one, "references": []}, (self.step, row)) for row, one in enumerate(targets)]]

    def state_dict(self):
        return {"step": self.step}

    def load_state_dict(self, state):
        self.step = state["step"]


class Euler:
    """Of the student's own times."""

    def __init__(self, times):
        self.times = times

    def __call__(self, model, latents):
        for time, following in zip(self.times[:-1], self.times[1:], strict=True):
            latents = latents - (time - following) * model(latents, time.expand(len(latents)))
        return latents


@torch.no_grad()
def test_four_steps_reach_the_known_endpoint_where_the_teachers_own_four_do_not(tmp_path):
    distill = DistillConfig(num_inference_steps=4, teacher_steps=16)
    times = step_times(4, distill.flow_shift)
    recipe, teacher = LineRecipe(times), Line(times, exact=True)
    settings = config(
        tmp_path, steps=250, ema_decay=0.9, optimizer={"learning_rate": 0.05, "betas": [0.9, 0.99], "clip": 100.0, "schedule": "linear"},
        checkpoints={"every": 1000}, watch={"log_every": 1000},
    )  # fmt: skip
    with torch.enable_grad():
        trainer = DistillTrainer(
            settings, recipe, recipe.build(), Gaussians(), Ranks(CPU), teacher=teacher, limits=LIMITS, distill=distill
        )
        trainer.train()
    trainer._set(trainer.averages)
    noise = torch.randn(256, 1, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    four = Euler(times)

    def error(made):
        return float((made - known_endpoint(noise)).square().mean().sqrt())

    student, coarse = error(four(trainer.network.model, noise)), error(four(teacher, noise))
    assert student < 0.05
    assert student < coarse / 3


# --- the walk


def tiny_group(*places):
    return [Draw(sample(place), (place,)) for place in places]


def networks():
    recipe = TinyRecipe()
    return recipe, Network(recipe, recipe.build(None).eval())


@torch.no_grad()
def test_placed_latents_are_what_the_denoiser_is_given():
    recipe, network = networks()
    batch = recipe.batch(tiny_group(1, 2), CPU)
    latents, time = torch.randn_like(batch.latents), torch.tensor([1.0, 0.3])
    given = []
    network.model.register_forward_pre_hook(lambda module, arguments: given.append(arguments))
    network(placed(batch, latents, time))
    torch.testing.assert_close(given[0][0], latents)
    torch.testing.assert_close(given[0][1], 1000 * time)


@torch.no_grad()
def test_the_teacher_walks_as_sampling_does():
    """All of the way, in the sampling loop's own guided steps, with the conditions of the same branches."""
    recipe, network = networks()
    group = tiny_group(1)  # with a source, and so with three branches
    dropouts, scales = recipe.guidance(group[0].item, LIMITS)
    branches = [recipe.batch(group, CPU, replace(recipe.rules, **dropped)) for dropped in dropouts]
    teacher = Teacher(network, num_steps=3)
    assert scales == [LIMITS.guidance_scale_visual, LIMITS.guidance_scale_edit]
    noise = torch.randn_like(branches[0].latents)

    class Steps:
        timesteps = 1000 * torch.tensor([1, 2 / 3, 1 / 3])

        def set_timesteps(self, number, *, device):
            assert number == 3

        def step(self, velocity, timestep, latents, /, *, return_dict):
            return (latents - velocity / 3,)

    def branch(batch: Group):
        conditions = network.model.prepare(batch.layers, latent_shape=noise.shape, source=batch.source)
        return lambda latents, timestep: network.model(latents, timestep.expand(1), conditions)[None]

    expected = walk_down(
        [branch(one) for one in branches], scales, scheduler=Steps(), noise=noise, num_inference_steps=3
    )
    found = teacher.walk(branches, scales, noise, torch.ones(1), torch.zeros(1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, teacher.walk(branches, [1.0, 1.0], noise, torch.ones(1), torch.zeros(1)))


# of a system's prepared samples: what makes the difference, and the branches and scales that sampling has
TEXT, EDIT, VISUAL = LIMITS.guidance_scale, LIMITS.guidance_scale_edit, LIMITS.guidance_scale_visual
GUIDED = [
    (LoomVideoRecipe, {}, [NOTHING_KEPT, NO_DROPOUT], [TEXT]),
    (LoomVideoRecipe, {"visual": 0}, [NOTHING_KEPT, NO_TEXT, NO_DROPOUT], [VISUAL, TEXT]),
    (LoomVideoRecipe, {"visual": 0, "source": 0}, [NOTHING_KEPT, NO_TEXT, NO_DROPOUT], [VISUAL, EDIT]),
    (VinoRecipe, {"task": "short"}, [NO_TEXT, NO_DROPOUT], [TEXT]),
    (VinoRecipe, {"task": "edit"}, [NO_TEXT, NO_DROPOUT], [EDIT]),
    (VinoRecipe, {"task": "mi2v", "reduced": 0}, [NOTHING_KEPT, NO_TEXT, NO_DROPOUT], [VISUAL, TEXT]),
    (OmniVideoRecipe, {}, [NO_TEXT, NO_DROPOUT], [TEXT]),
    (OmniVideoRecipe, {"edited": 0}, [NOTHING_KEPT, NO_TEXT, NO_DROPOUT], [VISUAL, EDIT]),
]


@pytest.mark.parametrize(("recipe", "item", "dropouts", "scales"), GUIDED)
def test_every_system_is_guided_as_its_sampling_is(recipe, item, dropouts, scales):
    assert recipe.guidance(None, item, LIMITS) == (dropouts, scales)


@pytest.mark.parametrize("edits", [False, True])
@pytest.mark.parametrize(("system", "recipe"), [("loomvideo", LoomVideoRecipe), ("omnivideo", OmniVideoRecipe)])
@torch.no_grad()
def test_branches_and_scales_are_as_many_and_as_strong_as_the_pipelines(system, recipe, edits, small_pipeline):
    pipe = small_pipeline(system)
    source = np.zeros((64, 64, 3), np.uint8) if edits else None
    planned = plan(Request(prompt="x", source=source, num_frames=1), pipe.limits)
    noise = pipe.draw_noise(planned, torch.Generator())
    branches, scales = pipe.condition(planned, noise.shape, posterior=None, batch_branches=True)
    item = {"source": 0, "visual": 0, "edited": 0} if edits else {}
    dropouts, expected = recipe.guidance(None, item, pipe.limits)
    assert scales == expected
    assert sum(len(branch(noise, torch.tensor(500.0))) for branch in branches) == len(dropouts)


def test_a_visual_scale_of_one_needs_no_branch_of_its_own():
    found = OmniVideoRecipe.guidance(None, {"edited": 0}, replace(LIMITS, guidance_scale_visual=1.0))
    assert found == ([NO_TEXT, NO_DROPOUT], [EDIT])


# --- a run


def make(folder, **settings):
    recipe = TinyRecipe()
    return DistillTrainer(
        config(folder, **settings),
        recipe,
        recipe.build(None),
        TinyBatches(),
        Ranks(CPU),
        teacher=recipe.build(None),
        limits=LIMITS,
        distill=DistillConfig(num_inference_steps=2, teacher_steps=2),
        validation=validation_groups(),
    )


def test_a_run_in_two_parts_is_the_run_in_one_to_the_bit(tmp_path):
    whole, parts = trained_in_one_and_in_two_parts(make, tmp_path)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], value) for name, value in parts.items())


def test_the_teacher_does_not_learn_and_is_no_part_of_the_result(tmp_path):
    trainer = make(tmp_path)
    before = {name: value.clone() for name, value in trainer.teacher.network.named_parameters()}
    trainer.do_step()
    assert all(torch.equal(before[name], value) for name, value in trainer.teacher.network.named_parameters())
    assert set(trainer.weights()) == {name for name, _ in TinyRecipe().build(None).named_parameters()}


def test_every_step_of_the_student_is_learnt(tmp_path):
    """Samples of their own seeds are for different ones, the same ones whenever they are asked for."""
    trainer = make(tmp_path)
    times = []
    trainer.network.model.register_forward_pre_hook(lambda module, arguments: times.extend(arguments[1].tolist()))
    group = tiny_group(*range(1, 24, 3))
    trainer.errors(group)
    trainer.errors(group)
    assert set(times) == {1000.0, 750.0}  # of two steps moved by 3
    assert times[: len(group)] == times[len(group) :]


# --- the command


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"distill": {"num_inference_steps": 0}}, r"distill\.num_inference_steps"),
        ({"distill": {"teacher_steps": 0}}, r"distill\.teacher_steps"),
        ({"distill": {}, "model": {"lora": {}}}, "LoRA"),
    ],
)
def test_a_configuration_that_cannot_be_distilled_is_told(said, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(TrainConfig, {"run_dir": "run"} | said)


@pytest.mark.parametrize("system", ["loomvideo", "vino"])
def test_a_distilled_folder_takes_its_steps_without_guidance_and_leaves_its_start_alone(system, request, tmp_path):
    start = request.getfixturevalue({"loomvideo": "tiny_model", "vino": "tiny_vino"}[system])
    last = {"loomvideo": 1000.0, "vino": 999.0}[system]
    before = {path: path.read_bytes() for path in start.rglob("*.json")}
    data = tmp_path / "data.yaml"
    data.write_text("train:\n  pictures: {world: [edit_image], height: 64, width: 64, num_frames: 1}\n")
    said = {
        "run_dir": str(tmp_path / "run"),
        "system": system,
        "steps": 1,
        "model": {"start": str(start)},
        "data": {"source": str(data), "tokens": 8, "workers": 1},
        "distill": {"num_inference_steps": 3, "teacher_steps": 1},
    }
    folder = run_training(from_mapping(TrainConfig, said), CPU)
    assert folder is not None
    assert {path: path.read_bytes() for path in start.rglob("*.json")} == before
    assert model_index(folder)["limits"]["num_inference_steps"] == 3
    pipeline = pipeline_class(system).from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    calls = []
    pipeline.transformer.register_forward_pre_hook(lambda module, arguments: calls.append(arguments[1].tolist()))
    pipeline("a red circle", np.zeros((64, 64, 3), np.uint8), output_type="latent")
    assert calls == [[pytest.approx(last * time)] for time in step_times(3, 3.0)[:-1].tolist()]
    assert json.loads((folder / "scheduler" / "scheduler_config.json").read_text())["timestep_multiplier"] == last

"""A whole request: ids, patches, every branch's velocity at every step, latents and frames are the published ones."""

import json
import re
from dataclasses import asdict

import pytest
import torch
from golden_set import assert_all_same, each_case, numbered, require

from loomvideo.models.chat import tokenise
from loomvideo.models.vae import denormalise, to_pixels
from loomvideo.systems import loomvideo as system
from loomvideo.systems.loomvideo import LoomVideoPipeline
from loomvideo.systems.plan import Plan
from loomvideo.systems.request import Task

LIMITS = {"fps": 24.0, "area": 32 * 32, "max_area": 1 << 20, "max_frames": 121, "default_frames": 81}
BRANCHES = {1: ["full"], 2: ["uncond", "full"], 3: ["uncond", "visual", "full"]}  # from least to most conditioned
READING_ORDER = ["full", "uncond", "visual"]
IDS = {"full": "input_ids", "uncond": "uncond_input_ids", "visual": "visual_only_input_ids"}
TEXTS = {"full": "text", "uncond": "uncond_text", "visual": "visual_only_text"}


class RecordingPipeline(LoomVideoPipeline):
    """Keeps what goes between the parts, and takes the golden latents where the published program samples them."""

    def encode(self, frames, posterior=None):
        latents = self.injected.pop(0)
        mode = super().encode(frames)
        distribution = self.vae.encode(to_pixels(frames)).latent_dist
        deviation = denormalise(self.vae, latents) - denormalise(self.vae, mode)
        assert (deviation.abs() <= 7 * distribution.std).all(), "the latents are no sample of these pixels' posterior"
        return latents

    def read(self, chat):
        self.chats.append(chat)
        return super().read(chat)

    def denoisers(self, *arguments):
        def recorded(denoiser):
            def velocities(latents, timestep):
                velocity = denoiser(latents, timestep)
                self.velocities.extend(velocity)
                return velocity

            return velocities

        return [recorded(denoiser) for denoiser in super().denoisers(*arguments)]


@pytest.fixture(scope="session")
def make_pipeline(transformer, mllm, tokenizer, vae, pixel_budgets):
    def make(scheduler):
        return RecordingPipeline(
            transformer,
            mllm,
            tokenizer,
            vae,
            scheduler,
            limits=LIMITS,
            frame_rule={"factor": 15, "min_frames": 2},
            pixel_budgets={kind: asdict(budget) for kind, budget in pixel_budgets.items()},
        )

    return make


@pytest.fixture(autouse=True)
def _texts_are_whole(monkeypatch):
    """A case's text holds its prefix already."""
    monkeypatch.setattr(system, "prefixed", lambda plan: plan.prompt)


def golden_plan(case, golden):
    params = case.params
    source = golden.get("source_pixels_u8")
    if source is not None:  # (3, y, x) or (3, t, y, x) -> (t, y, x, 3)
        source = source.reshape(3, -1, *source.shape[-2:]).permute(1, 2, 3, 0).numpy()
    return Plan(
        task=Task.TEXT_TO_VIDEO,  # what follows a plan does not ask for the task
        prompt=re.split(r"<\|vision_end\|>|<\|im_start\|>user\n", params["text"])[-1].split("<|im_end|>")[0],
        negative_prompt=params["negative_prompt"],
        height=params["height"],
        width=params["width"],
        num_frames=params["num_frames"],
        output_height=params["height"],
        output_width=params["width"],
        output_frames=params["num_frames"],
        fps=24.0,
        source=source,
        references=tuple(pixels.permute(1, 2, 0).numpy() for pixels in numbered(golden, "ref_pixels_u8")),
        num_inference_steps=params["num_inference_steps"],
        guidance_scale=params["guidance_scale"],
        guidance_scale_visual=params["guidance_scale_visual"],
        seed=0,
        notes=(),
    )


def run(pipeline, plan, golden, batch_branches):
    """Everything between noise and frames, under the golden names; and the branches' chats."""
    pipeline.injected = [golden["source_latent"]] if "source_latent" in golden else []
    pipeline.injected += numbered(golden, "ref_latent")
    pipeline.chats, pipeline.velocities = [], []
    combined, stepped = [], []
    step = pipeline.scheduler.step

    def recorded_step(velocity, *arguments, **options):
        combined.append(velocity)
        return step(velocity, *arguments, **options)

    pipeline.scheduler.step = recorded_step
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline.generate(
        plan,
        latents=golden["noise"],
        output_type="pt",
        batch_branches=batch_branches,
        callback_on_step_end=lambda _, __, ___, tensors: stepped.append(tensors["latents"]) or {},
    )
    assert not pipeline.injected
    names = BRANCHES[len(pipeline.chats)]
    chats = dict(zip(READING_ORDER[: len(names)], pipeline.chats, strict=True))
    inputs = {name: tokenise(pipeline.tokenizer, [chat]) for name, chat in chats.items()}
    velocities = torch.stack(pipeline.velocities).unflatten(0, (-1, len(names))).squeeze(2)
    pixels = {name: value for name, value in vars(inputs["full"]).items() if value is not None}
    computed = pixels | {
        "attention_mask": torch.ones_like(inputs["full"].input_ids),
        **{IDS[name]: one.input_ids for name, one in inputs.items()},
        **{f"step_{name}": velocities[:, i] for i, name in enumerate(names)},
        "step_combined": torch.cat(combined),
        "step_latents": torch.cat(stepped),
        "final_latents": stepped[-1],
        "timesteps": pipeline.scheduler.timesteps,
        "sigmas": pipeline.scheduler.sigmas,
        "frames": output.frames.permute(0, 2, 3, 1),
    }
    return computed, {name: chat.text for name, chat in chats.items()}


@pytest.mark.parametrize("batch_branches", [True, False], ids=["batched", "in_turn"])
@each_case("loomvideo", "generate")
def test_every_tensor_of_a_request(case, batch_branches, make_pipeline, scheduler):
    golden = case.load()
    computed, texts = run(make_pipeline(scheduler), golden_plan(case, golden), golden, batch_branches)
    given = {n for n in golden if re.fullmatch(r"noise|source_(pixels_u8|latent)|ref_(pixels_u8|latent)_\d+", n)}
    assert_all_same(computed, golden, given=given)
    assert len(texts) == case.params["branches_per_step"]
    assert texts == {name: case.params[TEXTS[name]] for name in texts}


def test_loomvideo_sizes_stated_by_the_set_are_those_of_its_configurations(loomvideo_set, transformer, mllm, tokenizer):
    meta = json.loads(require(loomvideo_set / "meta.json").read_text())
    layers = mllm.config.text_config.num_hidden_layers
    assert (meta["text_layers"], meta["dit_blocks"]) == (layers, transformer.config.num_layers)
    assert meta["early_layer_offset"] == layers - transformer.config.num_layers
    assert meta["vocab_tokens"] == len(tokenizer)

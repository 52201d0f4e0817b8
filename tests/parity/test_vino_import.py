"""The set's own files, imported as published weights are: the pipeline carries out every request as published."""

import shutil

import numpy as np
import pytest
import torch
from golden_set import each_case, require
from safetensors.torch import load_file
from test_vino_vae import ALLOWED, encoded, references_of

from loomvideo import VinoPipeline
from loomvideo.cli.import_steps import import_weights
from loomvideo.cli.import_vino import VinoWeights
from loomvideo.media.frames import even_frames
from loomvideo.systems import vino
from loomvideo.systems.plan import Plan
from loomvideo.systems.request import Task

TASKS = {
    "t2i": Task.TEXT_TO_IMAGE,
    "t2v": Task.TEXT_TO_VIDEO,
    "i2v": Task.IMAGE_TO_VIDEO,
    "ti2v": Task.MULTI_IMAGE_TO_VIDEO,
    "ti2i": Task.EDIT,
    "tv2v": Task.EDIT,
    "tiv2v": Task.GUIDED_EDIT,
}


@pytest.fixture(scope="module")
def pipe(vino_set, vino_connector, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    for part in ("transformer/config.json", "vae"):
        source = require(vino_set / part)
        (folder / "base" / part).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, folder / "base" / part)
    denoiser = load_file(require(vino_set / "transformer" / "diffusion_pytorch_model.safetensors"))
    tensors = {f"transformer.{name}": tensor for name, tensor in denoiser.items()}
    torch.save(
        tensors | load_file(require(vino_set / "mm_encoder" / "vino_mm_encoder.safetensors")), folder / "vino.ckpt"
    )
    import_weights(
        VinoWeights(num_queries=vino_connector.config["num_queries"]),
        folder / "vino.ckpt",
        mllm=str(vino_set / "mllm"),
        base=str(folder / "base"),
        output=folder / "model",
        dtype="float32",
    )
    pipe = VinoPipeline.from_pretrained(folder / "model")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def plan_of(case, inputs):
    """The request as `plan` would decide it, of pixels as they are: the set leaves out all resizing before the VAE."""
    request, facts = case.params["request"], case.params["facts"]
    pictures, clip = references_of(request, inputs)
    whole = None if clip is None else inputs[f"video/{request['video']}"].numpy()
    source = pictures.pop()[None] if request["task"] == "ti2i" else clip
    still = facts["num_frames"] == 1
    size = {"height": facts["height"], "width": facts["width"], "num_frames": facts["num_frames"]}
    return Plan(
        task=TASKS[request["task"]],
        prompt=request["prompt"],
        negative_prompt=request["neg" if still else "negv"],
        **size,
        **{f"output_{name.removeprefix('num_')}": value for name, value in size.items()},
        fps=24.0,
        source=source,
        whole_source=None if whole is None else whole[even_frames(len(whole), 8)],
        references=tuple(pictures),
        num_inference_steps=request["steps"],
        guidance_scale=request["g"],
        guidance_scale_visual=request["gi"],
        seed=0,
        notes=(),
    )


@each_case("vino", "whole sampling")
def test_an_imported_model_carries_out_a_request_as_published(case, pipe, vino_vae, vino_inputs, monkeypatch):
    """The set drew its references from the posterior with noise of its own, which is put in their place."""
    request, golden = case.params["request"], case.load()
    computed = encoded(vino_vae, case, vino_inputs)

    def with_the_sets_noise(vae, pictures, clip, posterior):
        given = references_of(request, vino_inputs)
        for ours, theirs in zip([*pictures, clip], [*given[0], given[1]], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        return tuple(computed[name] for name in computed if name.startswith("ref_latent/"))

    monkeypatch.setattr(vino, "encode_references", with_the_sets_noise)
    plan = plan_of(case, vino_inputs)
    pipe.register_to_config(**{"shift_image" if plan.num_frames == 1 else "shift_video": request["shift"]})
    made = pipe.generate(plan, latents=vino_inputs[f"noise/{case.name}"], output_type="latent").frames
    torch.testing.assert_close(made, golden["latents_final"], rtol=0, atol=ALLOWED)

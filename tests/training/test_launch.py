"""Any model folder can be trained: what is prepared is what its own pipeline reads, and a step changes what is named."""

import numpy as np
import pytest
import torch

from loomvideo.checkpoint import pipeline_class
from loomvideo.data.world.tasks import sample
from loomvideo.systems.plan import plan
from loomvideo.systems.request import Request
from loomvideo.training.config import TrainConfig, from_mapping
from loomvideo.training.distributed import Ranks
from loomvideo.training.launch import load_start
from loomvideo.training.loomvideo import use_source
from loomvideo.training.recipe import Draw
from loomvideo.training.trainer import Trainer

CPU = torch.device("cpu")
SIDE = 64


def start_of(folder, tmp_path, system="loomvideo", **model):
    said = {"run_dir": str(tmp_path), "system": system, "steps": 1, "model": {"start": str(folder), **model}}
    return load_start(from_mapping(TrainConfig, said), CPU)


def drawn(task, frames):
    return sample(task, np.random.default_rng(1), num_frames=frames, height=SIDE, width=SIDE)


def prepared(start, task="edit_video", frames=5):
    return start.recipe.prepare([drawn(task, frames)], np.random.default_rng(0))[0]


def test_a_folders_own_rules_say_what_the_language_model_sees(tiny_model, tmp_path):
    """Frames, pixel budgets and the layers that blocks read, none of which are the built-in model's."""
    start = start_of(tiny_model, tmp_path)
    pipeline = pipeline_class("loomvideo").from_pretrained(tiny_model)
    one = drawn("edit_video", 5)
    request = Request(prompt=one.prompt, source=list(one.source_frames()), height=SIDE, width=SIDE, num_frames=5)
    with torch.no_grad():
        planned = plan(request, pipeline.limits)
        branches, _ = pipeline.guidance_branches(planned, pipeline.encode(planned.source), ())
    item = prepared(start)
    expected = torch.stack(branches[-1].layers)[:, 0]
    torch.testing.assert_close(item["full"].float(), expected, rtol=2e-3, atol=2e-3)
    assert len(item["full"]) == len(pipeline.transformer.blocks)
    torch.testing.assert_close(item["source"].float(), branches[-1].source[0], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("system", ["loomvideo", "vino"])
def test_a_model_folder_of_a_system_takes_a_step(system, request, tmp_path):
    folder = request.getfixturevalue({"loomvideo": "tiny_model", "vino": "tiny_vino"}[system])
    start = start_of(folder, tmp_path, system, trained="attn")
    item = prepared(start, "t2i", 1)

    class Once:
        def next(self):
            return [[Draw(item, (1,)), Draw(item, (2,))]]

        def state_dict(self):
            return {}

    trainer = Trainer(start.config, start.recipe, start.build(), Once(), Ranks(CPU))
    before = {name: value.clone() for name, value in trainer.weights().items()}
    assert before
    assert all("attn" in name for name in before)
    assert trainer.train()
    changed = [name for name, value in trainer.weights().items() if not torch.equal(before[name], value)]
    assert changed


def test_a_stage_without_sources_has_no_embedding_of_them_and_the_next_one_begins_with_zeros(tiny_model, tmp_path):
    without = start_of(tiny_model, tmp_path, use_source_embedding=False).build()
    assert without.source_patch_embedding is None
    without.save_pretrained(tmp_path / "transformer")
    again = type(without).from_pretrained(tmp_path / "transformer")
    assert again.source_patch_embedding is None
    use_source(again, True)
    assert all((parameter == 0).all() for parameter in again.source_patch_embedding.parameters())
    assert set(again.state_dict()) == set(start_of(tiny_model, tmp_path).build().state_dict())

"""What a run would take is counted from configurations alone, and is the published size for the published model."""

import json

import pytest
import torch

from loomvideo.models.wan import LoomVideoTransformer3DModel
from loomvideo.training.config import read_config
from loomvideo.training.plan import GIB, activations, plan_run

PUBLISHED = 5_088_480_448  # fact sheet 2


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A model folder of the published size, of which there is nothing but what it says of itself."""
    folder = tmp_path_factory.mktemp("published")
    with torch.device("meta"):
        LoomVideoTransformer3DModel().save_config(folder / "transformer")
    components = {"transformer": ["loomvideo.models.wan", "LoomVideoTransformer3DModel"]}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "LoomVideoPipeline", **components}))
    return folder


def plan(published, name, *overrides, ranks=1):
    return plan_run(read_config(name, [f"model.start={published}", "data.shards=prepared", *overrides]), ranks)


def test_a_lora_of_the_published_model_fits_on_24_gb(published):
    planned = plan(published, "finetune")
    assert planned.parameters - planned.trained == PUBLISHED
    assert planned.trained < PUBLISHED / 50
    assert planned.weights > 2 * PUBLISHED
    assert planned.memory < 24e9
    assert plan(published, "finetune", "model.precision=float32").memory > 24e9


def test_everything_is_trained_in_a_published_stage_and_split_over_the_ranks(published):
    alone, eight = (plan(published, "stage2", ranks=ranks) for ranks in (1, 8))
    assert alone.parameters == alone.trained == PUBLISHED
    assert alone.optimizer == 8 * PUBLISHED
    assert alone.gradients == alone.averages == 4 * PUBLISHED
    assert eight.optimizer == PUBLISHED
    assert eight.memory < 80 * GIB < alone.memory
    whole = plan(published, "stage2", "distributed.reshard_after_forward=false", ranks=8)
    assert whole.weights - eight.weights > 3 * PUBLISHED


def test_what_is_recomputed_is_not_kept(published):
    kept = plan(published, "stage2", "model.gradient_checkpointing=false", ranks=8)
    again = plan(published, "stage2", ranks=8)
    assert kept.activations > 5 * again.activations


def test_a_step_is_counted_in_tokens_and_in_the_samples_that_make_them(published):
    planned = plan(published, "stage1", "data.tokens=5760", "optimizer.accumulate=2")
    assert planned.tokens == 2 * 5760
    assert "10.0 clips of 33 frames, or 90 pictures, at 256x256" in str(planned)


def test_tokens_of_one_latent_keep_four_times_as_much_for_the_backward():
    config = read_config("builtin_denoiser", [])
    with torch.device("meta"):
        fine, published = (
            LoomVideoTransformer3DModel(patch, num_attention_heads=2, attention_head_dim=12, ffn_dim=32, num_layers=2)
            for patch in ((1, 1, 1), (1, 2, 2))
        )
    assert activations(config, fine, 1) == 4 * activations(config, published, 1)

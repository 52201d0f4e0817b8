"""The denoiser alone, its formulas, and the names of all weights."""

import json

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.embeddings import get_timestep_embedding
from golden_set import require
from omnivideo_set import config, denoiser, each_case, folder, make_denoiser
from transformers import UMT5Config, UMT5EncoderModel

from loomvideo.models.context_rows import QueryTransformer, SourceTokenizer, StateProjection
from loomvideo.models.key_maps import (
    ADAPTER,
    SAME,
    TEXT_ENCODER,
    VAE_BLOCKS,
    VAE_PARTS,
    VISION_HEAD,
    WAN_DENOISER,
    rename,
)
from loomvideo.models.omnivideo import OmniVideoTransformer3DModel
from loomvideo.models.wan import grid_positions, rope_table, rotate


@torch.no_grad()
def run_batch(case):
    """Latents of different sizes are different batches: what a token attends to is its own sample."""
    inputs, transformer = case.inputs(), denoiser()
    assert transformer.config["max_context_len"] == case.params["text_len"]
    outputs = {}
    for i, t in enumerate(case.params["t"]):
        x, context = inputs[f"x{i}"], inputs[f"context{i}"]
        conditions = transformer.prepare([context], latent_shape=x.shape)
        outputs[f"velocity{i}"] = transformer(x[None], torch.tensor([t]), conditions)[0]
    return outputs


def run_time(case):
    features = get_timestep_embedding(
        torch.tensor(case.params["t"]), case.params["freq_dim"], flip_sin_to_cos=True, downscale_freq_shift=0
    )
    return {"emb": features}


def run_rope(case):
    dim = 2 * (case.params["head_dim"] // 6)
    axis_dims = (case.params["head_dim"] - 2 * dim, dim, dim)
    positions = grid_positions(tuple(case.params["grid"]), None)
    rope = rope_table(positions, axis_dims, rounded=False, fresh_time=False).unsqueeze(1)
    return {"out": rotate(case.inputs()["q"], rope)}


@each_case("v1_dit/ragged_batch", "v1_dit/fractional_t")
def test_denoiser_alone(case):
    case.check(run_batch(case))


@each_case("v1_dit/time_embedding")
def test_time_features(case):
    case.check(run_time(case))


@each_case("v1_dit/rope")
def test_rotary_embedding(case):
    case.check(run_rope(case))


# --- names

MAPS = {
    "dit_to_diffusers_WanTransformer3DModel": (WAN_DENOISER,),
    "vae_to_diffusers_AutoencoderKLWan": (VAE_BLOCKS, VAE_PARTS),
    "t5_to_transformers_UMT5EncoderModel": (TEXT_ENCODER,),
}


@pytest.fixture(scope="module")
def key_maps():
    return json.loads(require(folder() / "key_maps.json").read_text())


def test_every_omnivideo_key_map_is_derived_by_a_rule(key_maps):
    assert set(key_maps) == set(MAPS)
    for name, published in key_maps.items():
        ours = rename({key: key for key in published}, *MAPS[name])
        assert {key: new for new, key in ours.items()} == published, name


FULL_SIZE = {  # the first release, fact sheet 1 and 2.4 to 6
    "v1_dit (Wan2.1-T2V-1.3B)": (OmniVideoTransformer3DModel, {}, WAN_DENOISER),
    "v1_adapter": (QueryTransformer, {"in_dim": 1152, "dim": 4096, "num_queries": 256, "ffn_dim": 16384}, ADAPTER),
    "v1_vision_head": (QueryTransformer, {}, VISION_HEAD),
    "v1_visual_context_adapter": (SourceTokenizer, {}, SAME),
}


def test_omnivideo_names_and_shapes_at_full_size_are_the_published_ones():
    published = json.loads(require(folder() / "full_keys.json").read_text())["parts"]
    assert set(published) == set(FULL_SIZE)
    for part, (model, fields, rules) in FULL_SIZE.items():
        shapes = {name: list(tensor.shape) for name, tensor in on_meta(model, **fields).state_dict().items()}
        assert rename(published[part], rules) == shapes, part


PARAMETERS = {  # fact sheet 1
    "adapter": (1_902_141_440, QueryTransformer, {"in_dim": 1152, "dim": 4096, "num_queries": 256, "ffn_dim": 16384}),
    "denoiser": (1_418_996_800, OmniVideoTransformer3DModel, {}),
    "vision head": (154_840_320, QueryTransformer, {}),
    "source tokenizer": (6_690_304, SourceTokenizer, {}),
    "autoencoder": (126_892_531, AutoencoderKLWan, {}),
    "expert": (
        14_288_491_584,
        OmniVideoTransformer3DModel,
        {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40, "max_context_len": 6144},
    ),
    "projection": (8_394_752, StateProjection, {}),
    "expert's source tokenizer": (22_291_456, SourceTokenizer, {"dim": 5120}),
}


@pytest.mark.parametrize("part", PARAMETERS)
def test_omnivideo_parts_have_the_published_number_of_parameters(part):
    expected, model, fields = PARAMETERS[part]
    assert sum(parameter.numel() for parameter in on_meta(model, **fields).parameters()) == expected


def test_omnivideo_text_encoder_has_the_published_number_of_parameters():
    sizes = UMT5Config(
        vocab_size=256384,
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=24,
        num_heads=64,
        feed_forward_proj="gated-gelu",
    )
    encoder = on_meta(UMT5EncoderModel, sizes)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 5_680_910_336


def on_meta(model, *arguments, **fields):
    with torch.device("meta"):
        return model(*arguments, **fields)


def test_omnivideo_gradient_checkpointing_changes_neither_velocity_nor_gradients():
    transformer = denoiser()
    context, latents = torch.randn(5, config("dit")["text_dim"]), torch.randn(1, config("dit")["in_dim"], 2, 4, 4)
    results = []
    for checkpointed in (False, True):
        copy = make_denoiser()
        copy.load_state_dict(transformer.state_dict())
        if checkpointed:
            copy.enable_gradient_checkpointing()
        conditions = copy.train().prepare([context], latent_shape=latents.shape)
        velocity = copy(latents, torch.tensor([500.0]), conditions)
        velocity.square().sum().backward()
        results.append((velocity.detach(), copy.patch_embedding.weight.grad))
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(recomputed, plain)

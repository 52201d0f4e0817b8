"""The denoiser computes what the published one does, inside and out."""

import json
import re

import torch
from golden_set import assert_all_same, assert_same, each_case, numbered, require

from loomvideo.models.wan import LoomVideoTransformer3DModel


@torch.no_grad()
def run(transformer, inputs):
    """The velocity and everything on the way to it, under the golden names."""
    seen, handles = {}, []

    def keep(module, name):
        handles.append(module.register_forward_hook(lambda _, __, output: seen.__setitem__(name, output)))

    embedded = []
    handles.append(transformer.mllm_embedder.register_forward_hook(lambda _, __, output: embedded.append(output)))
    handles.append(
        transformer.blocks[0].register_forward_pre_hook(lambda _, arguments: seen.update(tokens_in=arguments[0]))
    )
    keep(transformer.condition_embedder, "time")
    keep(transformer.blocks[-1], "block_last")
    for i, block in enumerate(transformer.blocks):
        keep(block, f"block_{i}")
        keep(block.attn1, f"b{i}_selfattn_out")
        keep(block.attn2, f"b{i}_crossattn_out")
    try:
        conditions = transformer.prepare(
            numbered(inputs, "und"),
            latent_shape=inputs["latent"].shape,
            source=inputs.get("source_latent"),
            references=numbered(inputs, "ref_latent"),
        )
        seen["velocity"] = transformer(inputs["latent"], inputs["timestep"], conditions)
    finally:
        for handle in handles:
            handle.remove()
    embedding, modulation = seen.pop("time")
    rope = conditions.rope.squeeze(1).repeat_interleave(2, dim=1)
    return seen | {
        "temb_gen": embedding,
        "tproj_gen": modulation.unsqueeze(1),
        "rope_cos": rope.real,
        "rope_sin": rope.imag,
        "source_scale": inputs["timestep"].float() / 1000,
        **{f"und_embedded_{i}": output for i, output in enumerate(embedded)},
    }


@each_case("loomvideo", "dit")
def test_every_tensor_of_the_denoiser(case, transformer):
    golden = case.load()
    computed = run(transformer, golden)
    given = {name for name in golden if re.fullmatch(r"latent|timestep|source_latent|(ref_latent|und)_\d+", name)}
    assert_all_same(computed, golden, given=given)
    assert computed["tokens_in"].shape[1] == case.params["total_tokens"]
    target = golden["latent"].numel() // (transformer.proj_out.out_features)
    assert target == case.params["target_tokens"]


@each_case("loomvideo", "bf16tables", having="velocity")
def test_rounded_rotary_tables(case, make_transformer):
    golden, inputs = case.load(), case.inputs()
    computed = run(make_transformer(rounded_rotary_tables=True), inputs)
    assert_all_same(computed, golden, given=set())
    difference = (computed["velocity"] - inputs["velocity"]).abs().max()
    stated = torch.tensor(case.params["max_abs_difference_to_parent"])
    assert abs(difference - stated) <= 4e-5 * inputs["velocity"].abs().max()  # both velocities have their tolerance


def test_loomvideo_names_and_shapes_at_full_size_are_the_published_ones(loomvideo_set):
    published = json.loads(require(loomvideo_set / "full_keys.json").read_text())["tensors"]
    with torch.device("meta"):
        full = LoomVideoTransformer3DModel(  # the released 5B model, fact sheet 4.1
            patch_size=(1, 2, 2),
            num_attention_heads=24,
            attention_head_dim=128,
            in_channels=48,
            out_channels=48,
            text_dim=4096,
            freq_dim=256,
            ffn_dim=14336,
            num_layers=30,
            mllm_dim=4096,
        )
    assert [(name, list(tensor.shape)) for name, tensor in full.state_dict().items()] == list(published.items())


def test_loomvideo_gradient_checkpointing_changes_neither_velocity_nor_gradients(transformer):
    width, channels = transformer.config.mllm_dim, transformer.config.in_channels
    layers = [torch.randn(1, 7, width) for _ in transformer.blocks]
    latents, timestep = torch.randn(1, channels, 2, 4, 4), torch.tensor([500.0])
    results = []
    try:
        for checkpointed in (False, True):
            (
                transformer.enable_gradient_checkpointing
                if checkpointed
                else transformer.disable_gradient_checkpointing
            )()
            transformer.train()
            transformer.zero_grad()
            velocity = transformer(latents, timestep, transformer.prepare(layers, latent_shape=latents.shape))
            velocity.square().sum().backward()
            results.append((velocity.detach(), transformer.patch_embedding.weight.grad.clone()))
    finally:
        transformer.disable_gradient_checkpointing()
        transformer.eval()
        transformer.zero_grad()
    for plain, recomputed in zip(*results, strict=True):
        assert_same("recomputed", recomputed, plain)

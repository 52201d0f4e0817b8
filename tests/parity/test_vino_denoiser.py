"""VINO's denoiser computes what the published one does, inside and out."""

import json

import pytest
import torch
from golden_set import assert_all_same, assert_same, each_case, numbered, require

from loomvideo.conditioning.markers import bounded_positions, grid_positions
from loomvideo.models.hunyuan import VinoTransformer3DModel
from loomvideo.sampling.euler import ShiftedEulerScheduler

ALLOWED = 5e-5  # absolute (fact sheet 10)
GIVEN = {"embeds_vlm", "embeds_vae", "ref_video"}


def marker_rows(facts):
    """The rows that the published program picks: its two lists, paired."""
    pairs = list(zip(facts["pos_vs"][0], facts["pos_ve"][0], strict=False))
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)


def prepare(transformer, case, golden, noise):
    return transformer.prepare(
        golden["embeds_vlm"],
        latent_shape=noise.shape,
        references=numbered(golden, "ref_latent", "/"),
        markers=golden["embeds_vae"][:, marker_rows(case.params["facts"])],
    )


@torch.no_grad()
def run(transformer, case, golden, noise):
    """The velocity and everything on the way to it, under the golden names."""
    seen, handles = {}, []
    num_text = golden["embeds_vlm"].shape[1]

    def keep(module, name):
        handles.append(module.register_forward_hook(lambda _, __, output: seen.__setitem__(name, output)))

    def keep_input(module, *names):
        handles.append(
            module.register_forward_pre_hook(lambda _, arguments: seen.update(zip(names, arguments, strict=False)))
        )

    doubles, singles = transformer.transformer_blocks, transformer.single_transformer_blocks
    keep_input(doubles[0], "tokens_in", "context_in", "temb")
    keep_input(transformer.context_embedder.blocks[0].norm_out, "refiner_temb")
    keep_input(transformer.proj_out, "norm_out")
    keep(transformer.context_embedder.proj_in, "refiner_proj_in")
    keep(transformer.proj_out, "proj_out")
    for name, block in {"double0": doubles[0], "double_last": doubles[-1]}.items():
        keep(block, name)
    for name, block in {"single0": singles[0], "single_last": singles[-1]}.items():
        keep(block, name)
    timestep = torch.tensor([ShiftedEulerScheduler().config.timestep_multiplier * case.params["request"]["t"]])
    try:
        conditions = prepare(transformer, case, golden, noise)
        seen["sample"] = transformer(noise, timestep, conditions)
    finally:
        for handle in handles:
            handle.remove()
    for name in ("double0", "double_last"):
        seen[f"{name}_tokens"], seen[f"{name}_context"] = seen.pop(name)
    for name in ("single0", "single_last"):
        tokens = seen.pop(name)
        seen[f"{name}_tokens"], seen[f"{name}_context"] = tokens[:, :-num_text], tokens[:, -num_text:]
    assert conditions.joint_mask is None
    rope = conditions.rope.squeeze(1)
    assert (rope[-num_text:] == 1).all(), "text is not turned"
    turned = rope[:-num_text].repeat_interleave(2, dim=1)
    return seen | {
        "timestep": timestep,
        "rope_cos": turned.real,
        "rope_sin": turned.imag,
        "rope_positions": positions(case, transformer),
        "attention_mask": torch.ones(1, 1, 1, len(rope), dtype=torch.bool),  # what no mask means
    }


def positions(case, transformer):
    *references, target = [
        part["grid_thw"] for part in case.params["facts"]["layout"] if part["kind"] in ("reference", "target")
    ]
    return bounded_positions(references, target)


def expected(golden, computed):
    """The published program puts every visual token through its head, this one the target's alone."""
    return golden | {
        name: golden[name][:, -computed[name].shape[1] :] for name in ("norm_out", "proj_out") if name in golden
    }


@each_case("vino", "denoiser forward")
def test_every_tensor_of_the_denoiser(case, vino_transformer, vino_inputs):
    golden = case.load()
    computed = run(vino_transformer, case, golden, vino_inputs[f"noise/{case.name}"])
    given = GIVEN | {name for name in golden if name.startswith(("ref_latent/", "ref_mean/", "ref_std/"))}
    assert_all_same(computed, expected(golden, computed), given=given, allowed=ALLOWED)


@each_case("vino", "denoiser forward")
def test_every_part_of_the_layout_stands_where_the_published_clock_puts_it(case, vino_transformer):
    computed, facts = positions(case, vino_transformer), case.params["facts"]
    assert len(computed) == facts["video_tokens"]
    for part in facts["layout"]:
        rows = computed[part["start"] : part["start"] + part["length"]]
        assert torch.equal(rows, grid_positions(part["grid_thw"], part["t_start"])), part


@each_case("vino", "denoiser forward")
def test_a_batch_of_texts_of_unequal_length_gives_what_each_gives_alone(case, vino_transformer, vino_inputs):
    golden, noise = case.load(), vino_inputs[f"noise/{case.name}"]
    rows, references = marker_rows(case.params["facts"]), numbered(golden, "ref_latent", "/")
    text, extra = golden["embeds_vlm"], 7
    padded = torch.nn.functional.pad(text, (0, 0, 0, extra), value=3.0)
    longer = torch.cat([text, text[:, :extra]], dim=1)
    with torch.no_grad():
        conditions = vino_transformer.prepare(
            torch.cat([padded, longer]),
            latent_shape=noise.shape,
            references=[latents.repeat(2, 1, 1, 1, 1) for latents in references],
            markers=golden["embeds_vae"][:, rows].repeat(2, 1, 1, 1),
            context_mask=torch.arange(text.shape[1] + extra) < torch.tensor([[text.shape[1]], [longer.shape[1]]]),
        )
        velocities = vino_transformer(noise.repeat(2, 1, 1, 1, 1), golden["timestep"].repeat(2), conditions)
    assert_same("sample", velocities[:1], golden["sample"], allowed=ALLOWED)
    assert not torch.allclose(velocities[1:], golden["sample"], atol=ALLOWED)


def test_vino_names_and_shapes_at_full_size_are_the_published_ones(vino_set):
    from loomvideo.models.connector import QueryConnector

    published = json.loads(require(vino_set / "full_keys.json").read_text())["tensors"]
    with torch.device("meta"):  # both classes' defaults are the released system's
        full = {"transformer": VinoTransformer3DModel(), "mm_encoder": QueryConnector()}
    shapes = {
        f"{prefix}.{name}": list(tensor.shape)
        for prefix, module in full.items()
        for name, tensor in module.state_dict().items()
    }
    assert shapes == published


def test_vino_parameters_at_full_size_are_as_many_as_published():
    with torch.device("meta"):
        full = VinoTransformer3DModel()
    parts = {
        full: 12_821_012_544,  # fact sheet 1
        full.transformer_blocks[0]: 339_831_296,
        full.single_transformer_blocks[0]: 141_591_808,
        full.context_embedder: 309_175_296,
        full.time_text_embed.text_embedder: 11_802_624,
    }
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == list(parts.values())


@pytest.mark.parametrize("field", ["qk_norm", "guidance_embeds", "image_condition_type", "num_refiner_layers"])
def test_vino_a_configuration_of_another_hunyuanvideo_is_refused(field):
    other = {
        "qk_norm": "layer_norm",
        "guidance_embeds": False,
        "image_condition_type": "token_replace",
        "num_refiner_layers": 0,
    }
    with pytest.raises(ValueError, match=field):
        VinoTransformer3DModel(**{field: other[field]})

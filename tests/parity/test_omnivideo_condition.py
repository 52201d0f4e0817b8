"""A request's parts become the published context, and the published velocity at one step."""

import re

import torch
from omnivideo_set import adapter, denoiser, each_case, expert, source_tokenizer, vision_head
from test_omnivideo_modules import watch

from loomvideo.conditioning.context import LAYOUTS
from loomvideo.systems.omnivideo import GuidanceBranch, first_release, second_release
from loomvideo.training.context_objective import drop_conditions


def told(inputs, *, text="text", states="vlm_hidden"):
    """A guidance branch of a case's tensors."""
    rows = [inputs[name] for name in (text, "edit_text") if name in inputs]
    return GuidanceBranch(
        states=inputs.get(states),
        text=torch.cat(rows),
        source=batched(inputs.get("visual_emb")),
        reference=batched(inputs.get("ref_images")),
    )


def batched(latents):
    return None if latents is None else latents[None]


def first_builder(case, still, **options):
    options = {"layout": LAYOUTS["released"], "truncation": "released", **options}
    return first_release(
        vision_head(),
        adapter(),
        source_tokenizer(),
        case.boundaries(),
        max_rows=case.params["max_context_len"],
        still=still,
        **options,
    )


def second_builder(case, parts):
    return second_release(
        parts.projection,
        parts.source_tokenizer,
        case.boundaries(),
        max_rows=case.params["max_context_len"],
        truncation="released",
    )


@torch.no_grad()
def run_context(case):
    inputs = case.inputs()
    branch = told(inputs)
    if case.params.get("drop"):
        nothing = told(inputs, text="uncond_context", states="uncond_ar_vision")
        [branch] = drop_conditions([branch], nothing, 1.0, torch.Generator())
    if case.name.startswith("v2/"):
        return second_builder(case, expert(*case.entry["weights"]))(branch)
    order = "paper" if "paper" in case.name else "released"
    return first_builder(case, still=inputs["x"].shape[1] == 1, layout=LAYOUTS[order])(branch)


@torch.no_grad()
def run_denoiser(case):
    """The velocity of the published context, and everything on the way to it."""
    transformer = expert(*case.entry["weights"]).transformer if case.name.startswith("v2/") else denoiser()
    x, context = case.inputs()["x"][None], case.outputs()["condition"]
    assert transformer.config["max_context_len"] == case.params["max_context_len"]
    inside = {"time": transformer.condition_embedder, "embedded": transformer.condition_embedder.text_embedder}
    for i, block in enumerate(transformer.blocks):
        inside |= {f"block{i}": block, f"block{i}.self_attn": block.attn1, f"block{i}.cross_attn": block.attn2}
    inside["head"] = transformer.proj_out

    def velocity():
        conditions = transformer.prepare([context], latent_shape=x.shape)
        return transformer(x, torch.tensor([case.params["t"]]), conditions)

    out, seen = watch(inside, velocity)
    embedding, modulation = seen.pop("time")
    seen |= {"time_embedding": embedding[:, 0], "time_projection": modulation.flatten(1)}
    seen["context_embedded"] = padded(seen.pop("embedded"), len(context), case.params["max_context_len"])
    assert x[0, 0].numel() // 4 == case.params["seq_len"]
    return {"velocity": out[0], **{f"inner.{name}": value for name, value in seen.items()}}


def padded(embedded, num_rows, max_rows):
    """Embedded rows as the published denoiser holds them: the padding's row as often as there is padding."""
    rows, padding = embedded[:, :num_rows], embedded[:, -1:]
    return torch.cat([rows, padding.expand(-1, max_rows - num_rows, -1)], dim=1)


CONDITIONS = ("v1_condition/*", "v2/[tv]2v*")


@each_case(*CONDITIONS)
def test_context_rows(case):
    rows = run_context(case)
    case.check({"condition": rows}, {"condition": case.outputs()["condition"]})
    assert len(rows) == case.params.get("condition_len", len(rows))


@each_case(*CONDITIONS)
def test_velocity_of_the_published_context_and_everything_on_the_way(case):
    golden = case.outputs()
    case.check(run_denoiser(case), {name: tensor for name, tensor in golden.items() if name != "condition"})


@each_case(*CONDITIONS)
def test_nothing_is_left_out_of_a_condition(case):
    checked = re.compile(r"condition|velocity|inner\..+")
    assert all(checked.fullmatch(name) for name in case.outputs())

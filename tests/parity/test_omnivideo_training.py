"""Objectives and their gradients, through every trained part, are the published ones."""

import torch
import torch.nn.functional as F
from golden_set import GRADIENT_TOLERANCE
from omnivideo_set import adapter, cases, denoiser, each_case, source_tokenizer, vision_head
from test_omnivideo_condition import first_builder

from loomvideo.models.key_maps import split_unified
from loomvideo.systems.omnivideo import GuidanceBranch
from loomvideo.training.context_objective import (
    NUM_LEVELS,
    ContextGroup,
    alignment_loss,
    level_table,
    level_weights,
    next_token_loss,
    predict_velocity,
    weighted_flow_loss,
)
from loomvideo.training.objective import add_noise, velocity_target


def run_tables(case):
    levels = level_table(case.params["shift"])
    assert len(levels) == case.params["num"]
    return {"sigmas": levels, "timesteps": NUM_LEVELS * levels, "weights": level_weights(levels)}


def components():
    return {
        "transformer": denoiser(),
        "adapter": adapter(),
        "vision_head": vision_head(),
        "source_tokenizer": source_tokenizer(),
    }


def gradients():
    """Every gradient that is not None, as (component, name)."""
    return {
        (part, name): parameter.grad
        for part, component in components().items()
        for name, parameter in component.named_parameters()
        if parameter.grad is not None
    }


def ours(published_names):
    """Where a unified model's names are in our components."""
    parts = split_unified({name: name for name in published_names})
    return {name: (part, new) for part, names in parts.items() for new, name in names.items()}


def make_group(case):
    inputs = case.inputs()
    build = first_builder(case, still=inputs["videos"].shape[2] == 1)
    sources = inputs.get("visual_emb")
    contexts = [
        build(
            GuidanceBranch(
                states=inputs[f"vlm{i}"],
                text=inputs[f"text{i}"],
                source=None if sources is None else sources[i : i + 1],
            )
        )
        for i in range(len(inputs["videos"]))
    ]
    level = torch.tensor(case.params["timestep_index"])
    return ContextGroup(latents=inputs["videos"], noise=inputs["noise"], level=level, contexts=contexts)


def run_step(case):
    levels = level_table(case.params["shift"])
    for component in components().values():
        component.zero_grad()
    loss = weighted_flow_loss(denoiser(), make_group(case), levels)
    loss.backward()
    found = gradients()
    for component in components().values():
        component.zero_grad()
    with torch.no_grad():
        group = make_group(case)
        velocity = predict_velocity(denoiser(), group, levels)
    time = levels[group.level]
    names = [name.removeprefix("grad.") for name in case.outputs() if name.startswith("grad.")]
    return {
        "t": NUM_LEVELS * time,
        "noisy": add_noise(group.latents, group.noise, time, min_noise=0),
        "target": velocity_target(group.latents, group.noise, min_noise=0),
        "weights": level_weights(levels)[group.level, None],
        "velocity": velocity,
        "loss": loss.detach()[None],
        **{f"grad.{name}": found[place] for name, place in ours(names).items()},
    }, found


def run_alignment(case):
    inputs, head = case.inputs(), vision_head()
    head.zero_grad()
    tokens = head(inputs["hidden"])
    kinds = {"cosine_released": "cosine", "l2_paper": "l2", "l2_squared": "l2_squared", "mse": "mse"}
    losses = {name: alignment_loss(tokens, inputs["target_embedding"], kind)[None] for name, kind in kinds.items()}
    losses["cosine_released"].backward()
    found = {f"grad_cosine.{name}": parameter.grad for name, parameter in head.named_parameters()}
    head.zero_grad()
    return {"tokens": tokens.detach(), **{name: loss.detach() for name, loss in losses.items()}, **found}


def run_cross_entropy(case):
    loss = next_token_loss(case.inputs()["logits"], case.inputs()["labels"])[None]
    [alignment] = cases("training/vision_alignment")
    return {"loss": loss, "stage1_total": loss + run_alignment(alignment)["cosine_released"]}


@torch.no_grad()
def run_adapter_alignment(case):
    """No formula is published: the golden number is a plain mean square."""
    return {"mse": F.mse_loss(adapter()(case.inputs()["tokens"]), case.inputs()["target"])[None]}


RUNS = {
    "training/flow_tables": run_tables,
    "training/step_*": lambda case: run_step(case)[0],
    "training/vision_alignment": run_alignment,
    "training/cross_entropy": run_cross_entropy,
    "training/adapter_text_alignment": run_adapter_alignment,
}


@each_case("training/flow_tables")
def test_levels_timesteps_and_weights(case):
    case.check(run_tables(case))


def wrong_norms(case, found):
    """Parameters whose gradient has another norm than published: (ours, published)."""
    published = case.params["grad_l2_norms"]
    norms = {name: found[place].norm().item() for name, place in ours(published).items()}
    return {
        name: (norms[name], norm)
        for name, norm in published.items()
        if abs(norms[name] - norm) > max(GRADIENT_TOLERANCE * norm, 1e-8)
    }


@each_case("training/step_*")
def test_one_training_step_with_the_gradient_of_every_parameter(case):
    computed, found = run_step(case)
    case.check(computed)
    places = ours(case.params["grad_l2_norms"])
    assert set(places.values()) == set(found), "other parameters have gradients than the published ones"
    assert not wrong_norms(case, found)
    for name, place in places.items():
        if found[place].norm() > 1e-4:
            assert set(wrong_norms(case, {**found, place: found[place] * 1.001})) == {name}


@each_case("training/vision_alignment")
def test_alignment_of_the_vision_head(case):
    case.check(run_alignment(case))


@each_case("training/cross_entropy")
def test_cross_entropy_and_the_total_of_the_first_stage(case):
    case.check(run_cross_entropy(case))


@each_case("training/adapter_text_alignment")
def test_mean_square_between_adapter_and_text_space(case):
    case.check(run_adapter_alignment(case))
    assert case.params["normative"] is False

"""Every part before and behind the denoiser computes what the published one does."""

import torch
from omnivideo_set import adapter, each_case, expert, source_tokenizer, tensors, text_encoder, vae, vision_head
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from loomvideo.models.vae import decode, encode
from loomvideo.models.vila import DownsampleProjector


def watch(modules, run):
    """What `run` gives, and what each named module gave on the way."""
    seen = {}
    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: seen.__setitem__(name, output))
        for name, module in modules.items()
    ]
    try:
        return run(), seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def run_vision_head(case):
    head = vision_head()
    inside = {"fc": head.fc, "encoder_memory": head.encoder}
    tokens, seen = watch(inside, lambda: head(case.inputs()["hidden"]))
    return {"tokens": tokens, "pooled": tokens.mean(1), **seen}


@torch.no_grad()
def run_adapter(case):
    read = adapter().each if case.name.endswith("video") else adapter()
    out, seen = watch({"fc": adapter().fc}, lambda: read(case.inputs()["tokens"]))
    return {"out": out, **seen}


@torch.no_grad()
def run_source_tokenizer(case):
    latents = case.inputs()["latents"]
    rows = source_tokenizer()(latents[None])
    assert rows.shape[1] == source_tokenizer().num_rows(latents.shape)
    return {"out": rows}


@torch.no_grad()
def run_projection(case):
    return {"out": expert(*case.entry["weights"]).projection(case.inputs()["vlm_hidden"])}


@torch.no_grad()
def run_null_states(case):
    projection = expert(*case.entry["weights"]).projection
    return {"out": projection(projection.null_states())[0]}


@torch.no_grad()
def run_vae(case):
    latents = encode(vae(), case.inputs()["pixels"][None])
    decoded = decode(vae(), latents)[0].permute(3, 0, 1, 2) * 2 - 1
    return {"latents": latents[0], "decoded": decoded}


@torch.no_grad()
def run_text_encoder(case):
    inputs = case.inputs()
    hidden = text_encoder()(input_ids=inputs["ids"], attention_mask=inputs["mask"]).last_hidden_state
    return {"hidden0": hidden[0], "hidden1_valid": hidden[1, inputs["mask"][1].bool()]}


@torch.no_grad()
def run_projector(case):
    features, weights = case.inputs()["features"], tensors(*case.entry["weights"])
    projector = DownsampleProjector(features.shape[-1], len(weights["layers.2.bias"]))
    projector.load_state_dict(weights, strict=True)
    out, seen = watch({"stacked": projector.layers[0]}, lambda: projector(features))
    return {"out": out, **seen}


def run_nucleus(case):
    logits = TemperatureLogitsWarper(case.params["temperature"])(None, case.inputs()["logits"])
    probabilities = TopPLogitsWarper(case.params["top_p"])(None, logits).softmax(-1)
    return {"probs": probabilities, "kept": probabilities > 0}


RUNS = {
    "v1_modules/vision_head": run_vision_head,
    "v1_modules/adapter_*": run_adapter,
    "v1_modules/visual_context_adapter_*": run_source_tokenizer,
    "v2/vlm_projection": run_projection,
    "v2/null_vlm": run_null_states,
    "vae/*": run_vae,
    "t5/*": run_text_encoder,
    "mllm/projector": run_projector,
    "mllm/nucleus": run_nucleus,
}


@each_case("v1_modules/vision_head")
def test_vision_head_with_its_mlp_memory_and_mean(case):
    case.check(run_vision_head(case))


@each_case("v1_modules/adapter_*")
def test_adapter_of_one_token_of_each_and_of_several_at_once(case):
    case.check(run_adapter(case))


@each_case("v1_modules/visual_context_adapter_*")
def test_source_tokenizer(case):
    case.check(run_source_tokenizer(case))


@each_case("v2/vlm_projection")
def test_projection_of_the_second_release(case):
    case.check(run_projection(case))


@each_case("v2/null_vlm")
def test_what_stands_for_the_states_of_an_unconditional_branch(case):
    case.check(run_null_states(case))


@each_case("vae/*")
def test_vae_encodes_the_mode_and_decodes(case):
    case.check(run_vae(case))


@each_case("t5/*")
def test_text_encoder(case):
    case.check(run_text_encoder(case))


@each_case("mllm/projector")
def test_projector_of_the_released_language_model(case):
    case.check(run_projector(case))


@each_case("mllm/nucleus")
def test_temperature_and_nucleus_are_those_of_transformers(case):
    case.check(run_nucleus(case))

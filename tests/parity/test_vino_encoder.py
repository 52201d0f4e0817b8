"""What VINO's language model is given and what it says are the published ones: chats, patches, queries, connectors."""

import json

import pytest
import torch
from golden_set import assert_all_same, assert_same, each_case, golden_cases, require
from test_vino_denoiser import ALLOWED, marker_rows

from loomvideo.conditioning.markers import boundary_rows
from loomvideo.models.chat import tokenise
from loomvideo.models.qwen import Visual, query_features
from loomvideo.models.vino_chat import CAPTION, NEGATIVE_PROMPT_IMAGE, NEGATIVE_PROMPT_VIDEO, vino_chat
from loomvideo.systems.vino import show


def chat_of(request, inputs, budgets):
    clip = None if request["video"] is None else inputs[f"video/{request['video']}"].numpy()
    pictures = [inputs[f"image/{name}"].numpy() for name in request["images"]]
    return vino_chat(show(pictures, clip, budgets), request["prompt"])


def rows_of(mllm, chat, input_ids):
    return boundary_rows(
        input_ids[0],
        [visual.grid[0] for visual in chat.visuals],
        start_id=mllm.config.vision_start_token_id,
        end_id=mllm.config.vision_end_token_id,
    )


@torch.no_grad()
def run(mllm, connector, inputs):
    """The connectors' outputs and everything on the way to them, under the golden names."""
    seen, handles = {}, []
    text = mllm.model.language_model

    def keep_deepstack(_, __, arguments):
        if arguments.get("deepstack_visual_embeds") is not None:
            seen["deepstack"] = torch.stack(arguments["deepstack_visual_embeds"])

    handles.append(text.register_forward_pre_hook(keep_deepstack, with_kwargs=True))
    handles.append(
        text.rotary_emb.register_forward_pre_hook(
            lambda _, arguments: seen.update(embeds_in=arguments[0], position_ids=arguments[1])
        )
    )
    last_layer, layers_run = text.layers[-1], []
    handles.append(last_layer.register_forward_hook(lambda *_: layers_run.append("last")))
    handles.append(text.norm.register_forward_hook(lambda *_: layers_run.append("norm")))
    try:
        features = query_features(mllm, inputs, connector.metaquery)
    finally:
        for handle in handles:
            handle.remove()
    assert not layers_run, "nobody reads the last layer and the final norm"
    assert text.layers[-1] is last_layer
    everywhere = torch.arange(features.shape[1]).repeat(2, 1).T
    embeds_vlm, markers = connector(features, everywhere)
    tensors = {name: value for name, value in vars(inputs).items() if value is not None}
    return (
        tensors
        | seen
        | {
            "hidden_penultimate": features,
            "embeds_vlm": embeds_vlm,
            "embeds_vae": markers[:, :, 0],
            "attention_mask": torch.ones(features.shape[:2], dtype=torch.long),
        }
    )


@each_case("vino", "encoder")
def test_every_tensor_of_the_encoder(case, vino_mllm, vino_connector, vino_tokenizer, vino_budgets, vino_inputs):
    golden = case.load()
    chat = chat_of(case.params["request"], vino_inputs, vino_budgets)
    inputs = tokenise(vino_tokenizer, [chat])
    computed = run(vino_mllm, vino_connector, inputs)
    assert_all_same(computed, golden, given=set(), allowed=ALLOWED)
    facts = case.params["facts"]
    assert inputs.input_ids.shape[1] == facts["input_tokens"]
    assert len(vino_connector.metaquery) == facts["n_query"]
    assert vino_mllm.config.text_config.num_hidden_layers + 1 == facts["n_hidden_states"]
    assert torch.equal(rows_of(vino_mllm, chat, inputs.input_ids), marker_rows(facts))


@each_case("vino", "denoiser forward")
def test_the_encoder_gives_what_the_denoiser_cases_start_from(
    case, vino_mllm, vino_connector, vino_tokenizer, vino_budgets, vino_inputs
):
    golden = case.load()
    chat = chat_of(case.params["request"], vino_inputs, vino_budgets)
    inputs = tokenise(vino_tokenizer, [chat])
    computed = run(vino_mllm, vino_connector, inputs)
    for name in ("embeds_vlm", "embeds_vae"):
        assert_same(name, computed[name], golden[name], allowed=ALLOWED)
    assert torch.equal(rows_of(vino_mllm, chat, inputs.input_ids), marker_rows(case.params["facts"]))


def test_vino_chats_of_unequal_length_in_one_batch_give_what_each_gives_alone(
    vino_mllm, vino_connector, vino_tokenizer, vino_budgets, vino_inputs
):
    cases = [case for case in golden_cases("vino") if case.group == "encoder"]
    if len(cases) < 2:
        pytest.skip("this set has no two encoder cases")
    goldens = [case.load() for case in cases]
    chats = [chat_of(case.params["request"], vino_inputs, vino_budgets) for case in cases]
    inputs = tokenise(vino_tokenizer, chats)
    with torch.no_grad():
        features = query_features(vino_mllm, inputs, vino_connector.metaquery)
    num_queries = len(vino_connector.metaquery)
    for row, golden in zip(features, goldens, strict=True):
        length = golden["input_ids"].shape[1]
        real = torch.cat([row[:length], row[-num_queries:]])
        assert_same("hidden_penultimate", real, golden["hidden_penultimate"][0], allowed=ALLOWED)


@each_case("vino", "constants")
def test_the_texts_kept_in_the_source_are_the_published_ids(case, vino_tokenizer):
    tiny_picture, tiny_clip = (Visual(kind, torch.zeros(0), (1, 2, 2)) for kind in ("image", "video"))
    texts = {
        "default_negative_image_ids": NEGATIVE_PROMPT_IMAGE,
        "default_negative_video_ids": NEGATIVE_PROMPT_VIDEO,
        "understand_template_ids": vino_chat([tiny_picture, tiny_clip], "hi", system=CAPTION).text,
    }
    computed = {
        name: torch.tensor(vino_tokenizer(text, add_special_tokens=False)["input_ids"]) for name, text in texts.items()
    }
    assert_all_same(computed, case.load(), given=set())


def test_vino_sizes_stated_by_the_set_are_those_of_its_configurations(vino_set, vino_mllm, vino_transformer):
    stated = json.loads(require(vino_set / "vino_config.json").read_text())["connector"]
    config = vino_transformer.config
    assert stated["hidden_size"] == vino_mllm.config.text_config.hidden_size
    assert stated["z_dim"] == config.text_embed_dim
    assert stated["hy_dim"] == config.num_attention_heads * config.attention_head_dim

"""Language-model features, chat texts, ids and patches are those of the published system."""

import re

import torch
from golden_set import assert_all_same, assert_same, each_case, numbered

from loomvideo.models.chat import chat, tokenise
from loomvideo.models.qwen import ChatInputs, FrameRule, layer_features, picture, set_rotary_tables, video

INPUTS = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")
SPAN = re.compile(r"(?:<\d+\.\d seconds>)?<\|vision_start\|>(?:<\|(image|video)_pad\|>)+<\|vision_end\|>")


def chat_inputs(tensors):
    return ChatInputs(**{name: tensors[name] for name in INPUTS if name in tensors})


@torch.no_grad()
def run(mllm, inputs):
    """The layers and everything on the way to them, under the golden names."""
    seen, handles = {}, []
    text = mllm.model.language_model

    def keep_arguments(_, __, arguments):
        seen.update(inputs_embeds=arguments["inputs_embeds"], position_ids=arguments["position_ids"])
        if arguments.get("visual_pos_masks") is not None:
            seen["visual_mask"] = arguments["visual_pos_masks"]
            for i, feature in enumerate(arguments["deepstack_visual_embeds"]):
                seen[f"deepstack_{i}"] = feature

    handles.append(text.register_forward_pre_hook(keep_arguments, with_kwargs=True))
    handles.append(text.norm.register_forward_hook(lambda _, __, output: seen.update(final_norm_out=output)))
    try:
        layers = layer_features(mllm, inputs)
    finally:
        for handle in handles:
            handle.remove()
    if seen["position_ids"] is None:  # text only: transformers counts the tokens itself
        length = inputs.input_ids.shape[1]
        seen["position_ids"] = torch.arange(length).expand(3, *inputs.input_ids.shape)
    return seen | {f"layer_{i}": layer for i, layer in enumerate(layers)}


@each_case("loomvideo", "mllm")
def test_every_tensor_of_the_language_model(case, mllm):
    set_rotary_tables(mllm, rounded=False)
    golden = case.load()
    pixels = {name for name in golden if re.fullmatch(r"image_u8_\d+|video_frames_u8(_\d+)?", name)}
    computed = run(mllm, chat_inputs(golden))
    assert_all_same(computed, golden, given=set(INPUTS) | pixels)


@each_case("loomvideo", "mllm")
def test_text_ids_and_patches_of_a_chat(case, tokenizer, pixel_budgets):
    golden = case.load()
    pictures = iter(numbered(golden, "image_u8"))
    clips = iter([golden["video_frames_u8"]] if "video_frames_u8" in golden else [])
    parts, text, end = [], case.params["text"], 0
    for span in SPAN.finditer(text):
        if span.start() < end:
            continue  # a later frame pair of the video just read
        if span[1] == "image":
            parts.append(picture(next(pictures).numpy(), pixel_budgets["image"]))
            end = span.end()
        else:
            frames = next(clips).numpy()
            parts.append(video(frames, FrameRule(factor=len(frames)), pixel_budgets["video"]))
            end = [later.end() for later in SPAN.finditer(text, span.start())][parts[-1].grid[0] - 1]
    prompt = text[end:].removeprefix("<|im_start|>user\n").split("<|im_end|>")[0]

    composed = chat([*parts, prompt])
    assert composed.text == text
    inputs = tokenise(tokenizer, [composed])
    computed = {name: value for name, value in vars(inputs).items() if value is not None}
    computed.setdefault("attention_mask", torch.ones_like(inputs.input_ids))
    assert_all_same(computed, {name: golden[name] for name in INPUTS if name in golden}, given=set())


@each_case("loomvideo", "bf16tables", having="layer_0")
def test_rounded_rotary_tables(case, mllm):
    golden, inputs = case.load(), case.inputs()
    try:
        set_rotary_tables(mllm, rounded=True)
        computed = run(mllm, chat_inputs(inputs))
    finally:
        set_rotary_tables(mllm, rounded=False)
    assert_all_same(computed, golden, given=set())
    for name, stated in case.params["max_abs_difference_to_parent"].items():
        difference = (computed[name] - inputs[name]).abs().max()
        assert abs(difference - stated) <= 4e-5 * inputs[name].abs().max()


@each_case("loomvideo", "mllm")
def test_padding_and_batching_leave_the_features_of_real_tokens_alone(case, mllm, tokenizer):
    golden = case.load()
    inputs = chat_inputs(golden)
    length, extra = inputs.input_ids.shape[1], 5
    ids = torch.nn.functional.pad(inputs.input_ids, (0, extra), value=tokenizer.pad_token_id).repeat(2, 1)
    mask = (torch.arange(length + extra) < length).long().expand(2, -1)
    pixels = {name: torch.cat([value, value]) for name, value in vars(inputs).items() if value is not None}
    batch = ChatInputs(**{**pixels, "input_ids": ids, "attention_mask": mask})
    with torch.no_grad():
        layers = layer_features(mllm, batch)
    for i, layer in enumerate(layers):
        for row in layer[:, :length]:
            assert_same(f"layer_{i}", row, golden[f"layer_{i}"][0])

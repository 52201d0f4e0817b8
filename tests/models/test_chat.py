"""What the language model is told in each guidance branch."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from loomvideo.models.chat import chat, full_chat, plan_ends, read_tokens, tokenise, unconditional_chat, visual_chat
from loomvideo.models.qwen import Visual

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
PICTURE = Visual("image", torch.zeros(8, 1536), (1, 2, 4))
CLIP = Visual("video", torch.ones(8, 1536), (2, 2, 2), ("<0.0 seconds>", "<0.2 seconds>"))
PICTURE_SPAN = "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>"
CLIP_SPAN = "<|vision_start|><|video_pad|><|vision_end|>"


@pytest.fixture(scope="module")
def tokenizer():
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokens = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="<|endoftext|>")
    fast.add_special_tokens({"additional_special_tokens": SPECIAL})
    return fast


def turn(content):
    return f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


def test_the_full_chat_holds_references_source_and_prompt_in_order():
    assert full_chat([PICTURE, CLIP], "Edit: x").text == turn(
        f"{PICTURE_SPAN}<0.0 seconds>{CLIP_SPAN}<0.2 seconds>{CLIP_SPAN}Edit: x"
    )


def test_the_visual_chat_holds_the_spans_alone():
    assert visual_chat([PICTURE, CLIP]).text == turn(PICTURE_SPAN + CLIP_SPAN + CLIP_SPAN)
    assert visual_chat([PICTURE, CLIP]).visuals == (PICTURE, CLIP)


def test_the_unconditional_chat_asks_for_an_image_and_shows_nothing():
    assert unconditional_chat("blurry").text == turn("generate an image: blurry")
    assert unconditional_chat("").visuals == ()


def test_parts_may_stand_in_any_order():
    assert chat(["before ", PICTURE, " after"]).text == turn(f"before {PICTURE_SPAN} after")


def test_one_placeholder_id_stands_for_each_merged_patch(tokenizer):
    ids = tokenise(tokenizer, [full_chat([PICTURE, CLIP], "x")]).input_ids
    assert (ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).sum() == 2
    assert (ids == tokenizer.convert_tokens_to_ids("<|video_pad|>")).sum() == 2


def test_several_chats_are_padded_on_the_right_and_masked(tokenizer):
    short, long = chat(["a"]), chat(["abc", PICTURE])
    inputs = tokenise(tokenizer, [short, long])
    alone = tokenise(tokenizer, [short])
    length = alone.input_ids.shape[1]
    assert alone.attention_mask is None
    assert torch.equal(inputs.input_ids[0, :length], alone.input_ids[0])
    assert inputs.attention_mask.sum(1).tolist() == [length, inputs.input_ids.shape[1]]
    assert torch.equal(inputs.image_grid_thw, torch.tensor([[1, 2, 4]]))


# --- what a denoiser reads of a chat


def read(tokenizer, text, item_end):
    """The tokens that are read of a turn with this text, one character each."""
    ids = tokenise(tokenizer, [chat([text])]).input_ids[0]
    return tokenizer.convert_ids_to_tokens(ids), read_tokens(tokenizer, ids, item_end).tolist()


@pytest.mark.parametrize("text", ["a;b;", "ab"])
def test_all_tokens_are_read_where_no_token_ends_items(tokenizer, text):
    tokens, positions = read(tokenizer, text, None)
    assert positions == list(range(len(tokens)))


def test_of_a_plan_the_ends_of_its_items_are_read(tokenizer):
    tokens, positions = read(tokenizer, "a red circle; on blue;", ";")
    assert positions == [index for index, token in enumerate(tokens) if token == ";"]
    assert len(positions) == 2


@pytest.mark.parametrize(("text", "count"), [("a red circle; on blue;", 2), ("redstar", 0)])
def test_a_plan_s_ends_are_those_of_its_items_and_where_there_is_no_plan_none(tokenizer, text, count):
    ids = tokenise(tokenizer, [chat([text])]).input_ids[0]
    ends = plan_ends(tokenizer, ids, ";")
    assert tokenizer.convert_ids_to_tokens(ids[ends]) == [";"] * count


def test_where_no_item_ends_the_words_are_read_without_the_chat_around(tokenizer):
    tokens, positions = read(tokenizer, "redstar", ";")
    assert "".join(tokens[position] for position in positions) == "redstar"
    assert 0 < positions[0] < positions[-1] < len(tokens) - 1
    assert positions == list(range(positions[0], positions[0] + len("redstar")))

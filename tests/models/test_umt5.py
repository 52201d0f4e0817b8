"""Laws of the text rows."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from loomvideo.models.umt5 import encode_texts

TEXTS = ["a red fox", "a very long sentence about a fox and two geese"]


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return PreTrainedTokenizerFast.from_pretrained(tiny_model / "tokenizer")


@pytest.fixture(scope="module")
def encoder(tokenizer):
    torch.manual_seed(0)
    sizes = UMT5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return UMT5EncoderModel(sizes).eval()


def test_rows_are_as_many_as_tokens_and_a_batch_equals_singles(encoder, tokenizer):
    rows = encode_texts(encoder, tokenizer, TEXTS)
    assert [len(row) for row in rows] == [len(tokenizer(text)["input_ids"]) for text in TEXTS]
    for text, row in zip(TEXTS, rows, strict=True):
        torch.testing.assert_close(encode_texts(encoder, tokenizer, [text])[0], row, rtol=1e-5, atol=1e-5)


def test_texts_are_cleaned(encoder, tokenizer):
    messy, clean = encode_texts(encoder, tokenizer, ["  cats \n &amp;amp;\tdogs ", "cats & dogs"])
    torch.testing.assert_close(messy, clean)


def test_wrongly_decoded_letters_are_mended(encoder, tokenizer):
    messy, clean = encode_texts(encoder, tokenizer, ["a cafÃ©", "a café"])
    torch.testing.assert_close(messy, clean)


def test_a_text_that_is_too_long_is_cut_before_its_last_token_with_a_warning(encoder, tokenizer):
    with pytest.warns(UserWarning, match="46 tokens is cut to 10"):
        [rows] = encode_texts(encoder, tokenizer, [TEXTS[1]], max_tokens=10)
    cut = TEXTS[1][:9] + TEXTS[1][-1]  # one token a byte
    torch.testing.assert_close(rows, encode_texts(encoder, tokenizer, [cut])[0], rtol=1e-5, atol=1e-5)

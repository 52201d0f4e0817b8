"""Laws of the language model as Omni-Video uses it."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from loomvideo.models.chat import chat, tokenise
from loomvideo.models.qwen import PixelBudget, layer_features, picture
from loomvideo.models.reader import NEW_TOKENS, Decoding, QwenReader, add_markers, marker_ids, route

BUDGET = PixelBudget(32 * 32, 64 * 64)


@pytest.fixture(scope="module")
def reader(tiny_model):
    return load(tiny_model)


def load(folder):
    mllm = Qwen3VLForConditionalGeneration.from_pretrained(folder / "mllm").eval()
    return QwenReader(mllm, PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer"))


@pytest.fixture(scope="module")
def shown():
    return chat([picture(torch.randint(256, (40, 48, 3)).numpy().astype("uint8"), BUDGET), "what is this?"])


def test_hidden_states_are_those_of_the_last_layer_after_the_final_norm(reader, shown):
    inputs = tokenise(reader.tokenizer, [shown])
    with torch.no_grad():
        expected = reader.mllm.base_model.language_model.norm(layer_features(reader.mllm, inputs)[-1])
    torch.testing.assert_close(reader.hidden_states(shown), expected)
    assert expected.shape[1] == inputs.input_ids.shape[1]


def test_an_answer_comes_in_pieces_that_are_the_text_of_its_ids(reader, shown):
    answer = reader.answer(shown, Decoding(max_new_tokens=12, temperature=5.0, top_p=1.0))
    text = "".join(answer)
    assert 0 < len(answer.ids) <= 12
    assert text == reader.tokenizer.decode(answer.ids, skip_special_tokens=True)


def test_the_same_seed_gives_the_same_answer_and_leaves_the_global_random_state_alone(reader, shown):
    state = torch.get_rng_state()
    ids = [drawn(reader, shown, seed) for seed in (1, 1, 2)]
    assert ids[0] == ids[1] != ids[2]
    assert torch.equal(torch.get_rng_state(), state)


def drawn(reader, shown, seed):
    answer = reader.answer(shown, Decoding(max_new_tokens=8, temperature=5.0, top_p=1.0, seed=seed))
    assert isinstance("".join(answer), str)
    return answer.ids


def test_a_temperature_of_zero_takes_the_likeliest_token(reader, shown):
    answer = reader.answer(shown, Decoding(temperature=0, max_new_tokens=1))
    list(answer)
    head = reader.mllm.lm_head(reader.hidden_states(shown)[:, -1])
    assert answer.ids == head.argmax(-1).tolist()


def test_an_answer_that_is_stopped_ends_early(reader, shown):
    answer = reader.answer(shown, Decoding(max_new_tokens=1024, temperature=5.0, top_p=1.0))
    answer.stop()
    list(answer)
    assert len(answer.ids) < 1024


def test_what_fails_while_answering_is_raised_where_the_answer_is_read(reader, shown, monkeypatch):
    def fail(**_):
        raise MemoryError("no room for keys and values")

    monkeypatch.setattr(reader.mllm, "generate", fail)
    with pytest.raises(RuntimeError, match="failed to answer: no room"):
        list(reader.answer(shown, Decoding()))


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"max_new_tokens": 0}])
def test_decoding_that_means_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="temperature is at least 0"):
        Decoding(**wrong)


def test_the_defaults_are_the_published_ones():
    assert (Decoding().temperature, Decoding().top_p, Decoding().max_new_tokens) == (0.2, 0.6, 1024)


def test_an_opening_token_asks_for_the_same_as_its_task_marker(tiny_model):
    reader = load(tiny_model)
    plain = reader.hidden_states(chat(["a cat"]))
    add_markers(reader.tokenizer, reader.mllm)
    markers = marker_ids(reader.tokenizer)
    assert {kind: len(ids) for kind, ids in markers.items()} == {"image": 2, "video": 2}
    assert all(len(reader.token_ids(token)) == 1 for token in NEW_TOKENS)
    for kind, task in (("image", "t2i"), ("video", "t2v")):
        assert [route([5, marker], markers) for marker in markers[kind]] == [task, task]
    torch.testing.assert_close(reader.hidden_states(chat(["a cat"])), plain)
    assert reader.hidden_states(chat(["<BOV>"])).isfinite().all()


def test_markers_that_a_tokenizer_lacks_ask_for_nothing(reader):
    assert route([1, 2, 3], marker_ids(reader.tokenizer)) is None

"""Learnable queries in a frozen language model, and the connectors behind it."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from loomvideo.models.chat import tokenise
from loomvideo.models.connector import QueryConnector
from loomvideo.models.qwen import PixelBudget, query_features
from loomvideo.models.vino_chat import picture, vino_chat

QUERIES = 4


@pytest.fixture(scope="module")
def mllm(tiny_model):
    return Qwen3VLForConditionalGeneration.from_pretrained(tiny_model / "mllm", dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def connector(mllm):
    torch.manual_seed(1)
    width = mllm.config.text_config.hidden_size
    return QueryConnector(num_queries=QUERIES, hidden_size=width, z_dim=12, hy_dim=8).eval()


@pytest.fixture(scope="module")
def inputs(tiny_model):
    pixels = torch.randint(0, 256, (40, 64, 3), dtype=torch.uint8).numpy()
    chat = vino_chat([picture(pixels, PixelBudget(32 * 32, 64 * 64))], "a red kite")
    return tokenise(PreTrainedTokenizerFast.from_pretrained(tiny_model / "tokenizer"), [chat])


@torch.no_grad()
def features(mllm, inputs, queries):
    return query_features(mllm, inputs, queries)


def test_every_token_and_every_query_has_a_row(mllm, connector, inputs):
    rows = features(mllm, inputs, connector.metaquery)
    assert rows.shape == (1, inputs.input_ids.shape[1] + QUERIES, connector.config.hidden_size)


def test_queries_read_the_chat_and_earlier_queries_only(mllm, connector, inputs):
    length, queries = inputs.input_ids.shape[1], connector.metaquery.detach()
    plain = features(mllm, inputs, queries)
    other = features(mllm, inputs, torch.cat([queries[:-1], -queries[-1:]]))
    torch.testing.assert_close(other[:, : length + QUERIES - 1], plain[:, : length + QUERIES - 1])
    assert not torch.allclose(other[:, -1], plain[:, -1], atol=1e-3)
    reworded = inputs.input_ids.clone()
    reworded[0, -3] += 1
    changed = features(mllm, type(inputs)(**{**vars(inputs), "input_ids": reworded}), queries)
    assert not torch.allclose(changed[:, length:], plain[:, length:], atol=1e-4)


def test_rows_that_are_asked_for_are_those_of_all_rows(connector):
    rows, markers = torch.randn(2, 9, connector.config.hidden_size), torch.tensor([[0, 3]])
    asked = torch.tensor([[5, 7, 8], [1, 7, 8]])
    every, near = connector(rows, markers)
    some, near_too = connector(rows, markers, asked)
    torch.testing.assert_close(some, every[torch.arange(2)[:, None], asked])
    assert torch.equal(near, near_too)


def test_the_language_model_is_whole_again_afterwards(mllm, connector, inputs):
    before = list(mllm.state_dict())
    features(mllm, inputs, connector.metaquery)
    with pytest.raises(RuntimeError):
        features(mllm, inputs, torch.randn(QUERIES, connector.config.hidden_size + 1))
    assert list(mllm.state_dict()) == before
    assert features(mllm, inputs, connector.metaquery[:0]).shape[1] == inputs.input_ids.shape[1]


def test_gradients_reach_the_queries_and_neither_the_last_layer_nor_the_final_norm(mllm, connector, inputs):
    try:
        text, markers = connector(query_features(mllm, inputs, connector.metaquery), torch.tensor([[2, 4]]))
        (text.square().sum() + markers.square().sum()).backward()
        assert connector.metaquery.grad.abs().sum(dim=1).all()
        last = [*mllm.model.language_model.layers[-1].parameters(), mllm.model.language_model.norm.weight]
        assert all(parameter.grad is None for parameter in last)
        assert mllm.model.language_model.layers[-2].self_attn.q_proj.weight.grad.any()
    finally:
        mllm.zero_grad()
        connector.zero_grad()


def test_the_marker_connector_runs_on_the_rows_that_are_picked_and_the_other_on_all(connector):
    seen = {}
    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0].shape[:-1].numel()}))
        for name, module in connector.named_children()
    ]
    said = torch.randn(2, 30, connector.config.hidden_size)
    with torch.no_grad():
        text, markers = connector(said, torch.tensor([[3, 7], [9, 21]]))
    for handle in handles:
        handle.remove()
    assert seen == {"connector": 2 * 30, "connector_vae_branch": 2 * 2 * 2}
    assert text.shape == (2, 30, 12)
    assert markers.shape == (2, 2, 2, 8)
    with torch.no_grad():
        torch.testing.assert_close(markers[1, 1, 0], connector.connector_vae_branch(said[1, 9]))
        torch.testing.assert_close(markers[0, 1, 1], connector.connector_vae_branch(said[0, 21]))


def tracking(connector):
    """The same connector with new tracks."""
    made = QueryConnector(**{**connector.config, "item_tracks": True}).eval()
    made.load_state_dict(connector.state_dict(), strict=False)
    return made


NO_MARKERS = torch.zeros(0, 2, dtype=torch.long)


@torch.no_grad()
def test_new_tracks_say_at_every_frame_what_is_said_once_without_them(connector):
    made, said = tracking(connector), torch.randn(2, 3 + QUERIES, connector.config.hidden_size)
    plain, _ = connector(said, NO_MARKERS)
    text, _ = made(said, NO_MARKERS, times=made.item_times(4))
    expected = torch.cat([plain[:, :3].repeat(1, 4, 1), plain[:, 3:]], dim=1)
    torch.testing.assert_close(text, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_items_are_moved_to_the_times_of_the_whole_clip_and_queries_stay(connector):
    made, said = tracking(connector), torch.randn(2, 3 + QUERIES, connector.config.hidden_size)
    torch.nn.init.normal_(made.tracks.last.weight)
    whole, _ = made(said, NO_MARKERS, times=made.item_times(5))
    some, _ = made(said, NO_MARKERS, times=made.item_times(5, (0, 3)))
    by_frame = whole[:, :15].unflatten(1, (5, 3))
    torch.testing.assert_close(some[:, :6].unflatten(1, (2, 3)), by_frame[:, [0, 3]])
    assert not torch.allclose(by_frame[:, 0], by_frame[:, 3], atol=1e-3)
    torch.testing.assert_close(some[:, 6:], connector(said, NO_MARKERS)[0][:, 3:])


def test_text_tokens_are_of_one_frame_after_the_other_and_queries_of_all(connector):
    made = tracking(connector)
    frames = made.text_frames(2 * 3 + QUERIES, made.item_times(5, (0, 3)))
    assert frames.tolist() == [0, 0, 0, 1, 1, 1] + [-1] * QUERIES
    assert made.text_frames(QUERIES, made.item_times(5)).tolist() == [-1] * QUERIES


def test_nothing_is_moved_in_pictures_and_without_tracks(connector):
    for made, frames in ((connector, 5), (tracking(connector), 1)):
        assert made.item_times(frames) is None
        assert made.text_frames(9, None) is None


def test_without_references_there_are_no_markers(connector):
    text, markers = connector(torch.randn(1, 5, connector.config.hidden_size), torch.zeros(0, 2, dtype=torch.long))
    assert text.shape == (1, 5, 12)
    assert markers.shape == (1, 0, 2, 8)


def test_a_connector_comes_back_from_its_folder_as_it_was_saved(connector, tmp_path):
    connector.save_pretrained(tmp_path)
    loaded = QueryConnector.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in connector.state_dict().items())

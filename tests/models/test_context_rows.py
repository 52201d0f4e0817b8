"""Laws of what becomes context rows."""

import pytest
import torch

from loomvideo.models.context_rows import FixedRows, QueryTransformer, SourceTokenizer, StateProjection

SIZES = {"in_dim": 6, "dim": 8, "num_queries": 3, "num_heads": 2, "num_layers": 2, "ffn_dim": 16}


@pytest.fixture(scope="module")
def reader():
    torch.manual_seed(0)
    return QueryTransformer(**SIZES).eval()


@torch.no_grad()
def test_queries_are_as_many_as_configured_whatever_the_length(reader):
    assert [reader(torch.randn(2, length, 6)).shape for length in (1, 9)] == [(2, 3, 8)] * 2


@torch.no_grad()
def test_the_order_of_what_is_read_does_not_matter(reader):
    sequence = torch.randn(1, 5, 6)
    torch.testing.assert_close(reader(sequence), reader(sequence.flip(1)), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_each_token_is_read_by_itself_in_order(reader):
    tokens = torch.randn(2, 4, 6)
    alone = torch.cat([reader(tokens[:, i : i + 1]) for i in range(4)], dim=1)
    torch.testing.assert_close(reader.each(tokens), alone, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(reader.each(tokens)[:, :3], reader(tokens), atol=1e-3)


def test_layers_start_different_from_each_other():
    layers = QueryTransformer(**SIZES).encoder.layers
    assert not torch.equal(layers[0].linear1.weight, layers[1].linear1.weight)


def test_the_adapter_starts_with_small_queries_and_no_bias():
    adapter = QueryTransformer(**{**SIZES, "num_queries": 500}, initialisation="xavier")
    assert adapter.decoder_query.std().item() == pytest.approx(0.02, rel=0.1)
    biases = [p for name, p in adapter.named_parameters() if name.endswith("bias") and "norm" not in name]
    assert not any(bias.any() for bias in biases)


def test_every_parameter_has_a_gradient_and_evaluation_changes_nothing(reader):
    reader.zero_grad()
    sequence = torch.randn(2, 5, 6)
    with_gradients = reader(sequence)
    with_gradients.square().sum().backward()
    assert all(parameter.grad is not None for parameter in reader.parameters())
    reader.zero_grad()
    with torch.no_grad():
        torch.testing.assert_close(reader(sequence), with_gradients, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_source_rows_are_frame_by_frame_row_by_row():
    tokenizer = SourceTokenizer(in_channels=2, dim=8, text_dim=5)
    latents = torch.randn(1, 2, 2, 8, 12)
    rows = tokenizer(latents)
    assert rows.shape == (1, tokenizer.num_rows(latents.shape), 5) == (1, 12, 5)
    place = 1 * 2 * 3 + 1 * 3 + 2  # second frame, second row, third column
    torch.testing.assert_close(rows[:, place : place + 1], tokenizer(latents[:, :, 1:, 4:8, 8:12]))


@torch.no_grad()
def test_source_rows_do_not_see_rows_and_columns_beyond_the_last_patch():
    tokenizer = SourceTokenizer(in_channels=2, dim=8, text_dim=5)
    latents = torch.randn(1, 2, 1, 10, 7)
    changed = latents.clone()
    changed[..., 8:, :] += 1
    changed[..., 4:] += 1
    torch.testing.assert_close(tokenizer(changed), tokenizer(latents))


@torch.no_grad()
def test_a_projection_reads_every_state_by_itself_whatever_its_size():
    projection = StateProjection(in_dim=6, text_dim=4)
    states = torch.randn(1, 5, 6)
    torch.testing.assert_close(projection(7 * states), projection(states), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(projection(states)[:, 2:3], projection(states[:, 2:3]))
    assert projection.null_states().shape == (1, 2, 6)


@torch.no_grad()
def test_parts_are_saved_and_loaded(tmp_path):
    fixed = FixedRows(text_dim=4, boundary_rows=2, null_text_rows=3, state_dim=6, null_states=5)
    for parameter in fixed.parameters():
        parameter.normal_()
    parts = {
        "head": QueryTransformer(**SIZES),
        "tokenizer": SourceTokenizer(in_channels=2, dim=8, text_dim=5),
        "projection": StateProjection(in_dim=6, text_dim=4),
        "fixed": fixed,
    }
    for name, part in parts.items():
        part.save_pretrained(tmp_path / name)
        loaded = type(part).from_pretrained(tmp_path / name)
        torch.testing.assert_close(loaded.state_dict(), part.state_dict(), rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in fixed.parameters())


def test_fixed_rows_of_a_branch_that_needs_none_are_not_there():
    fixed = FixedRows(boundary_names=("<img_st>", "<img_ed>"), text_dim=4)
    assert sorted(fixed.state_dict()) == ["boundaries.<img_ed>", "boundaries.<img_st>"]
    assert {name: tuple(rows.shape) for name, rows in fixed.boundaries.items()} == dict.fromkeys(
        ("<img_st>", "<img_ed>"), (1, 4)
    )

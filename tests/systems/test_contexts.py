"""Laws of Omni-Video's contexts and their denoiser."""

from dataclasses import replace

import pytest
import torch

from loomvideo.models.context_rows import FixedRows, QueryTransformer, SourceTokenizer, StateProjection
from loomvideo.models.omnivideo import OmniVideoTransformer3DModel
from loomvideo.systems.omnivideo import GuidanceBranch, denoiser, first_release, second_release

STATES, VISION, TEXT, CHANNELS, TOKENS, QUERIES, ROWS = 10, 6, 8, 4, 4, 3, 64
SHAPE = (1, CHANNELS, 2, 8, 12)


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    sizes = {"num_heads": 2, "num_layers": 1, "ffn_dim": 8}
    made = {
        "vision_head": QueryTransformer(in_dim=STATES, dim=VISION, num_queries=TOKENS, **sizes),
        "adapter": QueryTransformer(in_dim=VISION, dim=TEXT, num_queries=QUERIES, **sizes),
        "source_tokenizer": SourceTokenizer(in_channels=CHANNELS, dim=6, text_dim=TEXT),
        "projection": StateProjection(in_dim=STATES, text_dim=TEXT),
        "fixed": FixedRows(text_dim=TEXT),
        "transformer": OmniVideoTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=CHANNELS, out_channels=CHANNELS, text_dim=TEXT,
            freq_dim=16, ffn_dim=32, num_layers=1, max_context_len=ROWS,
        ),
    }  # fmt: skip
    for part in made.values():
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return {name: part.eval() for name, part in made.items()}


@pytest.fixture
def told():
    return GuidanceBranch(
        states=torch.randn(1, 7, STATES), text=torch.randn(5, TEXT), source=torch.randn(SHAPE), reference=None
    )


def first(parts, *, still=False, boundaries=True, **options):
    fixed = dict(parts["fixed"].boundaries) if boundaries else None
    heads = (parts["vision_head"], parts["adapter"], parts["source_tokenizer"])
    return first_release(*heads, fixed, max_rows=ROWS, still=still, **options)


@torch.no_grad()
def test_a_picture_takes_the_rows_of_one_token_and_a_video_of_all(parts, told):
    generation = replace(told, source=None)
    video, picture = (first(parts, still=still, boundaries=False)(generation) for still in (False, True))
    assert (len(video), len(picture)) == (TOKENS * QUERIES + 5, QUERIES + 5)
    torch.testing.assert_close(picture[:QUERIES], video[:QUERIES], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_what_is_absent_takes_no_rows(parts, told):
    build = first(parts)
    rows = {
        "all": len(build(told)),
        "no source": len(build(replace(told, source=None))),
        "no states": len(build(replace(told, states=None))),
        "no text": len(build(replace(told, text=None))),
    }
    source = parts["source_tokenizer"].num_rows(SHAPE) + 2  # and its boundaries
    assert rows == {
        "all": source + TOKENS * QUERIES + 2 + 5 + 2,
        "no source": TOKENS * QUERIES + 2 + 5 + 2,
        "no states": source + 5 + 2,
        "no text": source + TOKENS * QUERIES + 2,
    }


@torch.no_grad()
def test_a_reference_is_read_as_a_source_is(parts, told):
    build = first(parts)
    picture = told.source[:, :, :1]
    as_source = build(replace(told, source=picture))
    as_reference = build(replace(told, source=None, reference=picture))
    torch.testing.assert_close(as_source, as_reference)


@torch.no_grad()
def test_the_second_release_reads_every_state(parts, told):
    build = second_release(parts["projection"], parts["source_tokenizer"], None, max_rows=ROWS)
    assert len(build(replace(told, source=None))) == 7 + 5
    assert len(build(replace(told, states=parts["projection"].null_states(), source=None))) == 2 + 5


@torch.no_grad()
def test_branches_in_one_batch_equal_branches_in_turn(parts, told):
    build, latents = first(parts), torch.randn(SHAPE)
    contexts = [build(replace(told, text=torch.randn(2, TEXT))), build(told)]
    timestep = torch.tensor(500)
    together = denoiser(parts["transformer"], contexts, SHAPE)(latents, timestep)
    in_turn = [denoiser(parts["transformer"], [context], SHAPE)(latents, timestep) for context in contexts]
    assert together.shape == (2, *SHAPE)
    torch.testing.assert_close(together, torch.cat(in_turn), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_parts_in_bfloat16_stay_near_float32_and_latents_keep_their_precision(parts, told):
    latents, timestep = torch.randn(SHAPE), torch.tensor(500)
    exact = denoiser(parts["transformer"], [first(parts)(told)], SHAPE)(latents, timestep)
    low = {name: type(part).from_config(part.config) for name, part in parts.items()}
    for name, part in low.items():
        part.load_state_dict(parts[name].state_dict())
        part.to(torch.bfloat16).eval()
    rounded = denoiser(low["transformer"], [first(low)(told)], SHAPE)(latents, timestep)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() <= 0.1 * exact.norm()
    second = second_release(low["projection"], low["source_tokenizer"], dict(low["fixed"].boundaries), max_rows=ROWS)
    assert second(told).dtype == torch.float32  # the prompt's rows are; `prepare` takes them to its own precision
    assert denoiser(low["transformer"], [second(told)], SHAPE)(latents, timestep).isfinite().all()

"""What a source clip costs: concatenated as VINO has it, or scaled and added as LoomVideo has it. Counted at full size."""

import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from loomvideo import LoomVideoTransformer3DModel, VinoTransformer3DModel

TEXT = 2048  # tokens, the same for both
FRAMES = (17, 49, 81)
DOCUMENT = Path(__file__).parents[2] / "docs" / "architecture.md"


@pytest.fixture(scope="module")
def vino():
    with torch.device("meta"):
        return VinoTransformer3DModel()


@pytest.fixture(scope="module")
def loomvideo():
    with torch.device("meta"):
        return LoomVideoTransformer3DModel()


def on_meta(*shape):
    return torch.empty(*shape, device="meta")


def counted(transformer, latents, conditions):
    """Visual tokens of one step, and its FLOPs."""
    sizes = []
    handle = transformer.proj_out.register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape[1]))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        transformer(latents, on_meta(1), conditions)
    handle.remove()
    return sizes[0], counter.get_total_flops()


def vino_step(transformer, frames, *, source):
    """Of a clip of 480x848: 8x8 pixels and 4 frames a latent."""
    latents = on_meta(1, 16, (frames - 1) // 4 + 1, 60, 106)
    clip = {"references": [latents], "markers": on_meta(1, 1, 2, 3072)} if source else {}
    with torch.no_grad():
        conditions = transformer.prepare(on_meta(1, TEXT, 4096), latent_shape=latents.shape, **clip)
    target, flops = counted(transformer, latents, conditions)
    return target, len(conditions.rope) - TEXT, flops


def loomvideo_step(transformer, frames, *, source):
    """Of a clip of 480x832, as near as its multiple of 32 comes: 16x16 pixels and 4 frames a latent."""
    latents = on_meta(1, 48, (frames - 1) // 4 + 1, 30, 52)
    with torch.no_grad():
        layers = [on_meta(1, TEXT, 4096)] * transformer.config["num_layers"]
        conditions = transformer.prepare(layers, latent_shape=latents.shape, source=latents if source else None)
    target, flops = counted(transformer, latents, conditions)
    return target, target, flops


@pytest.mark.parametrize("frames", FRAMES)
def test_a_concatenated_clip_doubles_the_tokens_and_an_added_one_brings_none(vino, loomvideo, frames):
    target, alone, _ = vino_step(vino, frames, source=False)
    _, with_source, _ = vino_step(vino, frames, source=True)
    assert alone == target == ((frames - 1) // 4 + 1) * 30 * 53
    assert with_source == 2 * target + 2
    assert loomvideo_step(loomvideo, frames, source=True) == loomvideo_step(loomvideo, frames, source=False)


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("source", [False, True])
def test_the_counts_follow_from_widths_and_depths(vino, loomvideo, frames, source):
    """Every token passes every block's matrices and meets every other token; the rest is below one per cent."""
    dim, blocks = 3072, 60
    _, visual, flops = vino_step(vino, frames, source=source)
    tokens = visual + TEXT
    assert 24 * dim**2 * blocks * tokens + 4 * dim * blocks * tokens**2 == pytest.approx(flops, rel=0.01)

    config = loomvideo.config
    _, tokens, flops = loomvideo_step(loomvideo, frames, source=source)
    matrices = 6 * dim**2 + 2 * dim * config["ffn_dim"]
    attention = 4 * dim * tokens * (tokens + TEXT)
    assert config["num_layers"] * (2 * matrices * tokens + attention) == pytest.approx(flops, rel=0.01)


def rows(vino, loomvideo):
    """The document's table: frames; LoomVideo's tokens and TFLOP; VINO's without and with the source; the factor."""
    for frames in FRAMES:
        _, loom_tokens, loom_flops = loomvideo_step(loomvideo, frames, source=True)
        _, alone, alone_flops = vino_step(vino, frames, source=False)
        _, tokens, flops = vino_step(vino, frames, source=True)
        figures = [f"{alone:,}", f"{alone_flops / 1e12:,.0f}", f"{tokens:,}", f"{flops / 1e12:,.0f}"]
        yield [str(frames), f"{loom_tokens:,}", f"{loom_flops / 1e12:,.0f}", *figures, f"{flops / alone_flops:.2f}"]


def test_the_document_shows_these_counts(vino, loomvideo):
    section = DOCUMENT.read_text().partition("## What an edit costs")[2].partition("\n## ")[0]
    table = [re.split(r" *\| *", line.strip("| ")) for line in section.splitlines() if re.match(r"\| *\d", line)]
    assert table == list(rows(vino, loomvideo))

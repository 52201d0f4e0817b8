"""Laws of Omni-Video's objectives."""

import pytest
import torch

from loomvideo.models.omnivideo import OmniVideoTransformer3DModel
from loomvideo.systems.omnivideo import GuidanceBranch
from loomvideo.training.context_objective import (
    ContextGroup,
    alignment_loss,
    drop_conditions,
    level_table,
    level_weights,
    next_token_loss,
    weighted_flow_loss,
)


def test_levels_fall_from_one_and_their_weights_have_mean_one():
    levels = level_table()
    weights = level_weights(levels)
    assert levels[0] == 1
    assert (levels.diff() < 0).all()
    assert weights.mean().item() == pytest.approx(1)
    assert weights.min() == weights[0] == 0
    assert levels[weights.argmax()].item() == pytest.approx(0.5, abs=1e-3)


def group(num=2, levels=(400, 700)):
    generator = torch.Generator().manual_seed(0)
    shape = (num, 4, 2, 4, 4)
    return ContextGroup(
        latents=torch.randn(shape, generator=generator),
        noise=torch.randn(shape, generator=generator),
        level=torch.tensor(levels[:num]),
        contexts=[torch.randn(3 + i, 8, generator=generator) for i in range(num)],
    )


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    return OmniVideoTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=8, freq_dim=16, ffn_dim=32,
        num_layers=1, max_context_len=9,
    )  # fmt: skip


def test_the_loss_of_no_velocity_is_the_weighted_mean_square_of_the_target(denoiser):
    one, levels = group(), level_table()
    squares = (one.noise - one.latents).square().flatten(1).mean(1)
    expected = (level_weights(levels)[one.level] * squares).mean()
    torch.testing.assert_close(weighted_flow_loss(denoiser, one, levels), expected)


def test_a_sample_of_pure_noise_weighs_nothing(denoiser):
    assert weighted_flow_loss(denoiser, group(1, (0,)), level_table()) == 0


def branches(count):
    return [
        GuidanceBranch(states=torch.full((1, 2, 3), float(i)), text=torch.full((2, 3), float(i)), source=torch.ones(1))
        for i in range(count)
    ]


def test_conditions_are_dropped_together_and_the_source_stays():
    nothing = GuidanceBranch(states=torch.full((1, 2, 3), -1.0), text=torch.full((2, 3), -1.0))
    samples = branches(1000)
    dropped = drop_conditions(samples, nothing, 0.2, torch.Generator().manual_seed(0))
    are = [one.states is nothing.states for one in dropped]
    assert are == [one.text is nothing.text for one in dropped]
    assert all(one.source is sample.source for one, sample in zip(dropped, samples, strict=True))
    assert sum(are) == pytest.approx(200, abs=40)
    assert not any(sample.states is nothing.states for sample in samples), "the caller's samples are left as they are"


@pytest.mark.parametrize(("ratio", "expected"), [(0.0, 0), (1.0, 50)])
def test_dropping_never_and_always(ratio, expected):
    nothing = GuidanceBranch(states=None, text=None)
    dropped = drop_conditions(branches(50), nothing, ratio, torch.Generator().manual_seed(0))
    assert sum(one.text is None for one in dropped) == expected


@pytest.mark.parametrize("kind", ["cosine", "l2", "l2_squared", "mse"])
def test_tokens_whose_mean_is_the_target_are_aligned(kind):
    target = torch.randn(3, 8)
    tokens = torch.stack([target - 1, target + 1], dim=1)
    assert alignment_loss(tokens, target, kind).item() == pytest.approx(0, abs=1e-5)
    assert alignment_loss(tokens, -target, kind) > 0.1


def test_cosine_alignment_does_not_ask_for_length_and_distance_does():
    tokens, target = torch.randn(3, 4, 8), torch.randn(3, 8)
    torch.testing.assert_close(alignment_loss(tokens, target), alignment_loss(5 * tokens, target))
    assert not torch.allclose(alignment_loss(tokens, target, "l2"), alignment_loss(5 * tokens, target, "l2"))


def test_a_label_is_the_token_before_which_the_logits_stand_and_masked_ones_do_not_count():
    labels = torch.tensor([[3, 1, -100, 2]])
    logits = torch.zeros(1, 4, 5)
    logits[0, 0, 1] = logits[0, 2, 2] = 100.0
    assert next_token_loss(logits, labels).item() == pytest.approx(0)
    logits[0, 1, 4] = logits[0, 3, 4] = 100.0  # the one has a masked label, the other none
    assert next_token_loss(logits, labels).item() == pytest.approx(0)

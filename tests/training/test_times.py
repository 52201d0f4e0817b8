"""How noisy samples become: as published, or so that training sees the noise that sampling begins with."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from loomvideo.training.context_objective import level_table
from loomvideo.training.objective import sample_time, shift_time
from loomvideo.training.omnivideo import OmniVideoRecipe
from loomvideo.training.omnivideo_samples import sample_levels
from loomvideo.training.recipe import BatchRules

COUNT = 20_000
PICTURE = {"has_source": False, "is_clip": False}


def generators(count=COUNT):
    return [np.random.default_rng(number) for number in range(count)]


def share_above(times, least):
    return float((times > least).float().mean())


def test_the_published_times_are_a_normals_sigmoid_shifted():
    normal = torch.tensor([rng.standard_normal() for rng in generators(100)], dtype=torch.float32)
    torch.testing.assert_close(sample_time(generators(100), 2.5), shift_time(normal.sigmoid(), 2.5))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_even_times_are_even_before_the_shift(shift):
    times = sample_time(generators(), shift, even_share=1.0)
    quantiles = torch.linspace(0.1, 0.9, 9)
    torch.testing.assert_close(times.quantile(quantiles), shift_time(quantiles, shift), rtol=0, atol=0.02)


def test_a_share_of_them_is_a_mixture_of_both():
    apart = [share_above(sample_time(generators(), 3.0, even_share=share), 0.95) for share in (0.0, 0.7, 1.0)]
    assert apart[1] == pytest.approx(0.3 * apart[0] + 0.7 * apart[2], abs=0.01)
    assert apart[0] < 0.05 < apart[1] < apart[2]


def test_even_times_may_be_shifted_further_than_the_others():
    times = sample_time(generators(), 3.0, even_share=1.0, even_factor=5.0)
    quantiles = torch.linspace(0.1, 0.9, 9)
    torch.testing.assert_close(times.quantile(quantiles), shift_time(quantiles, 15.0), rtol=0, atol=0.02)
    bell = sample_time(generators(100), 3.0, even_factor=5.0)
    torch.testing.assert_close(bell, sample_time(generators(100), 3.0), rtol=0, atol=0)


def test_what_more_than_words_betrays_is_learnt_at_more_noise():
    """A noisy target beside its source tells what was asked at noise that hides a picture; so do a clip's frames together."""
    rules = BatchRules()
    picture, clip, edit = (
        share_above(rules.times(generators(), 16, **of), 0.95)
        for of in (PICTURE, {"has_source": False, "is_clip": True}, {"has_source": True, "is_clip": False})
    )
    assert edit > 2 * picture
    assert picture < clip < edit
    published = replace(rules, even_time_share=0.0)
    of_edit = published.times(generators(100), 16, has_source=True, is_clip=True)
    torch.testing.assert_close(of_edit, published.times(generators(100), 16, **PICTURE), rtol=0, atol=0)


def test_built_in_models_are_taught_the_noise_that_sampling_begins_with():
    """Published, of samples of a few tokens less than one in a hundred is as noisy; there words alone say what there is to be."""
    assert share_above(BatchRules().times(generators(), 16, **PICTURE), 0.95) > 0.08
    published = BatchRules(even_time_share=0.0, base_timestep_shift=1.0)
    assert share_above(published.times(generators(), 16, **PICTURE), 0.95) < 0.01
    levels = sample_levels(generators(4000), even_share=OmniVideoRecipe.rules.even_time_share)
    assert share_above(levels, 0.95) > 0.08
    assert share_above(sample_levels(generators(4000)), 0.95) < 0.05


@pytest.mark.parametrize("factor", [1.0, 5.0])
def test_even_levels_are_of_the_table_shifted_as_far_as_times_are(factor):
    count = 4000
    levels = sample_levels(generators(count), even_share=1.0, even_factors=[factor] * count)
    assert torch.isin(levels, level_table()).all()
    assert len(levels.unique()) > 300
    times = sample_time(generators(count), 3.0, even_share=1.0, even_factor=factor)
    for least in (0.5, 0.75, 0.9):
        assert share_above(levels, least) == pytest.approx(share_above(times, least), abs=0.04)


def test_samples_beside_each_other_are_shifted_each_by_its_own_factor():
    count = 2000
    levels = sample_levels(generators(count), even_share=1.0, even_factors=[1.0, 5.0] * (count // 2))
    assert share_above(levels[1::2], 0.9) > share_above(levels[::2], 0.9) + 0.2


@pytest.mark.parametrize("share", [0.0, 0.7])
def test_a_sample_has_its_time_whatever_it_stands_beside(share):
    together = sample_time(generators(8), 3.0, even_share=share)
    alone = torch.cat([sample_time([rng], 3.0, even_share=share) for rng in generators(8)])
    torch.testing.assert_close(together, alone, rtol=0, atol=0)

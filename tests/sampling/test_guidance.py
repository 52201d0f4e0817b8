"""Laws of guidance."""

import pytest
import torch

from loomvideo.sampling.guidance import guide, standard_scale


def test_unit_scales_return_the_most_conditioned_velocity():
    weakest, middle, strongest = torch.randn(3, 4)
    torch.testing.assert_close(guide([weakest, middle, strongest], [1.0, 1.0]), strongest)


def test_zero_scales_return_the_least_conditioned_velocity():
    velocities = list(torch.randn(3, 4))
    torch.testing.assert_close(guide(velocities, [0.0, 0.0]), velocities[0])


def test_one_scale_is_classifier_free_guidance():
    unconditional, conditional = torch.randn(2, 4)
    torch.testing.assert_close(
        guide([unconditional, conditional], [5.0]), unconditional + 5 * (conditional - unconditional)
    )


def test_equal_scales_skip_the_branch_between():
    weakest, middle, strongest = torch.randn(3, 4)
    torch.testing.assert_close(
        guide([weakest, middle, strongest], [2.5, 2.5]), guide([weakest, strongest], [2.5]), rtol=1e-4, atol=1e-5
    )


def test_no_scale_returns_the_only_velocity():
    velocity = torch.randn(4)
    assert guide([velocity], []) is velocity


def test_a_scale_too_few_is_an_error():
    with pytest.raises(ValueError, match="zip"):
        guide(list(torch.randn(3, 4)), [1.0])


def test_the_standard_scale_gives_the_released_form():
    unconditional, conditional = torch.randn(2, 4)
    torch.testing.assert_close(
        guide([unconditional, conditional], [standard_scale(5.0)]),
        conditional + 5 * (conditional - unconditional),
        rtol=1e-5,
        atol=1e-5,
    )

"""The comparison itself: an altered set must fail."""

import pytest
import torch
from golden_set import TOLERANCE, assert_all_same, assert_same, each_case
from test_loomvideo_denoiser import run


@each_case("loomvideo", "dit")
def test_any_altered_tensor_of_a_case_is_noticed(case, transformer):
    golden = case.load()
    computed = run(transformer, golden)
    for name in set(golden) & set(computed):
        altered = golden[name].clone()
        largest = altered.abs().argmax()
        altered.view(-1)[largest] *= 1 + 5 * TOLERANCE
        with pytest.raises(AssertionError, match=name):
            assert_all_same(computed, {**golden, name: altered}, given=set(golden) - set(computed))


def test_loomvideo_an_error_just_above_the_tolerance_fails_and_just_below_passes():
    expected = torch.tensor([1.0, -4.0])
    assert_same("x", expected + 4 * 0.9 * TOLERANCE, expected)
    with pytest.raises(AssertionError):
        assert_same("x", expected + 4 * 1.1 * TOLERANCE, expected)


def test_loomvideo_nan_fails():
    with pytest.raises(AssertionError):
        assert_same("x", torch.tensor([float("nan"), 1.0]), torch.tensor([0.0, 1.0]))


def test_loomvideo_a_tensor_nobody_computed_fails():
    with pytest.raises(AssertionError, match="not compared"):
        assert_all_same({}, {"x": torch.zeros(1)}, given=set())


def test_loomvideo_integers_must_be_equal():
    with pytest.raises(AssertionError):
        assert_same("ids", torch.tensor([1, 2]), torch.tensor([1, 3]))

"""The comparison of VINO's cases itself: an altered set must fail."""

import pytest
import torch
from golden_set import assert_all_same, each_case
from test_vino_denoiser import ALLOWED, expected, run
from test_vino_sampling import assert_run_is_golden
from test_vino_sampling import run as run_request


def altered(tensor, by):
    """The same but for one value, in the middle, where no slice hides it."""
    if tensor.dtype == torch.bool:
        return tensor ^ middle_of(tensor)
    return tensor + by * middle_of(tensor)


def middle_of(tensor):
    return (torch.arange(tensor.numel()) == tensor.numel() // 2).view(tensor.shape)


@each_case("vino", "denoiser forward")
def test_any_altered_tensor_of_a_case_is_noticed(case, vino_transformer, vino_inputs):
    golden = case.load()
    computed = run(vino_transformer, case, golden, vino_inputs[f"noise/{case.name}"])
    compared = expected(golden, computed)
    names = set(compared) & set(computed)
    given = set(golden) - names
    for name in names:
        by = 3 * ALLOWED if compared[name].is_floating_point() else 1
        wrong = {**compared, name: altered(compared[name], by)}
        with pytest.raises(AssertionError, match=name):
            assert_all_same(computed, wrong, given=given, allowed=ALLOWED)


@each_case("vino", "whole sampling")
def test_any_altered_tensor_of_a_request_is_noticed(case, vino_parts, vino_inputs):
    golden = case.load()
    computed, _, _ = run_request(case, vino_parts, vino_inputs, batch_branches=False)
    for name in golden:
        wrong = altered(golden[name].int(), 3) if name == "frames_uint8" else altered(golden[name], 1e-3)
        with pytest.raises(AssertionError, match=name):
            assert_run_is_golden(computed, {**golden, name: wrong})

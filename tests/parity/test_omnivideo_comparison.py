"""The comparison itself: no case is left out, and an altered set fails."""

import fnmatch

import pytest
import test_omnivideo_condition
import test_omnivideo_denoiser
import test_omnivideo_modules
import test_omnivideo_sampling
import test_omnivideo_training
import torch
from omnivideo_set import each_case, index


def run_condition(case):
    return {"condition": test_omnivideo_condition.run_context(case), **test_omnivideo_condition.run_denoiser(case)}


RUNS = {
    "v1_dit/time_embedding": test_omnivideo_denoiser.run_time,
    "v1_dit/rope": test_omnivideo_denoiser.run_rope,
    "v1_dit/ragged_batch": test_omnivideo_denoiser.run_batch,
    "v1_dit/fractional_t": test_omnivideo_denoiser.run_batch,
    **test_omnivideo_modules.RUNS,
    **dict.fromkeys(test_omnivideo_condition.CONDITIONS, run_condition),
    **test_omnivideo_sampling.RUNS,
    **test_omnivideo_training.RUNS,
}


def test_every_omnivideo_case_is_compared_exactly_once():
    claims = {
        entry["id"]: [pattern for pattern in RUNS if fnmatch.fnmatchcase(entry["id"], pattern)]
        for entry in index()["cases"]
    }
    assert {name: patterns for name, patterns in claims.items() if len(patterns) != 1} == {}


@each_case(*RUNS)
def test_any_altered_tensor_of_a_case_is_noticed(case):
    [run] = [run for pattern, run in RUNS.items() if fnmatch.fnmatchcase(case.name, pattern)]
    computed, golden = run(case), case.outputs()
    case.check(computed, golden)
    for name, tensor in golden.items():
        altered = tensor.clone()
        largest = altered.double().abs().argmax()
        change = 5 * case.allowed(tensor) if tensor.is_floating_point() else 1
        altered.view(-1)[largest] += change
        with pytest.raises(AssertionError, match=name.replace(".", r"\.")):
            case.check(computed, {**golden, name: altered})


@each_case("v1_dit/fractional_t")
def test_a_velocity_that_is_not_a_number_or_was_not_computed_is_noticed(case):
    for computed in ({name: tensor * torch.nan for name, tensor in case.outputs().items()}, {}):
        with pytest.raises(AssertionError):
            case.check(computed)

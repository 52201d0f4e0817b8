"""Batches of a dataset mixture under a token budget."""

from itertools import chain, islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loomvideo.data.batching import TokenBatches, flatten_weights


def batches(sizes=(6, 4), weights=(1.0, 2.0), budget=10, **options):
    options = {"load": lambda index: index, "num_tokens": lambda index: 1 + index % 7, "seed": 0, **options}
    return TokenBatches(dataset_sizes=sizes, weights=weights, budget=budget, buffer_size=8, **options)


def samples(source, count):
    return list(islice(chain.from_iterable(source), count))


@given(budget=st.integers(1, 30), seed=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_a_batch_stays_below_the_budget_unless_it_is_a_single_sample(budget, seed):
    for batch in islice(batches(budget=budget, seed=seed), 20):
        assert len(batch) == 1 or sum(1 + index % 7 for index in batch) < budget


def test_the_same_seed_gives_the_same_batches_and_another_gives_others():
    first, again, other = (list(islice(batches(seed=seed), 20)) for seed in (3, 3, 4))
    assert first == again != other


def test_a_dataset_is_walked_through_before_any_of_it_comes_again():
    one_pass = [batch[0] for batch in islice(batches(sizes=(9,), weights=(1.0,), budget=1), 9)]
    assert sorted(one_pass) == list(range(9))


def test_a_dataset_of_weight_zero_is_never_drawn():
    assert all(index < 6 for index in samples(batches(weights=(1.0, 0.0)), 100))


def test_processes_never_share_a_sample():
    mine, theirs = (set(samples(batches(num_processes=2, process_index=rank), 200)) for rank in (0, 1))
    assert mine | theirs == set(range(10))
    assert not mine & theirs


def test_unreadable_samples_are_left_out_and_nothing_else_is():
    source = batches(load=lambda index: None if index == 3 else index)
    assert set(samples(source, 200)) == set(range(10)) - {3}


def test_skipping_draws_continues_the_same_order():
    everything = [batch[0] for batch in islice(batches(sizes=(9,), weights=(1.0,), budget=1), 9)]
    resumed = [batch[0] for batch in islice(batches(sizes=(9,), weights=(1.0,), budget=1, skip_samples=4), 5)]
    assert resumed == everything[4:]


def test_no_sample_is_loaded_twice_for_one_draw():
    loaded = []
    source = batches(sizes=(50,), weights=(1.0,), load=lambda index: loaded.append(index) or index)
    given_out = samples(source, 30)
    assert loaded[:30] == given_out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": (1.0,)}, "give each one weight"),
        ({"weights": (0.0, 0.0)}, "not all 0"),
        ({"num_processes": 5}, "fewer processes"),
    ],
)
def test_a_mixture_that_cannot_be_drawn_from_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        batches(**options)


def test_a_group_s_weight_is_shared_by_its_datasets():
    entries = {
        "edit": {"task_weight": 3.0, "datasets": {"a": {"sample_weight": 1}, "b": {"sample_weight": 2}}},
        "plain": {"sample_weight": 0.5},
    }
    assert flatten_weights(entries) == {"edit/a": 1.0, "edit/b": 2.0, "plain": 0.5}

"""The order of samples: no sample of a pass is lost or repeated, whatever the ranks, and any stop is invisible."""

from collections import Counter
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loomvideo.data.order import Group, Order, Pick, part_of
from loomvideo.data.samples import DataError, Layout

quick = settings(max_examples=40, deadline=None)
sizes = st.lists(st.integers(1, 40), min_size=1, max_size=4)
seeds = st.integers(0, 1000)


def layouts_of(picks):
    """Every third sample is a clip of 20 tokens, the others are pictures of 4."""
    return [Layout("clip", 20) if pick.index % 3 == 0 else Layout("picture", 4) for pick in picks]


def make_order(sizes=(10,), weights=None, layouts=layouts_of, seed=0, **budgets):
    budgets = {"tokens_per_group": 24, "tokens_per_step": 60, "picks_per_round": 32, **budgets}
    return Order(list(sizes), weights or [1.0] * len(sizes), layouts, seed=seed, **budgets)


def picks_of(step):
    return [pick for group in step for pick in group.picks]


@quick
@given(sizes=sizes, seed=seeds, rounds=st.integers(1, 6), data=st.data())
def test_within_a_pass_no_sample_is_lost_or_comes_twice(sizes, seed, rounds, data):
    weights = data.draw(st.lists(st.floats(0.1, 5), min_size=len(sizes), max_size=len(sizes)))
    order = make_order(sizes, weights, seed=seed)
    counted = Counter(chain.from_iterable(order.picks(number) for number in range(rounds)))
    assert set(counted.values()) <= {1}
    for number, size in enumerate(sizes):
        epochs = Counter(pick.epoch for pick in counted if pick.set == number)
        assert all(epochs[epoch] == size for epoch in range(max(epochs, default=0)))  # all but the last are whole


@quick
@given(sizes=sizes, seed=seeds, rounds=st.integers(1, 4))
def test_the_steps_of_a_round_hold_all_its_picks_once(sizes, seed, rounds):
    order = make_order(sizes, seed=seed)
    for number in range(rounds):
        stepped = Counter(chain.from_iterable(picks_of(step) for step in order.steps(number)))
        assert stepped == Counter(order.picks(number))


@quick
@given(seed=seeds, weights=st.lists(st.floats(0.05, 5), min_size=3, max_size=3))
def test_weights_mix_data_sets_to_one_sample(seed, weights):
    order = make_order([5, 7, 11], weights, seed=seed)
    counted = Counter(pick.set for number in range(20) for pick in order.picks(number))
    for number, weight in enumerate(weights):
        assert abs(counted[number] - 20 * 32 * weight / sum(weights)) <= 1.001


@quick
@given(sizes=sizes, seed=seeds, group=st.integers(1, 90), step=st.integers(1, 200))
def test_groups_are_of_one_layout_and_within_their_budgets(sizes, seed, group, step):
    order = make_order(sizes, seed=seed, tokens_per_group=group, tokens_per_step=step)
    for groups in order.steps(0):
        assert sum(one.total for one in groups) <= step or len(groups) == 1
        for one in groups:
            assert len(set(layouts_of(one.picks))) == 1
            assert one.total <= min(group, step) or len(one.picks) == 1


@quick
@given(seed=seeds, world_size=st.integers(1, 9), number=st.integers(0, 5))
def test_ranks_share_a_step_without_a_rest_and_evenly(seed, world_size, number):
    order = make_order([30, 20], seed=seed)
    step = next(order.next() for _ in range(number + 1))
    parts = [part_of(step, rank, world_size) for rank in range(world_size)]
    assert Counter(chain.from_iterable(map(picks_of, parts))) == Counter(picks_of(step))
    loads = [sum(group.total for group in part) for part in parts]
    largest = max(group.total for part in parts for group in part)
    assert max(loads) - min(loads) <= largest
    if len(picks_of(step)) % world_size == 0 or len(picks_of(step)) >= 2 * world_size:
        assert len({len(part) for part in parts}) == 1


def test_the_largest_group_goes_to_whom_has_least():
    step = [Group(tokens, (Pick(0, tokens, 0),)) for tokens in (1, 2, 3, 4)]
    assert [sum(group.total for group in part_of(step, rank, 2)) for rank in (0, 1)] == [5, 5]


def test_ranks_get_one_sample_each_where_there_are_no_more():
    step = [Group(4, tuple(Pick(0, index, 0) for index in range(3)))]
    assert [len(picks_of(part_of(step, rank, 4))) for rank in range(4)] == [1, 1, 1, 0]


@quick
@given(seed=seeds, stop=st.integers(0, 30), more=st.integers(1, 15))
def test_a_walk_goes_on_where_it_stopped(seed, stop, more):
    whole, begun, resumed = (make_order([9, 30, None], seed=seed) for _ in range(3))
    expected = [whole.next() for _ in range(stop + more)][stop:]
    for _ in range(stop):
        begun.next()
    state = begun.state_dict()
    assert all(isinstance(value, int) for value in state.values())
    resumed.load_state_dict(state)
    assert [resumed.next() for _ in range(more)] == expected


def test_the_same_seed_gives_the_same_steps_and_another_gives_others():
    first, again, other = ([make_order(seed=seed).next() for _ in range(5)] for seed in (3, 3, 4))
    assert first == again != other


def test_passes_are_shuffled_anew():
    order = make_order([64], picks_per_round=64)
    assert [pick.index for pick in order.picks(0)] != [pick.index for pick in order.picks(1)]
    walks = [[order._pick(0, 64 * epoch + place).index for place in range(64)] for epoch in range(2)]
    assert walks[0] != walks[1]
    assert sorted(walks[0]) == sorted(walks[1]) == list(range(64))


def test_an_endless_set_never_repeats_and_a_weight_of_zero_never_shows():
    order = make_order([None, 5], [1.0, 0.0])
    assert [pick.index for number in range(4) for pick in sorted(order.picks(number))] == list(range(128))


def test_pictures_and_clips_share_steps():
    order = make_order([60], tokens_per_step=200)
    assert any({group.tokens for group in step} == {4, 20} for step in order.steps(0))


def test_samples_without_a_layout_are_left_out():
    order = make_order([6], layouts=lambda picks: [None if p.index == 2 else Layout("x", 4) for p in picks])
    assert {pick.index for step in order.steps(0) for pick in picks_of(step)} == {0, 1, 3, 4, 5}


def test_where_nothing_can_be_read_the_walk_ends_with_a_way_out():
    order = make_order([6], layouts=lambda picks: [None] * len(picks))
    with pytest.raises(DataError, match="data check"):
        order.next()


@pytest.mark.parametrize(
    "changed", [{"sizes": (11,)}, {"seed": 1}, {"tokens_per_step": 61}, {"sizes": (10, 10), "weights": [1.0, 2.0]}]
)
def test_another_walk_s_state_is_refused(changed):
    with pytest.raises(DataError, match="begin a new run"):
        make_order(**changed).load_state_dict(make_order().state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": (0,)}, "give each one weight"),
        ({"weights": [0.0]}, "not all 0"),
        ({"weights": [-1.0]}, "not all 0"),
        ({"tokens_per_group": 0}, "above 0"),
    ],
)
def test_an_order_that_goes_nowhere_is_refused(settings, message):
    with pytest.raises(DataError, match=message):
        make_order(**settings)

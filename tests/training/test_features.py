"""What denoisers are told of the world's samples: plans as a language model that looks tells them, states as it is taught them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from loomvideo.data.world.plans import CODE_SIZE, FIRST_COORDINATE, codes_of, plan_of
from loomvideo.data.world.tasks import sample
from loomvideo.training.features import PLACE, PLACE_ERROR, STATE_ERROR, misread, stated
from loomvideo.training.mllm import fact_directions

DIM = 192
TASKS = [("t2i", 1), ("t2v", 17), ("mi2v", 17), ("edit_image", 1), ("edit_video", 17), ("style_image", 1)]


def drawn(task, num_frames=1, count=1, seed=3):
    rng = np.random.default_rng(seed)
    return [sample(task, rng, num_frames=num_frames) for _ in range(count)]


def said(states):
    """The codes that states say, as loud as their longest row is."""
    return states @ fact_directions(DIM)


def test_of_a_plan_that_is_misread_places_alone_are_others_near_by():
    rng = np.random.default_rng(0)
    off = []
    for one in drawn("edit_image", count=200):
        plan = plan_of(one)
        heard = misread(plan, rng)
        assert PLACE.sub("", heard) == PLACE.sub("", plan)
        numbers = [[int(place) for place in PLACE.findall(text)] for text in (plan, heard)]
        assert all(0 <= place <= 99 for place in numbers[1])
        if plan.startswith("add "):
            assert heard == plan, "where something is added the plan alone says"
            continue
        off += [b - a for a, b in zip(*numbers, strict=True) if 15 <= a <= 85]
    assert np.std(off) == pytest.approx(np.hypot(PLACE_ERROR, 12**-0.5), rel=0.15)  # rounded
    assert abs(np.mean(off)) < PLACE_ERROR / 4


@pytest.mark.parametrize(("task", "num_frames"), TASKS)
def test_every_item_has_a_state_that_says_its_facts(task, num_frames):
    """The names exactly but for the states' own error; of an edit, whose source is looked at, places nearly."""
    for one in drawn(task, num_frames, 20):
        states, codes = stated(one, DIM), torch.from_numpy(codes_of(one))
        assert states.shape == (plan_of(one).count(";"), DIM)
        names = F.rms_norm(codes @ fact_directions(DIM).T, (DIM,)) @ fact_directions(DIM)
        astray = (said(states) - names)[:, :FIRST_COORDINATE]
        assert astray.std() < 2 * STATE_ERROR


def test_where_something_is_added_is_stated_exactly():
    added = [one for one in drawn("edit_image", count=100) if one.edit.kind == "add"]
    assert added
    for one in added:
        exact = F.rms_norm(torch.from_numpy(codes_of(one)) @ fact_directions(DIM).T, (DIM,))
        error = torch.from_numpy(np.random.default_rng([one.seed, 1]).standard_normal(exact.shape)).float()
        assert torch.allclose(stated(one, DIM), exact + STATE_ERROR * error)


def test_states_are_as_far_off_as_a_language_model_is_left_with():
    off = []
    for one in drawn("t2v", 17, 60):
        wanted = F.rms_norm(torch.from_numpy(codes_of(one)) @ fact_directions(DIM).T, (DIM,))
        off.append((stated(one, DIM) - wanted).square().mean())
    assert torch.stack(off).mean().sqrt() == pytest.approx(STATE_ERROR, rel=0.05)


def test_a_sample_has_the_same_states_whenever_it_is_prepared_and_no_other_sample_has_their_error():
    one, other = drawn("t2i", count=2)
    assert torch.equal(stated(one, DIM), stated(one, DIM))
    errors = [
        stated(each, DIM)[0] - F.rms_norm(torch.from_numpy(codes_of(each))[0] @ fact_directions(DIM).T, (DIM,))
        for each in (one, other)
    ]
    assert abs(float(F.cosine_similarity(*errors, dim=0))) < 0.3


def test_coordinates_that_are_astray_stay_in_the_frame_and_names_stay():
    (one,) = drawn("edit_image")
    exact, shifted, far = (codes_of(one, lambda by=by: by) for by in (0.0, 0.02, 7.0))
    assert exact.shape[1] == CODE_SIZE
    assert np.array_equal(exact[:, :FIRST_COORDINATE], far[:, :FIRST_COORDINATE])
    assert not np.array_equal(exact, shifted)
    assert np.abs(far[:, FIRST_COORDINATE:]).max() <= 1.7

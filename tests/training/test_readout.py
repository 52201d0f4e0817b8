"""While a denoiser learns, what is rare in a sample counts more; while a language model does, tokens are asked what they show."""

from itertools import pairwise

import pytest
import torch

from loomvideo.data.world.scene import COLOURS, MOTIONS, SHAPES, Background, Object, Scene
from loomvideo.training.cells import MOTION, NOTHING, UNKNOWN, WIDTH, Readout, cells_of
from loomvideo.training.denoiser import importance
from loomvideo.training.objective import error_weights

SCENE = Scene(
    objects=(Object(shape="star", colour="red", motion="moves right", x=0.25, y=0.5, travel=0.5),),
    background=Background(colours=("blue",)),
)


def picture_with_object(ground=0.0, noise=0.0):
    torch.manual_seed(0)
    latents = torch.full((1, 4, 1, 4, 4), ground) + noise * torch.randn(1, 4, 1, 4, 4)
    latents[..., 1, 2] += 1.0
    return latents


def test_weights_have_a_mean_of_one():
    batch = torch.cat([picture_with_object(), picture_with_object(noise=1.0)])
    assert importance(batch, None).mean() == pytest.approx(1.0, abs=1e-6)


def test_an_object_counts_more_than_its_ground():
    weights = importance(picture_with_object(), None)[0, 0, 0]
    assert weights[1, 2] > 5 * weights[0, 0]


def test_a_plain_sample_counts_more_than_a_textured_one():
    batch = torch.cat([picture_with_object(), picture_with_object(noise=1.0)])
    plain, textured = importance(batch, None).flatten(1).mean(1)
    assert plain > 5 * textured


def test_an_edit_is_compared_with_its_source():
    source = picture_with_object(noise=1.0)
    target = source.clone()
    target[..., 3, 3] += 1.0
    weights = importance(target, source)[0, 0, 0]
    assert weights.argmax() == 15
    assert weights[3, 3] > 5 * weights[1, 2]


def test_an_edit_of_everything_is_not_passed_over_for_one_of_little():
    source = picture_with_object()
    little, all_of_it = source.clone(), source + 1.0
    little[..., 3, 3] += 1.0
    weights = importance(torch.cat([little, all_of_it]), source.expand(2, -1, -1, -1, -1))
    of_little, of_all = weights.flatten(1).mean(1)
    assert of_all < of_little < 3 * of_all


def test_errors_of_predicted_clean_latents_count_alike_at_all_times():
    """As velocities they grow with 1 / t^2."""
    times = torch.tensor([0.05, 0.1, 0.2, 0.7, 1.0])
    counted = error_weights("clean", times).flatten() / times.square()
    torch.testing.assert_close(counted, torch.ones(5))


def test_errors_of_predicted_velocities_count_as_they_are():
    assert (error_weights("velocity", torch.tensor([0.0, 0.1, 1.0])) == 1).all()


def test_cells_say_what_stands_where():
    frames = [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]
    cells = cells_of(SCENE, height=128, width=128, num_frames=17, frames=frames, rows=4, columns=4)
    assert cells.shape == (5, 4, 4, WIDTH)
    there = cells[..., 0] != NOTHING
    assert there.flatten(1).any(1).all()
    assert (cells[there][:, 0] == SHAPES.index("star")).all()
    assert (cells[there][:, 1] == list(COLOURS).index("red")).all()
    assert (cells[there][:, MOTION] == MOTIONS.index("moves right")).all()
    columns = [(cells[f, ..., -1] + torch.arange(4) + 0.5)[there[f]].mean() for f in range(5)]
    assert all(later > earlier for earlier, later in pairwise(columns)), "it moves right"


def test_of_a_scene_without_objects_every_cell_shows_nothing():
    empty = Scene(objects=(), background=Background(colours=("blue",)))
    cells = cells_of(empty, height=32, width=32, num_frames=1, frames=[[0]], rows=4, columns=4)
    assert cells.shape == (1, 4, 4, WIDTH)
    assert (cells[..., 0] == NOTHING).all()


def test_nothing_is_seen_to_move_in_a_picture():
    cells = cells_of(SCENE, height=128, width=128, num_frames=1, frames=[[0]], rows=4, columns=4)
    there = cells[..., 0] != NOTHING
    assert there.any()
    assert (cells[there][:, MOTION] == UNKNOWN).all()


def test_a_readout_learns_from_known_cells_alone():
    torch.manual_seed(0)
    readout, tokens = Readout(6), torch.randn(3, 6)
    known = [1.0, 2, 0, UNKNOWN, 0.1, 0.2]
    cells = torch.tensor([known, [NOTHING, 0, 0, 0, 0, 0], [UNKNOWN, 0, 0, 0, 0, 0]])
    loss, right = readout.loss(tokens, cells)
    others = tokens.clone()
    others[2] += 1.0
    assert readout.loss(others, cells)[0] == loss
    assert set(right) == {"right_cells"}
    assert readout.loss(tokens, torch.full((3, WIDTH), float(UNKNOWN)))[0] == 0
    moving = torch.cat([torch.tensor([[*known[:MOTION], 4.0, *known[MOTION + 1 :]]]), cells[1:]])
    more, right = readout.loss(tokens, moving)
    assert more > loss
    assert set(right) == {"right_cells", "right_motions"}

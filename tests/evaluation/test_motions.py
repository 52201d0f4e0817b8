"""Paths have the motion of their scene, at every length that models make, and nothing in between has one."""

import numpy as np
import pytest

from loomvideo.data.world.render import frame_times
from loomvideo.data.world.scene import MOTIONS, Object, pose
from loomvideo.evaluation.motions import motion, spins

TRAVEL = {"bounces": 0.32, "circles around": 0.16}


def path_of(item: Object, num_frames: int):
    poses = [pose(item, float(time)) for time in frame_times(num_frames)]
    return tuple(np.array([getattr(at, name) for at in poses]) for name in ("x", "y", "scale", "angle"))


@pytest.mark.parametrize("num_frames", [5, 9, 17, 33])
@pytest.mark.parametrize("told", MOTIONS)
def test_the_least_motion_that_the_world_draws_is_recognised(told, num_frames):
    x, y, scale, angle = path_of(
        Object(shape="heart", colour="red", motion=told, travel=TRAVEL.get(told, 0.3)), num_frames
    )
    spinning = spins(np.degrees(angle), 360)
    assert motion(x, y, scale**2, spinning=spinning) == told


@pytest.mark.parametrize("told", MOTIONS)
def test_a_path_played_backwards_has_the_opposite_motion(told):
    opposites = {"moves left": "moves right", "moves up": "moves down", "grows": "shrinks"}
    opposites |= {second: first for first, second in opposites.items()}
    x, y, scale, angle = path_of(Object(shape="heart", colour="red", motion=told, travel=0.35), 17)
    back = motion(x[::-1], y[::-1], scale[::-1] ** 2, spinning=spins(np.degrees(angle[::-1]), 360))
    assert back == opposites.get(told, told)


def test_a_short_way_is_neither_still_nor_a_move():
    along = np.linspace(0.4, 0.54, 17)
    assert motion(along, np.full(17, 0.5), np.ones(17), spinning=False) is None


def test_growing_on_the_way_is_not_a_move():
    along = np.linspace(0.2, 0.7, 17)
    assert motion(along, np.full(17, 0.5), np.linspace(1, 2, 17), spinning=False) is None


def test_a_slanting_way_has_no_class():
    along = np.linspace(0.2, 0.7, 17)
    assert motion(along, along, np.ones(17), spinning=False) is None


@pytest.mark.parametrize("period", [72, 90, 120, 360])
def test_a_full_turn_is_a_spin_whatever_the_shapes_symmetry(period):
    assert spins(np.linspace(0, 360, 17) % period, period)


def test_trembling_angles_are_no_spin():
    assert not spins(6.0 * np.random.default_rng(0).integers(-1, 2, 17), 90)

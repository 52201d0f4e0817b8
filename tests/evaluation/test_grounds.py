"""Each kind of ground is told from all others, and the camera's way over it is read."""

import numpy as np
import pytest
from worlds import DECODERS

from loomvideo.data.world.render import render
from loomvideo.data.world.scene import BACKGROUNDS, Background, Scene
from loomvideo.evaluation.grounds import camera, ground_of, shows

COLOURED = {
    "plain": ("green",),
    "gradient": ("red", "cyan"),
    "stripes": ("purple", "white"),
    "checkerboard": ("blue", "yellow"),
}


def ground_clip(kind, seed=7, moves="still", num_frames=17):
    background = Background(kind=kind, colours=COLOURED.get(kind, ()), seed=seed)
    return render(Scene(objects=(), background=background, camera=moves), num_frames=num_frames), background


def everywhere(frames):
    return np.ones(frames.shape[:3], bool)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_a_ground_shows_its_own_kind_and_no_other(kind, decoder):
    frames, _ = ground_clip(kind, num_frames=1)
    ground = ground_of(decoder(frames), everywhere(frames))
    shown = [other for other in BACKGROUNDS if shows(ground, Background(kind=other, colours=COLOURED.get(other, ())))]
    assert shown == [kind]


@pytest.mark.parametrize("kind", COLOURED)
def test_other_colours_are_another_ground(kind):
    frames, background = ground_clip(kind, num_frames=5)
    wrong = ("orange", *background.colours[1:])
    assert not shows(ground_of(frames, everywhere(frames)), Background(kind=kind, colours=wrong))


@pytest.mark.parametrize("kind", ["gradient", "stripes", "checkerboard"])
def test_the_order_of_two_colours_does_not_matter(kind):
    frames, background = ground_clip(kind, num_frames=5)
    assert shows(ground_of(frames, everywhere(frames)), Background(kind=kind, colours=background.colours[::-1]))


@pytest.mark.parametrize("num_frames", [9, 17])
@pytest.mark.parametrize("moves", ["still", "pans left", "pans right", "zooms in"])
@pytest.mark.parametrize("kind", ["grass", "sky", "photo", "starry night", "checkerboard"])
def test_the_camera_is_read_off_a_textured_ground(kind, moves, num_frames):
    frames, _ = ground_clip(kind, moves=moves, num_frames=num_frames)
    assert camera(frames, everywhere(frames)) == moves


@pytest.mark.parametrize("moves", ["still", "pans left", "zooms in"])
def test_the_camera_is_read_at_any_size(moves):
    scene = Scene(objects=(), background=Background(kind="grass", colours=(), seed=7), camera=moves)
    frames = render(scene, height=256, width=448, num_frames=9)
    assert camera(frames, everywhere(frames)) == moves


def test_the_camera_cannot_be_read_off_an_even_ground():
    frames, _ = ground_clip("plain")
    assert camera(frames, everywhere(frames)) is None

"""A shape fits its own template best, at any size the world draws and at any angle it may turn to."""

import numpy as np
import pytest

from loomvideo.data.world.render import coverage
from loomvideo.data.world.scene import SHAPES, SPINNING
from loomvideo.evaluation.silhouettes import SYMMETRY, fit, silhouette


def drawn(shape, half, degrees=0.0, centre=(40.3, 39.8)):
    canvas = np.zeros((80, 80), np.float32)
    rows, columns, alpha, _, _ = coverage(shape, centre, half, np.radians(degrees), 80, 80)
    canvas[rows, columns] = alpha
    return canvas


@pytest.mark.parametrize("half", [7.0, 10.2, 21.8])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_best_upright_template_is_the_shapes_own(shape, half):
    seen = silhouette(drawn(shape, half))
    fits = fit(seen.grid[None])
    assert SHAPES[int(fits.upright.argmax())] == shape
    assert fits.upright.max() > 0.93


@pytest.mark.parametrize("degrees", [0.0, 20.0, 45.0, 200.0])
@pytest.mark.parametrize("shape", SPINNING)
def test_the_angle_is_found_up_to_the_shapes_symmetry(shape, degrees):
    fits = fit(silhouette(drawn(shape, 16.0, degrees)).grid[None])
    index = SHAPES.index(shape)
    period = SYMMETRY[shape]
    error = (fits.degrees[0, index] - degrees + period / 2) % period - period / 2
    assert int(fits.turned[0].argmax()) == index
    assert abs(error) <= 6


@pytest.mark.parametrize("shape", SHAPES)
def test_place_and_size_do_not_change_the_grid(shape):
    small, large = (
        silhouette(drawn(shape, half, centre=centre)) for half, centre in ((14.0, (30.0, 45.0)), (21.0, (42.5, 36.2)))
    )
    assert np.abs(small.grid - large.grid).mean() < 0.03
    assert large.area / small.area == pytest.approx(1.5**2, rel=0.02)


def test_an_empty_mask_has_no_silhouette():
    assert silhouette(np.zeros((8, 8), np.float32)) is None

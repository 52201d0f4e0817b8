"""Lab values agree with an independent implementation, and the table with the exact distances."""

import numpy as np
import pytest

from loomvideo.data.world.scene import COLOURS
from loomvideo.evaluation import colours


def test_lab_agrees_with_scikit_image():
    color = pytest.importorskip("skimage.color")
    values = np.random.default_rng(0).integers(0, 256, (100, 3))
    np.testing.assert_allclose(colours.to_lab(values), color.rgb2lab(values / 255), atol=0.05)


def test_the_table_is_within_the_cells_width_of_the_exact_distance():
    pixels = np.random.default_rng(1).integers(0, 256, (50, 50, 3)).astype(np.uint8)
    exact = colours.difference(colours.to_lab(pixels), colours.to_lab(np.array(COLOURS["purple"])))
    assert np.abs(colours.distance_to(colours.cells(pixels), "purple") - exact).max() < 5


@pytest.mark.parametrize("name", COLOURS)
def test_every_colour_is_nearest_to_itself(name):
    pixel = np.array(COLOURS[name], np.uint8)[None, None]
    assert list(COLOURS)[colours.nearest(colours.cells(pixel)).item()] == name

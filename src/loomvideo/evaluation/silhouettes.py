"""Which shape a silhouette is: the template with the highest overlap once place, size and angle are fitted.

Silhouettes are brought to one grid by their own moments (centroid and area), templates likewise, so that the fit is a
single matrix product. Overlap is a.b / (a.a + b.b - a.b), which is the IoU where both masks are binary.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

from loomvideo.data.world.render import coverage
from loomvideo.data.world.scene import SHAPES, SPINNING

GRID = 32
EXTENT = 1.08  # half the grid's side in units of the square root of the silhouette's area: the star's tips fit in
ANGLE_STEP = 6  # degrees
SOFTNESS = (
    0.0,
    0.1,
)  # blur of templates in units of the square root of the area: a small object's edges may be a tenth of it wide
SYMMETRY = {
    "triangle": 120,
    "star": 72,
    "square": 90,
    "cross": 90,
    "heart": 360,
}  # degrees after which a turned shape looks the same
TEMPLATE_HALF = 24.0  # pixels; half the size at which templates are drawn


@dataclass(frozen=True)
class Silhouette:
    """``x, y`` centroid and ``area`` in pixels of the frame; ``grid`` is the soft mask at its own place and size, flat."""

    x: float
    y: float
    area: float
    grid: np.ndarray


def silhouette(alpha: np.ndarray, *, top: int = 0, left: int = 0) -> Silhouette | None:
    """Moments of a soft mask (y, x) in [0, 1] whose first pixel is at (top, left); None where it is empty."""
    area = float(alpha.sum())
    if area < 1:
        return None
    rows, columns = np.arange(alpha.shape[0]), np.arange(alpha.shape[1])
    y, x = float(alpha.sum(axis=1) @ rows) / area, float(alpha.sum(axis=0) @ columns) / area
    axis = ((np.arange(GRID) + 0.5) / GRID * 2 - 1) * EXTENT * np.sqrt(area)
    places = np.stack(np.broadcast_arrays((y + axis)[:, None], (x + axis)[None, :]))
    grid = ndimage.map_coordinates(alpha, places, order=1, mode="constant", output=np.float32)
    return Silhouette(x + left + 0.5, y + top + 0.5, area, grid.ravel())


def _drawn(shape: str, degrees: float) -> Silhouette:
    side = int(TEMPLATE_HALF * 4)
    canvas = np.zeros((side, side), np.float32)
    rows, columns, alpha, _, _ = coverage(shape, (side / 2, side / 2), TEMPLATE_HALF, np.radians(degrees), side, side)
    canvas[rows, columns] = alpha
    drawn = silhouette(canvas)
    assert drawn is not None
    return drawn


@cache
def unit_silhouette(shape: str) -> Silhouette:
    """The upright shape of half size 1 about the origin: where its centroid is and what area it has."""
    drawn = _drawn(shape, 0)
    centre = TEMPLATE_HALF * 2
    return Silhouette(
        (drawn.x - centre) / TEMPLATE_HALF,
        (drawn.y - centre) / TEMPLATE_HALF,
        drawn.area / TEMPLATE_HALF**2,
        drawn.grid,
    )


@dataclass(frozen=True)
class Bank:
    grids: np.ndarray  # (templates, GRID * GRID)
    shapes: np.ndarray  # (templates,) index in SHAPES
    degrees: np.ndarray  # (templates,)


@cache
def bank() -> Bank:
    """Every shape upright, and those that spin at every angle of their symmetry; sharp and soft."""
    poses = [
        (shape, degrees)
        for shape in SHAPES
        for degrees in range(0, SYMMETRY[shape] if shape in SPINNING else 1, ANGLE_STEP)
    ]
    sharp = np.stack([_drawn(shape, degrees).grid for shape, degrees in poses]).reshape(-1, GRID, GRID)
    cell = 2 * EXTENT / GRID
    grids = np.concatenate(
        [ndimage.gaussian_filter(sharp, (0, blur / cell, blur / cell)) for blur in SOFTNESS]
    ).reshape(-1, GRID**2)
    shapes, degrees = np.array([SHAPES.index(shape) for shape, _ in poses]), np.array([degrees for _, degrees in poses])
    return Bank(grids, np.tile(shapes, len(SOFTNESS)), np.tile(degrees, len(SOFTNESS)))


@dataclass(frozen=True)
class Fit:
    """Overlaps of n silhouettes with every shape: upright, and at the best angle with that angle."""

    upright: np.ndarray  # (n, shapes)
    turned: np.ndarray  # (n, shapes)
    degrees: np.ndarray  # (n, shapes)


def fit(grids: np.ndarray) -> Fit:
    templates = bank()
    products = grids @ templates.grids.T
    squares = (grids**2).sum(axis=1)[:, None] + (templates.grids**2).sum(axis=1)[None]
    overlap = products / np.maximum(squares - products, 1e-6)
    upright, turned, degrees = (np.zeros((len(grids), len(SHAPES)), np.float32) for _ in range(3))
    for index in range(len(SHAPES)):
        own = np.flatnonzero(templates.shapes == index)
        upright[:, index] = overlap[:, own[templates.degrees[own] == 0]].max(axis=1)
        best = own[overlap[:, own].argmax(axis=1)]
        turned[:, index] = overlap[np.arange(len(grids)), best]
        degrees[:, index] = templates.degrees[best]
    return Fit(upright, turned, degrees)

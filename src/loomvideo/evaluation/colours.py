"""The palette in CIE Lab (D65, ΔE of 1976): how far every pixel of a clip is from each of the little world's colours.

Distances are read from tables over 64 x 64 x 64 sRGB cells, so a clip costs a few milliseconds; a cell is at most
two values wide on each side of its centre, which moves ΔE by one or two.
"""

from functools import cache

import numpy as np

from loomvideo.data.world.scene import COLOURS

CELL_BITS = 2
CELLS = 256 >> CELL_BITS


def to_lab(colours: np.ndarray) -> np.ndarray:
    """sRGB in 0..255 (..., 3) to CIE L*a*b* under D65 (IEC 61966-2-1, CIE 15)."""
    encoded = np.asarray(colours, np.float64) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    primaries = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    white = np.array([0.95047, 1.0, 1.08883])
    ratio = linear @ primaries.T / white
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    lightness = 116 * root[..., 1] - 16
    return np.stack(
        [lightness, 500 * (root[..., 0] - root[..., 1]), 200 * (root[..., 1] - root[..., 2])], axis=-1
    ).astype(np.float32)


@cache
def _cell_lab() -> np.ndarray:
    centres = np.arange(CELLS) * (1 << CELL_BITS) + ((1 << CELL_BITS) - 1) / 2
    return to_lab(np.stack(np.meshgrid(centres, centres, centres, indexing="ij"), axis=-1)).reshape(-1, 3)


@cache
def palette_lab() -> np.ndarray:
    """(colours, 3), in the order of COLOURS."""
    return to_lab(np.array(list(COLOURS.values())))


@cache
def _palette_distances() -> np.ndarray:
    """ΔE from every cell to every colour, (colours, cells)."""
    return np.stack([np.linalg.norm(_cell_lab() - colour, axis=1) for colour in palette_lab()])


@cache
def _palette_nearest() -> np.ndarray:
    return _palette_distances().argmin(axis=0).astype(np.uint8)


def cells(frames: np.ndarray) -> np.ndarray:
    """The table cell of every pixel of uint8 frames (..., 3)."""
    quantised = (frames >> CELL_BITS).astype(np.int32)
    return (quantised[..., 0] * CELLS + quantised[..., 1]) * CELLS + quantised[..., 2]


def lab_of(pixel_cells: np.ndarray) -> np.ndarray:
    return _cell_lab()[pixel_cells]


def distance_to(pixel_cells: np.ndarray, colour: str) -> np.ndarray:
    """ΔE of every pixel to a colour of the palette."""
    return _palette_distances()[list(COLOURS).index(colour)][pixel_cells]


def nearest(pixel_cells: np.ndarray) -> np.ndarray:
    """Index in COLOURS of the nearest colour of every pixel, however far."""
    return _palette_nearest()[pixel_cells]


def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """ΔE between Lab values (..., 3)."""
    return np.sqrt(((first - second) ** 2).sum(axis=-1))

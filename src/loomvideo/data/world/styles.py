"""Whole-clip styles: formulas on stored sRGB values in [0, 1] (world sheet, tasks), for any clip, rendered or real."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

LUMA = np.array((0.2126, 0.7152, 0.0722), np.float32)
SEPIA = np.array(((0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131)), np.float32)
WARM = np.array((1.15, 1.0, 0.85), np.float32)
COLD = np.array((0.85, 1.0, 1.15), np.float32)
BLUR = 0.02  # sigma as a share of the shorter side
BLOCKS = 16  # blocks along the shorter side


def _black_and_white(values: np.ndarray) -> np.ndarray:
    return np.repeat((values @ LUMA)[..., None], 3, axis=-1)


def _blurred(values: np.ndarray) -> np.ndarray:
    sigma = BLUR * min(values.shape[1:3])
    return ndimage.gaussian_filter(values, (0, sigma, sigma, 0), mode="nearest")


def _pixelated(values: np.ndarray) -> np.ndarray:
    """Means over square blocks from the top left corner; the last row and column of blocks may be cut by the frame."""
    height, width = values.shape[1:3]
    block = max(1, round(min(height, width) / BLOCKS))
    rows, columns = np.arange(0, height, block), np.arange(0, width, block)
    heights, widths = np.diff(rows, append=height), np.diff(columns, append=width)
    sums = np.add.reduceat(np.add.reduceat(values, rows, axis=1), columns, axis=2)
    means = sums / (heights[:, None] * widths)[..., None]
    return means.repeat(heights, axis=1).repeat(widths, axis=2)


FORMULAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "black and white": _black_and_white,
    "sepia": lambda values: values @ SEPIA.T,
    "inverted": lambda values: 1 - values,
    "brighter": lambda values: 1.4 * values,
    "darker": lambda values: 0.6 * values,
    "warmer": lambda values: values * WARM,
    "colder": lambda values: values * COLD,
    "blurred": _blurred,
    "pixelated": _pixelated,
    "mirrored": lambda values: values[:, :, ::-1],
    "played backwards": lambda values: values[::-1],
}
STYLES = tuple(FORMULAS)
PICTURE_STYLES = tuple(style for style in STYLES if style != "played backwards")


def apply_style(frames: np.ndarray, style: str) -> np.ndarray:
    """The clip in a style of ``STYLES``; uint8 (t, y, x, 3) to the same, rounded to nearest after clipping."""
    if style not in FORMULAS:
        raise ValueError(f"style {style!r} is unknown: use one of {', '.join(STYLES)}")
    values = frames.astype(np.float32) / 255
    return np.clip(FORMULAS[style](values) * 255 + 0.5, 0, 255).astype(np.uint8)

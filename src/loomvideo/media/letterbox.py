"""Sizes of reference pictures and clips at a pixel budget, as VINO's published weights were used (fact sheet 6.2, 6.3)."""

import math

import numpy as np
from PIL import Image

SEARCHED = 256  # grid rows to either side of the square-root rule
WHITE = (255, 255, 255)


def box_size(height: int, width: int, area: int, multiple: int) -> tuple[int, int]:
    """The box of multiples that is nearest to an area, and among the nearest to the ratio, near a picture's ratio."""
    ratio = width / height
    middle = max(1, round(math.sqrt(area / ratio) / multiple))
    boxes = [
        (rows * multiple, max(1, columns) * multiple)
        for rows in range(max(1, middle - SEARCHED), middle + SEARCHED + 1)
        for columns in (math.floor(ratio * rows), math.ceil(ratio * rows))
    ]
    return min(boxes, key=lambda box: (abs(box[0] * box[1] - area), abs(box[1] / box[0] - ratio)))


def letterbox(picture: np.ndarray, area: int, multiple: int) -> np.ndarray:
    """uint8 (y, x, 3) scaled to fit its `box_size`, in the middle of white: nothing is cut off."""
    height, width = picture.shape[:2]
    box_height, box_width = box_size(height, width, area, multiple)
    scale = min(box_height / height, box_width / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    box = Image.new("RGB", (box_width, box_height), WHITE)
    scaled = Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)
    box.paste(scaled, ((box_width - size[0]) // 2, (box_height - size[1]) // 2))
    return np.array(box)


def area_size(height: int, width: int, area: int) -> tuple[int, int]:
    """A clip's size scaled to an area; no multiple of anything."""
    ratio = width / height
    scaled = math.sqrt(area / ratio)
    return round(scaled), round(scaled * ratio)


def cut_corner(frames: np.ndarray, multiple: int) -> np.ndarray:
    """Frames (t, y, x, 3) cut to multiples; the top left corner stays, as published."""
    height, width = (size - size % multiple for size in frames.shape[1:3])
    return frames[:, :height, :width]

"""Resizing to the model's size, as the published weights were trained (fact sheet 7.3)."""

import numpy as np
from PIL import Image

MAX_RESIZED_PIXELS = 2**26  # a wide strip that is to cover a tall target becomes enormous before it is cropped


def cover_size(width: int, height: int, target_width: int, target_height: int) -> tuple[int, int, int, int]:
    """How a picture is made to cover a target: (resized_height, resized_width, crop_top, crop_left)."""
    scale = max(target_width / width, target_height / height)
    resized_height, resized_width = round(height * scale), round(width * scale)
    return (
        resized_height,
        resized_width,
        round((resized_height - target_height) / 2),
        round((resized_width - target_width) / 2),
    )


def cover_crop(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 (t, y, x, 3) or (y, x, 3) until it covers height x width, and cut out the centre.

    PIL's bilinear filter, which is antialiased when it shrinks.
    """
    if frames.ndim == 4:
        return np.stack([cover_crop(frame, height, width) for frame in frames])
    resized_height, resized_width, top, left = cover_size(frames.shape[1], frames.shape[0], width, height)
    picture = Image.fromarray(frames)
    if resized_height * resized_width > MAX_RESIZED_PIXELS:  # the same up to the rounding of the resized size
        scale_y, scale_x = frames.shape[0] / resized_height, frames.shape[1] / resized_width
        box = (left * scale_x, top * scale_y, (left + width) * scale_x, (top + height) * scale_y)
        return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box=box)).copy()
    resized = picture.resize((resized_width, resized_height), Image.Resampling.BILINEAR)
    return np.asarray(resized)[top : top + height, left : left + width].copy()


def ratio_crop_size(height: int, width: int, target_height: int, target_width: int) -> tuple[int, int]:
    """The largest (height, width) of a target's ratio inside a picture, cut out before resizing (Omni-Video, 8)."""
    if width * target_height > height * target_width:
        return height, height * target_width // target_height
    return width * target_height // target_width, width

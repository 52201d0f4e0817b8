"""What the evaluation's tests share: degraded renders, as an imperfect decoder gives them."""

from io import BytesIO

import numpy as np
from PIL import Image
from scipy import ndimage

from loomvideo.data.world.scene import Background, Object, Scene


def one_object(**looks) -> Scene:
    background = looks.pop("background", Background(colours=("blue",)))
    return Scene(
        objects=(Object(**{"shape": "circle", "colour": "red", "size": "medium"} | looks),), background=background
    )


def blurred(frames):
    return ndimage.gaussian_filter(frames.astype(np.float32), (0, 1, 1, 0)).round().astype(np.uint8)


def noisy(frames):
    noise = np.random.default_rng(0).normal(0, 6, frames.shape)
    return np.clip(frames + noise, 0, 255).astype(np.uint8)


def compressed(frames):
    pictures = []
    for frame in frames:
        file = BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=60)
        pictures.append(np.asarray(Image.open(file)))
    return np.stack(pictures)


def untouched(frames):
    return frames


DECODERS = (untouched, blurred, noisy, compressed)

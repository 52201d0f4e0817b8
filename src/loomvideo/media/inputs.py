"""What a person may give in place of a file: paths, PIL pictures, arrays, clips, lists of frames."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from loomvideo.media.clip import Clip, MediaInfo, probe, read_clip, read_spread
from loomvideo.media.frames import even_frames, frames_to_read
from loomvideo.media.limits import MediaError, check_size
from loomvideo.media.pictures import to_rgb
from loomvideo.media.resize import cover_crop

Picture = Path | str | np.ndarray | Image.Image  # what may be given as a picture
Media = Path | Clip | np.ndarray  # what it is taken as: a file, a clip, or a picture as uint8 (y, x, 3)


def as_media(name: str, given: Any, fps: float) -> Media:
    """Take what was given as ``name``. Frames without a rate are at ``fps``. Raises MediaError; opens no file."""
    if isinstance(given, str | Path):
        if not str(given):
            raise MediaError(f"{name} is an empty path: name a file or leave it out")
        return Path(given)
    if isinstance(given, Clip):
        return Clip(_to_uint8(name, given.frames, dimensions=(4,)), given.fps)
    if isinstance(given, Image.Image):
        check_size(name, *given.size)
        return to_rgb(given)
    if isinstance(given, np.ndarray):
        frames = _to_uint8(name, given, dimensions=(2, 3, 4))
        return Clip(frames, fps) if frames.ndim == 4 else frames
    if isinstance(given, list | tuple) and given:
        return Clip(_stack(name, [as_media(f"{name}, frame {i}", frame, fps) for i, frame in enumerate(given)]), fps)
    raise MediaError(f"{name} is a {type(given).__name__}: give a path, a PIL picture, an array or a Clip")


def look(media: Media) -> MediaInfo:
    """Size and kind, without decoding a file."""
    if isinstance(media, Path):
        return probe(media)
    if isinstance(media, Clip):
        num_frames, height, width, _ = media.frames.shape
        return MediaInfo("video", width, height, media.fps, num_frames, has_sound=False)
    height, width, _ = media.shape
    return MediaInfo("image", width, height, fps=0.0, num_frames=1, has_sound=False)


def read_frames(media: Media, fps: float, max_frames: int, size: tuple[int, int]) -> np.ndarray:
    """uint8 (t, height, width, 3) for ``size`` (height, width): at most ``max_frames`` frames at ``fps``, 1 + 4n."""
    if isinstance(media, Path):
        return read_clip(media, fps=fps, max_frames=max_frames, size=size).frames
    if isinstance(media, Clip):
        indices = frames_to_read(media.fps, len(media.frames), target_fps=fps, max_frames=max_frames)
        return cover_crop(media.frames[indices], *size)
    return cover_crop(media, *size)[None]


def spread_frames(media: Media, num_frames: int) -> np.ndarray:
    """uint8 (t, y, x, 3): frames spread evenly over all of a clip, at its own size (``even_frames``)."""
    if isinstance(media, Path):
        return read_spread(media, num_frames)
    frames = media.frames if isinstance(media, Clip) else media[None]
    return frames[even_frames(len(frames), num_frames)]


def _stack(name: str, frames: list[Media]) -> np.ndarray:
    pictures = [frame for frame in frames if isinstance(frame, np.ndarray)]
    if len(pictures) < len(frames) or len({picture.shape for picture in pictures}) > 1:
        raise MediaError(f"{name}: a list of frames must hold decoded pictures of one size; resize them first")
    return np.stack(pictures)


def _to_uint8(name: str, array: np.ndarray, dimensions: tuple[int, ...]) -> np.ndarray:
    """uint8 (t, y, x, 3) or (y, x, 3) of uint8 or of floats in 0..1; grey and transparent ones as from files."""
    if array.ndim not in dimensions or not array.size or (array.ndim > 2 and array.shape[-1] not in (1, 3, 4)):
        raise MediaError(f"{name} has shape {array.shape}: give (y, x), (y, x, 3) or (t, y, x, 3)")
    if array.ndim == 4:
        return np.stack([_to_uint8(name, frame, dimensions=(3,)) for frame in array])
    check_size(name, array.shape[1], array.shape[0])
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # false of nan, too
            raise MediaError(f"{name} holds floats outside 0..1: scale them, or give uint8")
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise MediaError(f"{name} is an array of {array.dtype}: give uint8, or floats in 0..1")
    return to_rgb(Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array))

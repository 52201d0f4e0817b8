"""Clips and pictures from and to files: what the rest of the package knows of media."""

import json
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from loomvideo.media import pictures, video
from loomvideo.media.frames import even_frames, frames_to_read, whole_stride
from loomvideo.media.limits import MediaError, check_file
from loomvideo.media.resize import cover_crop

__all__ = [
    "Clip",
    "MediaError",
    "MediaInfo",
    "check_output",
    "probe",
    "read_clip",
    "read_metadata",
    "read_picture",
    "read_spread",
    "write_clip",
    "write_picture",
]

CLIP_SUFFIXES = (*video.CODECS, ".gif")
Frame = TypeVar("Frame")


@dataclass(frozen=True)
class Clip:
    frames: np.ndarray  # uint8 (t, y, x, 3), RGB
    fps: float


@dataclass(frozen=True)
class MediaInfo:
    """What a file says before it is decoded. A picture has fps 0 and one frame."""

    kind: Literal["image", "video"]
    width: int  # as shown: after rotation, EXIF orientation and with square pixels
    height: int
    fps: float
    num_frames: int  # by the header; 0 where it does not tell
    has_sound: bool


def probe(path: Path | str) -> MediaInfo:
    """Size, rate and kind of a file, which is known by its content and not by its name.

    Raises MediaError for anything that is no clip or picture within the limits (16 to 16384 pixels a side).
    """
    path = Path(path)
    check_file(path)
    if picture := pictures.read_header(path):
        if picture.num_frames == 1:
            return MediaInfo("image", picture.width, picture.height, fps=0.0, num_frames=1, has_sound=False)
        return MediaInfo("video", picture.width, picture.height, picture.fps, picture.num_frames, has_sound=False)
    header = video.read_header(path)
    return MediaInfo("video", header.width, header.height, header.fps, header.num_frames, header.has_sound)


def read_clip(path: Path | str, *, fps: float, max_frames: int, size: tuple[int, int] | None = None) -> Clip:
    """At most ``max_frames`` frames at ``fps``, from the first on; 1 + 4n of them (``frames_to_read``).

    Frames are taken by the file's own clock where it has one, so that a variable frame rate plays at the right speed.
    Decoding stops at the last frame needed, and only chosen frames are kept. ``size`` (height, width) resizes each
    frame by ``cover_crop`` as it is read; else the clip keeps the file's size. A picture is a clip of one frame.
    """
    info = probe(path)
    path = Path(path)
    height, width = size or (info.height, info.width)
    if info.kind == "image":
        return Clip(cover_crop(pictures.read_picture(path)[None], height, width), fps)
    wanted = frames_to_read(info.fps, sys.maxsize, target_fps=fps, max_frames=max_frames)
    frames = _gather(_hold(_decoded(path), info.fps), wanted, lambda frame: cover_crop(frame(), height, width))
    return Clip(np.stack(frames[: whole_stride(len(frames))]), fps)


def read_spread(path: Path, num_frames: int) -> np.ndarray:
    """uint8 (t, y, x, 3): frames spread evenly over all of a file, at its own size (``even_frames``).

    A file whose header does not tell its length, or promises too much, is decoded twice.
    """
    info = probe(path)
    if info.kind == "image":
        return pictures.read_picture(path)[None].repeat(num_frames, axis=0)

    def spread(whole: int) -> list[np.ndarray]:
        numbered = ((place, frame) for place, (_, frame) in enumerate(_decoded(path), start=1))
        wanted = even_frames(whole, num_frames)
        return _gather(numbered, wanted, lambda frame: cover_crop(frame(), info.height, info.width))

    frames = spread(info.num_frames) if info.num_frames else []
    return np.stack(frames if len(frames) == num_frames else spread(sum(1 for _ in _decoded(path))))


def read_picture(path: Path | str) -> np.ndarray:
    """uint8 (y, x, 3): upright by EXIF, 16 bits made 8, transparency onto white."""
    info = probe(path)
    if info.kind == "video":
        raise MediaError(f"{path}: this is a video and a picture is needed; save one of its frames as png")
    return pictures.read_picture(Path(path))


def write_clip(
    path: Path | str, clip: Clip, *, metadata: dict | None = None, sound_from: Path | str | None = None
) -> None:
    """Write a clip in the container that the suffix names, with ``metadata`` as JSON in its comment.

    ``sound_from`` is a file whose sound, if it has any, is kept from its start to the clip's end. The same clip gives
    the same bytes on the same machine. Raises MediaError; a failure leaves no file behind.
    """
    path = Path(path)
    if path.suffix.lower() not in CLIP_SUFFIXES:
        raise MediaError(f"{path}: a clip cannot be written as {path.suffix!r}; use {', '.join(CLIP_SUFFIXES)}")
    _, height, width, _ = clip.frames.shape
    comment = _comment(metadata)
    if path.suffix.lower() == ".gif":
        with _beside(path) as temporary:
            pictures.save_animation(temporary, clip.frames, clip.fps, comment)
        return
    if height % 2 or width % 2:
        raise MediaError(
            f"{path}: frames of {width}x{height} pixels; video needs even sides, so crop one row or column"
        )
    sound = video.read_sound(Path(sound_from), len(clip.frames) / clip.fps) if sound_from else None
    with _beside(path) as temporary:
        video.save_video(temporary, clip.frames, clip.fps, comment, sound)


def write_picture(path: Path | str, picture: np.ndarray, *, metadata: dict | None = None) -> None:
    """Write uint8 (y, x, 3) as png, jpg or webp, with ``metadata`` as JSON in its comment. Raises MediaError."""
    path = Path(path)
    if path.suffix.lower() not in pictures.PICTURE_SUFFIXES:
        raise MediaError(
            f"{path}: a picture cannot be written as {path.suffix!r}; use {', '.join(pictures.PICTURE_SUFFIXES)}"
        )
    with _beside(path) as temporary:
        pictures.save_picture(temporary, picture, _comment(metadata))


def read_metadata(path: Path | str) -> dict:
    """The recipe in a file that ``write_clip`` or ``write_picture`` made."""
    path = Path(path)
    check_file(path)
    header = pictures.read_header(path) or video.read_header(path)
    try:
        recipe = json.loads(header.comment or "")
    except ValueError:
        recipe = None
    if not isinstance(recipe, dict):
        raise MediaError(f"{path}: carries no recipe; give an unchanged file that loomvideo made")
    return recipe


def check_output(path: Path | str) -> None:
    """Raise MediaError if a clip or picture could not be written to ``path``: to be asked before the work is done."""
    path = Path(path)
    known = (*CLIP_SUFFIXES, *pictures.PICTURE_SUFFIXES)
    if path.suffix.lower() not in known:
        raise MediaError(f"{path}: files cannot be written as {path.suffix!r}; use {', '.join(known)}")
    if path.is_dir():
        raise MediaError(f"{path}: this is a folder; name a file in it")
    with _written(path):
        trial = _temporary_name(path)
        trial.touch()
        trial.unlink()


def _hold(timed: Iterable[tuple[float | None, Frame]], fps: float) -> Iterator[tuple[int, Frame]]:
    """Where each frame gives way to the next, counted in frames of a clip of constant rate ``fps``.

    A frame of a regular clip gives way one place later. One that came late, or early, has more places, or none.
    """
    shown: Frame | None = None
    origin, place = 0.0, 0
    for seconds, frame in timed:
        if shown is None:
            origin = seconds or 0.0
        else:
            place = place + 1 if seconds is None else max(place, round((seconds - origin) * fps))
            yield place, shown
        shown = frame
    if shown is not None:
        yield place + 1, shown


def _decoded(path: Path) -> Iterator[tuple[float | None, Callable[[], np.ndarray]]]:
    """Every frame of a video or animation: its second where there is a clock, and what makes uint8 (y, x, 3) of it."""
    if pictures.read_header(path):
        for seconds, picture in pictures.decode_animation(path):
            yield seconds, partial(np.asarray, picture)
    else:
        for seconds, frame in video.decode_frames(path):
            yield seconds, frame.to_rgb


def _gather(
    held: Iterable[tuple[int, Frame]], wanted: list[int], to_array: Callable[[Frame], np.ndarray]
) -> list[np.ndarray]:
    """The frames at the places ``wanted``, in order; where the clip is shorter, as many as it has."""
    chosen: list[np.ndarray] = []
    for end, frame in held:
        count = sum(place < end for place in wanted[len(chosen) :])
        if count:
            chosen += [to_array(frame)] * count
        if len(chosen) == len(wanted):
            break
    return chosen


def _comment(metadata: dict | None) -> str:
    return json.dumps(metadata, ensure_ascii=False, sort_keys=True) if metadata is not None else ""


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A name beside ``path`` that becomes it when the block succeeds, and nothing when it fails."""
    with _written(path):
        temporary = _temporary_name(path)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{secrets.token_hex(4)}-{path.name}")


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Makes the folder of ``path``; failures in the block are errors of writing it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise MediaError(
            f"{path}: cannot be written ({reason}); choose another folder or make room, nothing was left behind"
        ) from error

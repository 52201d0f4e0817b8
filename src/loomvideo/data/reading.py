"""From a sample's files to its pixels: sizes, rates, clip starts and pairs as published training reads them (fact sheet 8.3)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from loomvideo.data.buckets import IMAGE_BUCKETS, VIDEO_BUCKETS, Size, closest_resolution
from loomvideo.data.samples import DataError, FrameSample, Layout, pixel_layout
from loomvideo.media import pictures, video
from loomvideo.media.clip import MediaInfo, probe, read_picture
from loomvideo.media.frames import select_frames, whole_stride
from loomvideo.media.resize import cover_crop

SMALL: Mapping[str, Sequence[Size]] = {"128": ((128, 128), (96, 160), (160, 96))}  # the built-in models'
PICTURE_SIZES = {**SMALL, **IMAGE_BUCKETS}
CLIP_SIZES = {**SMALL, **VIDEO_BUCKETS}


class Files(Protocol):
    """Where the files of a data set lie."""

    def local(self, name: str) -> AbstractContextManager[Path]:
        """A path at which the file can be read while the block lasts."""
        ...


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A sample as its record tells it: names of files, of which nothing is read yet."""

    files: Files
    prompt: str
    target: str
    source: str | None = None
    references: tuple[str, ...] = ()
    task: str | None = None  # follows from what is given

    def task_of(self, *, moving: bool) -> str:
        if self.task is not None:
            return self.task
        if self.source is not None:
            return "guided_edit" if self.references else "edit_video" if moving else "edit_image"
        return "mi2v" if self.references else "t2v" if moving else "t2i"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files become pixels, under the published names. ``random_start`` takes a long clip's part by chance."""

    fps: float = 8.0
    num_frames: int = 17
    resolution_buckets: tuple[str, ...] = ("128",)
    random_start: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolution_buckets", tuple(str(name) for name in self.resolution_buckets))
        if not self.fps > 0:
            raise DataError(f"fps={self.fps}: clips are read at a positive rate, such as 24")
        if self.num_frames < 1 or whole_stride(self.num_frames) != self.num_frames:
            nearest = whole_stride(max(self.num_frames, 1))
            raise DataError(
                f"num_frames={self.num_frames}: the VAE takes 1 + 4n frames, so use {nearest} or {nearest + 4}"
            )
        if not self.resolution_buckets or not set(self.resolution_buckets) <= set(CLIP_SIZES):
            raise DataError(
                f"resolution_buckets={list(self.resolution_buckets)}: name one or more of {', '.join(CLIP_SIZES)}"
            )

    def size_of(self, info: MediaInfo) -> Size:
        sizes = PICTURE_SIZES if info.kind == "image" else CLIP_SIZES
        return closest_resolution(info.height, info.width, sizes, self.resolution_buckets)

    def places(self, path: Path, info: MediaInfo, start: float) -> list[int]:
        """Which frames of a clip are read; ``start`` in 0..1 is where, between its first and last possible one."""
        return select_frames(
            info.fps,
            info.num_frames or count_frames(path),
            target_fps=self.fps,
            max_frames=self.num_frames,
            clip_start_ratio=start if self.random_start else 0.0,
        )


def entry_layout(entry: Entry, reading: Reading) -> Layout:
    """What `read_entry` will give, from headers alone. Raises MediaError or DataError."""
    with ExitStack() as stack:
        shapes = [_shape(stack.enter_context(entry.files.local(name)), reading) for name in _pair(entry)]
        pictured = [_shape(stack.enter_context(entry.files.local(name)), reading) for name in entry.references]
    frames = min(shape[0] for shape in shapes)
    height, width = _smaller(*(shape[1:] for shape in shapes))
    return pixel_layout(
        entry.task_of(moving=frames > 1),
        (frames, height, width),
        has_source=entry.source is not None,
        references=tuple(shape[1:] for shape in pictured),
    )


def read_entry(entry: Entry, reading: Reading, start: float) -> FrameSample:
    """Decode a sample. Source and target share ``start``, the shorter length and the smaller size.

    Raises MediaError or DataError, which name what is wrong with it.
    """
    check_prompt(entry)
    with ExitStack() as stack:
        pair = [stack.enter_context(entry.files.local(name)) for name in _pair(entry)]
        check_pair(*pair)
        clips = [read_frames(path, reading, start) for path in pair]
        references = [stack.enter_context(entry.files.local(name)) for name in entry.references]
        shown = tuple(cover_crop(read_picture(path), *reading.size_of(probe(path))) for path in references)
    *source, target = aligned(clips)
    return FrameSample(
        task=entry.task_of(moving=len(target) > 1),
        prompt=entry.prompt,
        target=target,
        source=source[0] if source else None,
        references=shown,
    )


def check_prompt(entry: Entry) -> None:
    if not entry.prompt.strip():
        raise DataError(f"{entry.target}: its text is empty; say what it shows or what was done, or leave it out")


def check_pair(*pair: Path) -> None:
    """Source and target are of one kind: an edit neither moves a picture nor stops a clip."""
    kinds = [probe(path).kind for path in pair]
    if len(set(kinds)) > 1:
        raise DataError(
            f"{pair[0]}: the source is of kind {kinds[0]} and the target of kind {kinds[1]}; give two alike"
        )


def read_frames(path: Path, reading: Reading, start: float) -> np.ndarray:
    """uint8 (t, y, x, 3): a picture, or 1 + 4n frames of a clip, each covering its bucket's size."""
    info = probe(path)
    size = reading.size_of(info)
    if info.kind == "image":
        return cover_crop(read_picture(path), *size)[None]
    frames = frames_at(path, reading.places(path, info, start), size)
    return frames[: whole_stride(len(frames))]


def frames_at(path: Path, places: Sequence[int], size: Size) -> np.ndarray:
    """The frames at rising places, as far as the clip goes; those in between are decoded and never converted."""
    found: list[np.ndarray] = []
    for place, to_rgb in enumerate(decoded(path)):
        if count := sum(place == wanted for wanted in places[len(found) :]):
            found += [cover_crop(to_rgb(), *size)] * count
        if len(found) == len(places):
            break
    if not found:
        raise DataError(f"{path}: it ends before frame {places[0]}, which its header promises; export it again")
    return np.stack(found)


def decoded(path: Path) -> Iterator[Callable[[], np.ndarray]]:
    """Every frame of a clip, as what makes uint8 (y, x, 3) of it."""
    if pictures.read_header(path):
        yield from (partial(np.asarray, frame) for _, frame in pictures.decode_animation(path))
    else:
        yield from (frame.to_rgb for _, frame in video.decode_frames(path))


def count_frames(path: Path) -> int:
    return sum(1 for _ in decoded(path))


def aligned(clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Clips cut to the shortest and brought to the size of fewest pixels, the first's where two are alike."""
    frames = min(len(clip) for clip in clips)
    height, width = _smaller(*(clip.shape[1:3] for clip in clips))
    return [_stretched(clip[:frames], height, width) for clip in clips]


def _stretched(clip: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, as published: neither the ratio is kept nor are pixels averaged."""
    if clip.shape[1:3] == (height, width):
        return clip
    values = torch.from_numpy(clip).permute(0, 3, 1, 2).float()
    resized = F.interpolate(values, (height, width), mode="bilinear", align_corners=False)
    return resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def _smaller(*sizes: Sequence[int]) -> Size:
    height, width = min(sizes, key=lambda size: size[0] * size[1])
    return height, width


def _pair(entry: Entry) -> list[str]:
    return [entry.target] if entry.source is None else [entry.source, entry.target]


def _shape(path: Path, reading: Reading) -> tuple[int, int, int]:
    info = probe(path)
    frames = 1 if info.kind == "image" else len(reading.places(path, info, 0.0))
    return frames, *reading.size_of(info)

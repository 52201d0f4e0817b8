"""What is made of a request: everything decided and read once, here, before any weights are touched.

Cheap checks come first, then the headers of files, then pixels. Sizes in messages are width x height.
"""

import math
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from loomvideo.media.clip import MediaInfo
from loomvideo.media.inputs import Media, as_media, look, read_frames, spread_frames
from loomvideo.media.letterbox import letterbox
from loomvideo.systems.request import (
    MAX_FRAMES,
    ModelLimits,
    Request,
    RequestError,
    Task,
    check_area,
    check_options,
    check_text,
    resolve_task,
    round_up,
    steps_at,
)

MAX_RATIO = 200  # of the longer side to the shorter: no language model reads a narrower picture


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Everything decided, all pixels read and resized. What follows asks nothing and opens no file."""

    task: Task
    prompt: str
    negative_prompt: str
    height: int  # generated: multiples of 32, and 1 + 4n frames
    width: int
    num_frames: int
    output_height: int  # what ``cut`` leaves
    output_width: int
    output_frames: int
    fps: float
    source: np.ndarray | None  # uint8 (num_frames, height, width, 3)
    whole_source: np.ndarray | None = None  # uint8 (t, y, x, 3), frames of all of the source at its own size
    references: tuple[np.ndarray, ...]  # uint8 (y, x, 3); of the size generated where the model has no reference_area
    num_inference_steps: int
    guidance_scale: float
    guidance_scale_visual: float
    seed: int
    window: int | None = None  # frames made at a time, fewer than num_frames; None: all of them
    think: bool = False  # still to be thought about
    asked: str | None = None  # the prompt before it was thought about
    speed: str = "exact"
    keep_source: bool = False
    notes: tuple[str, ...]  # what was chosen and why, for the person

    @property
    def kind(self) -> str:
        """What is made: "video" or "image"."""
        return "image" if self.num_frames == 1 else "video"

    def cut(self, frames: Any) -> Any:
        """The output's part of generated frames (t, y, x, ...): the first frames, the centre of each."""
        top, left = _margin(self.height, self.output_height), _margin(self.width, self.output_width)
        return frames[: self.output_frames, top : top + self.output_height, left : left + self.output_width]

    def part(self, start: int, stop: int) -> "Plan":
        """The plan of the frames from `start` up to `stop`, 1 + 4n, as a clip of its own."""
        if stop - start == self.num_frames:
            return self
        source = None if self.source is None else self.source[start:stop]
        frames = {"num_frames": stop - start, "output_frames": stop - start}
        return replace(self, source=source, whole_source=None, window=None, **frames)


def plan(request: Request, limits: ModelLimits) -> Plan:
    """Decide everything. Raises RequestError for what was asked and MediaError for what is in a file."""
    check_options(request, limits)
    task = resolve_task(request, limits)
    fps = limits.for_task(task, still=False).fps
    source = None if request.source is None else as_media("source", request.source, fps)
    references = [as_media(f"reference {i}", given, fps) for i, given in enumerate(request.references, start=1)]
    source_info = None if source is None else look(source)
    reference_infos = [_look_at_reference(i, media) for i, media in enumerate(references, start=1)]

    _check_shapes(source_info, reference_infos)
    _check_mentions(request, source_info)
    still = _is_still(request, task, source_info)
    usual = limits.for_task(task, still=still)
    size = _choose_size(request, usual, source_info or next(iter(reference_infos), None), even=not still)
    asked_frames = 1 if still else request.num_frames
    num_frames = _frames_to_generate(asked_frames, usual, has_source=source is not None)
    if request.window is not None and asked_frames is None and source_info is not None:
        num_frames = _whole_length(source_info, usual)
    pixels = None if source is None else _read_source(source, size, num_frames, usual)
    num_frames = num_frames if pixels is None else len(pixels)
    output_frames = min(asked_frames or num_frames, num_frames)
    usual = limits.for_task(task, still=num_frames == 1)

    def chosen(name: str) -> Any:
        return _given(getattr(request, name), getattr(usual, name))

    return Plan(
        task=task,
        prompt=request.prompt,
        negative_prompt=chosen("negative_prompt"),
        height=size.height,
        width=size.width,
        num_frames=num_frames,
        output_height=size.output_height,
        output_width=size.output_width,
        output_frames=output_frames,
        fps=float(_given(request.fps, usual.fps)),
        source=pixels,
        whole_source=_read_whole(source, limits) if source is not None and num_frames > 1 else None,
        references=tuple(
            _read_reference(media, info, task, size, limits)
            for media, info in zip(references, reference_infos, strict=True)
        ),
        num_inference_steps=_steps(request, usual),
        guidance_scale=float(chosen("guidance_scale")),
        guidance_scale_visual=float(chosen("guidance_scale_visual")),
        seed=secrets.randbelow(2**32) if request.seed == -1 else int(request.seed),
        window=_window(request, usual, num_frames),
        think=bool(chosen("think")),
        speed=request.speed,
        keep_source=pixels is not None and bool(chosen("keep_source")),
        notes=(
            *size.notes,
            *_length_notes(request, usual, num_frames, output_frames, source_info),
            *_window_notes(_window(request, usual, num_frames), num_frames),
            *_rate_notes(request, usual, output_frames),
            *_speed_notes(request, usual),
        ),
    )


def frames_to_describe(shown: Any, question: str, limits: ModelLimits) -> np.ndarray:
    """Frames uint8 (t, y, x, 3) spread over a whole clip, or the one of a picture, near the model's own area."""
    check_text("question", question, empty="ask something")
    media = as_media("the clip or picture", shown, limits.fps)
    info = look(media)
    seconds = info.num_frames / info.fps if info.kind == "video" else 0.0
    rate = min(limits.fps, limits.max_frames / seconds) if seconds else limits.fps
    return read_frames(media, rate, limits.max_frames, limits.fit(info.width / info.height, limits.area))


def _steps(request: Request, usual: ModelLimits) -> int:
    if request.num_inference_steps is not None:
        return int(request.num_inference_steps)
    return steps_at(request.speed, int(usual.num_inference_steps))


# --- what is in the source and the references


def _look_at_reference(position: int, media: Media) -> MediaInfo:
    info = look(media)
    if info.kind == "video":
        raise RequestError(f"reference {position} is a video: give a picture, such as one of its frames saved as png")
    return info


def _check_shapes(source: MediaInfo | None, references: Sequence[MediaInfo]) -> None:
    named = [("the source", source), *((f"reference {i}", info) for i, info in enumerate(references, start=1))]
    for name, info in named:
        if info is not None and max(info.width, info.height) > MAX_RATIO * min(info.width, info.height):
            raise RequestError(
                f"{name} is {info.width}x{info.height}: one side is more than {MAX_RATIO} times the other, so cut a part "
                "out of it"
            )


def _check_mentions(request: Request, source: MediaInfo | None) -> None:
    """A picture that is edited stands behind the references and may be named by its number, too."""
    count = len(request.references)
    pictures = count + (source is not None and source.kind == "image")
    # Plain "Image 3" may be a subject where there is no reference, "@Image 3" never is.
    pattern = r"@?\bImage ?(\d+)" if count else r"@Image ?(\d+)"
    for mention in re.finditer(pattern, request.prompt):
        if not 1 <= int(mention[1]) <= pictures:
            raise RequestError(
                f"the prompt names {mention[0]} and {count} reference{'s are' if count != 1 else ' is'} given: give the "
                "picture as a reference, or name another (the first is Image 1)"
            )


def _is_still(request: Request, task: Task, source: MediaInfo | None) -> bool:
    if source and source.kind == "image" and request.num_frames not in (None, 1):
        raise RequestError(
            f"num_frames={request.num_frames}: an edited picture is one picture, so leave num_frames out, or give the "
            "picture as a reference to make a video of it"
        )
    still = request.num_frames == 1 or task is Task.TEXT_TO_IMAGE or (source is not None and source.kind == "image")
    if still and task in (Task.CLONE, Task.CAMERA_CLONE):
        raise RequestError(
            f"task={task}: motion is taken from a clip, so give one as source and ask for several frames"
        )
    return still


# --- size


@dataclass(frozen=True)
class _Size:
    height: int
    width: int
    output_height: int
    output_width: int
    notes: tuple[str, ...]


def _choose_size(request: Request, limits: ModelLimits, seen: MediaInfo | None, *, even: bool) -> _Size:
    """The size asked for, or that of the source or first reference at the model's own area; and what is generated."""
    height, width, notes = _wanted_size(request, limits, seen)
    if even and (height % 2 or width % 2):
        notes.append(f"{width + width % 2}x{height + height % 2} is made, since video needs even sides")
        height, width = height + height % 2, width + width % 2
    check_area(height, width, limits)
    size = _Size(
        round_up(height, limits.size_multiple), round_up(width, limits.size_multiple), height, width, tuple(notes)
    )
    if (size.height, size.width) == (height, width):
        return size
    cropping = f"{size.width}x{size.height} is generated and cropped to {width}x{height}, since the model's sides are"
    notes.append(f"{cropping} multiples of {limits.size_multiple}")
    return _Size(size.height, size.width, height, width, tuple(notes))


def _wanted_size(request: Request, limits: ModelLimits, seen: MediaInfo | None) -> tuple[int, int, list[str]]:
    if request.height and request.width:
        return request.height, request.width, []
    default_height, default_width = _default_size(limits)
    ratio = seen.width / seen.height if seen else default_width / default_height
    if request.height:
        return request.height, max(1, round(request.height * ratio)), []
    if request.width:
        return max(1, round(request.width / ratio)), request.width, []
    if not seen:
        return default_height, default_width, []
    height, width = limits.fit(ratio, limits.area)
    owner = "source" if request.source is not None else "first reference"
    return (
        height,
        width,
        [f"{width}x{height} was chosen: the {owner}'s {seen.width}x{seen.height} at the model's own area"],
    )


def _default_size(limits: ModelLimits) -> tuple[int, int]:
    if limits.default_height and limits.default_width:
        return limits.default_height, limits.default_width
    return limits.fit(1.0, limits.area)


def _margin(whole: int, part: int) -> int:
    return round((whole - part) / 2)  # half to even, as pictures are cropped


# --- length


def _frames_to_generate(asked: int | None, limits: ModelLimits, *, has_source: bool) -> int:
    """1 + 4n; of a source as many are read, where it has them."""
    if asked is None:
        return (limits.default_source_frames or limits.max_frames) if has_source else limits.default_frames
    return 1 + round_up(asked - 1, limits.frame_stride)


def _whole_length(source: MediaInfo, limits: ModelLimits) -> int:
    """1 + 4n frames, not fewer than the source has at the model's rate."""
    frames = math.ceil(source.num_frames / source.fps * limits.fps) if source.num_frames and source.fps else 1
    return min(1 + round_up(frames, limits.frame_stride), MAX_FRAMES)


def _window(request: Request, limits: ModelLimits, num_frames: int) -> int | None:
    """Frames made at a time, 1 + 4n; None where that is all of them."""
    asked = _given(request.window, limits.max_frames)
    size = asked - (asked - 1) % limits.frame_stride
    return size if num_frames > size else None


def _read_source(media: Media, size: _Size, max_frames: int, limits: ModelLimits) -> np.ndarray:
    """uint8 (t, y, x, 3) of the size generated. Its middle is the source as the output shows it; the rim, which is
    cropped from the output, repeats the edge, so that source and output lie on each other."""
    frames = read_frames(media, limits.fps, max_frames, (size.output_height, size.output_width))
    top, left = _margin(size.height, size.output_height), _margin(size.width, size.output_width)
    bottom, right = size.height - size.output_height - top, size.width - size.output_width - left
    return np.pad(frames, [(0, 0), (top, bottom), (left, right), (0, 0)], mode="edge")


def _read_reference(media: Media, info: MediaInfo, task: Task, size: _Size, limits: ModelLimits) -> np.ndarray:
    """uint8 (y, x, 3): a first frame as a source would be read, another picture whole, where the model takes it so."""
    if task is Task.IMAGE_TO_VIDEO:
        return _read_source(media, size, 1, limits)[0]
    if limits.reference_area is None:
        return read_frames(media, limits.fps, 1, (size.height, size.width))[0]
    picture = read_frames(media, limits.fps, 1, (info.height, info.width))[0]
    return letterbox(picture, limits.reference_area, limits.size_multiple)


def _read_whole(media: Media, limits: ModelLimits) -> np.ndarray | None:
    return None if limits.whole_source_frames is None else spread_frames(media, limits.whole_source_frames)


# --- what the person is told


def _length_notes(
    request: Request, limits: ModelLimits, num_frames: int, output_frames: int, source: MediaInfo | None
) -> list[str]:
    seconds = num_frames / limits.fps
    if source and request.num_frames and request.num_frames > num_frames:
        return [
            f"{num_frames} frames are made and not {request.num_frames}: the source has no more at {limits.fps:g} fps"
        ]
    if source and source.kind == "video" and request.num_frames is None:
        whole = source.num_frames / source.fps
        if num_frames == _frames_to_generate(None, limits, has_source=True) and whole > seconds:
            more = "unless num_frames says more"
            return [f"the first {seconds:.1f} s of the source's {whole:.1f} s are edited: {num_frames} frames {more}"]
        return [f"{num_frames} frames at {limits.fps:g} fps, as long as the source"]
    if output_frames < num_frames:
        stride = limits.frame_stride
        return [f"{num_frames} frames are generated and cut to {output_frames}, since the model makes 1 + {stride}n"]
    return []


def _window_notes(window: int | None, num_frames: int) -> list[str]:
    if window is None:
        return []
    return [f"{num_frames} frames are made {window} at a time, each window going on from the one before"]


def _rate_notes(request: Request, limits: ModelLimits, output_frames: int) -> list[str]:
    if request.fps is None or request.fps == limits.fps or output_frames == 1:
        return []
    speed = request.fps / limits.fps
    return [f"written at {request.fps:g} fps, {speed:.3g} times the speed: the model generates at {limits.fps:g} fps"]


def _speed_notes(request: Request, usual: ModelLimits) -> list[str]:
    steps = _steps(request, usual)
    if request.speed == "exact" or request.num_inference_steps is not None or steps == usual.num_inference_steps:
        return []
    return [f"{request.speed}: {steps} steps in place of {usual.num_inference_steps}"]


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value

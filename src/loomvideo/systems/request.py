"""What a person asked for becomes a plan: validated once, here, before any weights are touched.

Cheap checks come first, then the headers of files, then pixels. Sizes in messages are width x height.
"""

import math
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from loomvideo.media.clip import Clip, MediaInfo
from loomvideo.media.frames import FRAME_STRIDE
from loomvideo.media.inputs import Media, Picture, as_media, look, read_frames, spread_frames
from loomvideo.media.letterbox import letterbox

MAX_FRAMES = 20_000  # of a clip that is edited in windows
MIN_WINDOW = 1 + 2 * FRAME_STRIDE
MAX_PROMPT = 10_000  # characters
MAX_STEPS = 1_000  # the schedule's own number of noise levels
MAX_FPS = 240
MAX_SEED = 2**63 - 1
SPECIAL_TOKEN = re.compile(r"<\|\w+\|>")
MAX_RATIO = 200  # of the longer side to the shorter: no language model reads a narrower picture


class RequestError(ValueError):
    """A request that no model can serve: the value, the rule and the way out, in one line."""


class Task(StrEnum):
    TEXT_TO_IMAGE = "t2i"
    TEXT_TO_VIDEO = "t2v"
    EDIT = "edit"
    GUIDED_EDIT = "ref_edit"
    MULTI_IMAGE_TO_VIDEO = "mi2v"
    IMAGE_TO_VIDEO = "i2v"  # the one reference is the first frame
    CLONE = "clone"  # the source's motion or expression, the reference's subject
    CAMERA_CLONE = "camera_clone"  # the source's camera alone, in the reference's scene


# How many times fewer steps than the model's own. Of all that was measured (docs/benchmarks.md) this keeps the most.
# A request is read and decoded at any speed, so each takes a little fewer than half and than a fifth.
SPEEDS = {"exact": 1, "balanced": 2.5, "fast": 6}
LEAST_STEPS = 4  # are not made fewer, so that models of few steps stay as they are
EVERY_SYSTEM = ("t2i", "t2v", "edit", "ref_edit", "mi2v")


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What a person asked for; None leaves the choice to the source and the model.

    A picture file, a PIL picture and an array (y, x), (y, x, 3) or (y, x, 4) are pictures; a video file, a Clip, an
    array (t, y, x, 3) and a list of pictures are clips. Arrays are uint8 or floats in 0..1.
    """

    prompt: str
    source: Picture | Clip | Sequence[Picture] | None = None
    references: Sequence[Picture] = ()
    task: Task | str | None = None  # follows from what is given
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    window: int | None = None  # frames of a clip that are edited at a time; see sampling.windows
    fps: float | None = None  # of the file that is written; the model's own rate is part of the model
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_visual: float | None = None
    negative_prompt: str | None = None
    seed: int = 0  # -1: a fresh one is drawn, and the plan records it
    think: bool = False  # the language model says first what is to be seen; see systems.thinking
    speed: str = "exact"  # or "balanced" or "fast": fewer steps, where no number of them is asked for

    def __post_init__(self) -> None:
        alone = isinstance(self.references, str | Path | Image.Image | np.ndarray)
        object.__setattr__(self, "references", (self.references,) if alone else tuple(self.references or ()))


@dataclass(frozen=True, kw_only=True)
class ModelLimits:
    """What a model was trained for and defaults to; part of its configuration.

    ``area`` and ``max_area`` are in pixels a frame, of the size generated; ``fps`` is the rate it generates at.
    References are letterboxed at ``reference_area`` and keep their own ratio; without it they are cropped to the size
    generated. ``whole_source_frames`` frames spread over the whole of a source clip are planned beside those that are
    edited, for a language model that is to see all of it. ``task_defaults`` holds values of some tasks in place of the general ones: {"t2i": {"guidance_scale": 5.0}}; a task's
    name with "_image" behind it speaks of one frame.
    """

    fps: float
    area: int
    max_frames: int
    default_frames: int
    max_area: int
    default_source_frames: int | None = None  # read of a source whose length is not said; None: as many as can be made
    default_height: int | None = None  # without a source or reference; None: square, of ``area``
    default_width: int | None = None
    size_multiple: int = 32
    frame_stride: int = 4
    max_references: int = 8
    reference_area: int | None = None
    whole_source_frames: int | None = None
    num_inference_steps: int = 50
    guidance_scale: float = 5.0
    guidance_scale_edit: float = 2.5
    guidance_scale_visual: float = 1.5
    negative_prompt: str = ""
    tasks: tuple[str, ...] = EVERY_SYSTEM
    task_defaults: dict[str, dict[str, Any]] = field(default_factory=dict)

    def for_task(self, task: Task, *, still: bool) -> "ModelLimits":
        """The same with the task's own values in place of the general ones."""
        own = {"guidance_scale": self.guidance_scale_edit} if _takes(task)[0] else {}
        for key in (task, f"{task}_image") if still else (task,):
            own |= self.task_defaults.get(key, {})
        return replace(self, **own)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        if unknown := [name for name in self.tasks if name not in set(Task)]:
            raise ValueError(f"tasks={list(self.tasks)}: {unknown} are no tasks; use some of {', '.join(Task)}")
        known = {one.name for one in fields(self)}
        if unknown := {name for values in self.task_defaults.values() for name in values} - known:
            raise ValueError(f"task_defaults={self.task_defaults}: {sorted(unknown)} are no fields of ModelLimits")
        for name in ("max_frames", "default_frames", "default_source_frames"):
            count = getattr(self, name)
            if count is not None and (count < 1 or (count - 1) % self.frame_stride):
                raise ValueError(f"{name}={count}: the VAE takes 1 + {self.frame_stride}*n frames, so use such a count")
        if self.frame_stride != FRAME_STRIDE:
            raise ValueError(f"frame_stride={self.frame_stride}: clips are read for a VAE of stride {FRAME_STRIDE}")
        if not self.size_multiple**2 <= self.area <= self.max_area:
            raise ValueError(f"area={self.area}: must be from {self.size_multiple**2} to max_area={self.max_area}")
        if (self.default_height is None) != (self.default_width is None):
            raise ValueError("default_height and default_width go together: give both or neither")


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
    speed: str = "exact"
    notes: tuple[str, ...]  # what was chosen and why, for the person

    def cut(self, frames: Any) -> Any:
        """The output's part of generated frames (t, y, x, ...): the first frames, the centre of each."""
        top, left = _margin(self.height, self.output_height), _margin(self.width, self.output_width)
        return frames[: self.output_frames, top : top + self.output_height, left : left + self.output_width]

    def part(self, start: int, stop: int) -> "Plan":
        """The plan of the latent frames from `start` up to `stop` as a clip of its own."""
        if stop - start == latent_frames(self.num_frames):
            return self
        first, last = FRAME_STRIDE * start, FRAME_STRIDE * (stop - 1) + 1
        frames = {"num_frames": last - first, "output_frames": last - first}
        source = None if self.source is None else self.source[first:last]
        return replace(self, source=source, whole_source=None, window=None, **frames)


def latent_frames(num_frames: int) -> int:
    """Latent frames of a clip of 1 + 4n."""
    return (num_frames - 1) // FRAME_STRIDE + 1


def plan(request: Request, limits: ModelLimits) -> Plan:
    """Decide everything. Raises RequestError for what was asked and MediaError for what is in a file."""
    _check_options(request, limits)
    task = _resolve_task(request, limits)
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
        think=request.think,
        speed=request.speed,
        notes=(
            *size.notes,
            *_length_notes(request, usual, num_frames, output_frames, source_info),
            *_window_notes(_window(request, usual, num_frames), num_frames),
            *_rate_notes(request, usual, output_frames),
            *_speed_notes(request, usual),
        ),
    )


def _steps(request: Request, usual: ModelLimits) -> int:
    if request.num_inference_steps is not None:
        return int(request.num_inference_steps)
    return steps_at(request.speed, int(usual.num_inference_steps))


def steps_at(speed: str, steps: int) -> int:
    """How many of a model's own steps a speed takes."""
    return min(steps, max(LEAST_STEPS, int(steps / SPEEDS[speed])))


def _speed_notes(request: Request, usual: ModelLimits) -> list[str]:
    steps = _steps(request, usual)
    if request.speed == "exact" or request.num_inference_steps is not None or steps == usual.num_inference_steps:
        return []
    return [f"{request.speed}: {steps} steps in place of {usual.num_inference_steps}"]


def frames_to_describe(shown: Any, question: str, limits: ModelLimits) -> np.ndarray:
    """Frames uint8 (t, y, x, 3) spread over a whole clip, or the one of a picture, near the model's own area."""
    _check_text("question", question, empty="ask something")
    media = as_media("the clip or picture", shown, limits.fps)
    info = look(media)
    seconds = info.num_frames / info.fps if info.kind == "video" else 0.0
    rate = min(limits.fps, limits.max_frames / seconds) if seconds else limits.fps
    return read_frames(media, rate, limits.max_frames, _fit(info.width / info.height, limits.area, limits))


# --- options, before any file is opened


def _check_options(request: Request, limits: ModelLimits) -> None:
    _check_text("prompt", request.prompt, empty="say what is to be seen")
    if request.negative_prompt is not None:
        _check_text("negative_prompt", request.negative_prompt)
    for name in ("height", "width"):
        _check_whole(name, getattr(request, name), "pixels")
    _check_whole("num_frames", request.num_frames, "frames", maximum=MAX_FRAMES if request.source is not None else None)
    _check_whole("num_inference_steps", request.num_inference_steps, "steps", maximum=MAX_STEPS)
    _check_real("fps", request.fps, above=0, maximum=MAX_FPS)
    _check_real("guidance_scale", request.guidance_scale)
    _check_real("guidance_scale_visual", request.guidance_scale_visual)
    if not _is_whole(request.seed) or not -1 <= request.seed <= MAX_SEED:
        raise RequestError(f"seed={request.seed!r}: must be a whole number from 0 to 2**63 - 1, or -1 to draw one")
    if request.num_frames is not None and request.num_frames > limits.max_frames and request.source is None:
        raise RequestError(
            f"num_frames={request.num_frames}: this model makes at most {limits.max_frames} frames "
            f"({limits.max_frames / limits.fps:.1f} s at {limits.fps:g} fps), so ask for {limits.max_frames} or fewer"
        )
    _check_window(request, limits)
    if request.height and request.width:
        _check_area(request.height, request.width, limits)
    if not isinstance(request.think, bool):
        raise RequestError(f"think={request.think!r}: must be true or false")
    if request.speed not in SPEEDS:
        raise RequestError(f"speed={request.speed!r}: must be one of {', '.join(SPEEDS)}")
    _check_references(request, limits)


def _check_text(name: str, text: object, empty: str | None = None) -> None:
    if not isinstance(text, str):
        raise RequestError(f"{name}={text!r}: must be text")
    if empty and not text.strip():
        raise RequestError(f"{name} is empty: {empty}")
    if mark := SPECIAL_TOKEN.search(text):
        raise RequestError(f"{name} holds {mark[0]!r}, a language model's own mark and no word: leave it out")
    if len(text) > MAX_PROMPT:
        raise RequestError(f"{name} has {len(text):,} characters: at most {MAX_PROMPT:,} are read, so shorten it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{name} holds a broken character at {error.start}: give it as UTF-8 text") from error


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check_whole(name: str, value: Any, unit: str, maximum: int | None = None) -> None:
    if value is None or (_is_whole(value) and 1 <= value <= (maximum or value)):
        return
    span = f"from 1 to {maximum}" if maximum else "of 1 or more"
    raise RequestError(f"{name}={value!r}: must be a whole number of {unit}, {span}")


def _check_real(name: str, value: Any, above: float | None = None, maximum: float = 1_000) -> None:
    if value is None:
        return
    real = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if real <= maximum and (real > above if above is not None else real >= 0):  # never true of nan
        return
    span = f"above {above:g}" if above is not None else "from 0"
    raise RequestError(f"{name}={value!r}: must be a number {span} and at most {maximum:g}")


def _check_window(request: Request, limits: ModelLimits) -> None:
    if request.window is None:
        return
    if not _is_whole(request.window) or not MIN_WINDOW <= request.window <= limits.max_frames:
        raise RequestError(
            f"window={request.window!r}: must be a whole number of frames from {MIN_WINDOW} to {limits.max_frames}, the most "
            "that this model makes at a time"
        )
    if request.source is None:
        raise RequestError(
            f"window={request.window}: a clip that is edited is made in windows; give a source, or no window"
        )


def _check_references(request: Request, limits: ModelLimits) -> None:
    count = len(request.references)
    if count > limits.max_references:
        raise RequestError(
            f"{count} references: this model takes at most {limits.max_references}, so leave {count - limits.max_references} out"
        )


def _resolve_task(request: Request, limits: ModelLimits) -> Task:
    following = _following_task(request)
    if request.task is None:
        return _served(following, limits)
    try:
        task = Task(request.task)
    except ValueError as error:
        known = ", ".join(limits.tasks)
        raise RequestError(f"task={request.task!r}: there is no such task; use one of {known}") from error
    if task is Task.TEXT_TO_IMAGE and request.num_frames not in (None, 1):
        raise RequestError(f"num_frames={request.num_frames}: task t2i makes one picture; use t2v or leave it out")
    if task is Task.TEXT_TO_VIDEO and request.num_frames == 1:
        task = Task.TEXT_TO_IMAGE
    if (has_source := request.source is not None, bool(request.references)) != _takes(task):
        needs_source, needs_references = _takes(task)
        raise RequestError(
            f"task={task} takes {'a' if needs_source else 'no'} source and {'' if needs_references else 'no '}references, "
            f"but {'a' if has_source else 'no'} source and {len(request.references)} references are given: "
            f"use task={following} or leave the task out"
        )
    if task is Task.IMAGE_TO_VIDEO and (len(request.references) != 1 or request.num_frames == 1):
        raise RequestError(
            f"task=i2v takes one reference, the first frame of several: {len(request.references)} references and "
            f"num_frames={request.num_frames} are given; use task=mi2v for other pictures"
        )
    return _served(task, limits)


def _served(task: Task, limits: ModelLimits) -> Task:
    if task not in limits.tasks:
        raise RequestError(
            f"task={task}: this model does {', '.join(limits.tasks)} only, so use another --system or model"
        )
    return task


def _following_task(request: Request) -> Task:
    if request.source is not None:
        return Task.GUIDED_EDIT if request.references else Task.EDIT
    if request.references:
        return Task.MULTI_IMAGE_TO_VIDEO
    return Task.TEXT_TO_IMAGE if request.num_frames == 1 else Task.TEXT_TO_VIDEO


def _takes(task: Task) -> tuple[bool, bool]:
    """Whether a task has a source, and whether it has references."""
    needs_source = task in (Task.EDIT, Task.GUIDED_EDIT, Task.CLONE, Task.CAMERA_CLONE)
    return needs_source, (needs_source and task is not Task.EDIT) or task in (
        Task.MULTI_IMAGE_TO_VIDEO,
        Task.IMAGE_TO_VIDEO,
    )


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
    _check_area(height, width, limits)
    size = _Size(_up(height, limits.size_multiple), _up(width, limits.size_multiple), height, width, tuple(notes))
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
    height, width = _fit(ratio, limits.area, limits)
    owner = "source" if request.source is not None else "first reference"
    return (
        height,
        width,
        [f"{width}x{height} was chosen: the {owner}'s {seen.width}x{seen.height} at the model's own area"],
    )


def _default_size(limits: ModelLimits) -> tuple[int, int]:
    if limits.default_height and limits.default_width:
        return limits.default_height, limits.default_width
    return _fit(1.0, limits.area, limits)


def _fit(ratio: float, area: int, limits: ModelLimits) -> tuple[int, int]:
    """The height and width, multiples both, nearest to a ratio (width / height) and an area; never above max_area."""
    multiple = limits.size_multiple
    height = max(1, round(math.sqrt(area / ratio) / multiple)) * multiple
    width = max(1, round(math.sqrt(area * ratio) / multiple)) * multiple
    if width >= height:
        return height, min(width, limits.max_area // height // multiple * multiple)
    return min(height, limits.max_area // width // multiple * multiple), width


def _check_area(height: int, width: int, limits: ModelLimits) -> None:
    generated_height, generated_width = _up(height, limits.size_multiple), _up(width, limits.size_multiple)
    if generated_height * generated_width <= limits.max_area:
        return
    ratio = max(1 / 64, min(64, width / height))
    fitting_height, fitting_width = _fit(ratio, limits.max_area, limits)
    raise RequestError(
        f"height={height}, width={width}: that generates {generated_width}x{generated_height} pixels and this model makes "
        f"at most {limits.max_area:,}, so use height={fitting_height}, width={fitting_width} or less"
    )


def _margin(whole: int, part: int) -> int:
    return round((whole - part) / 2)  # half to even, as pictures are cropped


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


# --- length


def _frames_to_generate(asked: int | None, limits: ModelLimits, *, has_source: bool) -> int:
    """1 + 4n; of a source as many are read, where it has them."""
    if asked is None:
        return (limits.default_source_frames or limits.max_frames) if has_source else limits.default_frames
    return 1 + _up(asked - 1, limits.frame_stride)


def _whole_length(source: MediaInfo, limits: ModelLimits) -> int:
    """1 + 4n frames, not fewer than the source has at the model's rate."""
    frames = math.ceil(source.num_frames / source.fps * limits.fps) if source.num_frames and source.fps else 1
    return min(1 + _up(frames, limits.frame_stride), MAX_FRAMES)


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


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value

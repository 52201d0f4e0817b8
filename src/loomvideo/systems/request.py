"""What a person asks for, what a model is limited to, and whether the one can be asked of the other: no file is opened here.

Sizes in messages are width x height.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from loomvideo.media.clip import Clip
from loomvideo.media.frames import FRAME_STRIDE
from loomvideo.media.inputs import Picture

MAX_FRAMES = 20_000  # of a clip that is edited in windows
MIN_WINDOW = 1 + 2 * FRAME_STRIDE
MAX_PROMPT = 10_000  # characters
MAX_STEPS = 1_000  # the schedule's own number of noise levels
MAX_FPS = 240
MAX_SEED = 2**63 - 1
SPECIAL_TOKEN = re.compile(r"<\|\w+\|>")


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
    think: bool | None = None  # whether the language model says first what is to be seen; see systems.thinking
    speed: str = "exact"  # or "balanced" or "fast": fewer steps, where no number of them is asked for
    keep_source: bool | None = None  # whether what an edit leaves alone shows the source's own pixels; see systems.kept

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
    keep_source: bool = False
    think: bool = False
    negative_prompt: str = ""
    tasks: tuple[str, ...] = EVERY_SYSTEM
    task_defaults: dict[str, dict[str, Any]] = field(default_factory=dict)

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

    def for_task(self, task: Task, *, still: bool) -> "ModelLimits":
        """The same with the task's own values in place of the general ones."""
        own = {"guidance_scale": self.guidance_scale_edit} if _takes(task)[0] else {}
        for key in (task, f"{task}_image") if still else (task,):
            own |= self.task_defaults.get(key, {})
        return replace(self, **own)

    def fit(self, ratio: float, area: int) -> tuple[int, int]:
        """The height and width, multiples both, nearest to a ratio (width / height) and an area; never above max_area."""
        multiple = self.size_multiple
        height = max(1, round(math.sqrt(area / ratio) / multiple)) * multiple
        width = max(1, round(math.sqrt(area * ratio) / multiple)) * multiple
        if width >= height:
            return height, min(width, self.max_area // height // multiple * multiple)
        return min(height, self.max_area // width // multiple * multiple), width


def steps_at(speed: str, steps: int) -> int:
    """How many of a model's own steps a speed takes."""
    return min(steps, max(LEAST_STEPS, int(steps / SPEEDS[speed])))


def check_options(request: Request, limits: ModelLimits) -> None:
    check_text("prompt", request.prompt, empty="say what is to be seen")
    if request.negative_prompt is not None:
        check_text("negative_prompt", request.negative_prompt)
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
        check_area(request.height, request.width, limits)
    if not isinstance(request.think, bool | None):
        raise RequestError(f"think={request.think!r}: must be true or false")
    if not isinstance(request.keep_source, bool | None):
        raise RequestError(f"keep_source={request.keep_source!r}: must be true or false")
    if request.keep_source and request.source is None:
        raise RequestError("keep_source: there is no source to keep; give one, or leave it out")
    if request.speed not in SPEEDS:
        raise RequestError(f"speed={request.speed!r}: must be one of {', '.join(SPEEDS)}")
    _check_references(request, limits)


def check_text(name: str, text: object, empty: str | None = None) -> None:
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


def resolve_task(request: Request, limits: ModelLimits) -> Task:
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


def check_area(height: int, width: int, limits: ModelLimits) -> None:
    """RequestError for a size of which the model makes less."""
    generated_height, generated_width = round_up(height, limits.size_multiple), round_up(width, limits.size_multiple)
    if generated_height * generated_width <= limits.max_area:
        return
    ratio = max(1 / 64, min(64, width / height))
    fitting_height, fitting_width = limits.fit(ratio, limits.max_area)
    raise RequestError(
        f"height={height}, width={width}: that generates {generated_width}x{generated_height} pixels and this model makes "
        f"at most {limits.max_area:,}, so use height={fitting_height}, width={fitting_width} or less"
    )


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple

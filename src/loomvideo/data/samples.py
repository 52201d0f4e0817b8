"""A sample as training meets it, wherever it came from, and the errors of those that cannot be used."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from loomvideo.data.buckets import num_tokens
from loomvideo.data.world.scene import Scene
from loomvideo.media.limits import MediaError

# The task of a sample whose words stand for themselves; before those of all others a system puts what it is used to.
AS_WRITTEN = "as_written"


class DataError(ValueError):
    """Data that cannot be trained from: the value, the rule and the way out, in one line."""


BAD = (DataError, MediaError)  # what reading a bad sample raises; all else is a mistake of ours


class Sample(Protocol):
    """What a `Recipe` prepares. The little world's samples are such, and those that are read from files.

    Frames may be drawn or decoded anew whenever they are asked for.
    """

    @property
    def task(self) -> str: ...  # one of data.world.tasks.TASKS, or AS_WRITTEN

    @property
    def prompt(self) -> str: ...

    @property
    def height(self) -> int: ...  # of target and source

    @property
    def width(self) -> int: ...

    @property
    def num_frames(self) -> int: ...

    @property
    def scene(self) -> Scene | None: ...  # what the target shows, where somebody knows

    @property
    def source_scene(self) -> Scene | None: ...

    @property
    def style(self) -> str | None: ...  # the formula that the target is; its scene is then the source's

    def target_frames(self) -> np.ndarray | None: ...  # uint8 (t, y, x, 3); None where the answer is text

    def source_frames(self) -> np.ndarray | None: ...  # of the target's shape; None where there is no source

    def reference_pictures(self) -> tuple[np.ndarray, ...]: ...  # uint8 (y, x, 3), of any sizes


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameSample:
    """A `Sample` whose pixels are at hand; nobody knows a scene of it."""

    task: str
    prompt: str
    target: np.ndarray
    source: np.ndarray | None = None
    references: tuple[np.ndarray, ...] = ()
    scene: None = None
    source_scene: None = None
    style: None = None

    @property
    def num_frames(self) -> int:
        return self.target.shape[0]

    @property
    def height(self) -> int:
        return self.target.shape[1]

    @property
    def width(self) -> int:
        return self.target.shape[2]

    def target_frames(self) -> np.ndarray:
        return self.target

    def source_frames(self) -> np.ndarray | None:
        return self.source

    def reference_pictures(self) -> tuple[np.ndarray, ...]:
        return self.references


class Layout(NamedTuple):
    """What samples must share to stand in one batch, as `kind`, and what the denoiser spends on each of them."""

    kind: Hashable
    tokens: int


def pixel_layout(
    task: str, shape: tuple[int, int, int], *, has_source: bool, references: tuple[tuple[int, ...], ...]
) -> Layout:
    """Of a target (t, y, x); tokens are the target's and the references', as published (fact sheet 8.3)."""
    tokens = num_tokens(*shape) + sum(num_tokens(1, height, width) for height, width in references)
    return Layout((task, shape, has_source, references), tokens)

"""A clip of any length in windows of one that a model can make: where they lie, and how one goes on from another.

Counted in latent frames. Each window is made as a clip of its own, whose first latent frame stands for one frame of pixels
and not for as many as it does on its place in the whole clip (four, of most VAEs): behind the first window it is dropped. The frames after it that
the window before has made, too, are blended at every step: the first takes that window's velocity, the following less and
less of it. All windows take their noise from the whole clip's, so that shared frames go one way through any solver.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """Where a window lies in a clip, and which of the clip's frames it makes: from `first` up to `last`, exclusive."""

    start: int
    stop: int
    first: int
    last: int
    shared: int  # of its frames, behind the one that is dropped, those that the window before has, too

    @property
    def made(self) -> slice:
        """Those frames in the window's own latents."""
        return slice(self.first - self.start, self.last - self.start)


def windows(total: int, size: int) -> list[Window]:
    """Windows of `size` latent frames, 3 or more, over a clip of `total`; a quarter of each lies over the one before.

    The last lies over as much as is needed to end where the clip ends. ValueError where windows are too small.
    """
    if size >= total:
        return [Window(0, total, 0, total, 0)]
    if size < 3:
        raise ValueError(f"windows of {size} latent frames: one is dropped and one shared, so 3 is the least")
    stride = size - max(2, size // 4)
    starts = [*range(0, total - size, stride), total - size]
    firsts = [0, *(start + 1 for start in starts[1:])]
    lasts = [*firsts[1:], total]
    before = [0, *starts[:-1]]
    return [
        Window(start, start + size, first, last, shared=max(0, previous + size - start - 1) if first else 0)
        for start, first, last, previous in zip(starts, firsts, lasts, before, strict=True)
    ]


class Seam:
    """What one window leaves to the next: the velocities of the frames that both make, step by step."""

    def __init__(self, places: Sequence[Window]) -> None:
        self.places = places
        self.current = -1
        self.left: list[Tensor] = []  # of the window before, (b, c, shared, y, x) each
        self.leaving: list[Tensor] = []

    def begin(self, place: int) -> None:
        """The window at this place is the one that is made from here on."""
        self.current, self.left, self.leaving = place, self.leaving, []

    def __call__(self, step: int, velocity: Tensor) -> Tensor:
        """A window's guided velocity (b, c, f, y, x) at a step, blended with that of the window before."""
        window = self.places[self.current]
        if window.shared:
            weights = torch.linspace(1, 0, window.shared + 1, device=velocity.device)[
                :-1, None, None
            ]  # of the older one
            velocity = velocity.clone()
            shared = velocity[:, :, 1 : 1 + window.shared]
            shared.copy_(torch.lerp(shared, self.left[step], weights.to(velocity.dtype)))
        if self.current + 1 < len(self.places):
            following = self.places[self.current + 1]
            self.leaving.append(velocity[:, :, following.start + 1 - window.start :].clone())
        return velocity

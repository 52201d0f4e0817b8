"""Denoising by several models, each for a part of the noise levels."""

from collections.abc import Callable

from torch import Tensor

from loomvideo.sampling.sampler import Branch


class Experts:
    """A branch that one model serves at timesteps from `boundary` on, and another below it (fact sheet 9.1).

    `high` and `low` make the branch of a model, which computes what no step changes. Each is called when its model's first
    step has come, and what it made is let go at the boundary, so that one model's keys and values are held at a time.
    """

    def __init__(self, high: Callable[[], Branch], low: Callable[[], Branch], boundary: float) -> None:
        self.high, self.low, self.boundary = high, low, boundary
        self._maker: Callable[[], Branch] | None = None
        self._branch: Branch | None = None

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        maker = self.high if timestep >= self.boundary else self.low
        if self._branch is None or maker is not self._maker:
            self._branch = None
            self._maker, self._branch = maker, maker()
        return self._branch(latents, timestep)

"""Approximations of the sampling loop: what a step can take from the steps before it. All are off by default.

Each branch is a network; guidance asks several. A step may ask the most conditioned one alone, ask none at all, or run one
block of it. What was measured of them is in docs/benchmarks.md.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from loomvideo.sampling.guidance import guide

Branch = Callable[[Tensor, Tensor], Tensor]  # (latents, timestep) -> the velocities of one or more branches, stacked
NUM_LEVELS = 1000  # a timestep is this many times the noise level
FIRST_STEPS, LAST_STEPS = 3, 1  # are never forecast: what is seen is decided in the first, and shown by the last


@dataclass(frozen=True, kw_only=True)
class Shortcuts:
    """What is left out of a request's steps; these defaults leave nothing out.

    `guided_levels`: noise levels, from 0 to 1, at which there is guidance; the most conditioned branch alone is asked at
        others.
    `guidance_every`: all branches are asked at every so-manieth of those steps; in between what guidance added last is
        added to the most conditioned branch.
    `forecast_every`: velocities are computed at every so-manieth step and forecast in between along the line through the
        last two (TaylorSeer's first order, of the velocity itself).
    `first_block`: where the first block's change differs by less than this part from when all blocks last ran, what the
        other blocks did then is taken again (the first-block cache); 0 is never.
    """

    guided_levels: tuple[float, float] = (0.0, 1.0)
    guidance_every: int = 1
    forecast_every: int = 1
    first_block: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.guided_levels
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"guided_levels={self.guided_levels}: must be two noise levels from 0 to 1, the lower first"
            )
        for name in ("guidance_every", "forecast_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be 1, which is every step, or more")
        if self.first_block < 0:
            raise ValueError(f"first_block={self.first_block}: must be a part such as 0.1, or 0 for never")

    @property
    def skips_branches(self) -> bool:
        """Whether branches must be asked one by one for this to save anything."""
        return self.guided_levels != (0.0, 1.0) or self.guidance_every > 1

    def forecasts(self, step: int, num_steps: int) -> bool:
        """Whether a step's velocity is forecast."""
        if step < FIRST_STEPS or step >= num_steps - LAST_STEPS:
            return False
        return (step - FIRST_STEPS + 1) % self.forecast_every != 0


EXACT = Shortcuts()


class GuidedVelocity:
    """The guided velocity of every step of one run, from branches and the scales between them."""

    def __init__(self, branches: Sequence[Branch], scales: Sequence[float], shortcuts: Shortcuts = EXACT) -> None:
        self.branches, self.scales, self.shortcuts = branches, scales, shortcuts
        self.known: list[tuple[float, Tensor]] = []  # timesteps and velocities of the last two computed steps
        self.guidance: Tensor | None = None  # what it added to the most conditioned branch when it was last computed
        self.guided_steps = 0

    def __call__(self, step: int, num_steps: int, latents: Tensor, timestep: Tensor) -> Tensor:
        if self.shortcuts.forecasts(step, num_steps):
            return self._forecast(float(timestep))
        velocity = self._computed(latents, timestep)
        if self.shortcuts.forecast_every > 1:
            self.known = [*self.known[-1:], (float(timestep), velocity)]
        return velocity

    def _computed(self, latents: Tensor, timestep: Tensor) -> Tensor:
        if self.shortcuts.skips_branches and self.scales:
            low, high = self.shortcuts.guided_levels
            if not low <= float(timestep) / NUM_LEVELS <= high:
                return self.branches[-1](latents, timestep)[-1]
            self.guided_steps += 1
            if self.guidance is not None and (self.guided_steps - 1) % self.shortcuts.guidance_every:
                return self.branches[-1](latents, timestep)[-1] + self.guidance
        velocities = torch.cat([branch(latents, timestep) for branch in self.branches])
        guided = guide(velocities.unbind(), self.scales)
        if self.shortcuts.guidance_every > 1:
            self.guidance = guided - velocities[-1]
        return guided

    def _forecast(self, timestep: float) -> Tensor:
        (earlier, before), (later, velocity) = self.known
        if earlier == later:
            return velocity
        return velocity + (timestep - later) / (later - earlier) * (velocity - before)


class FirstBlockCache:
    """A denoiser whose blocks after the first are passed over while the first does what it did.

    `blocks` are all of them in order; each takes tokens (b, n, d), or two streams of them that a later block takes as one,
    and gives the same. Every branch has a memory of its own: `of` gives a branch that uses it.
    """

    def __init__(self, blocks: Sequence[nn.Module], threshold: float) -> None:
        self.threshold = threshold
        self.memory: dict[str, Tensor] = {}  # of the branch at work
        self.passing = False
        self.pairs = [False] * len(blocks)  # blocks that give two streams
        self.forwards = [block.forward for block in blocks]

    def of(self, branch: Branch) -> Branch:
        memory: dict[str, Tensor] = {}

        def remembering(latents: Tensor, timestep: Tensor) -> Tensor:
            self.memory = memory
            return branch(latents, timestep)

        return remembering

    def run(self, place: int, *given: Any) -> Any:
        """In place of a block's forward."""
        if place and self.passing:
            last = place == len(self.forwards) - 1
            return given[0] + self.memory["rest"] if last else given[:2] if self.pairs[place] else given[0]
        result = self.forwards[place](*given)
        self.pairs[place] = isinstance(result, tuple)
        if place == 0:
            self._judge(_tokens(given[:2] if self.pairs[0] else given[0]), _tokens(result))
        if place == len(self.forwards) - 1:
            self.memory["rest"] = result - self.memory.pop("after")
        return result

    def _judge(self, before: Tensor, after: Tensor) -> None:
        change, usual = after - before, self.memory.get("change")
        self.passing = usual is not None and bool((change - usual).abs().mean() < self.threshold * usual.abs().mean())
        if not self.passing:
            self.memory |= {"change": change, "after": after}


def _tokens(streams: Tensor | tuple[Tensor, ...]) -> Tensor:
    return torch.cat(streams, dim=1) if isinstance(streams, tuple) else streams


@contextmanager
def caching(models: Sequence[Any], threshold: float) -> Iterator[Callable[[Branch], Branch]]:
    """While it lasts, denoisers have a first-block cache; gives what makes branches use it. Nothing at a threshold of 0.

    A model names the classes of its blocks in `_repeated_blocks`, as diffusers has it.
    """
    caches: list[FirstBlockCache] = []
    replaced: list[tuple[nn.Module, Any]] = []
    for model in models if threshold else ():
        blocks = [module for module in model.modules() if type(module).__name__ in model._repeated_blocks]
        cache = FirstBlockCache(blocks, threshold)
        for place, block in enumerate(blocks if len(blocks) > 1 else ()):
            replaced.append((block, vars(block).get("forward")))
            block.forward = partial(cache.run, place)
        caches.append(cache)

    def remembering(branch: Branch) -> Branch:
        for cache in caches:
            branch = cache.of(branch)
        return branch

    try:
        yield remembering
    finally:
        for block, before in replaced:
            if before is None:
                del block.forward
            else:
                block.forward = before

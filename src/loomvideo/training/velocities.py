"""What a denoiser said while a recipe's objective was computed.

Recipes give squared errors; post-training compares velocities, too. The target's velocity is what every system's denoiser
returns, so that it can be kept on its way.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from loomvideo.training.lora import denoiser_of


@contextmanager
def kept_velocities(model: Any) -> Iterator[list[Tensor]]:
    """While it lasts, every velocity (b, c, f, y, x) of the denoiser in ``model``, float32, is added to the list."""
    kept: list[Tensor] = []

    def keep(denoiser: nn.Module, given: Any, velocity: Tensor) -> None:
        kept.append(velocity.float())

    handle = denoiser_of(model).register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()

"""Reference pictures: clean tokens behind the target's, at negative times, with a zero timestep (fact sheet 4.4 to 4.6)."""

from collections.abc import Callable

import torch
from torch import Tensor

TIME_STRIDE = (
    10  # the first reference sits at frame -10, the second at -20, ...: far from each other and from the target
)


def reference_time(index: int) -> int:
    """The temporal position of every frame of reference `index` (from 0)."""
    return -TIME_STRIDE * (index + 1)


def modulate_segments(
    function: Callable[..., Tensor],
    tokens: tuple[Tensor, ...],
    num_target: int,
    target_rows: tuple[Tensor, ...],
    reference_rows: tuple[Tensor, ...],
) -> Tensor:
    """Apply `function(*tokens, *rows)` to the target tokens with the sample's rows, to the references with theirs.

    A zero timestep makes the references' modulation the learned tables alone, so a sample has two distinct rows,
    (b, 1, d) and (1, 1, d), and a split index; a row per token would fill gigabytes at full size.
    """
    if tokens[0].shape[1] == num_target:
        return function(*tokens, *target_rows)
    target = function(*(part[:, :num_target] for part in tokens), *target_rows)
    references = function(*(part[:, num_target:] for part in tokens), *reference_rows)
    return torch.cat([target, references], dim=1)

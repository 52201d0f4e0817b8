"""Guidance over any number of branches."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor


def guide(velocities: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """From least to most conditioned: v0 + sum_i scale_i * (v_i - v_{i-1}).

    One scale is classifier-free guidance; two are LoomVideo's cascade over unconditional, visual and full branches.
    ValueError where there is not one scale fewer than velocities.
    """
    guided = velocities[0]
    for scale, (weaker, stronger) in zip(scales, pairwise(velocities), strict=True):
        guided = guided + scale * (stronger - weaker)
    return guided


def standard_scale(released_scale: float) -> float:
    """The scale with which `guide` gives Omni-Video's released form v_c + s * (v_c - v_u) (its fact sheet, 8)."""
    return released_scale + 1

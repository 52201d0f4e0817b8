"""Flow times of the published validation loss, and the noise bands it is reported in (fact sheet 6)."""

from typing import Literal

import torch
from torch import Tensor

NUM_TIMES = 19


def validation_times() -> Tensor:
    """Fixed flow times (19,): 1/20, 2/20 ... 19/20."""
    return torch.linspace(1 / (NUM_TIMES + 1), NUM_TIMES / (NUM_TIMES + 1), NUM_TIMES)


def noise_band(time: float) -> Literal["low", "mid", "high"]:
    """The third of 0..1 that a flow time lies in."""
    if time < 1 / 3:
        return "low"
    return "mid" if time < 2 / 3 else "high"

"""Flow times of the published validation loss, and the noise bands it is reported in (fact sheet 6)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

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


def band_means(errors: Sequence[float]) -> dict[str, float]:
    """The mean of errors at the fixed times, over all of them and by band."""
    bands: dict[str, list[float]] = {"all": list(errors)}
    for time, error in zip(validation_times().tolist(), errors, strict=True):
        bands.setdefault(noise_band(time), []).append(error)
    return {band: sum(values) / len(values) for band, values in bands.items()}


def at_time(batch: Any, time: float) -> Any:
    """A recipe's batch with another flow time, the same for all of its samples."""
    if hasattr(batch, "at_time"):
        return batch.at_time(time)
    return replace(batch, time=torch.full_like(batch.time, time))

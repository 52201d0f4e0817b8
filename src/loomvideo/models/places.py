"""Absolute places: what tells a target token where in the clip it lies.

Rotary positions say only how far tokens lie apart; a request that says where something is needs the place itself.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

WAVES = math.pi / 2 * torch.logspace(0, 6, 8, base=2, dtype=torch.float64)  # 1 to 64 quarter turns over the clip
NUM_FEATURES = 3 * (1 + 2 * len(WAVES)) + 1


def place_features(grid: tuple[int, int, int], shown: Sequence[int] | None = None) -> Tensor:
    """Features (1, n, 52) of the tokens of a grid, or of its frames ``shown``, in the order time, row, column.

    Of each axis: the token's centre from -1 to 1, and sines and cosines of it. Of all: the shape of the frame. Time goes
    from the first frame to the last, and a picture lies in the middle of it.
    """
    frames, rows, columns = grid
    time = torch.linspace(0, 1, frames, dtype=torch.float64) if frames > 1 else torch.tensor([0.5], dtype=torch.float64)
    if shown is not None:
        time = time[list(shown)]
    centres = [time, *((torch.arange(size, dtype=torch.float64) + 0.5) / size for size in (rows, columns))]
    axes = [
        torch.cat([2 * c[:, None] - 1, (c[:, None] * WAVES).sin(), (c[:, None] * WAVES).cos()], dim=1) for c in centres
    ]
    sizes = (len(time), rows, columns)
    parts = [part.expand(*sizes, -1) for part in (axes[0][:, None, None], axes[1][:, None], axes[2])]
    shape = torch.full((*sizes, 1), math.log2(columns / rows), dtype=torch.float64)
    return torch.cat([*parts, shape], dim=-1).flatten(0, 2).unsqueeze(0).float()


class PlaceEmbedding(nn.Linear):
    """Places at the denoiser's width, which are added to the target's tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__(NUM_FEATURES, dim)

    def reset_parameters(self) -> None:
        """About as large as an embedded patch of noise is."""
        nn.init.normal_(self.weight, std=0.1)
        nn.init.zeros_(self.bias)

    def tokens(self, grid: tuple[int, int, int], device: torch.device, shown: Sequence[int] | None = None) -> Tensor:
        """(1, n, d) for the tokens of a grid, or of its frames ``shown``."""
        return self(place_features(grid, shown).to(device, self.weight.dtype))

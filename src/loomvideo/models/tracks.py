"""Where the items of a plan are at the time of each frame.

A plan says of what moves where it begins and where it goes. A denoiser that has to find out at every token how far that is by
then draws it at both ends; here an item's state becomes one for each frame, and tokens read those of their own. Layouts of
their own for frames are those of Lian et al., "LLM-grounded Video Diffusion Models", 2023.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = 512
WAVES = math.pi / 2 * 2.0 ** torch.arange(5)  # 1 to 16 quarter turns over the clip
TIME_FEATURES = 1 + 2 * len(WAVES)


def time_features(times: Tensor) -> Tensor:
    """(f,) in 0..1 over a clip -> (f, 11)."""
    turns = times[:, None] * WAVES.to(times)
    return torch.cat([2 * times[:, None] - 1, turns.sin(), turns.cos()], dim=1)


class Tracks(nn.Module):
    """States of items, moved to the times of frames; a new one leaves them as they are."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(dim, HIDDEN)
        self.time = nn.Linear(TIME_FEATURES, 2 * HIDDEN)
        self.middle = nn.Linear(HIDDEN, HIDDEN)
        self.last = nn.Linear(HIDDEN, dim)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, states: Tensor, times: Tensor) -> Tensor:
        """States (b, m, dm), times (f,) in 0..1 over the clip -> (b, f, m, dm)."""
        states = F.rms_norm(states, states.shape[-1:]).unsqueeze(1)
        scale, shift = self.time(time_features(times).to(states)).unsqueeze(1).chunk(2, dim=-1)  # (f, 1, hidden)
        hidden = F.gelu(self.first(states) * (1 + scale) + shift)
        return states + self.last(F.gelu(self.middle(hidden)))


def frame_times(num_frames: int, shown: Sequence[int] | None, device: torch.device) -> Tensor:
    """When a clip's latent frames, or those ``shown``, are: from 0 to 1."""
    times = torch.linspace(0, 1, num_frames, device=device)
    return times if shown is None else times[list(shown)]


def own_items(num_tokens: Sequence[int], num_items: int, device: torch.device) -> Tensor:
    """Which of so many parts' items (n, parts x m) the tokens of each part read, bool: their own."""
    parts = torch.arange(len(num_tokens), device=device)
    tokens = parts.repeat_interleave(torch.tensor(num_tokens, device=device))
    return tokens[:, None] == parts.repeat_interleave(num_items)

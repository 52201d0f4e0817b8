"""Learnable queries: vectors behind a chat through which the language model speaks to the denoiser (fact sheet 3.3)."""

import torch
from torch import Tensor


def positions_with_queries(positions: Tensor, num_queries: int, attention_mask: Tensor | None = None) -> Tensor:
    """Rotary positions (axes, b, m) of a chat -> (axes, b, m + num_queries), the queries' behind.

    Every axis goes on from the last real token, whose position the first query shares. `attention_mask` (b, m) is 1 at
    real tokens; None when nothing is padded.
    """
    batch, length = positions.shape[1:]
    last = torch.full((batch,), length - 1, device=positions.device)
    if attention_mask is not None:
        last = (attention_mask * torch.arange(length, device=positions.device)).argmax(dim=1)
    start = positions.gather(2, last.expand(len(positions), -1)[..., None])  # (axes, b, 1)
    return torch.cat([positions, start + torch.arange(num_queries, device=positions.device)], dim=2)

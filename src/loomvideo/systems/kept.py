"""The pixels that an edit leaves alone: where its latents are the source's, its frames are the source's, too.

No VAE gives a frame back as it was. Where nothing has changed there is no reason to show what it makes of the source in place of
the source.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Root mean square distances of a place's normalised latents: up to the first it is the source's, from the second on another.
SAME, CHANGED = 0.03, 0.08


class KeptSource:
    """Puts a source, uint8 (t, y, x, 3), back into the frames of its edit.

    It is told of latents and given frames in their order, in parts of any length; frames never before their latents.
    Behind the first, every latent frame stands for `frames_a_latent` frames.
    """

    def __init__(self, source: np.ndarray, frames_a_latent: int) -> None:
        self.source, self.frames_a_latent = source, frames_a_latent
        self.shares = torch.empty(0)  # (f, y, x) of the latents, how far each place is the source's
        self.before: Tensor | None = None
        self.num_shown = 0

    def compare(self, latents: Tensor, source: Tensor) -> None:
        """Take up the next latents (1, c, f, y, x) of the edit and of its source."""
        distance = (latents.float() - source.to(latents).float()).square().mean(dim=1).sqrt()[0].cpu()  # (f, y, x)
        if len(self.source) > 1 and self.frames_a_latent > 1:
            # what moves may have been at a place beside, and only between two latent frames
            distance = F.max_pool2d(distance[:, None], 3, stride=1, padding=1)[:, 0]
            first = distance[:1] if self.before is None else self.before
            before, self.before = torch.cat([first, distance[:-1]]), distance[-1:]
            distance = torch.maximum(distance, before)
        self.shares = torch.cat([self.shares, ((CHANGED - distance) / (CHANGED - SAME)).clamp(0, 1)])

    def into(self, frames: Tensor) -> Tensor:
        """The next frames (t, y, x, 3) in 0..1, with the source's pixels where nothing has changed."""
        numbers = torch.arange(self.num_shown, self.num_shown + len(frames))
        self.num_shown += len(frames)
        if not len(frames):
            return frames
        shares = self.shares[(numbers + self.frames_a_latent - 1) // self.frames_a_latent][:, None]
        shares = F.interpolate(shares, size=frames.shape[1:3], mode="bilinear")[:, 0, ..., None].to(frames)
        source = torch.from_numpy(self.source[numbers.numpy()]).to(frames) / 255
        return torch.lerp(frames, source, shares)

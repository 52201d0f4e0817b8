"""What a denoiser's head says: the velocity itself, or the clean latents that it follows from; and what it need not say.

A velocity holds all of a token's noise. A denoiser that is hardly wider than its tokens (four latents of 48 numbers are 192,
the built-in models are 224 wide) is filled by carrying that noise from its input to its output; clean latents have far fewer
dimensions, and the noise is in the input already (Li and He, "Back to Basics: Let Denoising Generative Models Denoise", 2025).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PREDICTIONS = ("velocity", "clean")
LEAST_TIME = 0.05  # smaller ones would blow errors of the clean latents up


Copied = tuple[Tensor, Tensor]  # a source (b, c, f, y, x), and 1 or 0 (b, 1, 1, 1, 1) where there is one or none


class Palette(nn.Module):
    """What is flat: a few colours a token, and masks that say which of them stands where.

    A perceptron that says an object's pixels multiplies its shape by its colour for every pixel by itself, and has to learn it
    of every pair; here the head multiplies. Slots are decoded so in Locatello et al., "Object-Centric Learning with Slot
    Attention", 2020. Of an edit, what colour a pixel of the source has takes part in where a colour stands (`keys`), and what
    it becomes (`mixes`): "yellow where it is red", "darker" are one number or nine a token, as the local affine colours of Gharbi
    et al., "Deep Bilateral Learning for Real-Time Image Enhancement", 2017. Both begin as nothing.

    For latents whose channels are pixels, colour first (training.vae).
    """

    CHANNELS = 3  # of a colour

    def __init__(self, dim: int, numbers: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.colours = nn.Linear(dim, size * self.CHANNELS)
        self.masks = nn.Linear(dim, size * numbers // self.CHANNELS)
        self.keys = nn.Linear(dim, size * self.CHANNELS)
        self.mixes = nn.Linear(dim, size * self.CHANNELS**2)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for layer in (self.keys, self.mixes):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, patch: int, source: Tensor | None) -> Tensor:
        """Tokens (b, n, d) of ``patch`` latents each, and the source's numbers behind them (b, n, patch and channel) or
        nothing -> numbers of the same layout, float32, channel last."""
        colours = self.colours(tokens).float().unflatten(-1, (self.size, self.CHANNELS))
        masks = self.masks(tokens).float().unflatten(-1, (self.size, -1)).transpose(2, 3)  # (b, n, pixels, k)
        if source is None:
            return self._numbers(masks.softmax(dim=3) @ colours, patch)
        pixels = source.float().unflatten(-1, (patch, self.CHANNELS, -1)).transpose(3, 4).flatten(2, 3)
        keys = self.keys(tokens).float().unflatten(-1, (self.size, self.CHANNELS))
        masks = (masks + pixels @ keys.transpose(2, 3)).softmax(dim=3)
        mixes = masks @ self.mixes(tokens).float().unflatten(-1, (self.size, -1))  # (b, n, pixels, 9)
        mixed = (mixes.unflatten(-1, (self.CHANNELS, self.CHANNELS)) * pixels.unsqueeze(3)).sum(dim=4)
        return self._numbers(masks @ colours + mixed, patch)

    def _numbers(self, pixels: Tensor, patch: int) -> Tensor:
        """(b, n, pixels, colour) -> (b, n, patch and channel)."""
        return pixels.unflatten(2, (patch, -1)).transpose(3, 4).flatten(2)


class CopyGate(nn.Module):
    """How far a predicted number is the source's own (a mixture as in See, Liu and Manning, "Get To The Point", 2017).

    What an edit leaves alone then passes by the blocks, which would have to carry it through every norm. Of a place that stays
    or changes, and a prediction with normal errors, the probability that it stays is logistic in their squared distance: the
    gate begins as that, of the whole place, and learns from the tokens what else speaks for it.
    """

    def __init__(self, dim: int, numbers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(numbers, dim))
        self.bias = nn.Parameter(torch.empty(numbers))
        self.sharpness = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.bias, 2.0)
        nn.init.constant_(self.sharpness, 3.4)  # a mean squared distance of 0.07 is as likely a change as none

    def forward(self, tokens: Tensor, said: Tensor, copied: Copied, arrange: Callable[[Tensor], Tensor]) -> Tensor:
        """Predicted numbers (b, c, f, y, x) of tokens (b, n, d), mixed with the source's; `arrange` lays (b, n, numbers) out
        as they are."""
        source, there = copied[0].float(), copied[1]
        said = said.float()
        distance = (said - source).square().mean(dim=1, keepdim=True)
        logits = arrange(F.linear(tokens, self.weight, self.bias)).float()
        copies = (logits - self.sharpness.float().exp() * distance).sigmoid()
        return torch.lerp(said, source, copies * there)


def copied_from(source: Tensor | None) -> Copied | None:
    """A source (b, c, f, y, x) with what says which of its samples have one: those that are not all zeros."""
    if source is None:
        return None
    return source, source.flatten(1).any(dim=1)[:, None, None, None, None].float()


def check_prediction(prediction: str, *, copies_source: bool = False) -> None:
    """Raise ValueError for a field of a denoiser's configuration that there is not, or fields that exclude each other."""
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction={prediction!r}: a denoiser predicts {' or '.join(PREDICTIONS)}")
    if copies_source and prediction != "clean":
        raise ValueError(f'copies_source and prediction={prediction!r}: only clean latents hold a source; use "clean"')


def velocity_of(said: Tensor, prediction: str, noisy: Tensor, timestep: Tensor) -> Tensor:
    """The velocity (b, c, f, y, x) of noisy latents z_t = (1 - t) x + t n at timestep (b,) = 1000 t.

    Of predicted clean latents x it is (z_t - x) / t.
    """
    if prediction == "velocity":
        return said
    time = (timestep.float() / 1000).clamp_min(LEAST_TIME)[:, None, None, None, None]
    return ((noisy.float() - said.float()) / time).type_as(said)

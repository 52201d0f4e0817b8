"""What a system brings to the trainer of denoisers; shards, batches, stages, schedule and log are the same for all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypedDict

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from loomvideo.data.world.tasks import Sample
from loomvideo.systems.pipeline import VideoPipeline
from loomvideo.training.freeze import Rule

# One prepared sample: tensors, numbers and text by name. Of every system's: "target" (c, f, y, x) float16, "references",
# a list of such, "task" and, where a scene is known, "cells" (n, 5) (see training.cells); the rest is its own.
Prepared = dict[str, Any]


class Sizes(TypedDict, total=False):
    """What a task's samples are drawn with; the world's own sizes where it says nothing."""

    num_frames: int
    height: int
    width: int


Mixture = Sequence[tuple[str, Sizes, float]]  # (task, sizes, share of the drawn batches)


@dataclass(frozen=True)
class Readers:
    """What every built-in system shares, and no denoiser's training changes."""

    vae: AutoencoderKLWan
    mllm: Qwen3VLForConditionalGeneration
    tokenizer: PreTrainedTokenizerFast

    def to(self, device: torch.device) -> "Readers":
        """The same objects, moved."""
        nn.ModuleList([self.vae, self.mllm]).to(device)
        return self


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a run: what its batches are of, and what learns."""

    until: float  # the share of the run at which it ends
    shares: Mapping[str, float]  # of the batches, by kind of prepared sample
    trained: Rule = "all"  # which parameters; see training.freeze


class Batch(Protocol):
    """Samples of one layout on the device, noise and times drawn."""

    @property
    def latents(self) -> Tensor: ...  # (b, c, f, y, x)

    @property
    def time(self) -> Tensor: ...  # (b,)


class Halfway(NamedTuple):
    """A block, its width d, and which of its output are the tokens (b, n, d) of a target that has so many."""

    block: nn.Module
    dim: int
    tokens: Callable[[Any, int], Tensor]


class Recipe(Protocol):
    """A system's part in the training of its denoiser. It is made of the `Readers`, and of nothing that differs between
    the process that trains and those that prepare samples."""

    mixture: Mixture  # what samples are drawn
    tokens_a_batch: Mapping[str, int]  # by type of device, as `num_tokens` counts them
    shared: Sequence[str]  # components that lie beside the system's folder, for the others

    def prepare(self, drawn: Sequence[Sample], rng: np.random.Generator) -> list[Prepared]:
        """Samples that share task, size and length as they are trained from, and others made of the same latents."""
        ...

    def kind(self, item: Prepared) -> str:
        """What the stages' shares speak of."""
        ...

    def num_tokens(self, item: Prepared) -> int:
        """What the denoiser spends on a sample."""
        ...

    def stages(self, start: Path | None) -> Sequence[Stage]:
        """The run from its beginning to its end, from nothing or from the weights in ``start``."""
        ...

    def build(self, start: Path | None) -> nn.Module:
        """All that is trained: new, or as it lies in the model folder ``start``."""
        ...

    def batch(self, items: Sequence[Prepared], rng: np.random.Generator, device: torch.device) -> Any:
        """A `Batch` of samples of one kind and layout; some lose conditions, so that guidance has its weaker branches."""
        ...

    def squared_errors(self, model: Any, batch: Any) -> Tensor:
        """Squared velocity errors of the target (b, c, f, y, x), float32."""
        ...

    def halfway(self, model: Any) -> "Halfway":
        """Where in the middle of the network the target's tokens are read out while it learns."""
        ...

    def save(self, model: Any, folder: Path) -> None:
        """Write what `build` made into ``folder``, trained."""
        ...

    def pipeline(self, trained: Path) -> VideoPipeline:
        """The built-in system, of what `save` wrote."""
        ...

    def byte_matrices(self, pipeline: Any) -> Sequence[nn.Parameter]:
        """Those of the system's own matrices that one byte a number is enough for."""
        ...

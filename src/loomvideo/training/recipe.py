"""What a system brings to the trainers of denoisers; samples, stages, schedule and log are the same for all.

All that is random in a sample's part of a batch (what it loses, its time, its noise) is drawn from the sample's own seed,
in that order, so that a step is the same on any number of ranks and workers and after any stop. What a batch loses as a
whole, its first sample says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypedDict

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from loomvideo.data.samples import Sample
from loomvideo.systems.pipeline import VideoPipeline
from loomvideo.systems.request import ModelLimits
from loomvideo.training.freeze import Rule
from loomvideo.training.mllm import BUILTIN_SIGHT, Sight
from loomvideo.training.objective import Shown, dynamic_shift, sample_time

# One prepared sample: tensors, numbers and text by name. Of every system's: "target" (c, f, y, x) float16, "references",
# a list of such, and "task"; the rest is its own.
Prepared = dict[str, Any]


class Sizes(TypedDict, total=False):
    """What a task's samples are drawn with; the world's own sizes where it says nothing."""

    num_frames: int
    height: int
    width: int


class Draw(NamedTuple):
    """A sample in a step, and what its dropout, time and noise are drawn from."""

    item: Prepared
    seed: tuple[int, ...]

    def rng(self) -> np.random.Generator:
        """For dropout, then time."""
        return np.random.default_rng(self.seed)

    def noise(self, device: torch.device) -> Tensor:
        """Standard normal, of the target's shape; it differs between kinds of device."""
        (state,) = np.random.SeedSequence(self.seed).generate_state(1, np.uint64)
        generator = torch.Generator(device).manual_seed(int(state >> np.uint64(1)))
        return torch.randn(self.item["target"].shape, generator=generator, device=device)


class Guidance(NamedTuple):
    """How sampling guides a request: what its branches lose, from least to most told, and the scales between them."""

    dropouts: Sequence[Mapping[str, float]]
    scales: Sequence[float]


class Batches(Protocol):
    """What a trainer draws from; its state is what a run needs to go on with the step after the last one."""

    def next(self) -> list[list[Draw]]:
        """This rank's groups of the next step, each of one kind and layout."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class BatchRules:
    """What samples lose and how noisy they become, under the published names (fact sheet 6 and 8.4)."""

    all_dropout_rate: float = 0.1  # all conditions, of samples; VINO's pictures, of batches
    text_dropout_rate: float = 0.1  # the text alone, of samples
    # A normal's sigmoid hardly ever comes near 1, where sampling begins and where words alone say what there is to be.
    even_time_share: float = 0.7  # of samples whose times are drawn evenly; not published
    # A source, or its other frames, betray what is to be at noise that hides a picture: words are learnt above it.
    source_shift_factor: float = 5.0  # how much further even times of samples with a source are shifted; not published
    clip_shift_factor: float = 2.0  # the same of clips without one
    base_timestep_shift: float = 3.0  # as sampling goes through them
    num_attn_token_base_shift: int = 64
    timestep_shift_scale: float = 0.5

    def shift(self, num_tokens: int) -> float:
        """How far the times of samples of ``num_tokens`` move towards noise."""
        return dynamic_shift(
            num_tokens,
            base=self.base_timestep_shift,
            base_tokens=self.num_attn_token_base_shift,
            scale=self.timestep_shift_scale,
        )

    def times(self, rngs: Sequence[np.random.Generator], num_tokens: int, *, has_source: bool, is_clip: bool) -> Tensor:
        """Flow times (b,) of samples of ``num_tokens``, one of each generator."""
        factor = self.even_factor(has_source=has_source, is_clip=is_clip)
        return sample_time(rngs, self.shift(num_tokens), even_share=self.even_time_share, even_factor=factor)

    def even_factor(self, *, has_source: bool, is_clip: bool) -> float:
        """How much further even times are shifted."""
        return self.source_shift_factor if has_source else self.clip_shift_factor if is_clip else 1.0


# What every built-in model's limits say; a recipe adds its own.
WORLD_LIMITS: Mapping[str, Any] = {
    "fps": 8.0,
    "area": 128 * 128,
    "max_area": 256 * 448,
    "max_frames": 17,
    "default_frames": 17,
    "num_inference_steps": 4,  # told a plan, more of them change nothing
    "guidance_scale": 1.0,  # a plan leaves little open that guidance could make likelier
    "guidance_scale_edit": 1.0,
    "guidance_scale_visual": 1.0,
    "keep_source": True,
    "think": True,
}
# What guidance branches lose, as rates that are certain or ruled out.
NO_DROPOUT = {"all_dropout_rate": 0.0, "text_dropout_rate": 0.0}
NO_TEXT = {"all_dropout_rate": 0.0, "text_dropout_rate": 1.0}
NOTHING_KEPT = {"all_dropout_rate": 1.0, "text_dropout_rate": 0.0}
Mixture = Sequence[tuple[str, Sizes, float]]  # (task, sizes, share of the drawn batches)


@dataclass(frozen=True)
class Readers:
    """What no denoiser's training changes, and what else a model's folder says of how requests are read."""

    vae: AutoencoderKLWan
    mllm: Qwen3VLForConditionalGeneration
    tokenizer: PreTrainedTokenizerFast
    sight: Sight = BUILTIN_SIGHT
    num_blocks: int | None = None  # of a denoiser whose blocks read a layer each; None: as many as there are layers
    only_last_layer: bool = False
    negative_prompt: str = ""
    system_turn: str | None = None  # what VINO's chats begin with
    plans: bool = False  # the language model plans requests, and the denoiser is told plans
    item_end: str | None = None  # as systems.loomvideo has it

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


def own_folder(start: Path, system: str) -> Path:
    """A system's folder: the model folder itself, or the one inside a folder of the built-in layout."""
    return start / system if (start / system).is_dir() else start


class Recipe(Protocol):
    """A system's part in the training of its denoiser. It is made of the `Readers`, and of nothing that differs between
    the process that trains and those that prepare samples."""

    mixture: Mixture  # what samples are drawn
    tokens_a_batch: Mapping[str, int]  # by type of device, as `num_tokens` counts them
    rules: BatchRules  # its own
    shared: Sequence[str]  # components that lie beside the system's folder, for the others
    last_timestep: float  # what the denoiser is told at time 1

    def prepare(self, drawn: Sequence[Sample], rng: np.random.Generator) -> list[Prepared]:
        """Samples that share task, size and length as they are trained from, and others made of the same latents."""
        ...

    def kind(self, item: Prepared) -> str:
        """What the stages' shares speak of."""
        ...

    def only(self, item: Prepared, shown: Shown) -> Prepared:
        """A clip's sample of which the denoiser is given some latent frames alone, and told which: its "shown"."""
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

    def teach(self, model: Any, device: torch.device) -> None:
        """What a new model is taught before its first step, of what needs no samples."""
        ...

    def batch(self, draws: Sequence[Draw], device: torch.device, rules: BatchRules | None = None) -> Any:
        """A `Batch` of samples of one kind and layout; some lose conditions, so that guidance has its weaker branches.

        Without ``rules`` the recipe's own hold.
        """
        ...

    def squared_errors(self, model: Any, batch: Any) -> Tensor:
        """Squared velocity errors of the target (b, c, f, y, x), float32."""
        ...

    def given(self, batch: Any) -> Tensor | None:
        """The latents (b, c, f, y, x) that the target is an edit of; None where there are none."""
        ...

    def guidance(self, item: Prepared, limits: ModelLimits) -> Guidance:
        """Of a sample's request, with a model folder's own scales."""
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

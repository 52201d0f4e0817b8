"""Omni-Video: hidden states, source latents and the prompt's rows become one context, which every block attends to.

The first release reads the hidden states with a vision head and an adapter and denoises with one model; the second
projects them and has two experts, each with a context of its own (fact sheet 1 and 9).

b batch   m rows   dm width of the language model   dt width of a context row   c latent channels   (f, y, x) latent grid
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from loomvideo.conditioning.context import LAYOUTS, ContextLayout, Truncation, assemble
from loomvideo.models.context_rows import QueryTransformer, SourceTokenizer, StateProjection
from loomvideo.models.omnivideo import OmniVideoTransformer3DModel
from loomvideo.sampling.sampler import Branch


@dataclass(frozen=True)
class GuidanceBranch:
    """What one guidance branch is told; source and reference are kept in all of them (fact sheet 8)."""

    states: Tensor | None  # the language model's last hidden states (1, m, dm)
    text: Tensor | None  # the text encoder's rows (m, dt)
    source: Tensor | None = None  # normalised latents (1, c, f, y, x)
    reference: Tensor | None = None  # normalised latents (1, c, 1, y, x)


@dataclass(frozen=True)
class ContextBuilder:
    """A branch's context rows (m, dt), from the parts of a model and its options (fact sheet 5 and 13)."""

    read_states: Callable[[Tensor], Tensor]  # (1, m, dm) -> (1, r, dt)
    source_tokenizer: SourceTokenizer
    boundaries: Mapping[str, Tensor] | None
    max_rows: int
    layout: ContextLayout
    truncation: Truncation = "source"

    def __call__(self, branch: GuidanceBranch) -> Tensor:
        def rows(read: Callable[[Tensor], Tensor], given: Tensor | None) -> Tensor | None:
            return None if given is None else read(given)[0]

        parts = {
            "source": rows(self.source_tokenizer, branch.source),
            "reference": rows(self.source_tokenizer, branch.reference),
            "vision": rows(self.read_states, branch.states),
            "text": branch.text,
        }
        return assemble(
            parts, layout=self.layout, max_rows=self.max_rows, boundaries=self.boundaries, truncation=self.truncation
        )


def vision_rows(vision_head: QueryTransformer, adapter: QueryTransformer, states: Tensor, *, still: bool) -> Tensor:
    """States (b, m, dm) -> rows (b, r, dt): every token of the vision head is adapted by itself, of a picture the first."""
    tokens = vision_head(states)
    return adapter.each(tokens[:, :1] if still else tokens)


def first_release(
    vision_head: QueryTransformer,
    adapter: QueryTransformer,
    source_tokenizer: SourceTokenizer,
    boundaries: Mapping[str, Tensor] | None,
    *,
    max_rows: int,
    still: bool,
    layout: ContextLayout = LAYOUTS["released"],
    truncation: Truncation = "source",
) -> ContextBuilder:
    """The context of the paper's system; `still` where the target has one frame."""
    read_states = partial(vision_rows, vision_head, adapter, still=still)
    return ContextBuilder(read_states, source_tokenizer, boundaries, max_rows, layout, truncation)


def second_release(
    projection: StateProjection,
    source_tokenizer: SourceTokenizer,
    boundaries: Mapping[str, Tensor] | None,
    *,
    max_rows: int,
    truncation: Truncation = "source",
) -> ContextBuilder:
    """The context of one expert of Omni-Video 2."""
    return ContextBuilder(projection, source_tokenizer, boundaries, max_rows, LAYOUTS["omnivideo2"], truncation)


def denoiser(
    transformer: OmniVideoTransformer3DModel, contexts: Sequence[Tensor], latent_shape: Sequence[int]
) -> Branch:
    """The velocity function of k guidance branches with contexts (m, dt), as one batch."""
    conditions = transformer.prepare(contexts, latent_shape=latent_shape)

    def velocities(latents: Tensor, timestep: Tensor) -> Tensor:
        batch = latents.to(transformer.dtype).expand(len(contexts), *latents.shape[1:])
        velocity = transformer(batch, timestep.expand(len(contexts)), conditions)
        return velocity.to(latents.dtype).unsqueeze(1)  # (k, 1, c, f, y, x)

    return velocities

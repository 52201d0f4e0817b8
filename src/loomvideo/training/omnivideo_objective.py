"""Omni-Video's objectives, one for every stage: heads of the language model, adapter, and flow matching (fact sheet 10).

The language model's body is frozen: what it makes of a chat is stored with the sample, and nothing here runs it. A batch
mixes samples with a source and without one: they differ in their contexts alone (fact sheet 10.3).

b batch   m chat tokens   k samples with a source   r context rows   dm width of the language model   dt of a context row
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from loomvideo.conditioning.context import LAYOUTS, assemble
from loomvideo.models.context_rows import QueryTransformer, SourceTokenizer
from loomvideo.models.omnivideo import OmniVideoTransformer3DModel
from loomvideo.training.context_objective import NUM_LEVELS, alignment_loss, next_token_loss
from loomvideo.training.objective import Shown, add_noise, error_weights, frames_of, velocity_target, whole

Aim = Literal["answer", "align", "space", "flow"]


class Prompt(NamedTuple):
    """What a denoiser without a text encoder reads of a prompt."""

    rows: Tensor  # (n, dt), the states of a plan's items or the embeddings of tokens
    is_plan: bool


class OmniVideoModel(nn.Module):
    """All that is trained. `lm_head` is the language model's own, where it is trained: the text head of the first stage."""

    def __init__(
        self,
        transformer: OmniVideoTransformer3DModel,
        vision_head: QueryTransformer,
        adapter: QueryTransformer,
        source_tokenizer: SourceTokenizer,
        lm_head: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.vision_head = vision_head
        self.adapter = adapter
        self.source_tokenizer = source_tokenizer
        self.lm_head = lm_head


@dataclass(frozen=True, kw_only=True)
class ContextBatch:
    """Samples whose targets have one shape; what the batch's aim does not ask for is None."""

    aim: Aim
    latents: Tensor  # clean, normalised (b, c, f, y, x)
    noise: Tensor  # standard normal, of the same shape
    time: Tensor  # noise level (b,) in 0..1
    states: Tensor  # (b, m, dm) of every chat, after the last norm, padded on the right
    mask: Tensor  # (b, m), true at real tokens
    prompts: Sequence[Prompt]
    source_places: Tensor  # (k,) in the batch
    sources: Tensor | None = None  # (k, c, f, y, x), normalised
    pooled: Tensor | None = None  # (b, dm), the tower's tokens of every target, their mean
    shown: Shown | None = None  # where latents and sources are but some of a clip's frames
    labels: Tensor | None = None  # (b, m), -100 at what is asked


def squared_errors(model: OmniVideoModel, batch: ContextBatch) -> Tensor:
    """The errors of a batch's aim (b, c, f, y, x), float32; what is no velocity's is the same number everywhere.

    - "answer": cross entropy of the text head (2.5).
    - "align": one minus the cosine between the vision head's mean token and the tower's of the target picture (2.5).
    - "space": mean square between the adapter's mean row and the prompt's. The paper names the aim and no formula; means
      are compared because the rows are not paired, and squares because the denoiser's text embedder knows lengths, too.
    - "flow": between velocities.
    """
    if batch.aim == "flow":
        return flow_errors(model, batch)
    if batch.aim == "answer":
        assert model.lm_head is not None
        assert batch.labels is not None
        loss = next_token_loss(model.lm_head(batch.states), batch.labels)
    elif batch.aim == "align":
        assert batch.pooled is not None
        loss = alignment_loss(model.vision_head(batch.states, batch.mask), batch.pooled)
    else:
        prompts = torch.stack([prompt.rows.mean(0) for prompt in batch.prompts])
        loss = alignment_loss(vision_rows(model, batch), prompts, "mse")
    return loss.expand(batch.latents.shape)


def flow_errors(model: OmniVideoModel, batch: ContextBatch) -> Tensor:
    """Squared velocity errors (b, c, f, y, x), weighted as the denoiser's prediction asks; what the levels themselves weigh
    is in how often they are drawn (`sample_levels`)."""
    error = predict_velocity(model, batch) - velocity_target(batch.latents, batch.noise, min_noise=0)
    return error.float().square() * error_weights(model.transformer.config["prediction"], batch.time)


def predict_velocity(model: OmniVideoModel, batch: ContextBatch) -> Tensor:
    """The velocity (b, c, f, y, x) at each sample's level; sources are added to the noisy latents, too (fact sheet 5)."""
    added = None
    if batch.sources is not None:
        added = torch.zeros_like(batch.latents).index_copy(0, batch.source_places, batch.sources)
    conditions = model.transformer.prepare(
        make_contexts(model, batch),
        latent_shape=whole(batch.latents, batch.shown),
        items=[prompt.rows if prompt.is_plan else None for prompt in batch.prompts],
        shown=frames_of(batch.shown),
        added=added,
    )
    noisy = add_noise(batch.latents, batch.noise, batch.time, min_noise=0)
    return model.transformer(noisy, NUM_LEVELS * batch.time, conditions)


def make_contexts(model: OmniVideoModel, batch: ContextBatch) -> list[Tensor]:
    """Every sample's context rows (r, dt) without the items of its plan, as the pipeline puts them together."""
    vision = vision_rows(model, batch)
    source: dict[int, Tensor] = {}
    if batch.sources is not None:
        source = dict(zip(batch.source_places.tolist(), model.source_tokenizer(batch.sources), strict=True))
    max_rows, contexts = model.transformer.config["max_context_len"], []
    for place, (rows, is_plan) in enumerate(batch.prompts):
        parts = {"source": source.get(place), "vision": vision[place], "text": None if is_plan else rows}
        room = max_rows - len(rows) if is_plan else max_rows
        contexts.append(assemble(parts, layout=LAYOUTS["released"], max_rows=room))
    return contexts


def vision_rows(model: OmniVideoModel, batch: ContextBatch) -> Tensor:
    """What systems.omnivideo.vision_rows gives of states, which are padded here."""
    tokens = model.vision_head(batch.states, batch.mask)
    still = batch.latents.shape[2] == 1
    return model.adapter.each(tokens[:, :1] if still else tokens)

"""VINO's objective: flow matching beside clean references, with gradients to queries behind a frozen language model.

No token of a chat sees a query, so the chat is read without gradients and the queries alone, behind its keys and values,
with them (fact sheet 3.3 and 7).

b batch   m chat tokens   q queries   s visual tokens of a chat   dm width of the language model
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from loomvideo.conditioning.queries import positions_with_queries
from loomvideo.models.connector import QueryConnector
from loomvideo.models.hunyuan import VinoTransformer3DModel
from loomvideo.models.qwen import Visual, up_to_last_layer
from loomvideo.training.objective import Shown, add_noise, error_weights, frames_of, velocity_target, whole

TIMESTEPS = 999.0  # what the denoiser is told at time 1


class VinoModel(nn.Module):
    """All that is trained; the language model is not."""

    def __init__(self, transformer: VinoTransformer3DModel, connector: QueryConnector) -> None:
        super().__init__()
        self.transformer = transformer
        self.connector = connector


@dataclass(frozen=True, kw_only=True)
class ChatBatch:
    """Chats of one layout: their visuals come first, so they and their markers stand in the same rows."""

    ids: Tensor  # (b, m), padded on the right
    mask: Tensor  # (b, m), 1 at real tokens
    positions: Tensor  # (3, b, m)
    seen: Tensor | None  # (1 + taps, b, s, dm): what `look` gives, of all visuals in order; None without visuals
    seen_rows: Tensor  # (s,) of the chat
    marker_rows: Tensor  # (references, 2), as conditioning.markers.boundary_rows gives them
    # (b, r), the chat's tokens that the denoiser reads, padded with -1; None for all of them
    text_rows: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class QueryGroup:
    """A batch of samples of one layout; b samples, (c, f, y, x) latents."""

    latents: Tensor  # clean, normalised (b, c, f, y, x)
    noise: Tensor  # standard normal, of the same shape
    time: Tensor  # flow time (b,) in 0..1, 1 is pure noise
    chats: ChatBatch
    references: Sequence[Tensor] = ()  # normalised (b, c, f', y', x'): pictures, then the clip
    shown: Shown | None = None  # where latents, and the clip if it is edited, are but some of a clip's frames


@torch.no_grad()
def look(mllm: PreTrainedModel, visuals: Sequence[Visual]) -> list[Tensor]:
    """What the vision tower makes of every visual (1 + taps, s, dm): its tokens, and what DeepStack adds to them."""
    if not visuals:
        return []
    base: Any = mllm.base_model
    rows = torch.cat([visual.rows for visual in visuals]).to(mllm.device)
    grids = torch.tensor([visual.grid for visual in visuals], device=mllm.device)
    seen = base.get_image_features(rows, grids)  # a video's patches pass through the tower as a picture's do
    sizes = [len(tokens) for tokens in seen.pooler_output]
    # one after the other in transformers 5.17, of each visual by itself later
    taps = [tap.split(sizes) if isinstance(tap, Tensor) else tap for tap in seen.deepstack_features]
    return [torch.stack(same) for same in zip(seen.pooler_output, *taps, strict=True)]


def ask(mllm: PreTrainedModel, chats: ChatBatch, queries: Tensor) -> Tensor:
    """What models.qwen.query_features gives, (b, m + q, dm), of chats whose visuals were looked at before."""
    base: Any = mllm.base_model
    text_model = base.language_model
    batch, length = chats.ids.shape
    with up_to_last_layer(text_model):
        with torch.no_grad():
            said = text_model(
                inputs_embeds=_embed(text_model, chats),
                position_ids=chats.positions,
                attention_mask=chats.mask,
                use_cache=True,
                **_deepstack(chats),
            )
        asked = text_model(
            inputs_embeds=queries.expand(batch, -1, -1),
            position_ids=positions_with_queries(chats.positions, len(queries), chats.mask)[..., length:],
            attention_mask=F.pad(chats.mask, (0, len(queries)), value=1),
            past_key_values=said.past_key_values,
        )
    return torch.cat([said.last_hidden_state, asked.last_hidden_state], dim=1)


def _embed(text_model: Any, chats: ChatBatch) -> Tensor:
    embeds = text_model.embed_tokens(chats.ids)
    return embeds if chats.seen is None else embeds.index_copy(1, chats.seen_rows, chats.seen[0].to(embeds))


def _deepstack(chats: ChatBatch) -> dict[str, Any]:
    """Which tokens are visual, and what is added to them behind the first layers."""
    if chats.seen is None:
        return {}
    visual = torch.zeros_like(chats.mask, dtype=torch.bool)
    visual[:, chats.seen_rows] = True
    return {"visual_pos_masks": visual, "deepstack_visual_embeds": list(chats.seen[1:].flatten(1, 2))}


def predict_velocity(model: VinoModel, mllm: PreTrainedModel, group: QueryGroup) -> Tensor:
    """The velocity (b, c, f, y, x) at each sample's time."""
    queries = model.connector.metaquery
    shape, shown = whole(group.latents, group.shown), frames_of(group.shown)
    features = ask(mllm, group.chats, queries)
    text_rows, read = None, group.chats.mask
    if group.chats.text_rows is not None:
        read = group.chats.text_rows >= 0
        asked = torch.arange(group.chats.ids.shape[1], features.shape[1], device=read.device)
        text_rows = torch.cat([group.chats.text_rows.clamp(min=0), asked.expand(len(read), -1)], dim=1)
    times = model.connector.item_times(shape[0], shown)
    text, markers = model.connector(features, group.chats.marker_rows, text_rows, times)
    text_frames = model.connector.text_frames(text.shape[1], times)
    if times is not None:
        read = read.repeat(1, len(times))
    conditions = model.transformer.prepare(
        text,
        latent_shape=shape,
        shown=shown,
        references=group.references,
        markers=markers,
        context_mask=F.pad(read, (0, len(queries)), value=1),
        text_frames=None if text_frames is None else text_frames.to(text.device).expand(len(text), -1),
    )
    noisy = add_noise(group.latents, group.noise, group.time, min_noise=0)
    return model.transformer(noisy, TIMESTEPS * group.time, conditions)


def squared_errors(model: VinoModel, mllm: PreTrainedModel, group: QueryGroup) -> Tensor:
    """Weighted squared velocity errors (b, c, f, y, x) of the target alone, float32."""
    error = predict_velocity(model, mllm, group) - velocity_target(group.latents, group.noise, min_noise=0)
    return error.float().square() * error_weights(model.transformer.config["prediction"], group.time)

"""VINO: text, pictures and a video in, a picture or a video out (fact sheet 1).

A multimodal language model reads references, prompt and learnable queries as one chat. Of what it says, one connector
makes the denoiser's text tokens, another the markers between which every reference stands, clean, before the target.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loomvideo.conditioning.markers import boundary_rows
from loomvideo.models import vino_chat
from loomvideo.models.chat import Chat, tokenise
from loomvideo.models.connector import QueryConnector
from loomvideo.models.hunyuan import VinoTransformer3DModel
from loomvideo.models.qwen import PixelBudget, Visual, query_features
from loomvideo.models.vae import VAE, encode, to_pixels
from loomvideo.models.vino_chat import NEGATIVE_PROMPT_IMAGE, NEGATIVE_PROMPT_VIDEO
from loomvideo.sampling import sampler


@dataclass(frozen=True)
class Defaults:
    """How published weights are sampled; it depends on how many frames are made (fact sheet 5)."""

    shift: float
    guidance_scale: float
    negative_prompt: str
    guidance_scale_image: float = 1.0
    num_inference_steps: int = 50


ONE_FRAME = Defaults(5.0, 5.0, NEGATIVE_PROMPT_IMAGE)
SEVERAL_FRAMES = Defaults(7.0, 7.0, NEGATIVE_PROMPT_VIDEO)


@dataclass(frozen=True)
class GuidanceBranch:
    """What one guidance branch is told, and the reference latents that its denoiser sees, in the order of its chat."""

    chat: Chat
    references: tuple[Tensor, ...]  # (1, c, f, y, x) each


@dataclass(frozen=True)
class Reading:
    """What the language model makes of a chat."""

    text: Tensor  # (1, m, z)
    markers: Tensor  # (1, references, 2, d)


def show(
    pictures: Sequence[np.ndarray],
    clip: np.ndarray | None,
    budgets: dict[str, PixelBudget],
    num_frames: int = vino_chat.FRAMES,
) -> list[Visual]:
    """What the language model sees: pictures uint8 (y, x, 3), then frames spread over the whole clip (t, y, x, 3)."""
    visuals = [vino_chat.picture(pixels, budgets["image"]) for pixels in pictures]
    return visuals if clip is None else [*visuals, vino_chat.video(clip, budgets["video"], num_frames)]


def encode_references(
    vae: VAE, pictures: Sequence[np.ndarray], clip: np.ndarray | None, posterior: torch.Generator | None = None
) -> tuple[Tensor, ...]:
    """Normalised latents (1, c, f, y / 8, x / 8) of every picture and of the clip's frames: the posterior's mode.

    `posterior` draws samples instead, as the published program does. Every guidance branch takes its references from
    these.
    """
    clips = [picture[None] for picture in pictures] + ([] if clip is None else [clip])
    return tuple(encode(vae, to_pixels(frames), sample=posterior is not None, generator=posterior) for frames in clips)


def guidance_branches(
    visuals: Sequence[Visual],
    references: Sequence[Tensor],
    *,
    prompt: str,
    negative_prompt: str,
    guidance_scale: float,
    guidance_scale_image: float,
    has_base: bool = False,
) -> tuple[list[GuidanceBranch], list[float]]:
    """Branches from least to most conditioned and the scales between them (fact sheet 5).

    They are told the negative prompt and shown no pictures, the negative prompt, and the prompt. `has_base` says that
    the last picture is to be edited: it stays, as the video does, where the others are not shown. The first branch is
    left out where it would be the second.
    """
    full = GuidanceBranch(vino_chat.vino_chat(visuals, prompt), tuple(references))
    negative = GuidanceBranch(vino_chat.vino_chat(visuals, negative_prompt), tuple(references))
    kept = _edited(visuals, has_base)
    if guidance_scale_image > 1 and len(kept) < len(visuals):
        chat = vino_chat.vino_chat([visuals[i] for i in kept], negative_prompt)
        reduced = GuidanceBranch(chat, tuple(references[i] for i in kept))
        return [reduced, negative, full], [guidance_scale_image, guidance_scale]
    return ([negative, full], [guidance_scale]) if guidance_scale > 1 else ([full], [])


def _edited(visuals: Sequence[Visual], has_base: bool) -> list[int]:
    """Which references are what is edited: the video, and the last picture where it is the base."""
    last_picture = max((i for i, visual in enumerate(visuals) if visual.kind == "image"), default=None)
    return [i for i, visual in enumerate(visuals) if visual.kind == "video" or (has_base and i == last_picture)]


def read(
    mllm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    connector: QueryConnector,
    chat: Chat,
    device: torch.device | None = None,
) -> Reading:
    """The denoiser's text tokens and markers of a chat. `device` is where the model runs, if not where it lies."""
    inputs = tokenise(tokenizer, [chat]).to(device or mllm.device)
    rows = boundary_rows(
        inputs.input_ids[0],
        [visual.grid[0] for visual in chat.visuals],
        start_id=mllm.config.vision_start_token_id,
        end_id=mllm.config.vision_end_token_id,
    )
    return Reading(*connector(query_features(mllm, inputs, connector.metaquery), rows))


def denoisers(
    transformer: VinoTransformer3DModel,
    branches: Sequence[GuidanceBranch],
    readings: Sequence[Reading],
    latent_shape: Sequence[int],
    *,
    batch_branches: bool = True,
) -> list[sampler.Branch]:
    """Velocity functions of the branches, with all that no step changes computed here; equal layouts share one."""
    pairs = list(zip(branches, readings, strict=True))
    if not batch_branches:
        return [_denoiser(transformer, [pair], latent_shape) for pair in pairs]
    by_layout = groupby(pairs, key=lambda pair: [latents.shape for latents in pair[0].references])
    return [_denoiser(transformer, list(group), latent_shape) for _, group in by_layout]


def _denoiser(
    transformer: VinoTransformer3DModel, pairs: Sequence[tuple[GuidanceBranch, Reading]], latent_shape: Sequence[int]
) -> sampler.Branch:
    dtype = transformer.dtype
    text, context_mask = pad_texts([reading.text for _, reading in pairs])
    references = zip(*(branch.references for branch, _ in pairs), strict=True)
    conditions = transformer.prepare(
        text.to(dtype),
        latent_shape=latent_shape,
        references=[torch.cat(same).to(text.device, dtype) for same in references],
        markers=torch.cat([reading.markers for _, reading in pairs]),
        context_mask=context_mask,
    )

    def velocities(latents: Tensor, timestep: Tensor) -> Tensor:
        batch = latents.to(dtype).expand(len(pairs), *latents.shape[1:])
        velocity = transformer(batch, timestep.expand(len(pairs)), conditions)
        return velocity.to(latents.dtype).unsqueeze(1)  # (branches, 1, c, f, y, x)

    return velocities


def pad_texts(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Tokens (1, m, z) of k branches to tokens (k, longest m, z) and a mask, None where all are of one length."""
    padded = pad_sequence([text[0] for text in texts], batch_first=True)
    lengths = torch.tensor([text.shape[1] for text in texts])
    mask = torch.arange(padded.shape[1]) < lengths[:, None]
    return padded, None if bool(mask.all()) else mask.to(padded.device)

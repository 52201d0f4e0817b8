"""VINO: text, pictures and a video in, a picture or a video out (fact sheet 1).

A multimodal language model reads references, prompt and learnable queries as one chat. Of what it says, one connector
makes the denoiser's text tokens, another the markers between which every reference stands, clean, before the target.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loomvideo.conditioning.markers import boundary_rows
from loomvideo.models import vino_chat
from loomvideo.models.chat import Chat, plan_ends, tokenise
from loomvideo.models.connector import EVERY_FRAME, QueryConnector
from loomvideo.models.hunyuan import VinoTransformer3DModel
from loomvideo.models.offload import fetch
from loomvideo.models.qwen import PixelBudget, Visual, query_features, set_rotary_tables
from loomvideo.models.vae import VAE, encode, to_pixels
from loomvideo.sampling import sampler
from loomvideo.sampling.euler import ShiftedEulerScheduler
from loomvideo.systems import thinking as thought
from loomvideo.systems.pipeline import VideoPipeline
from loomvideo.systems.plan import Plan
from loomvideo.systems.request import Task
from loomvideo.systems.thinking import THINKING

# What a reference is for, where the task says it and the prompt names no picture: the denoiser is told by words alone
# (fact sheet 6.5).
ROLES = {
    Task.IMAGE_TO_VIDEO: "Use Image 1 as the first frame. ",
    Task.CLONE: "The subject of Image 1 follows the motion and expression of Video 1. ",
    Task.CAMERA_CLONE: "The camera moves through the scene of Image 1 as in Video 1. ",
}


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
    text_frames: Tensor | None  # (m,), of which frame of a clip each text token is; None where every one is of all


class VinoPipeline(VideoPipeline):
    """The published system on diffusers' and transformers' parts.

    Besides what every system's `model_index.json` holds, this one's says `shift_image` and `shift_video`, the shifts of
    the schedule for one frame and for several; `first_budgets`, the pixels ({"image": ..., "video": ...}, each the
    fields of models.qwen.PixelBudget) to which every visual is resized before the language model's own resizing, None
    where there is one resizing; `generate_system` and `caption_system`, what the system turn says where something is made
    and in think mode, None for no such turn; and `item_end`, not published, of models that plan: what ends the items of a
    plan, of whose chat the denoiser reads these tokens alone, beside the queries.
    """

    system: ClassVar[str] = "vino"
    model_cpu_offload_seq = "mllm->connector->transformer->vae"

    def __init__(
        self,
        transformer: VinoTransformer3DModel,
        connector: QueryConnector,
        mllm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        vae: VAE,
        scheduler: ShiftedEulerScheduler,
        limits: dict[str, Any] | None = None,
        frame_rule: dict[str, int] | None = None,
        pixel_budgets: dict[str, dict[str, int]] | None = None,
        shift_image: float = 5.0,
        shift_video: float = 7.0,
        first_budgets: dict[str, dict[str, int]] | None = None,
        generate_system: str | None = vino_chat.GENERATE,
        caption_system: str | None = None,
        thinking: str = THINKING,
        item_end: str | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer, connector=connector, mllm=mllm, tokenizer=tokenizer, vae=vae, scheduler=scheduler
        )
        self._configure(
            limits,
            frame_rule,
            pixel_budgets,
            thinking,
            shift_image=shift_image,
            shift_video=shift_video,
            first_budgets=first_budgets,
            generate_system=generate_system,
            caption_system=caption_system,
            item_end=item_end,
        )
        self.first_budgets = (
            None if first_budgets is None else {kind: PixelBudget(**first_budgets[kind]) for kind in first_budgets}
        )

    def condition(
        self, plan: Plan, latent_shape: Sequence[int], *, posterior: torch.Generator | None, batch_branches: bool
    ) -> tuple[list[sampler.Branch], list[float]]:
        """The branches' velocity functions and the scales between them; see VideoPipeline.condition."""
        self.scheduler.set_shift(self.config["shift_video" if plan.num_frames > 1 else "shift_image"])
        set_rotary_tables(self.mllm, rounded=False)
        pictures, clip = references_of(plan.references, plan.source)
        branches, scales = guidance_branches(
            self.visuals(plan),
            encode_references(self.vae, pictures, clip, posterior),
            prompt=with_role(plan.task, plan.prompt),
            negative_prompt=plan.negative_prompt,
            guidance_scale=plan.guidance_scale,
            guidance_scale_image=plan.guidance_scale_visual,
            has_base=len(pictures) > len(plan.references) > 0,
            system=self.config["generate_system"],
        )
        readings = [self.read(branch.chat, latent_shape[-3]) for branch in branches]
        return denoisers(self.transformer, branches, readings, latent_shape, batch_branches=batch_branches), scales

    def visuals(self, plan: Plan) -> list[Visual]:
        """What the language model sees: the pictures, one that is edited last, or the clip that is edited behind them."""
        if self.first_budgets is None:
            return super().visuals(plan)
        pictures, clip = references_of(plan.references, plan.source)
        frames = self.limits.whole_source_frames or vino_chat.FRAMES
        seen = clip if plan.whole_source is None else plan.whole_source
        return show(pictures, seen, self.pixel_budgets, frames, self.first_budgets)

    def read(self, chat: Chat, num_frames: int = 1) -> Reading:
        """The denoiser's text tokens and markers of a chat, for so many latent frames."""
        for model in (self.mllm, self.connector):
            fetch(model)
        return read(
            self.mllm,
            self.tokenizer,
            self.connector,
            chat,
            self._execution_device,
            item_end=self.config["item_end"],
            num_frames=num_frames,
        )

    def thinking_chat(self, plan: Plan) -> Chat:
        """The request as the language model is asked to answer it in think mode (fact sheet 6.6)."""
        system = self.config["caption_system"]
        if system is None:
            return super().thinking_chat(plan)
        asked = thought.question(self.config["thinking"], plan.prompt, plan.kind)
        return vino_chat.vino_chat(self.visuals(plan), asked, system)


def with_role(task: Task, prompt: str) -> str:
    """The prompt, behind a sentence that says what the task's reference is for where the prompt names no picture."""
    return prompt if thought.mentions(prompt) else ROLES.get(task, "") + prompt


def references_of(
    references: Sequence[np.ndarray], source: np.ndarray | None
) -> tuple[list[np.ndarray], np.ndarray | None]:
    """The pictures uint8 (y, x, 3) and the clip (t, y, x, 3) that stand before the target; an edited picture is the last."""
    if source is None or len(source) > 1:
        return list(references), source
    return [*references, source[0]], None


def show(
    pictures: Sequence[np.ndarray],
    clip: np.ndarray | None,
    budgets: dict[str, PixelBudget],
    num_frames: int = vino_chat.FRAMES,
    first_budgets: dict[str, PixelBudget] = vino_chat.FIRST_BUDGETS,
) -> list[Visual]:
    """What the language model sees: pictures uint8 (y, x, 3), then frames spread over the whole clip (t, y, x, 3)."""
    visuals = [vino_chat.picture(pixels, budgets["image"], first_budgets["image"]) for pixels in pictures]
    if clip is None:
        return visuals
    return [*visuals, vino_chat.video(clip, budgets["video"], num_frames, first_budgets["video"])]


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
    system: str | None = vino_chat.GENERATE,
) -> tuple[list[GuidanceBranch], list[float]]:
    """Branches from least to most conditioned and the scales between them (fact sheet 5).

    They are told the negative prompt and shown no pictures, the negative prompt, and the prompt. `has_base` says that
    the last picture is to be edited: it stays, as the video does, where the others are not shown. The first branch is
    left out where it would be the second. `system` is what the system turn says to all, None for no such turn.
    """
    full = GuidanceBranch(vino_chat.vino_chat(visuals, prompt, system), tuple(references))
    negative = GuidanceBranch(vino_chat.vino_chat(visuals, negative_prompt, system), tuple(references))
    kept = _edited(visuals, has_base)
    if guidance_scale_image > 1 and len(kept) < len(visuals):
        chat = vino_chat.vino_chat([visuals[i] for i in kept], negative_prompt, system)
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
    *,
    item_end: str | None = None,
    num_frames: int = 1,
) -> Reading:
    """The denoiser's text tokens and markers of a chat, for so many latent frames.

    `device` is where the model runs, if not where it lies.
    """
    inputs = tokenise(tokenizer, [chat]).to(device or mllm.device)
    rows = boundary_rows(
        inputs.input_ids[0],
        [visual.grid[0] for visual in chat.visuals],
        start_id=mllm.config.vision_start_token_id,
        end_id=mllm.config.vision_end_token_id,
    )
    features, text_rows = query_features(mllm, inputs, connector.metaquery), None
    if item_end is not None:
        ends = plan_ends(tokenizer, inputs.input_ids[0], item_end)
        queries = torch.arange(inputs.input_ids.shape[1], features.shape[1], device=ends.device)
        text_rows = torch.cat([ends, queries])[None]
    times = connector.item_times(num_frames)
    text, markers = connector(features, rows, text_rows, times)
    return Reading(text, markers, connector.text_frames(text.shape[1], times))


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
    frames = [reading.text_frames for _, reading in pairs if reading.text_frames is not None]
    references = zip(*(branch.references for branch, _ in pairs), strict=True)
    conditions = transformer.prepare(
        text.to(dtype),
        latent_shape=latent_shape,
        references=[torch.cat(same).to(text.device, dtype) for same in references],
        markers=torch.cat([reading.markers for _, reading in pairs]),
        context_mask=context_mask,
        text_frames=pad_sequence(frames, batch_first=True, padding_value=EVERY_FRAME).to(text.device)
        if frames
        else None,
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

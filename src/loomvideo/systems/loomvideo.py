"""LoomVideo: one pipeline for text-to-image, text-to-video, editing, guided editing and multi-image-to-video.

A multimodal language model reads the request; every block of the denoiser attends to its own layer of it; a source clip
is scaled and added to the noisy latents; reference pictures stand clean at negative times (fact sheet 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLWan, SchedulerMixin
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loomvideo.conditioning.deepstack import layers_for_blocks
from loomvideo.models.chat import Chat, full_chat, read_tokens, tokenise, unconditional_chat, visual_chat
from loomvideo.models.offload import fetch
from loomvideo.models.qwen import layer_features, set_rotary_tables
from loomvideo.models.wan import LoomVideoTransformer3DModel
from loomvideo.sampling.sampler import Branch
from loomvideo.systems.pipeline import VideoPipeline
from loomvideo.systems.plan import Plan
from loomvideo.systems.request import Task
from loomvideo.systems.thinking import THINKING

# What stands before the prompt, for one frame and for more (fact sheet 7.3 and 8.2).
PREFIXES = {
    Task.TEXT_TO_IMAGE: ("Generate an image: ", "Generate a video: "),
    Task.TEXT_TO_VIDEO: ("Generate an image: ", "Generate a video: "),
    Task.EDIT: ("Edit this image: ", "Edit this video: "),
    Task.GUIDED_EDIT: ("Edit this image with reference images: ", "Edit this video with reference images: "),
    Task.MULTI_IMAGE_TO_VIDEO: (
        "Generate an image with reference images: ",
        "Generate a video with reference images: ",
    ),
}


@dataclass(frozen=True)
class GuidanceBranch:
    """What one guidance branch is told: its MLLM layers, block by block, its source and its references."""

    layers: list[Tensor]  # (1, m, dm) each
    source: Tensor | None  # (1, c, f, y, x)
    references: tuple[Tensor, ...]  # (1, c, 1, y, x) each


class LoomVideoPipeline(VideoPipeline):
    """The published system on diffusers' and transformers' parts.

    Besides what every system's `model_index.json` holds, this one's says `only_last_layer` (every block reads the
    language model's last layer; fact sheet 3.3) and `item_end`, which is not published. It is for models that plan: their
    blocks read the tokens alone that end a plan's items, and no chat shows what is seen, since the plan says it.
    """

    system: ClassVar[str] = "loomvideo"
    model_cpu_offload_seq = "mllm->transformer->vae"

    def __init__(
        self,
        transformer: LoomVideoTransformer3DModel,
        mllm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        vae: AutoencoderKLWan,
        scheduler: SchedulerMixin,
        limits: dict[str, Any] | None = None,
        frame_rule: dict[str, int] | None = None,
        pixel_budgets: dict[str, dict[str, int]] | None = None,
        only_last_layer: bool = False,
        thinking: str = THINKING,
        item_end: str | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, mllm=mllm, tokenizer=tokenizer, vae=vae, scheduler=scheduler)
        self._configure(limits, frame_rule, pixel_budgets, thinking, only_last_layer=only_last_layer, item_end=item_end)

    def condition(
        self, plan: Plan, latent_shape: Sequence[int], *, posterior: torch.Generator | None, batch_branches: bool
    ) -> tuple[list[Branch], list[float]]:
        """The branches' velocity functions and the scales between them; see VideoPipeline.condition."""
        source = None if plan.source is None else self.encode(plan.source, posterior)
        references = tuple(self.encode(reference[None], posterior) for reference in plan.references)
        branches, scales = self.guidance_branches(plan, source, references)
        return self.denoisers(branches, latent_shape, batch_branches), scales

    def guidance_branches(
        self, plan: Plan, source: Tensor | None, references: tuple[Tensor, ...]
    ) -> tuple[list[GuidanceBranch], list[float]]:
        """Branches from least to most conditioned and the scales between them (fact sheet 7.2)."""
        set_rotary_tables(self.mllm, rounded=self.transformer.config["rounded_rotary_tables"])
        visuals = self.visuals(plan) if self.config["item_end"] is None else []
        full = GuidanceBranch(self.read(full_chat(visuals, prefixed(plan))), source, references)
        is_shown = source is not None or bool(references)
        if not is_guided(plan, is_shown):
            return [full], []
        unconditional = GuidanceBranch(self.read(unconditional_chat(plan.negative_prompt)), None, ())
        if not is_shown:
            return [unconditional, full], [plan.guidance_scale]
        said = self.read(visual_chat(visuals)) if visuals else unconditional.layers
        visual = GuidanceBranch(said, source, references)
        return [unconditional, visual, full], [plan.guidance_scale_visual, plan.guidance_scale]

    def read(self, chat: Chat) -> list[Tensor]:
        """The language-model layers (1, m, dm) that the denoiser's blocks attend to, in the blocks' order."""
        fetch(self.mllm)
        inputs = tokenise(self.tokenizer, [chat]).to(self._execution_device)
        read = read_tokens(self.tokenizer, inputs.input_ids[0], self.config["item_end"])
        layers = [layer[:, read].to(self.transformer.dtype) for layer in layer_features(self.mllm, inputs)]
        blocks = self.transformer.config["num_layers"]
        return layers_for_blocks(layers, blocks, only_last=self.config["only_last_layer"])

    def denoisers(
        self, branches: Sequence[GuidanceBranch], latent_shape: Sequence[int], batch_branches: bool
    ) -> list[Branch]:
        """Velocity functions of the branches, with all that no step changes computed here; equal layouts share one."""
        if not batch_branches:
            return [self._denoiser([branch], latent_shape) for branch in branches]
        by_layout = groupby(branches, key=lambda branch: len(branch.references))
        return [self._denoiser(list(group), latent_shape) for _, group in by_layout]

    def _denoiser(self, branches: Sequence[GuidanceBranch], latent_shape: Sequence[int]) -> Branch:
        dtype, device = self.transformer.dtype, self._execution_device
        layers, context_mask = batch_contexts([branch.layers for branch in branches])
        conditions = self.transformer.prepare(
            layers,
            latent_shape=latent_shape,
            source=batch_sources([branch.source for branch in branches], dtype, device),
            references=[
                torch.cat(same).to(device, dtype)
                for same in zip(*(branch.references for branch in branches), strict=True)
            ],
            context_mask=context_mask,
        )

        def velocities(latents: Tensor, timestep: Tensor) -> Tensor:
            batch = latents.to(dtype).expand(len(branches), *latents.shape[1:])
            velocity = self.transformer(batch, timestep.expand(len(branches)), conditions)
            return velocity.to(latents.dtype).unsqueeze(1)  # (branches, 1, c, f, y, x)

        return velocities


def prefixed(plan: Plan) -> str:
    """The prompt behind the words that tell the task."""
    return PREFIXES[plan.task][plan.num_frames > 1] + plan.prompt


def is_guided(plan: Plan, has_visuals: bool) -> bool:
    """The published rule, except that a text scale of exactly 1 is not guided where the visual scale has no part."""
    if not has_visuals and plan.guidance_scale == 1:
        return False
    return plan.guidance_scale > 1 or plan.guidance_scale_visual > 1


def batch_contexts(branches: Sequence[Sequence[Tensor]]) -> tuple[list[Tensor], Tensor | None]:
    """Layers (1, m, dm) of k branches to layers (k, longest m, dm) and a mask, None where all are of one length."""
    lengths = torch.tensor([layers[0].shape[1] for layers in branches], device=branches[0][0].device)
    longest = int(lengths.max())
    batched = [
        torch.cat([torch.nn.functional.pad(layer, (0, 0, 0, longest - layer.shape[1])) for layer in same_depth])
        for same_depth in zip(*branches, strict=True)
    ]
    mask = torch.arange(longest, device=lengths.device) < lengths[:, None]
    return batched, None if bool(mask.all()) else mask


def batch_sources(sources: Sequence[Tensor | None], dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Sources (1, c, f, y, x) as one batch, zeros where there is none; None where there is none at all."""
    given = [source for source in sources if source is not None]
    if not given:
        return None
    return torch.cat([torch.zeros_like(given[0]) if source is None else source for source in sources]).to(device, dtype)

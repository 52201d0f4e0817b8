"""LoomVideo: one pipeline for text-to-image, text-to-video, editing, guided editing and multi-image-to-video.

A multimodal language model reads the request; every block of the denoiser attends to its own layer of it; a source clip
is scaled and added to the noisy latents; reference pictures stand clean at negative times (fact sheet 1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, SchedulerMixin
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loomvideo.checkpoint import check_model, resolve_model, shared_components
from loomvideo.conditioning.deepstack import layers_for_blocks
from loomvideo.media.clip import Clip
from loomvideo.media.inputs import Picture
from loomvideo.models import vae as pixels
from loomvideo.models.chat import Chat, full_chat, tokenise, unconditional_chat, visual_chat
from loomvideo.models.qwen import FrameRule, PixelBudget, Visual, layer_features, picture, set_rotary_tables, video
from loomvideo.models.wan import LoomVideoTransformer3DModel
from loomvideo.sampling.sampler import Branch, OnStep, sample
from loomvideo.systems.request import ModelLimits, Plan, Request, Task
from loomvideo.systems.request import plan as make_plan

StepCallback = Callable[[DiffusionPipeline, int, Tensor, dict[str, Tensor]], dict[str, Tensor]]


@dataclass
class LoomVideoOutput(BaseOutput):
    """What a request gave."""

    frames: np.ndarray | Tensor | list[Image.Image]  # as `output_type` says
    fps: float
    plan: Plan  # everything that was decided, the seed included


@dataclass(frozen=True)
class GuidanceBranch:
    """What one guidance branch is told: its MLLM layers, block by block, its source and its references."""

    layers: list[Tensor]  # (1, m, dm) each
    source: Tensor | None  # (1, c, f, y, x)
    references: tuple[Tensor, ...]  # (1, c, 1, y, x) each


class LoomVideoPipeline(DiffusionPipeline):
    """The published system on diffusers' and transformers' parts.

    Besides the five components, a model folder's `model_index.json` holds
    `limits` (the fields of systems.request.ModelLimits), `frame_rule` (of models.qwen.FrameRule), `pixel_budgets`
    ({"image": ..., "video": ...}, each the fields of models.qwen.PixelBudget) and `only_last_layer` (every block reads
    the language model's last layer; fact sheet 3.3).
    """

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
    ) -> None:
        super().__init__()
        if limits is None or frame_rule is None or pixel_budgets is None:
            raise ValueError(
                "limits, frame_rule and pixel_budgets are part of a LoomVideo model: give them, or load a folder whose "
                "model_index.json holds them"
            )
        self.register_modules(transformer=transformer, mllm=mllm, tokenizer=tokenizer, vae=vae, scheduler=scheduler)
        self.register_to_config(
            limits=limits, frame_rule=frame_rule, pixel_budgets=pixel_budgets, only_last_layer=only_last_layer
        )
        self.limits = ModelLimits(**limits)
        self.frame_rule = FrameRule(**frame_rule)
        self.pixel_budgets = {kind: PixelBudget(**budget) for kind, budget in pixel_budgets.items()}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> "LoomVideoPipeline":
        """A pipeline from "builtin", a local folder or a Hub id; in float32 unless `dtype` says otherwise.

        Raises:
            CheckpointError: no such model, or tensors that are missing, unexpected or of another shape, with names.
        """
        folder = resolve_model(pretrained_model_name_or_path)
        check_model(folder)
        dtype = kwargs.setdefault("dtype", kwargs.pop("torch_dtype", None) or torch.float32)
        shared = shared_components(folder, dtype=dtype if isinstance(dtype, torch.dtype) else torch.float32)
        return super().from_pretrained(folder, **{**shared, **kwargs})

    def __call__(
        self,
        prompt: str,
        source: Picture | Clip | Sequence[Picture] | None = None,
        references: Sequence[Picture] | None = None,
        *,
        task: Task | str | None = None,
        negative_prompt: str | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_scale_visual: float | None = None,
        seed: int = 0,
        **options: Any,
    ) -> LoomVideoOutput:
        """Make or edit a video or a picture; see systems.request.Request for the request, `generate` for the options.

        Raises:
            RequestError: a value that the model cannot take, with the rule and the way out.
        """
        request = Request(
            prompt=prompt,
            source=source,
            references=() if references is None else references,
            task=task,
            negative_prompt=negative_prompt,
            height=height,
            width=width,
            num_frames=num_frames,
            fps=fps,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_scale_visual=guidance_scale_visual,
            seed=seed,
        )
        return self.generate(make_plan(request, self.limits), **options)

    @torch.no_grad()
    def generate(
        self,
        plan: Plan,
        *,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        output_type: str = "np",
        sample_posterior: bool = False,
        batch_branches: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_stage: Callable[[str], None] | None = None,
    ) -> LoomVideoOutput:
        """Carry out a plan.

        Args:
            generator: draws the noise in place of a CPU generator with the plan's seed.
            latents: the noise itself, float32 (1, c, f, y, x).
            output_type: "np" float32 (t, y, x, 3) in 0..1, "pt" the same as (t, 3, y, x), "pil" a list, or "latent".
            sample_posterior: sample the source's and references' latents as the published program does, instead of
                taking the posterior's mode.
            batch_branches: run guidance branches of equal token layout as one batch: faster, with more memory.
            callback_on_step_end: diffusers' convention; may give back other "latents".
            callback_on_stage: told "read", "sample" and "decode" as these begin.

        Raises:
            NotFiniteError: NaN or infinity, with the step at which it appeared.
        """
        begin = callback_on_stage or (lambda stage: None)
        generator = generator or torch.Generator().manual_seed(plan.seed)
        noise = self.draw_noise(plan, generator) if latents is None else latents

        begin("read")
        posterior = generator if sample_posterior else None
        source = None if plan.source is None else self.encode(plan.source, posterior)
        references = tuple(self.encode(reference[None], posterior) for reference in plan.references)
        branches, scales = self.guidance_branches(plan, source, references)

        begin("sample")
        denoisers = self.denoisers(branches, noise.shape, batch_branches)
        with self.progress_bar(total=plan.num_inference_steps) as progress:  # pyright: ignore[reportCallIssue]
            latents = sample(
                denoisers,
                scales,
                scheduler=self.scheduler,
                noise=noise.to(self._execution_device),
                num_inference_steps=plan.num_inference_steps,
                on_step=self._step_callback(progress.update, callback_on_step_end),
            )

        begin("decode")
        frames = latents if output_type == "latent" else self.decode(latents, plan, output_type)
        self.maybe_free_model_hooks()
        return LoomVideoOutput(frames=frames, fps=plan.fps, plan=plan)

    def draw_noise(self, plan: Plan, generator: torch.Generator) -> Tensor:
        """Standard normal float32 (1, c, f, y, x), drawn where the generator lives: the same on every device."""
        shape = (
            1,
            self.transformer.config["in_channels"],
            (plan.num_frames - 1) // self.vae.config["scale_factor_temporal"] + 1,
            plan.height // self.vae.config["scale_factor_spatial"],
            plan.width // self.vae.config["scale_factor_spatial"],
        )
        return torch.randn(shape, generator=generator, device=generator.device)

    def encode(self, frames: np.ndarray, posterior: torch.Generator | None = None) -> Tensor:
        """Frames uint8 (t, y, x, 3) to normalised latents (1, c, f, y / 16, x / 16)."""
        return pixels.encode(self.vae, pixels.to_pixels(frames), sample=posterior is not None, generator=posterior)

    def decode(self, latents: Tensor, plan: Plan, output_type: str) -> np.ndarray | Tensor | list[Image.Image]:
        """Latents to the frames that were asked for, decoded, cropped and cut."""
        frames = plan.cut(pixels.decode(self.vae, latents)[0].cpu())  # (t, y, x, 3)
        if output_type == "pt":
            return frames.permute(0, 3, 1, 2)
        if output_type == "pil":
            return [Image.fromarray(frame) for frame in (255 * frames).round().byte().numpy()]
        return frames.numpy()

    def visuals(self, plan: Plan) -> list[Visual]:
        """What the language model sees: the references, then the source, one frame of which is a picture."""
        shown = [picture(reference, self.pixel_budgets["image"]) for reference in plan.references]
        if plan.source is not None and len(plan.source) == 1:
            shown.append(picture(plan.source[0], self.pixel_budgets["image"]))
        elif plan.source is not None:
            shown.append(video(plan.source, self.frame_rule, self.pixel_budgets["video"]))
        return shown

    def guidance_branches(
        self, plan: Plan, source: Tensor | None, references: tuple[Tensor, ...]
    ) -> tuple[list[GuidanceBranch], list[float]]:
        """Branches from least to most conditioned and the scales between them (fact sheet 7.2)."""
        set_rotary_tables(self.mllm, rounded=self.transformer.config["rounded_rotary_tables"])
        visuals = self.visuals(plan)
        full = GuidanceBranch(self.read(full_chat(visuals, plan.text)), source, references)
        if not is_guided(plan, bool(visuals)):
            return [full], []
        unconditional = GuidanceBranch(self.read(unconditional_chat(plan.negative_prompt)), None, ())
        if not visuals:
            return [unconditional, full], [plan.guidance_scale]
        visual = GuidanceBranch(self.read(visual_chat(visuals)), source, references)
        return [unconditional, visual, full], [plan.guidance_scale_visual, plan.guidance_scale]

    def read(self, chat: Chat) -> list[Tensor]:
        """The language-model layers (1, m, dm) that the denoiser's blocks attend to, in the blocks' order."""
        if hasattr(self.mllm, "_hf_hook"):  # offloaded: fetched by hand, for its own forward is not the way in
            self.mllm._hf_hook.pre_forward(self.mllm)
        layers = layer_features(self.mllm, tokenise(self.tokenizer, [chat]).to(self._execution_device))
        blocks = self.transformer.config["num_layers"]
        return [
            layer.to(self.transformer.dtype)
            for layer in layers_for_blocks(layers, blocks, only_last=self.config["only_last_layer"])
        ]

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

    def _step_callback(self, advance: Callable[[], Any], callback: StepCallback | None) -> OnStep:
        def on_step(step: int, timestep: Tensor, latents: Tensor) -> Tensor | None:
            advance()
            return None if callback is None else callback(self, step, timestep, {"latents": latents}).get("latents")

        return on_step


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

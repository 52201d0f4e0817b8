"""What the three systems share: a plan becomes noise, conditions, latents and frames.

A system says what its guidance branches are told; reading the request, the loop, decoding and the Python call are here.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self

import numpy as np
import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from loomvideo.checkpoint import check_model, resolve_model, shared_components
from loomvideo.media.clip import Clip
from loomvideo.media.inputs import Picture
from loomvideo.models import eight_bits
from loomvideo.models import vae as pixels
from loomvideo.models.chat import Chat, chat
from loomvideo.models.qwen import FrameRule, PixelBudget, Visual, picture, video
from loomvideo.models.reader import Decoding, QwenReader, StreamedAnswer
from loomvideo.sampling.caches import EXACT, Shortcuts, caching
from loomvideo.sampling.sampler import Branch, OnStep, sample
from loomvideo.sampling.windows import Seam, windows
from loomvideo.systems import thinking
from loomvideo.systems.kept import KeptSource
from loomvideo.systems.plan import Plan, frames_to_describe
from loomvideo.systems.plan import plan as make_plan
from loomvideo.systems.request import ModelLimits, Request, Task
from loomvideo.team import Team

DESCRIBE = "Describe what you see."
StepCallback = Callable[[DiffusionPipeline, int, Tensor, dict[str, Tensor]], dict[str, Tensor]]


@dataclass
class VideoOutput(BaseOutput):
    """What a request gave."""

    frames: np.ndarray | Tensor | list[Image.Image]  # as `output_type` says
    fps: float
    plan: Plan  # everything that was decided, the seed included


class VideoPipeline(DiffusionPipeline):
    """A system on diffusers' and transformers' parts; abstract.

    Every system registers a `transformer`, a `vae`, a `scheduler`, an `mllm` with its `tokenizer` and what else
    conditions them. Its `model_index.json` holds, beside what the system needs, `limits` (the fields of
    systems.request.ModelLimits), `frame_rule` (of models.qwen.FrameRule), `pixel_budgets` ({"image": ..., "video": ...},
    each the fields of models.qwen.PixelBudget) and `thinking` (how think mode asks; see systems.thinking).
    """

    system: ClassVar[str]
    batch_branches = True  # off where memory is short
    weights_on_disk: TemporaryDirectory | None = None  # where they wait, if memory is short
    team: Team | None = None  # the ranks that share the work of every request, where there are several

    def _configure(
        self,
        limits: dict[str, Any] | None,
        frame_rule: dict[str, int] | None,
        pixel_budgets: dict[str, dict[str, int]] | None,
        thinking: str,
        **others: Any,
    ) -> None:
        """Keep the settings in the configuration and make them at hand."""
        if limits is None or frame_rule is None or pixel_budgets is None:
            raise ValueError(
                "limits, frame_rule and pixel_budgets are part of a model: give them, or load a folder whose "
                "model_index.json holds them"
            )
        self.register_to_config(
            limits=limits, frame_rule=frame_rule, pixel_budgets=pixel_budgets, thinking=thinking, **others
        )
        self.limits = ModelLimits(**limits)
        self.frame_rule = FrameRule(**frame_rule)
        self.pixel_budgets = {kind: PixelBudget(**budget) for kind, budget in pixel_budgets.items()}

    @abstractmethod
    def condition(
        self, plan: Plan, latent_shape: Sequence[int], *, posterior: torch.Generator | None, batch_branches: bool
    ) -> tuple[list[Branch], list[float]]:
        """Velocity functions of the guidance branches, from least to most conditioned, and the scales between them.

        All that no step changes is computed here. `posterior` draws the posteriors of source and references where these
        are to be sampled; `batch_branches` lets branches of equal layout run as one batch.
        """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """A pipeline from "builtin", a local folder or a Hub id; in float32 unless `dtype` says otherwise.

        Raises:
            CheckpointError: no such model, or tensors that are missing, unexpected or of another shape, with names.
        """
        folder = resolve_model(pretrained_model_name_or_path, system=cls.system)
        check_model(folder)
        dtype = kwargs.setdefault("dtype", kwargs.pop("torch_dtype", None) or torch.float32)
        precision = dtype if isinstance(dtype, torch.dtype) else torch.float32
        shared = shared_components(folder, dtype=precision, without=kwargs)
        return super().from_pretrained(folder, **{**shared, **kwargs})

    def __call__(
        self,
        prompt: str,
        source: Picture | Clip | Sequence[Picture] | None = None,
        references: Sequence[Picture] | None = None,
        *,
        task: Task | str | None = None,
        negative_prompt: str | None = None,
        think: bool | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        window: int | None = None,
        fps: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_scale_visual: float | None = None,
        seed: int = 0,
        speed: str = "exact",
        keep_source: bool | None = None,
        **options: Any,
    ) -> VideoOutput:
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
            think=think,
            height=height,
            width=width,
            num_frames=num_frames,
            window=window,
            fps=fps,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_scale_visual=guidance_scale_visual,
            seed=seed,
            speed=speed,
            keep_source=keep_source,
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
        shortcuts: Shortcuts = EXACT,
        callback_on_step_end: StepCallback | None = None,
        callback_on_stage: Callable[[str], None] | None = None,
    ) -> VideoOutput:
        """Carry out a plan.

        Args:
            generator: draws the noise in place of a CPU generator with the plan's seed.
            latents: the noise itself, float32 (1, c, f, y, x).
            output_type: "np" float32 (t, y, x, 3) in 0..1, "pt" the same as (t, 3, y, x), "pil" a list, or "latent".
            sample_posterior: sample the source's and references' latents as the published program does, instead of
                taking the posterior's mode.
            batch_branches: run guidance branches of equal token layout as one batch: faster, with more memory.
            shortcuts: approximations of the steps; by default there are none.
            callback_on_step_end: diffusers' convention; may give back other "latents".
            callback_on_stage: told "think", "read", "sample" and "decode" as these begin.

        Raises:
            NotFiniteError: NaN or infinity, with the step at which it appeared.

        Of a team, every rank calls this with the same plan; where the VAE is not Wan's, the leading one alone has frames.
        """
        begin = callback_on_stage or (lambda stage: None)
        plan = self._agreed(plan, begin)
        generator = generator or torch.Generator().manual_seed(plan.seed)
        noise = self.draw_noise(plan, generator) if latents is None else latents
        kept = kept_source(plan, self.vae)
        finished = self.latents_in_turn(
            plan,
            noise,
            kept=kept,
            posterior=generator if sample_posterior else None,
            batch_branches=batch_branches,
            shortcuts=shortcuts,
            callback_on_step_end=callback_on_step_end,
            begin=begin,
        )
        latents = torch.cat(list(finished), dim=2)
        begin("decode")
        frames = latents if output_type == "latent" else self.decode(latents, plan, output_type, kept)
        self.maybe_free_model_hooks()
        return VideoOutput(frames=frames, fps=plan.fps, plan=plan)

    @torch.no_grad()
    def stream(
        self,
        plan: Plan,
        *,
        batch_branches: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_stage: Callable[[str], None] | None = None,
    ) -> Iterator[np.ndarray]:
        """The frames of a plan uint8 (t, y, x, 3), a few at a time: each window of a long clip is decoded when it is made.

        Of a team, every rank must go through all of it; only the leading one is given frames.
        """
        begin = callback_on_stage or (lambda stage: None)
        plan = self._agreed(plan, begin)
        noise = self.draw_noise(plan, torch.Generator().manual_seed(plan.seed))
        kept = kept_source(plan, self.vae)
        finished = self.latents_in_turn(
            plan,
            noise,
            kept=kept,
            batch_branches=batch_branches,
            callback_on_step_end=callback_on_step_end,
            begin=begin,
        )
        left = plan.output_frames
        decode_in_turn = pixels.decode_in_turn if self.team is None else self.team.decode_in_turn
        for frames in decode_in_turn(self.vae, finished, noise.shape[2]):
            shown = plan.cut(frames[0] if kept is None else kept.into(frames[0]))[:left]
            left -= len(shown)
            if len(shown) and (self.team is None or self.team.leads):
                yield (255 * shown).round().byte().cpu().numpy()
        self.maybe_free_model_hooks()

    def _agreed(self, plan: Plan, begin: Callable[[str], None]) -> Plan:
        """The plan as it is carried out: of one seed on all ranks, and thought about where the plan says so."""
        if self.team is not None:
            plan = replace(plan, seed=self.team.agree(plan.seed))
        if plan.think:
            begin("think")
            plan = self.think(plan)
        return plan

    def latents_in_turn(
        self,
        plan: Plan,
        noise: Tensor,
        *,
        kept: KeptSource | None = None,
        posterior: torch.Generator | None = None,
        batch_branches: bool = True,
        shortcuts: Shortcuts = EXACT,
        callback_on_step_end: StepCallback | None = None,
        begin: Callable[[str], None] = lambda stage: None,
    ) -> Iterator[Tensor]:
        """The latents (1, c, f, y, x) of each window of a plan, or of the one that it is; together those of the clip.

        `kept` is told of them before they are yielded.
        """
        stride = pixels.frames_a_latent(self.vae)
        places = windows(noise.shape[2], noise.shape[2] if plan.window is None else (plan.window - 1) // stride + 1)
        seam = Seam(places)
        if shortcuts.first_block and self.team is not None:
            raise ValueError("first_block: several ranks cannot judge one block's change together; use forecast_every")
        together = batch_branches and self.batch_branches and self.team is None and not shortcuts.skips_branches
        for number, place in enumerate(places):
            seam.begin(number)
            begin("read")
            part = plan.part(stride * place.start, stride * (place.stop - 1) + 1)
            if number and part.asked is not None and self.limits.think:  # its plan says where things are in this window
                part = self.think(replace(part, prompt=part.asked))
            branches, scales = self.condition(
                part,
                noise[:, :, place.start : place.stop].shape,
                posterior=posterior,
                batch_branches=together,
            )
            begin("sample")
            shared = nullcontext(branches) if self.team is None else self.team.divided(branches, self.denoisers_at_work)
            cached = caching(self.denoisers_at_work, shortcuts.first_block)
            progress_bar = self.progress_bar(total=plan.num_inference_steps)  # pyright: ignore[reportCallIssue]
            with shared as branches, cached as remembering, progress_bar as progress:
                latents = sample(
                    [remembering(branch) for branch in branches],
                    scales,
                    scheduler=self.scheduler,
                    noise=noise[:, :, place.start : place.stop].to(self._execution_device),
                    num_inference_steps=plan.num_inference_steps,
                    shortcuts=shortcuts,
                    on_velocity=seam if len(places) > 1 else None,
                    on_step=self._step_callback(progress.update, callback_on_step_end),
                )
            if kept is not None and part.source is not None:
                kept.compare(latents[:, :, place.made], self.encode(part.source)[:, :, place.made])
            yield latents[:, :, place.made]

    @property
    def denoisers_at_work(self) -> list[ModelMixin]:
        """The models that make velocities."""
        return [self.transformer]

    def compile_denoisers(self, **options: Any) -> None:
        """Compile the denoisers' blocks at their next use, once more at a second size, and then for requests of any size.

        `options` are torch.compile's.
        """
        for model in self.denoisers_at_work:
            model.compile_repeated_blocks(**{"dynamic": True, **options})

    def store_weights(self, way: str) -> None:
        """Keep the denoisers' large matrices in eight bits, "fp8" or "int8"; see models.eight_bits.store."""
        for model in self.denoisers_at_work:
            eight_bits.store(model, way)

    @property
    def reader(self) -> QwenReader:
        """The language model as one that answers in words."""
        return QwenReader(self.mllm, self.tokenizer)

    def visuals(self, plan: Plan) -> list[Visual]:
        """What the language model sees of a plan: the references, then the source, one frame of which is a picture."""
        shown = [picture(reference, self.pixel_budgets["image"]) for reference in plan.references]
        seen = plan.source if plan.whole_source is None else plan.whole_source
        return shown if seen is None else [*shown, self.look(seen)]

    def look(self, frames: np.ndarray) -> Visual:
        """A picture or clip uint8 (t, y, x, 3) as the language model sees it."""
        if len(frames) == 1:
            return picture(frames[0], self.pixel_budgets["image"])
        return video(frames, self.frame_rule, self.pixel_budgets["video"])

    def describe(
        self, shown: Picture | Clip | Sequence[Picture], question: str = DESCRIBE, *, decoding: Decoding | None = None
    ) -> StreamedAnswer:
        """The answer to a question about a picture or a whole clip, to be iterated over while it is made.

        Raises RequestError and MediaError as a request's source does.
        """
        frames = frames_to_describe(shown, question, self.limits)
        return self.reader.answer(chat([self.look(frames), question]), decoding or Decoding())

    def think(self, plan: Plan) -> Plan:
        """The plan with its prompt said anew by the language model. The words are drawn with the plan's seed: another one
        puts things elsewhere, where the request leaves that open. Of an edit they are the likeliest: what a source shows is
        not open."""
        shown = plan if plan.window is None else plan.part(0, plan.window)
        temperature = 0.7 if plan.source is None else 0.0
        decoding = Decoding(temperature=temperature, top_p=0.7, max_new_tokens=512, seed=plan.seed)
        answer = "".join(self.reader.answer(self.thinking_chat(shown), decoding))
        agreed = answer if self.team is None else self.team.agree(answer)
        return thinking.rethought(plan, agreed, replaces=self.limits.think)

    def thinking_chat(self, plan: Plan) -> Chat:
        """The request as the language model is asked to answer it in think mode."""
        return chat([*self.visuals(plan), thinking.question(self.config["thinking"], plan.prompt, plan.kind)])

    def draw_noise(self, plan: Plan, generator: torch.Generator) -> Tensor:
        """Standard normal float32 (1, c, f, y, x), drawn where the generator lives: the same on every device."""
        shape = (
            1,
            self.transformer.config["in_channels"],
            *pixels.latent_grid(self.vae, plan.num_frames, plan.height, plan.width),
        )
        return torch.randn(shape, generator=generator, device=generator.device)

    def encode(self, frames: np.ndarray, posterior: torch.Generator | None = None) -> Tensor:
        """Frames uint8 (t, y, x, 3) to normalised latents (1, c, f, y, x)."""
        return pixels.encode(self.vae, pixels.to_pixels(frames), sample=posterior is not None, generator=posterior)

    def decode(
        self, latents: Tensor, plan: Plan, output_type: str, kept: KeptSource | None = None
    ) -> np.ndarray | Tensor | list[Image.Image]:
        """Latents to the frames that were asked for, decoded, cropped and cut; `kept` has been told of the latents."""
        if self.team is None:
            decoded = pixels.decode(self.vae, latents)
        else:
            decoded = torch.cat(list(self.team.decode_in_turn(self.vae, [latents], latents.shape[2])), dim=1)
        made = decoded[0].cpu()  # (t, y, x, 3)
        frames = plan.cut(made if kept is None else kept.into(made))
        if output_type == "pt":
            return frames.permute(0, 3, 1, 2)
        if output_type == "pil":
            return [Image.fromarray(frame) for frame in (255 * frames).round().byte().numpy()]
        return frames.numpy()

    def _step_callback(self, advance: Callable[[], Any], callback: StepCallback | None) -> OnStep:
        def on_step(step: int, timestep: Tensor, latents: Tensor) -> Tensor | None:
            advance()
            return None if callback is None else callback(self, step, timestep, {"latents": latents}).get("latents")

        return on_step


def kept_source(plan: Plan, vae: pixels.VAE) -> KeptSource | None:
    """What puts the source back into a plan's frames, where it says so."""
    if not plan.keep_source or plan.source is None:
        return None
    return KeptSource(plan.source, pixels.frames_a_latent(vae))

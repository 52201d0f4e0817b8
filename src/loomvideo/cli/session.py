"""One model, loaded when it is first needed, and what it makes of requests."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loomvideo import __version__
from loomvideo.cli.options import MODEL_OPTIONS, REQUEST_OPTIONS, SYSTEMS, UsageError, is_first_process
from loomvideo.cli.progress import Progress
from loomvideo.media.clip import Clip, probe, write_clip, write_picture
from loomvideo.media.pictures import PICTURE_SUFFIXES
from loomvideo.systems.plan import Plan
from loomvideo.systems.request import ModelLimits, Request

if TYPE_CHECKING:
    from loomvideo.systems.pipeline import VideoPipeline


class MemoryShort(RuntimeError):
    """The request is too large for the device."""


STAGES = {"think": "thinking", "read": "reading the request", "sample": "denoising", "decode": "decoding"}


class Session:
    """The model that ``options`` (MODEL_OPTIONS) name. What is wrong with them is told at once; weights are loaded at
    their first use."""

    def __init__(self, options: Mapping[str, Any], progress: Progress) -> None:
        from loomvideo.checkpoint import resolve_model, system_of
        from loomvideo.cli.device import choose_device, choose_dtype
        from loomvideo.models.lora import parse_lora

        named = {name: options[name] for name in MODEL_OPTIONS if name in options}
        if named.get("system") not in (None, *SYSTEMS):
            raise UsageError(f"system {named['system']!r}: there is no such system; use {', '.join(SYSTEMS)}")
        self.progress = progress
        self.loras = [parse_lora(text) for text in named.get("lora", ())]
        self.memory_limit = limit_of(named.get("memory_limit"))
        self.device = choose_device(named.get("device"))
        self.dtype = choose_dtype(named.get("dtype"), self.device)
        self.folder = resolve_model(str(named.get("model", "builtin")), system=named.get("system"))
        self.options = {"model": "builtin", **named, "system": system_of(self.folder)}
        self.limits = read_limits(self.folder)

    @cached_property
    def pipeline(self) -> "VideoPipeline":
        from loomvideo.models.attention import choose_kernel
        from loomvideo.team import form_team

        pipeline = self._placed(self._with_loras)
        if self.options.get("compile"):
            pipeline.compile_denoisers()
        pipeline.team = form_team(self.device)
        kernel = choose_kernel(self.device, self.dtype)
        kernel.use()
        if self.device.type != "cpu":  # where there is nothing to choose
            self.progress.tell(str(kernel))
        return pipeline

    def _with_loras(self) -> "VideoPipeline":
        from loomvideo.models.lora import load_loras

        pipeline = self._load()
        load_loras(pipeline.transformer, self.loras)
        if "weights" in self.options:
            pipeline.store_weights(self.options["weights"])
        return pipeline

    def _placed(self, load: Callable[[], "VideoPipeline"]) -> "VideoPipeline":
        """What is loaded, on its device, or arranged to keep within the memory limit; in bfloat16 where no more was asked
        for and nothing else does."""
        import torch

        from loomvideo.systems import memory

        pipeline = load()
        if self.memory_limit is None:
            return pipeline.to(self.device)
        try:
            arrangement = memory.arrange(pipeline, self.memory_limit, self.device)
        except memory.MemoryLimitError:
            if "dtype" in self.options or self.dtype != torch.float32:
                raise
            self.dtype = torch.bfloat16
            pipeline = load()
            arrangement = memory.arrange(pipeline, self.memory_limit, self.device)
        memory.apply(pipeline, arrangement, self.device)
        self.progress.tell(f"{arrangement}; {str(self.dtype).removeprefix('torch.')}")
        return pipeline

    @cached_property
    def understanding(self) -> "VideoPipeline":
        """The language model without what conditions and makes pixels."""
        from torch import nn

        from loomvideo.checkpoint import components

        others = [name for name, kind in components(self.folder).items() if issubclass(kind, nn.Module)]
        return self._placed(lambda: self._load(**{name: None for name in others if name != "mllm"}))

    def _load(self, **components: Any) -> "VideoPipeline":
        import torch
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        from loomvideo.checkpoint import pipeline_class
        from loomvideo.models.vae import use_channels_last

        for library in (diffusers_logging, transformers_logging):
            library.disable_progress_bar()
            library.set_verbosity_error()
        self.progress.stage("loading the model")
        found = pipeline_class(self.options["system"])
        pipeline = found.from_pretrained(self.folder, dtype=self.dtype, **components)
        if pipeline.vae is not None and (self.device.type, self.dtype) == ("cpu", torch.bfloat16):
            use_channels_last(pipeline.vae)  # a fifth faster; in float32 decoding is slower by as much
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def load(self) -> None:
        """Load the weights now, so that what is wrong with them is told before the first request, and once."""
        _ = self.pipeline

    def generate(self, decided: Plan) -> np.ndarray:
        """uint8 frames (t, y, x, 3); none where another process of a team has them."""
        nothing = np.empty((0, decided.output_height, decided.output_width, 3), np.uint8)
        return np.concatenate([nothing, *self.stream(decided)])

    def stream(self, decided: Plan) -> Iterator[np.ndarray]:
        """The same, a few frames at a time while they are made."""
        from torch import OutOfMemoryError

        def on_step(pipeline: object, step: int, timestep: object, tensors: dict) -> dict:
            self.progress.step(step + 1, decided.num_inference_steps)
            return {}

        try:
            yield from self.pipeline.stream(
                decided,
                callback_on_step_end=on_step,
                callback_on_stage=lambda stage: self.progress.stage(STAGES[stage]),
            )
        except OutOfMemoryError as error:
            size = f"{decided.num_frames} frames of {decided.width}x{decided.height}"
            raise MemoryShort(
                f"{self.device} has too little memory for {size}; ask for fewer or smaller ones"
            ) from error

    def think(self, decided: Plan) -> Plan:
        """The plan as think mode leaves it; the same one where it says not to think."""
        if not decided.think:
            return decided
        self.progress.stage(STAGES["think"])
        return self.pipeline.think(decided)

    def recipe(self, request: Request, decided: Plan, *, thought: bool) -> dict:
        """What a file is made again from; paths as they were typed. `thought`: the plan is as think mode left it."""
        return {
            "program": "loomvideo",
            "version": __version__,
            **self.options,
            "computed_on": f"{self.device.type} {str(self.dtype).removeprefix('torch.')}",
            "task": str(decided.task),
            "prompt": request.prompt,
            "negative_prompt": decided.negative_prompt,
            "source": None if request.source is None else str(request.source),
            "references": [str(reference) for reference in request.references],
            "height": decided.output_height,
            "width": decided.output_width,
            "num_frames": decided.output_frames,
            "fps": decided.fps,
            "num_inference_steps": decided.num_inference_steps,
            "guidance_scale": decided.guidance_scale,
            "guidance_scale_visual": decided.guidance_scale_visual,
            "seed": decided.seed,
            **({"speed": decided.speed} if decided.speed != "exact" else {}),
            **({"keep_source": decided.keep_source} if request.keep_source is not None else {}),
            **({"window": decided.window} if decided.window is not None else {}),
            **({"think": thought} if thought or request.think is not None else {}),
            **({"rewritten_prompt": decided.prompt} if thought else {}),
        }


def limit_of(text: str | None) -> int | None:
    """Bytes of --memory-limit."""
    if text is None:
        return None
    from loomvideo.systems.memory import parse_limit

    return parse_limit(text)


def read_limits(folder: Path) -> ModelLimits:
    from loomvideo.checkpoint import CheckpointError, model_index

    try:
        return ModelLimits(**model_index(folder)["limits"])
    except (KeyError, TypeError, ValueError) as error:
        message = f"{folder / 'model_index.json'} does not say what the model is limited to ({error}); import it again"
        raise CheckpointError(message) from error


@dataclass(frozen=True)
class Made:
    output: Path
    plan: Plan = field(repr=False)
    seconds: float
    recipe: dict

    def to_json(self) -> dict:
        return {
            "output": str(self.output),
            "task": str(self.plan.task),
            "seed": self.plan.seed,
            "height": self.plan.output_height,
            "width": self.plan.output_width,
            "num_frames": self.plan.output_frames,
            "fps": self.plan.fps,
            "seconds": round(self.seconds, 2),
            "notes": list(self.plan.notes),
            "recipe": self.recipe,
        }

    def __str__(self) -> str:
        made = self.plan
        length = "picture" if made.output_frames == 1 else f"{made.output_frames} frames at {made.fps:g} fps"
        size = f"{made.output_width}x{made.output_height}"
        return f"{self.output}: {length}, {size}, seed {made.seed}, {self.seconds:.1f} s"


def request_of(options: Mapping[str, Any]) -> Request:
    """The Request among merged options; raises UsageError when there is no prompt."""
    if options.get("prompt") is None:
        raise UsageError("--prompt is missing: say what to make, or name a file to make again with --like")
    return Request(**{name: options[name] for name in REQUEST_OPTIONS if name in options})  # type: ignore[arg-type]


def make(session: Session, request: Request, decided: Plan, output: Path) -> Made:
    """Generate a planned request and write it, its recipe inside."""
    session.load()  # which is not part of the time that a request takes
    began = time.monotonic()
    thinks, decided = decided.think, session.think(decided)
    recipe = session.recipe(request, decided, thought=thinks)
    if not is_first_process():
        session.generate(decided)
    elif output.suffix.lower() in PICTURE_SUFFIXES:
        write_picture(output, session.generate(decided)[0], metadata=recipe)
    else:
        streamed = decided.window is not None and output.suffix.lower() != ".gif"
        frames: Any = Streamed(decided, session.stream(decided)) if streamed else session.generate(decided)
        session.progress.stage("writing")
        write_clip(output, Clip(frames, decided.fps), metadata=recipe, sound_from=sound_of(request, decided, session))
    return Made(output, decided, time.monotonic() - began, recipe)


class Streamed:
    """Frames that are made while they are written: what `write_clip` asks of an array of them."""

    def __init__(self, decided: Plan, pieces: Iterator[np.ndarray]) -> None:
        self.shape = (decided.output_frames, decided.output_height, decided.output_width, 3)
        self.pieces = pieces

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        return chain.from_iterable(self.pieces)


def sound_of(request: Request, decided: Plan, session: Session) -> Path | None:
    """The source, if it has sound and the clip is played at the speed that it was made for."""
    if request.source is None or decided.fps != session.limits.for_task(decided.task, still=False).fps:
        return None
    source = Path(str(request.source))
    return source if probe(source).has_sound else None

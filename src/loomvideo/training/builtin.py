"""From nothing to the shipped built-in models: VAE and language model, which all systems share, then a system's denoiser.

Every part is resumable: the same call again goes on where the last one stopped, so that the whole fits into slices of
any length. On two AVX2 cores the first version took some three hours; see docs/log.md for what each part reached.
"""

import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from diffusers import AutoencoderKLWan, ModelMixin
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from loomvideo.data.world.plans import END
from loomvideo.training.denoiser import train_denoiser
from loomvideo.training.features import fill
from loomvideo.training.loomvideo import NUM_BLOCKS, LoomVideoRecipe
from loomvideo.training.mllm import float8_matrices, train_mllm
from loomvideo.training.omnivideo import OmniVideoRecipe
from loomvideo.training.recipe import Readers
from loomvideo.training.vae import train_vae
from loomvideo.training.vino import VinoRecipe

log = logging.getLogger(__name__)

RECIPES = {"loomvideo": LoomVideoRecipe, "vino": VinoRecipe, "omnivideo": OmniVideoRecipe}
FIRST_SHARDS = 8  # to be there before a denoiser's training begins


@dataclass(frozen=True, kw_only=True)
class Minutes:
    """How long each part trains in all."""

    vae: float = 40.0
    mllm: float = 40.0
    denoiser: float = 60.0


def train_builtin(
    folder: Path,
    *,
    part: str,
    system: str = "loomvideo",
    start: Path | None = None,
    minutes: Minutes,
    slice_minutes: float,
    device: torch.device,
    workers: int,
) -> None:
    """Train or go on training one part under ``folder``, or write a system to ``folder/builtin`` from all of them.

    ``system`` is whose denoiser is trained or written; the other parts are shared. ``start`` is a model folder of the
    built-in layout from whose weights a new run begins.
    """
    torch.set_float32_matmul_precision("high")  # TF32 where there is a GPU; nothing changes on a CPU
    log.info("%s on %s, %d worker processes", part, device, workers)
    if part == "vae":
        train_vae(
            folder / "vae",
            start and start / "vae",
            minutes=minutes.vae,
            slice_minutes=slice_minutes,
            device=device,
            workers=workers,
        )
    elif part == "mllm":
        train_mllm(
            folder / "mllm",
            start and start / "mllm",
            minutes=minutes.mllm,
            slice_minutes=slice_minutes,
            device=device,
            workers=workers,
        )
    elif part == "denoiser":
        _train_denoiser(
            folder,
            system,
            start,
            minutes=minutes.denoiser,
            slice_minutes=slice_minutes,
            device=device,
            workers=max(workers, 1),
        )
    else:
        export(folder, folder / "builtin", system)


def _load_readers(folder: Path) -> Readers:
    return Readers(
        vae=AutoencoderKLWan.from_pretrained(folder / "vae" / "vae").float().eval(),
        mllm=Qwen3VLForConditionalGeneration.from_pretrained(folder / "mllm" / "mllm").float().eval(),
        tokenizer=PreTrainedTokenizerFast.from_pretrained(folder / "mllm" / "tokenizer"),
        plans=True,
        item_end=END,
        num_blocks=NUM_BLOCKS,
        only_last_layer=True,  # a plan's states are the same facts in each, and the first layer has none
    )


def fill_for_ever(folder: Path, system: str, seed: int, device: str) -> None:
    """A worker process: makes a system's shards until it is ended, or its parent is."""
    torch.set_num_threads(1)
    parent = os.getppid()
    recipe: Any = RECIPES[system](_load_readers(folder).to(torch.device(device)))
    shards = fill(folder / system / "shards", recipe, torch.device(device), seed=seed)
    while os.getppid() == parent:
        next(shards)


def _train_denoiser(
    folder: Path,
    system: str,
    start: Path | None,
    *,
    minutes: float,
    slice_minutes: float,
    device: torch.device,
    workers: int,
) -> None:
    shards = folder / system / "shards"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # started by torchrun: all train the same, the first prepares
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    leads = not dist.is_initialized() or dist.get_rank() == 0
    spawn = multiprocessing.get_context("spawn")
    fillers = [
        spawn.Process(target=fill_for_ever, args=(folder, system, seed, str(device)), daemon=True)
        for seed in range(workers if leads else 0)
    ]
    for filler in fillers:
        filler.start()
    try:
        while len(list(shards.glob("*.pt"))) < FIRST_SHARDS:
            if not all(filler.is_alive() for filler in fillers):
                raise RuntimeError("a process that prepares samples has ended: its own message stands above")
            time.sleep(1)
        recipe: Any = RECIPES[system](_load_readers(folder).to(device))
        train_denoiser(
            folder / system / "denoiser",
            shards,
            recipe,
            start=start,
            minutes=minutes,
            slice_minutes=slice_minutes,
            device=device,
        )
    finally:
        for filler in fillers:
            filler.terminate()
        if dist.is_initialized():
            dist.destroy_process_group()


def export(folder: Path, output: Path, system: str) -> None:
    """A system into ``output``, from the trained parts: half precision, shared parts beside the system's own.

    Other systems that are there stay as they are; they were trained on the same VAE and language model.
    """
    readers = _load_readers(folder)
    recipe: Any = RECIPES[system](readers)
    pipeline = recipe.pipeline(folder / system / "denoiser")
    for model in pipeline.components.values():
        if isinstance(model, nn.Module):
            model.half()  # which for weights of this size keeps eight times more digits than bfloat16
        if isinstance(model, ModelMixin):
            model.register_to_config(_name_or_path="builtin")  # not where it lay on this machine
    in_float8(recipe.byte_matrices(pipeline))
    in_float8(float8_matrices(readers.mllm))
    beside = output.with_name(output.name + ".writing")
    shutil.rmtree(beside, ignore_errors=True)
    if output.exists():
        shutil.copytree(output, beside)
    _write(pipeline, beside, system, recipe.shared)
    shutil.rmtree(output, ignore_errors=True)
    os.replace(beside, output)


def _write(pipeline: Any, folder: Path, system: str, shared: Sequence[str]) -> None:
    """The pipeline as ``folder/system``, with its shared components beside it."""
    own = folder / system
    for name in (system, *shared):
        shutil.rmtree(folder / name, ignore_errors=True)
    pipeline.save_pretrained(own)
    for name in shared:
        shutil.move(own / name, folder / name)
    for file in (own / "tokenizer").iterdir():
        shutil.move(file, folder / "mllm" / file.name)
    (own / "tokenizer").rmdir()


def in_float8(matrices: Iterable[nn.Parameter]) -> None:
    """Stored with one byte a number; loading casts them, like all others, to the precision asked for."""
    for matrix in matrices:
        matrix.data = matrix.data.to(torch.float8_e4m3fn)

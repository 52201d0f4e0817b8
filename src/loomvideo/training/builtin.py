"""From nothing to the shipped built-in model: VAE, language model, then the denoiser, and the VAE's decoder meanwhile.

Every part is resumable: the same call again goes on where the last one stopped, so that the whole fits into slices of
any length. On two AVX2 cores the first version took some three hours; see docs/log.md for what each part reached.
"""

import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from loomvideo.models.wan import LoomVideoTransformer3DModel
from loomvideo.systems.loomvideo import LoomVideoPipeline
from loomvideo.training.denoiser import train_denoiser
from loomvideo.training.features import Sizes, fill, unconditional_layers
from loomvideo.training.mllm import FRAME_RULE, IMAGE_BUDGET, VIDEO_BUDGET, float8_matrices, train_mllm
from loomvideo.training.vae import train_decoder, train_vae

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)

FLOW_SHIFT = 3.0
LIMITS = {
    "fps": 8.0,
    "area": 128 * 128,
    "max_area": 256 * 448,
    "max_frames": 17,
    "default_frames": 17,
    "num_inference_steps": 25,
    "guidance_scale": 4.0,
    "guidance_scale_edit": 2.5,
    "guidance_scale_visual": 1.5,
}
# (task, sizes, share of the batches): a clip costs twenty times what a picture costs, and an edit's source and
# target serve as samples of text-to-video, too
_PICTURE: Sizes = {"num_frames": 1}
_CLIP: Sizes = {"num_frames": 17}
_SHORT: Sizes = {"num_frames": 9}
_WIDE: Sizes = {"num_frames": 17, "height": 96, "width": 160}
_TALL: Sizes = {"num_frames": 17, "height": 160, "width": 96}
MIXTURE = (
    ("t2i", _PICTURE, 0.34),
    ("edit_image", _PICTURE, 0.28),
    ("style_image", _PICTURE, 0.06),
    ("guided_edit", _PICTURE, 0.08),
    ("mi2v", _PICTURE, 0.05),
    ("t2v", _CLIP, 0.03),
    ("t2v", _SHORT, 0.02),
    ("t2v", _WIDE, 0.005),
    ("t2v", _TALL, 0.005),
    ("edit_video", _CLIP, 0.055),
    ("edit_video", _SHORT, 0.02),
    ("style_video", _CLIP, 0.01),
    ("style_video", _WIDE, 0.01),
    ("guided_edit", _CLIP, 0.02),
    ("mi2v", _CLIP, 0.02),
)


@dataclass(frozen=True, kw_only=True)
class Minutes:
    """How long each part trains in all."""

    vae: float = 40.0
    mllm: float = 40.0
    decoder: float = 60.0
    denoiser: float = 60.0


def train_builtin(
    folder: Path,
    *,
    part: str,
    start: Path | None = None,
    minutes: Minutes,
    slice_minutes: float,
    device: torch.device,
    workers: int,
) -> None:
    """Train or go on training one part under ``folder``, or write the model folder ``folder/builtin`` from all of them.

    ``start`` is a model folder of the built-in layout from whose weights a new run begins.
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
    elif part == "decoder":
        train_decoder(
            folder / "decoder",
            folder / "vae" / "vae",
            minutes=minutes.decoder,
            slice_minutes=slice_minutes,
            device=device,
            workers=workers,
        )
    elif part == "denoiser":
        _train_denoiser(folder, minutes.denoiser, slice_minutes, device, max(workers, 1))
    else:
        export(folder, folder / "builtin")


def _load_readers(folder: Path) -> tuple[AutoencoderKLWan, Qwen3VLForConditionalGeneration, PreTrainedTokenizerFast]:
    vae = AutoencoderKLWan.from_pretrained(folder / "vae" / "vae").eval()
    mllm = Qwen3VLForConditionalGeneration.from_pretrained(folder / "mllm" / "mllm").eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "mllm" / "tokenizer")
    return vae, mllm, tokenizer


def fill_for_ever(folder: Path, seed: int, device: str) -> None:
    """A worker process: makes shards until it is ended, or its parent is."""
    torch.set_num_threads(1)
    parent = os.getppid()
    vae, mllm, tokenizer = _load_readers(folder)
    nn.ModuleList([vae, mllm]).to(device)  # moves both in place
    shards = fill(folder / "shards", MIXTURE, vae, mllm, tokenizer, seed=seed)
    while os.getppid() == parent:
        next(shards)


def _train_denoiser(folder: Path, minutes: float, slice_minutes: float, device: torch.device, workers: int) -> None:
    _, mllm, tokenizer = _load_readers(folder)
    unconditional = unconditional_layers(mllm, tokenizer, LIMITS.get("negative_prompt", ""))
    spawn = multiprocessing.get_context("spawn")
    fillers = [
        spawn.Process(target=fill_for_ever, args=(folder, seed, str(device)), daemon=True) for seed in range(workers)
    ]
    for filler in fillers:
        filler.start()
    try:
        while len(list((folder / "shards").glob("*.pt"))) < 8:
            if not all(filler.is_alive() for filler in fillers):
                raise RuntimeError("a process that prepares samples has ended: its own message stands above")
            time.sleep(1)
        train_denoiser(
            folder / "denoiser",
            folder / "shards",
            unconditional,
            minutes=minutes,
            slice_minutes=slice_minutes,
            device=device,
        )
    finally:
        for filler in fillers:
            filler.terminate()


def export(folder: Path, output: Path) -> None:
    """The model folder from the trained parts: half precision, shared parts beside the system's own."""
    vae, mllm, tokenizer = _load_readers(folder)
    if (folder / "decoder" / "vae").exists():  # the same encoder, with a decoder that learnt on
        vae = AutoencoderKLWan.from_pretrained(folder / "decoder" / "vae").eval()
    transformer = in_half(LoomVideoTransformer3DModel.from_pretrained(folder / "denoiser" / "transformer"))
    ffn = [module for name, module in transformer.named_modules() if name.endswith(".ffn")]
    in_float8(matrix for matrix in nn.ModuleList(ffn).parameters() if matrix.ndim == 2)
    in_float8(float8_matrices(in_half(mllm)))
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT)
    pipeline = LoomVideoPipeline(
        transformer=transformer,
        mllm=mllm,
        tokenizer=tokenizer,
        vae=in_half(vae),
        scheduler=scheduler,
        limits=LIMITS,
        frame_rule=vars(FRAME_RULE),
        pixel_budgets={"image": vars(IMAGE_BUDGET), "video": vars(VIDEO_BUDGET)},
    )
    beside = output.with_name(output.name + ".writing")
    shutil.rmtree(beside, ignore_errors=True)
    system = beside / "loomvideo"
    pipeline.save_pretrained(system)
    for shared in ("vae", "mllm", "scheduler"):
        shutil.move(system / shared, beside / shared)
    for file in (system / "tokenizer").iterdir():
        shutil.move(file, beside / "mllm" / file.name)
    (system / "tokenizer").rmdir()
    if output.exists():
        shutil.rmtree(output)
    os.replace(beside, output)


def in_half(model: Model) -> Model:
    """Stored in float16, which for weights of this size keeps eight times more digits than bfloat16."""
    return model.half()


def in_float8(matrices: Iterable[nn.Parameter]) -> None:
    """Stored with one byte a number; loading casts them, like all others, to the precision asked for."""
    for matrix in matrices:
        matrix.data = matrix.data.to(torch.float8_e4m3fn)

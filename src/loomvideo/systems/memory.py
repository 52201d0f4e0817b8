"""A pipeline within a limit of memory: what lies on the device, what takes turns, what is streamed through it.

Counted for the largest clip that a model makes at a time, once it is loaded. On a GPU models wait in the machine's memory,
and the limit is a hard cap; on a CPU they wait on the disk.
"""

import math
import re
import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from loomvideo.models import vae as pixels
from loomvideo.models.eight_bits import weight_bytes
from loomvideo.systems.pipeline import VideoPipeline

UNITS = {"GB": 10**9, "MB": 10**6, "GiB": 2**30, "MiB": 2**20}
DENOISERS = ("transformer", "transformer_2")
CONTEXT_ROWS = 2560  # of a long chat with its pictures
RESERVE = 0.05  # of the limit: what the allocator loses between its blocks


class MemoryLimitError(ValueError):
    """A limit that is no size, or that a model cannot keep: the value, the rule and the way out."""


def parse_limit(text: str) -> int:
    """Bytes of "24GB", "16GiB" or "900MB"; raises MemoryLimitError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(GB|MB|GiB|MiB)", text.strip())
    if match is None or float(match[1]) == 0:
        raise MemoryLimitError(f"memory limit {text!r}: must be a size such as 24GB, 12.5GiB or 900MB")
    return int(float(match[1]) * UNITS[match[2]])


@dataclass(frozen=True)
class Arrangement:
    """How a pipeline keeps within a limit."""

    limit: int  # bytes
    needed: int  # by this module's count
    batch_branches: bool  # guidance branches together, or one at a time
    in_turn: bool  # one model is on the device at a time
    streamed: tuple[str, ...]  # models whose layers are brought one by one

    def __str__(self) -> str:
        ways = ["one model at a time"] if self.in_turn else []
        ways += [f"layer by layer: {', '.join(self.streamed)}"] if self.streamed else []
        ways += [] if self.batch_branches else ["one guidance branch at a time"]
        counted = f"memory: {gigabytes(self.needed)} needed of {gigabytes(self.limit)}"
        return f"{counted}: {'; '.join(ways) or 'everything stays where it is'}"


def gigabytes(size: float) -> str:
    return f"{size / 10**9:.2f} GB"


def arrange(pipeline: VideoPipeline, limit: int, device: torch.device) -> Arrangement:
    """The fastest way to keep within a limit in bytes; raises MemoryLimitError, with the least that would do."""
    room, least = int(limit * (1 - RESERVE)), math.inf
    for way in range(3):
        for batch_branches in (True, False):
            stages = _stages(pipeline, batch_branches)
            in_turn, streamed = _ways(pipeline, device, stages, room)[way]
            needed = _needed(pipeline, stages, in_turn=in_turn, streamed=streamed)
            if needed <= room:
                return Arrangement(limit, needed, batch_branches, in_turn, streamed)
            least = min(least, needed)
    raise MemoryLimitError(
        f"memory limit {gigabytes(limit)}: this model needs {gigabytes(least / (1 - RESERVE))} for "
        f"{pipeline.limits.max_frames} frames of {pipeline.limits.max_area:,} pixels in "
        f"{str(pipeline.mllm.dtype).removeprefix('torch.')}; use a larger limit or a smaller model"
    )


def _ways(
    pipeline: VideoPipeline, device: torch.device, stages: dict[str, int], room: int
) -> list[tuple[bool, tuple[str, ...]]]:
    """From the fastest on: whether models take turns, and which are streamed. On a CPU there is no place to wait but
    the disk, from which every model of plain tensors can be streamed; those of every step last."""
    names = _movable(pipeline)
    if device.type == "cpu":
        parameters = {name: pipeline.components[name].parameters() for name in names}
        names = tuple(name for name in names if not any(map(is_traceable_wrapper_subclass, parameters[name])))
        return [(False, ()), (False, tuple(name for name in names if name not in DENOISERS)), (False, names)]
    large = tuple(name for name in names if weight_bytes(pipeline.components[name]) + stages[name] > room)
    return [(False, ()), (True, ()), (True, large)]


def apply(pipeline: VideoPipeline, arrangement: Arrangement, device: torch.device) -> None:
    """Put a pipeline that lies on the CPU where an arrangement says."""
    pipeline.batch_branches = arrangement.batch_branches
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, arrangement.limit / total), device)
    if device.type == "cpu":
        _leave_on_disk(pipeline, arrangement.streamed)
    elif arrangement.in_turn:
        _take_turns(pipeline, arrangement.streamed, device)
    else:
        pipeline.to(device)


def _models(pipeline: VideoPipeline) -> dict[str, nn.Module]:
    return {name: model for name, model in pipeline.components.items() if isinstance(model, nn.Module)}


def _movable(pipeline: VideoPipeline) -> tuple[str, ...]:
    """Models that may wait elsewhere, in the order in which they work."""
    return tuple(name for name in str(pipeline.model_cpu_offload_seq).split("->") if name in _models(pipeline))


def _stages(pipeline: VideoPipeline, batch_branches: bool) -> dict[str, int]:
    """Bytes beside its weights that each model needs while it works; what no stage is counted for needs little."""
    stages = dict.fromkeys(_models(pipeline), 0)
    mllm: Any = pipeline.mllm.config.get_text_config()
    per_row = mllm.hidden_size * (mllm.num_hidden_layers + 8) + 3 * mllm.intermediate_size
    stages["mllm"] = CONTEXT_ROWS * per_row * pipeline.mllm.dtype.itemsize
    for name in stages.keys() & DENOISERS:
        stages[name] = _denoising(pipeline, pipeline.components[name], batch_branches)
    if "vae" in stages:
        stages["vae"] = _decoding(pipeline)
    return stages


def _denoising(pipeline: VideoPipeline, model: Any, batch_branches: bool) -> int:
    """Tokens of the largest clip through one block, for a source as many again, and all branches' keys and values."""
    limits, config = pipeline.limits, model.config
    side = int(math.sqrt(limits.max_area)) // limits.size_multiple * limits.size_multiple
    tokens = math.prod(pixels.latent_grid(pipeline.vae, limits.max_frames, side, side)) // math.prod(model.patch_size)
    dim = config["num_attention_heads"] * config["attention_head_dim"]
    if model.config.get("text_embed_dim") is not None:  # VINO: the source stands before the target, text in every block
        ffn, tokens, held = int(dim * config["mlp_ratio"]), 2 * tokens + CONTEXT_ROWS, 0
    else:
        ffn, held = config["ffn_dim"], config["num_layers"] * 2 * CONTEXT_ROWS * dim
    branches = 3
    at_work = branches if batch_branches else 1
    return model.dtype.itemsize * (at_work * tokens * (14 * dim + 2 * ffn) + branches * (held + 2 * tokens * dim))


def _decoding(pipeline: VideoPipeline) -> int:
    """Four frames of the widest features at full size, as many as one residual block holds."""
    config = pipeline.vae.config
    width = config.get("decoder_base_dim") or config.get("base_dim") or config["block_out_channels"][0]
    area = pipeline.limits.max_area // (config.get("patch_size") or 1) ** 2
    frames = 4 if "decoder_base_dim" in config else pipeline.limits.max_frames
    return 8 * frames * area * width * pipeline.vae.dtype.itemsize


def _needed(pipeline: VideoPipeline, stages: dict[str, int], *, in_turn: bool, streamed: tuple[str, ...]) -> int:
    sizes = {name: weight_bytes(model) for name, model in _models(pipeline).items()}
    for name in streamed:  # the layer at work and the one that is fetched meanwhile
        layers = [layer for layer in _models(pipeline)[name].modules() if not any(layer.children())]
        sizes[name] = 2 * max(weight_bytes(layer) for layer in layers)
    if in_turn:
        stay = sum(size for name, size in sizes.items() if name not in _movable(pipeline))
        return stay + max(sizes[name] + stages[name] for name in _movable(pipeline))
    return sum(sizes.values()) + max(stages.values())


def _take_turns(pipeline: VideoPipeline, streamed: tuple[str, ...], device: torch.device) -> None:
    """Streamed models bring their layers ahead of time; of the others each drives the one before from the device."""
    from accelerate import cpu_offload_with_hook
    from diffusers.hooks import apply_group_offloading

    before = None
    for name, model in _models(pipeline).items():
        if name not in _movable(pipeline):
            model.to(device)
    for name in _movable(pipeline):
        model = pipeline.components[name]
        if name in streamed:
            apply_group_offloading(model, device, offload_type="leaf_level", use_stream=True, record_stream=True)
        else:
            _, before = cpu_offload_with_hook(model, device, prev_module_hook=before)


def _leave_on_disk(pipeline: VideoPipeline, streamed: tuple[str, ...]) -> None:
    """Weights of streamed models are read, layer by layer, whenever they are needed."""
    from accelerate import disk_offload

    folder = tempfile.TemporaryDirectory(prefix="loomvideo-weights-")
    pipeline.weights_on_disk = folder  # which goes when the pipeline does
    for name in streamed:
        if weight_bytes(model := pipeline.components[name]):
            disk_offload(model, f"{folder.name}/{name}", execution_device=torch.device("cpu"), offload_buffers=True)

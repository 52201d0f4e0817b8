"""What a run would take, told before anything is loaded: parameters, memory for each process, tokens of a step."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loomvideo.checkpoint import (
    component_folder,
    components,
    empty_model,
    num_parameters,
    resolve_model,
    stored_shapes,
)
from loomvideo.training.builtin import RECIPES
from loomvideo.training.config import TrainConfig, trained_rule
from loomvideo.training.freeze import is_trainable
from loomvideo.training.lora import add_lora, denoiser_of
from loomvideo.training.run import is_hidden_matrix

GIB = 2**30


@dataclass(frozen=True)
class RunPlan:
    """Numbers of one process; bytes where nothing else is said."""

    parameters: int
    trained: int
    tokens: int  # of a step, over all processes
    samples: str
    weights: int
    gradients: int
    optimizer: int
    averages: int
    activations: int
    readers: int

    @property
    def memory(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.averages + self.activations + self.readers

    def __str__(self) -> str:
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "averaged weights": self.averages,
            "activations, about": self.activations,
            "language model and VAE": self.readers,
            "memory of a process, about": self.memory,
        }
        lines = [
            f"{'parameters':<28}{self.parameters:>16,}",
            f"{'of them trained':<28}{self.trained:>16,}",
            f"{'tokens of a step':<28}{self.tokens:>16,}  ({self.samples})",
            *(f"{name:<28}{size / GIB:>12.2f} GiB" for name, size in parts.items()),
        ]
        return "\n".join(lines)


def plan_run(config: TrainConfig, ranks: int = 1) -> RunPlan:
    """Count everything from configurations alone, on the meta device."""
    folder = resolve_model(config.model.start, system=config.system)
    model = empty(config, folder)
    rule = trained_rule(config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_trainable(name, rule))
    if config.model.lora is not None:
        add_lora(model, config.model.lora)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total, learnt = sum(p.numel() for p in model.parameters()), sum(p.numel() for p in trained.values())
    light = config.model.precision == "bfloat16" and ranks == 1
    muon = config.optimizer.name == "muon"
    kept = sum(p.numel() * (1 if muon and is_hidden_matrix(name, p) else 2) for name, p in trained.items())
    return RunPlan(
        parameters=total,
        trained=learnt,
        tokens=config.data.tokens * config.optimizer.accumulate,
        samples=sample_count(config),
        weights=(4 * learnt + (2 if light else 4) * (total - learnt)) // ranks
        + gathered(config, model, ranks)
        + second_weights(config, total, ranks),
        gradients=4 * learnt // ranks,
        optimizer=4 * kept // ranks,
        averages=4 * learnt // ranks if config.ema_decay is not None else 0,
        activations=activations(config, denoiser_of(model), ranks),
        readers=readers_bytes(config, folder),
    )


def second_weights(config: TrainConfig, total: int, ranks: int) -> int:
    """Of the denoiser that draws, whole on every rank, or that teaches, split over them."""
    if config.reinforce is not None:
        return 4 * total
    return 4 * total // ranks if config.distill is not None else 0


def empty(config: TrainConfig, folder: Path) -> nn.Module:
    """What would be trained, without memory."""
    if config.model.new:
        with torch.device("meta"):
            return RECIPES[config.system].build(object.__new__(RECIPES[config.system]), None)
    networks: dict[str, Any] = {name: kind for name, kind in components(folder).items() if issubclass(kind, nn.Module)}
    parts = {name: empty_model(kind, folder / name) for name, kind in networks.items() if (folder / name).is_dir()}
    model = nn.Module()
    for name in parts.keys() - {"vae", "mllm", "text_encoder"}:
        model.add_module(name, parts[name])
    return model


def gathered(config: TrainConfig, model: nn.Module, ranks: int) -> int:
    """What sharded parameters take besides while a block is computed, or while all are."""
    if ranks == 1:
        return 0
    blocks: list[nn.Module] = [*getattr(denoiser_of(model), "blocks", ())] or [denoiser_of(model)]
    largest = max(sum(p.numel() for p in block.parameters()) for block in blocks)
    total = sum(p.numel() for p in model.parameters())
    inside = sum(p.numel() for block in blocks for p in block.parameters())
    return 4 * (total - inside + 2 * largest if config.distributed.reshard_after_forward else total)


def activations(config: TrainConfig, denoiser: Any, ranks: int) -> int:
    """What one group keeps for its backward, about: inputs of all blocks, and all of one where the rest is computed again."""
    said = denoiser.config
    width = said["num_attention_heads"] * said["attention_head_dim"]
    inner = said.get("ffn_dim") or int(width * said.get("mlp_ratio", 4.0))
    layers = sum(said.get(name) or 0 for name in ("num_layers", "num_single_layers"))
    tokens = min(config.data.tokens_per_group or config.data.tokens, max(config.data.tokens // ranks, 1))
    tokens //= config.distributed.sequence_parallel
    tokens *= 4 // math.prod(denoiser.patch_size)  # budgets count published ones, of 2x2 latents
    size = 2 if config.model.precision == "bfloat16" else 4
    block = tokens * (16 * width + 3 * inner) * size
    return layers * tokens * width * size + block if config.model.gradient_checkpointing else layers * block


def readers_bytes(config: TrainConfig, folder: Path) -> int:
    """The language model and VAE, as they are stored, where samples or the loss need them while training."""
    if config.data.shards is not None and getattr(RECIPES[config.system], "features_only", False):
        return 0
    found = {name: component_folder(folder, name) for name in ("vae", "mllm")}
    sizes = {name: num_parameters(stored_shapes(place)) for name, place in found.items()}
    return 4 * sizes["vae"] + 2 * sizes["mllm"]


def sample_count(config: TrainConfig) -> str:
    """How many samples of the longest length a step holds, where the configuration says how large they are."""
    data = config.data
    if data.num_frames is None or data.resolution_buckets is None:
        return "sizes are the data's"
    side = max(int(name) for name in data.resolution_buckets)
    tokens = ((data.num_frames - 1) // 4 + 1) * (side // 32) ** 2
    return f"{data.tokens / tokens:.1f} clips of {data.num_frames} frames, or {data.tokens * 1024 / side**2:.0f} pictures, at {side}x{side}"

"""One resumable run: time-based schedule, bfloat16 where it is fast, EMA, checkpoints written beside and renamed."""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from loomvideo.training.muon import Muon

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """``minutes`` is the whole training's length over all slices; ``slice_minutes`` is how long this call may take."""

    folder: Path
    minutes: float
    slice_minutes: float
    matrix_rate: float | None  # Muon's, for the hidden layers' matrices and filters; None: AdamW's are these, too
    learning_rate: float  # AdamW's, for all else
    warmup_steps: int = 100
    decay_share: float = 0.9  # the learning rate falls to zero over this last share of the run
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    ema_decay: float = 0.999
    save_seconds: float = 120.0
    seed: int = 0

    @property
    def state_file(self) -> Path:
        return self.folder / "state.pt"


def computes_bfloat16(device: torch.device) -> bool:
    """Whether matrix products of bfloat16 are faster than float32's: GPUs, and CPUs with instructions for them."""
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cuda"


def batch_scale(device: torch.device) -> int:
    """How much larger batches are than on a CPU: small networks leave a GPU idle between their kernels."""
    return 8 if device.type == "cuda" else 1


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Weights that Muon trains: no tables, no embeddings, no modulation, neither the first nor the last layer."""
    edges = ("embed", "conv_in", "conv_out", "proj_out", "copy_gate", "palette", "lm_head", "table", "gamma")
    edges += ("time_proj", "norm", "tracks")
    return parameter.ndim >= 2 and min(parameter.flatten(1).shape) > 4 and not any(edge in name for edge in edges)


@contextmanager
def fast_arithmetic(device: torch.device) -> Iterator[None]:
    """bfloat16 products where they are fast; on CPUs plain attention, since the fused one takes half a training step for
    the few tokens of these models."""
    attention = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
    with torch.autocast(device.type, torch.bfloat16, enabled=computes_bfloat16(device)), attention:
        yield


@dataclass
class Run(Generic[Model]):
    """A model in training, moved to ``device``. ``step(loss_of)`` does one update; ``finished`` says when this slice or the run is over."""

    config: RunConfig
    model: Model
    device: torch.device
    steps: int = 0
    seconds: float = 0.0
    averages: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config = self.config
        self.model.to(self.device)
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.parameters = list(named.values())
        matrices = [p for name, p in named.items() if config.matrix_rate and is_hidden_matrix(name, p)]
        others = [p for name, p in named.items() if not (config.matrix_rate and is_hidden_matrix(name, p))]
        adamw = torch.optim.AdamW(others, lr=config.learning_rate, betas=config.betas, weight_decay=0.0, fused=True)
        self.optimizers: list[torch.optim.Optimizer] = [adamw]
        self.rates = [config.learning_rate]
        if config.matrix_rate:
            precision = torch.bfloat16 if computes_bfloat16(self.device) else torch.float32
            muon = Muon(matrices, lr=config.matrix_rate, weight_decay=config.weight_decay, precision=precision)
            self.optimizers, self.rates = [muon, adamw], [config.matrix_rate, config.learning_rate]
        self.ema = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.file = config.state_file
        if self.file.exists():
            self._resume()
        self.started = self.saved = self.logged = time.monotonic()
        self.seconds_before = self.seconds

    def _resume(self) -> None:
        state = torch.load(self.file, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.ema = {name: value.to(self.device) for name, value in state["ema"].items()}
        self.steps, self.seconds = state["steps"], state["seconds"]

    def save(self) -> None:
        """Write the state beside its place and rename it, so that a killed run leaves the last whole one."""
        if not self.leads:
            return
        self.config.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "ema": self.ema,
            "steps": self.steps,
            "seconds": self.seconds,
        }
        beside = self.file.with_suffix(".writing")
        torch.save(state, beside)
        os.replace(beside, self.file)

    @property
    def progress(self) -> float:
        return min(self.seconds / (self.config.minutes * 60), 1.0)

    @property
    def finished(self) -> bool:
        return self.progress >= 1 or self.seconds - self.seconds_before > self.config.slice_minutes * 60

    def _rate(self) -> float:
        warm = min((self.steps + 1) / self.config.warmup_steps, 1.0)
        return warm * min((1 - self.progress) / self.config.decay_share, 1.0)

    def step(self, loss_of: Callable[[], tuple[Tensor, dict[str, float]]]) -> None:
        """One update. ``loss_of`` returns the loss and figures for the log; a loss that is no number skips the update.

        Of several processes every one calls this, each with samples of its own.
        """
        with fast_arithmetic(self.device):
            loss, figures = loss_of()
        loss.backward()
        mean_loss, self.seconds = self._share(
            float(loss.detach()), self.seconds_before + time.monotonic() - self.started
        )
        self.steps += 1
        if math.isfinite(mean_loss):
            norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
            for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = rate * self._rate()
                optimizer.step()
            self._average(figures | {"loss": mean_loss, "gradient": float(norm)})
            self._update_ema()
        else:
            log.warning("step %d: the loss is %s; the step is skipped", self.steps - 1, mean_loss)
        self.model.zero_grad(set_to_none=True)
        now = time.monotonic()
        if now - self.logged > 20:
            self.logged = now
            self._log()
        if now - self.saved > self.config.save_seconds:
            self.saved = now
            self.save()

    def _share(self, *values: float) -> list[float]:
        """The values, which with all gradients become the mean over all processes; they began with the same weights."""
        if not dist.is_initialized():
            return list(values)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), gradients[0].new_tensor(values)])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        *parts, means = flat.split([*(p.numel() for p in self.parameters), len(values)])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        return means.tolist()

    @property
    def leads(self) -> bool:
        """Whether this process writes what all of them have made."""
        return not dist.is_initialized() or dist.get_rank() == 0

    def _update_ema(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                if value.is_floating_point():
                    self.ema[name].lerp_(value, 1 - decay)
                else:
                    self.ema[name].copy_(value)

    def _average(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            before = self.averages.get(name, value)
            self.averages[name] = before + 0.05 * (value - before)

    def _log(self) -> None:
        if not self.leads:
            return
        figures = {name: round(value, 5) for name, value in sorted(self.averages.items())}
        line = {"step": self.steps, "minutes": round(self.seconds / 60, 2), **figures}
        log.info("%s", json.dumps(line))
        self.config.folder.mkdir(parents=True, exist_ok=True)
        with open(self.config.folder / "log.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")

    def averaged_model(self) -> Model:
        """The model with its averaged weights."""
        self.model.load_state_dict(self.ema)
        return self.model

"""What a run says of itself: a line of progress, log.jsonl, TensorBoard; tokens and operations a second."""

import json
import logging
import math
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from loomvideo.training.config import ConfigError, WatchConfig
from loomvideo.training.distributed import Ranks

if TYPE_CHECKING:
    from loomvideo.training.trainer import Step

log = logging.getLogger(__name__)


class FlopCount:
    """Operations of a network's forward, counted once for every layout of batches."""

    def __init__(self) -> None:
        self.known: dict[Any, float] = {}

    def counted(self, network: nn.Module, batch: Any) -> tuple[Tensor, float]:
        """What the network makes of a batch, and how many operations that took."""
        references = tuple(one.shape for one in getattr(batch, "references", ()))
        layout = (batch.latents.shape, references, getattr(batch, "source", None) is None)
        if layout in self.known:
            return network(batch), self.known[layout]
        with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
            errors = network(batch)
        self.known[layout] = float(counter.get_total_flops())
        return errors, self.known[layout]


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of one large matrix product, which a run's utilisation is held against."""
    size = 8192 if device.type == "cuda" else 768
    a, b = torch.ones(2, size, size, device=device, dtype=dtype)
    best = math.inf
    for _ in range(4):
        began = _now(device)
        torch.mm(a, b)
        best = min(best, _now(device) - began)
    return 2 * size**3 / best


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def memory_bytes(device: torch.device) -> int:
    """The most that this process has held: on the GPU, or else in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Monitor:
    """Writes what happens; on the first rank alone."""

    def __init__(self, folder: Path, config: WatchConfig, step: int, steps: int, ranks: Ranks) -> None:
        self.config, self.steps, self.ranks = config, steps, ranks
        self.silent = ranks.rank != 0
        self.file = folder / "log.jsonl"
        self.board: Any = None
        self.rate = 0.0
        self.window: list[tuple[float, Step]] = []
        if self.silent:
            return
        folder.mkdir(parents=True, exist_ok=True)
        _forget_later(self.file, step)
        dtype = torch.bfloat16 if ranks.device.type == "cuda" else torch.float32
        self.rate = product_rate(ranks.device, dtype) * ranks.data_ranks
        if config.tensorboard:
            self.board = _board(folder / "tensorboard", step)
        self.began = time.perf_counter()

    def record(self, step: int, done: "Step") -> None:
        """One step; every ``log_every`` of them, and the last, are told together."""
        if self.silent:
            return
        now = time.perf_counter()
        self.window.append((now - self.began, done))
        self.began = now
        if step % self.config.log_every and step != self.steps:
            return
        seconds = sum(took for took, _ in self.window)
        told = [one for _, one in self.window]
        losses = [one.loss for one in told if math.isfinite(one.loss)]
        figures = {
            "loss": sum(losses) / len(losses) if losses else math.nan,
            "gradient": told[-1].gradient,
            "rate": told[-1].rate,
            "tokens_per_second": sum(one.tokens for one in told) / seconds,
            "utilisation": sum(one.flops for one in told) / seconds / self.rate,
            "memory_gib": memory_bytes(self.ranks.device) / 2**30,
        }
        left = seconds / len(told) * (self.steps - step)
        self.window = []
        log.info("%s", progress_line(step, self.steps, figures, left))
        self.figures(step, figures)

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Into log.jsonl and TensorBoard."""
        if self.silent:
            return
        with open(self.file, "a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        if "validation/all" in figures:
            told = ", ".join(f"{name.partition('/')[2]} {value:.4f}" for name, value in figures.items())
            log.info("step %d: validation loss %s", step, told)
        if self.board is not None:
            for name, value in figures.items():
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def progress_line(step: int, steps: int, figures: Mapping[str, float], left: float) -> str:
    hours, minutes = divmod(round(left / 60), 60)
    return (
        f"step {step}/{steps}  loss {figures['loss']:.4f}  {figures['tokens_per_second']:,.0f} tokens/s  "
        f"{figures['utilisation']:.0%} of a matrix product  {figures['memory_gib']:.1f} GiB  {hours}:{minutes:02} left"
    )


def _forget_later(file: Path, step: int) -> None:
    """Drop the lines of steps that are about to be done again."""
    if file.exists():
        lines = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
        file.write_text("".join(line for line in lines if step and json.loads(line)["step"] <= step))


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "watch.tensorboard: TensorBoard is not installed; pip install 'loomvideo[train]', or say false"
        ) from None
    return SummaryWriter(str(folder), purge_step=step + 1)

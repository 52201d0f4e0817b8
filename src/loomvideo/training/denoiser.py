"""Train a system's denoiser from prepared shards, in stages: what differs between systems is their `Recipe`."""

import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loomvideo.training.freeze import is_trainable
from loomvideo.training.recipe import Batch, Prepared, Recipe, Stage
from loomvideo.training.run import Run, RunConfig

log = logging.getLogger(__name__)

LOOK_SECONDS = 20.0  # between looks for new shards
SMALLEST_BATCH = 4
Layout = tuple[tuple[int, ...], bool, tuple[tuple[int, ...], ...]]


class Shards:
    """All prepared samples of a folder, by kind and layout; new shards are taken up as they appear."""

    def __init__(self, folder: Path, recipe: Recipe, rng: np.random.Generator, tokens_a_batch: int) -> None:
        self.folder, self.recipe, self.rng, self.tokens_a_batch = folder, recipe, rng, tokens_a_batch
        self.seen: set[Path] = set()
        self.kinds: dict[str, dict[Layout, list[Prepared]]] = defaultdict(lambda: defaultdict(list))
        self.looked = float("-inf")

    def refresh(self) -> None:
        if time.monotonic() - self.looked < LOOK_SECONDS:
            return
        self.looked = time.monotonic()
        for path in sorted(self.folder.glob("*.pt")):
            if path not in self.seen:
                self.seen.add(path)
                for item in torch.load(path, weights_only=True):
                    self.kinds[self.recipe.kind(item)][layout_of(item)].append(item)

    def __len__(self) -> int:
        return sum(len(items) for layouts in self.kinds.values() for items in layouts.values())

    def batch(self, shares: Mapping[str, float]) -> list[Prepared]:
        """Samples of one kind, drawn by the shares of those that are there, and of one layout, by how many it has."""
        self.refresh()
        wanted = {kind: share for kind, share in shares.items() if kind in self.kinds} or dict.fromkeys(self.kinds, 1.0)
        layouts = self.kinds[list(wanted)[self._draw(list(wanted.values()))]]
        items = list(layouts.values())[self._draw([len(items) for items in layouts.values()])]
        size = max(self.tokens_a_batch // self.recipe.num_tokens(items[0]), SMALLEST_BATCH)
        return [items[int(index)] for index in self.rng.integers(len(items), size=size)]

    def _draw(self, weights: Sequence[float]) -> int:
        return int(self.rng.choice(len(weights), p=np.array(weights, float) / sum(weights)))


def layout_of(item: Prepared) -> Layout:
    return tuple(item["target"].shape), "source" in item, tuple(tuple(one.shape) for one in item["references"])


def stage_at(stages: Sequence[Stage], progress: float) -> Stage:
    """The stage of a share of the run; the last one after its end."""
    return next((stage for stage in stages if progress < stage.until), stages[-1])


def set_trained(model: nn.Module, stage: Stage) -> None:
    """Let exactly the stage's parameters have gradients."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_trainable(name, stage.trained))


def mean_loss(recipe: Recipe, model: nn.Module, batch: Batch, task: str) -> tuple[Tensor, dict[str, float]]:
    """The mean squared velocity error, and what the log says of it: by thirds of the noise, and by task."""
    errors = recipe.squared_errors(model, batch) / batch.latents[0].numel()
    known, bands = errors.detach().cpu(), (batch.time * 3).long().clamp(max=2).cpu()
    figures = {f"noise_{band}": float(known[bands == band].mean()) for band in bands.unique().tolist()}
    moving = "clip" if batch.latents.shape[2] > 1 else "picture"
    return errors.mean(), figures | {f"{task}_{moving}": float(known.mean())}


def train_denoiser(
    folder: Path,
    shards: Path,
    recipe: Recipe,
    *,
    start: Path | None = None,
    minutes: float,
    slice_minutes: float,
    device: torch.device,
) -> None:
    """Train until ``minutes`` are over and write the result into ``folder``; called again it goes on where it stopped.

    ``start`` is a folder of the built-in layout from whose weights a new run begins.
    """
    # plain attention, which CPUs are trained with, would turn bfloat16 into float32: half as fast
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    torch.manual_seed(0)
    config = RunConfig(
        folder=folder,
        minutes=minutes,
        slice_minutes=slice_minutes,
        matrix_rate=0.015,
        learning_rate=1e-3,
        warmup_steps=40,
    )
    model: Any = recipe.build(start)
    run = Run(config, model, device)
    rng = np.random.default_rng([7, run.steps])
    torch.manual_seed(run.steps)
    data = Shards(shards, recipe, rng, recipe.tokens_a_batch[device.type])
    stages, entered = recipe.stages(start), None
    while not run.finished:
        stage = stage_at(stages, run.progress)
        if stage is not entered:
            log.info("stage %d of %d, until %g of the run", stages.index(stage) + 1, len(stages), stage.until)
            set_trained(model, entered := stage)
        items = data.batch(stage.shares)
        batch = recipe.batch(items, rng, device)

        def loss_of(batch: Batch = batch, task: str = items[0]["task"]) -> tuple[Tensor, dict[str, float]]:
            loss, figures = mean_loss(recipe, model, batch, task)
            return loss, figures | {"samples": float(len(data))}

        run.step(loss_of)
    run.save()
    recipe.save(run.averaged_model().eval(), folder)

"""Train a system's denoiser from prepared shards, in stages: what differs between systems is their `Recipe`."""

import logging
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loomvideo.training.cells import Readout
from loomvideo.training.freeze import is_trainable
from loomvideo.training.recipe import Batch, Draw, Prepared, Recipe, Stage
from loomvideo.training.run import Run, RunConfig

log = logging.getLogger(__name__)

LOOK_SECONDS = 20.0  # between looks for new shards
SMALLEST_BATCH = 4
READOUT_WEIGHT = 0.2
AIDED_SHARE = 0.7
SEEN = 0.5  # the flow time up to which a noisy sample shows its objects
SMALL_DISTANCE = 0.03  # mean square; a plain ground with a small object differs from its median by so much
LARGE_DISTANCE = 0.15  # mean square; the median edit of a picture changes 0.06
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


class Apprentice(nn.Module):
    """What a recipe builds and, while it learns, a readout of what its tokens show halfway through."""

    def __init__(self, recipe: Recipe, model: nn.Module) -> None:
        super().__init__()
        block, dim, self.target_tokens = recipe.halfway(model)
        self.recipe, self.model, self.readout = recipe, model, Readout(dim)
        self.output: Any = None
        block.register_forward_hook(self._keep)

    def _keep(self, block: nn.Module, inputs: Any, output: Any) -> None:
        self.output = output

    def loss(self, batch: Batch, items: Sequence[Prepared], aid: float) -> tuple[Tensor, dict[str, float]]:
        """The loss, and what the log says of it: the mean of squared errors by thirds of the noise, and by task.

        ``aid`` (1 to 0) is how much the readout counts.
        """
        errors = self.recipe.squared_errors(self.model, batch)
        known, bands = errors.detach().flatten(1).mean(1).cpu(), (batch.time * 3).long().clamp(max=2).cpu()
        figures = {f"noise_{band}": float(known[bands == band].mean()) for band in bands.unique().tolist()}
        moving = "clip" if batch.latents.shape[2] > 1 else "picture"
        figures |= {"error": float(known.mean()), f"{items[0]['task']}_{moving}": float(known.mean())}
        loss = (errors * importance(batch.latents, self.recipe.given(batch), batch.time)).mean()
        rows = [row for row, item in enumerate(items) if "cells" in item]
        if aid and rows:
            shown = torch.stack([items[row]["cells"].float() for row in rows]).to(errors.device)
            if shown.shape[1] != (places := batch.latents[0, 0].numel()):
                raise ValueError(
                    f"{shown.shape[1]} cells for {places} places of the latents: an earlier version prepared these shards; "
                    "delete them, so that they are prepared anew"
                )
            tokens = self.target_tokens(self.output, shown.shape[1])[rows]
            reading, right = self.readout.loss(tokens.flatten(0, 1), shown.flatten(0, 1))
            loss, figures = loss + aid * READOUT_WEIGHT * reading, figures | right
        self.output = None
        return loss, figures


def importance(latents: Tensor, given: Tensor | None, time: Tensor) -> Tensor:
    """Weights (b, 1, f, y, x) of mean one for latents (b, c, f, y, x): what there is to be told apart in a sample counts,
    not how much of it there is.

    ``given`` is the source where the sample is an edit of one; otherwise a sample is compared with its own median. Grounds of
    photographs differ from theirs twenty times as much as a plain ground's object does, and the plain loss is theirs; and
    what is least like the rest of its sample counts up to thirteen times, in full up to the time (b,) `SEEN` and less and
    less towards pure noise: where noise hides what stands where, weights that know it would teach too much of it. Edits of all
    that is there, styles and other grounds, count as those that change `LARGE_DISTANCE`: they are no easier to learn.
    """
    largest = math.inf if given is None else LARGE_DISTANCE
    if given is None:
        given = latents.flatten(2).median(dim=2).values[..., None, None, None]
    distance = (latents - given).square().mean(1, keepdim=True)
    typical = distance.mean((2, 3, 4), keepdim=True)
    seen = ((1 - time) / (1 - SEEN)).clamp(max=1)[:, None, None, None, None]
    rare = 1 + 3 * seen * (distance / typical.clamp(min=1e-6)).clamp(max=4)
    weights = rare / rare.mean((2, 3, 4), keepdim=True) / (typical.clamp(max=largest) + SMALL_DISTANCE)
    return weights / weights.mean()


def aid_at(progress: float) -> float:
    """From 1 to 0 over the first 70 % of a run, since reading out is not what is to be learnt in the end."""
    return max(1 - progress / AIDED_SHARE, 0.0)


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
    model = recipe.build(start)
    apprentice = Apprentice(recipe, model)
    run = Run(config, apprentice, device)
    rng = np.random.default_rng([7, run.steps])
    data = Shards(shards, recipe, rng, recipe.tokens_a_batch[device.type])
    stages, entered = recipe.stages(start), None
    while not run.finished:
        stage = stage_at(stages, run.progress)
        if stage is not entered:
            log.info("stage %d of %d, until %g of the run", stages.index(stage) + 1, len(stages), stage.until)
            set_trained(model, entered := stage)
        items = data.batch(stage.shares)
        batch = recipe.batch([Draw(item, (7, run.steps, row)) for row, item in enumerate(items)], device)

        def loss_of(batch: Batch = batch, items: Sequence[Prepared] = items) -> tuple[Tensor, dict[str, float]]:
            loss, figures = apprentice.loss(batch, items, aid_at(run.progress))
            return loss, figures | {"samples": float(len(data))}

        run.step(loss_of)
    run.save()
    recipe.save(run.averaged_model().model.eval(), folder)

"""Train a system's denoiser from prepared shards, in stages: what differs between systems is their `Recipe`."""

import logging
import math
import time
import zlib
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from loomvideo.training.freeze import is_trainable
from loomvideo.training.objective import Shown
from loomvideo.training.recipe import Batch, Draw, Prepared, Recipe, Stage
from loomvideo.training.run import Run, RunConfig

log = logging.getLogger(__name__)

LOOK_SECONDS = 20.0  # between looks for new shards
# Reading them: a GPU that waits for many learns nothing meanwhile, and what it has is drawn again and again.
FIRST_SECONDS, READING_SHARE = 10.0, 0.1
KEPT = 200_000_000  # numbers of a kind's and layout's targets: 65,000 pictures, 4,000 clips of 17 frames
SMALLEST_BATCH = 4
MATRIX_RATE, RATE = 0.006, 1e-3  # Muon's and AdamW's, as Omni-Video's last run in docs/log.md had them
# Each of a kind of its own: after steps of one kind alone the next undoes some of what the last has taught.
BATCHES_A_STEP = 2
# Behind a kind of clips in a stage's shares: of a few of their frames, so that a batch has five times as many clips.
SOME_FRAMES = ", some frames"
NUM_SHOWN = 3
SMALL_DISTANCE = 0.03  # mean square; a plain ground with a small object differs from its median by so much
LARGE_DISTANCE = 0.15  # mean square; the median edit of a picture changes 0.06
Loss = tuple[Tensor, dict[str, float]]  # and what the log says of it
Layout = tuple[tuple[int, ...], bool, tuple[tuple[int, ...], ...]]


class Shards:
    """The prepared samples of a folder, this process's share where there are several, by kind and layout; new shards are taken up
    as they appear."""

    def __init__(self, folder: Path, recipe: Recipe, seed: int, tokens_a_batch: int) -> None:
        self.folder, self.recipe, self.tokens_a_batch = folder, recipe, tokens_a_batch
        self.rank, self.ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.rng = np.random.default_rng([7, seed, self.rank])
        self.seen: set[Path] = set()
        self.unread: deque[Path] = deque()
        self.kinds: dict[str, dict[Layout, deque[Prepared]]] = defaultdict(dict)
        self.looked = float("-inf")
        self.began, self.reading = time.monotonic(), 0.0  # seconds that reading took

    def refresh(self) -> None:
        """Take up new shards, those that are there as the time for it comes: a tenth of all time, and ten seconds at once."""
        if time.monotonic() - self.looked >= LOOK_SECONDS:
            self.looked = time.monotonic()
            new = [path for path in sorted(self.folder.glob("*.pt")) if path not in self.seen]
            self.seen.update(new)
            self.unread += [path for path in new if zlib.crc32(path.name.encode()) % self.ranks == self.rank]
        while self.unread and self.reading < FIRST_SECONDS + READING_SHARE * (time.monotonic() - self.began):
            begun = time.monotonic()
            self._take(torch.load(self.unread.popleft(), weights_only=True))
            self.reading += time.monotonic() - begun

    def _take(self, items: Sequence[Prepared]) -> None:
        for item in items:
            layouts, layout = self.kinds[self.recipe.kind(item)], layout_of(item)
            if layout not in layouts:  # room for the newest, so that a long run does not fill the memory
                layouts[layout] = deque(maxlen=max(KEPT // item["target"].numel(), 1))
            layouts[layout].append(item)

    def __len__(self) -> int:
        return sum(len(items) for layouts in self.kinds.values() for items in layouts.values())

    def batch(self, shares: Mapping[str, float]) -> list[Prepared]:
        """Samples of one kind, drawn by the shares of those that are there, and of one layout, by how many it has."""
        self.refresh()
        wanted = {kind: share for kind, share in shares.items() if kind.removesuffix(SOME_FRAMES) in self.kinds}
        wanted = wanted or dict.fromkeys(self.kinds, 1.0)
        kind = list(wanted)[self._draw(list(wanted.values()))]
        layouts = self.kinds[kind.removesuffix(SOME_FRAMES)]
        items = list(layouts.values())[self._draw([len(items) for items in layouts.values()])]
        shown = self._some_frames(items[0]["target"].shape[1]) if kind.endswith(SOME_FRAMES) else None

        def picked(item: Prepared) -> Prepared:
            return item if shown is None else self.recipe.only(item, shown)

        size = max(self.tokens_a_batch // self.recipe.num_tokens(picked(items[0])), SMALLEST_BATCH)
        return [picked(items[int(index)]) for index in self.rng.integers(len(items), size=size)]

    def _some_frames(self, frames: int) -> Shown:
        drawn = self.rng.choice(frames, size=min(NUM_SHOWN, frames), replace=False)
        return Shown(tuple(sorted(drawn.tolist())), frames)

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


def loss_of(recipe: Recipe, model: nn.Module, batch: Batch, items: Sequence[Prepared]) -> Loss:
    """The loss, and what the log says of it: the mean of squared errors by thirds of the noise, and by task."""
    errors = recipe.squared_errors(model, batch)
    known, bands = errors.detach().flatten(1).mean(1).cpu(), (batch.time * 3).long().clamp(max=2).cpu()
    figures = {f"noise_{band}": float(known[bands == band].mean()) for band in bands.unique().tolist()}
    moving = "clip" if batch.latents.shape[2] > 1 else "picture"
    figures |= {"error": float(known.mean()), f"{items[0]['task']}_{moving}": float(known.mean())}
    return (errors * importance(batch.latents, recipe.given(batch))).mean(), figures


def importance(latents: Tensor, given: Tensor | None) -> Tensor:
    """Weights (b, 1, f, y, x) of mean one for latents (b, c, f, y, x): what there is to be told apart in a sample counts,
    not how much of it there is.

    ``given`` is the source where the sample is an edit of one; otherwise a sample is compared with its own median. Grounds of
    photographs differ from theirs twenty times as much as a plain ground's object does, and the plain loss is theirs; and
    what is least like the rest of its sample counts up to thirteen times: small objects are what is asked for. Edits of all
    that is there, styles and other grounds, count as those that change `LARGE_DISTANCE`: they are no easier to learn.
    """
    largest = math.inf if given is None else LARGE_DISTANCE
    if given is None:
        given = latents.flatten(2).median(dim=2).values[..., None, None, None]
    distance = (latents - given).square().mean(1, keepdim=True)
    typical = distance.mean((2, 3, 4), keepdim=True)
    rare = 1 + 3 * (distance / typical.clamp(min=1e-6)).clamp(max=4)
    weights = rare / rare.mean((2, 3, 4), keepdim=True) / (typical.clamp(max=largest) + SMALL_DISTANCE)
    return weights / weights.mean()


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
        matrix_rate=MATRIX_RATE,
        learning_rate=RATE,
        warmup_steps=60,
    )
    model = recipe.build(start)
    if start is None and not config.state_file.exists():
        recipe.teach(model, device)
    run = Run(config, model, device)
    data = Shards(shards, recipe, run.steps, recipe.tokens_a_batch[device.type])
    stages, entered = recipe.stages(start), None
    while not run.finished:
        stage = stage_at(stages, run.progress)
        if stage is not entered:
            log.info("stage %d of %d, until %g of the run", stages.index(stage) + 1, len(stages), stage.until)
            set_trained(model, entered := stage)
        drawn = [data.batch(stage.shares) for _ in range(BATCHES_A_STEP)]
        batches = [
            recipe.batch([Draw(item, (7, run.steps, data.rank, number, row)) for row, item in enumerate(items)], device)
            for number, items in enumerate(drawn)
        ]

        def loss(batches: Sequence[Batch] = batches, drawn: Sequence[Sequence[Prepared]] = drawn) -> Loss:
            losses, figures = zip(
                *(loss_of(recipe, model, batch, items) for batch, items in zip(batches, drawn, strict=True)),
                strict=True,
            )
            said = {name: value for each in figures for name, value in each.items()}
            return torch.stack(losses).mean(), said | {"samples": float(len(data))}

        run.step(loss)
    run.save()
    if not run.leads:
        return
    recipe.save(run.averaged_model().eval(), folder)

"""Samples as denoisers are trained from them, prepared once: latents, and what the system's chats need; shards of the world's.

The VAE's encoder costs some ten times what the denoiser's step on the same clip costs, so one process fills a folder
with shards while another trains from all that are there.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from loomvideo.data.samples import Sample
from loomvideo.data.world import tasks
from loomvideo.data.world.scene import Scene
from loomvideo.models import vae as pixels
from loomvideo.systems.thinking import combine
from loomvideo.training.cells import cells_of
from loomvideo.training.mllm import outcome
from loomvideo.training.recipe import Prepared, Recipe
from loomvideo.training.run import fast_arithmetic

BATCH = 16
THOUGHT_SHARE = 0.15


@torch.no_grad()
def encode(vae: AutoencoderKLWan, clips: Sequence[np.ndarray]) -> Tensor:
    """Clips uint8 (t, y, x, 3) of one shape to normalised latents (b, c, f, y, x), float16."""
    return pixels.encode(vae, torch.cat([pixels.to_pixels(clip) for clip in clips])).half().cpu()


def encode_each(vae: AutoencoderKLWan, clips: Sequence[np.ndarray]) -> list[Tensor]:
    """The same (c, f, y, x) of clips of any shapes; those of one shape go together."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for number, clip in enumerate(clips):
        alike.setdefault(clip.shape, []).append(number)
    encoded = {}
    for numbers in alike.values():
        encoded |= dict(zip(numbers, encode(vae, [clips[number] for number in numbers]), strict=True))
    return [encoded[number] for number in range(len(clips))]


def prepare_one(recipe: Recipe, drawn: Sample, rng: np.random.Generator, device: torch.device) -> Prepared:
    """A sample by itself, so that it does not depend on those beside it; without what recipes make of its latents besides."""
    with fast_arithmetic(device):
        return recipe.prepare([drawn], rng)[0]


def write_shard(path: Path, items: Sequence[Prepared]) -> None:
    """Beside its place, then renamed: whoever looks sees whole shards only."""
    beside = path.with_suffix(".writing")
    torch.save(list(items), beside)
    os.replace(beside, path)


def latent_cells(scene: Scene, latents: Tensor) -> Tensor:
    """What every place of a scene's latents (c, f, y, x) shows (f * y * x, 6), float16."""
    frames, height, width = latents.shape[1:]
    groups = [[0], *(list(range(first, first + 4)) for first in range(1, 4 * frames - 3, 4))]
    cells = cells_of(
        scene,
        height=4 * height,  # a quarter of the pixels is enough to say where something is
        width=4 * width,
        num_frames=4 * frames - 3,
        frames=groups,
        rows=height,
        columns=width,
    )
    return cells.flatten(0, 2).half()


def said_as_thought(drawn: tasks.Sample, rng: np.random.Generator) -> tasks.Sample:
    """Some samples' prompts as think mode leaves them, so that denoisers know the form."""
    if drawn.scene is None or drawn.style is not None or drawn.reference_scenes or rng.random() >= THOUGHT_SHARE:
        return drawn
    answer = outcome(drawn.scene, still=drawn.num_frames == 1)
    return replace(drawn, prompt=combine(drawn.prompt, answer, edits=drawn.source_scene is not None))


def shown_scenes(drawn: Sequence[Sample], latents: Sequence[dict[str, Tensor]]) -> list[tuple[Scene, Tensor]]:
    """The scenes with objects that the "source" and "target" latents of samples show, to be described in words."""
    return [
        (scene, given[name])
        for one, given in zip(drawn, latents, strict=True)
        for scene, name in ((one.source_scene, "source"), (one.scene, "target"))
        if name in given and scene is not None and scene.objects
    ]


def fill(folder: Path, recipe: Recipe, device: torch.device, *, seed: int, shard_batches: int = 24) -> Iterator[Path]:
    """Write shard after shard into ``folder``, without end; every batch is of one task, drawn by the mixture's shares."""
    folder.mkdir(parents=True, exist_ok=True)
    shares = np.array([share for _, _, share in recipe.mixture])
    number = len(list(folder.glob("*.pt")))
    while True:
        rng = np.random.default_rng([seed, number, 3])
        items: list[Prepared] = []
        for _ in range(shard_batches):
            task, sizes, _ = recipe.mixture[int(rng.choice(len(shares), p=shares / shares.sum()))]
            batch = [said_as_thought(tasks.sample(task, rng, **sizes), rng) for _ in range(BATCH)]
            with fast_arithmetic(device):
                for same in _same_layout(batch):
                    items += recipe.prepare(same, rng)
        path = folder / f"{seed:03d}-{number:06d}.pt"
        write_shard(path, items)
        number += 1
        yield path


def _same_layout(batch: Sequence[tasks.Sample]) -> list[list[tasks.Sample]]:
    by_layout: dict[tuple, list[tasks.Sample]] = {}
    for one in batch:
        by_layout.setdefault((one.num_frames, one.source_scene is None, len(one.reference_scenes)), []).append(one)
    return list(by_layout.values())

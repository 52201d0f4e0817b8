"""Samples as denoisers are trained from them, prepared once: latents, and what the system's chats need; shards of the world's.

The VAE's encoder costs some ten times what the denoiser's step on the same clip costs, so one process fills a folder
with shards while another trains from all that are there.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeGuard

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor

from loomvideo.data.samples import Sample
from loomvideo.data.world import plans, tasks
from loomvideo.data.world.phrases import Writer
from loomvideo.data.world.scene import Scene
from loomvideo.data.world.words import caption
from loomvideo.models import vae as pixels
from loomvideo.training.mllm import fact_directions
from loomvideo.training.recipe import Prepared, Readers, Recipe
from loomvideo.training.run import fast_arithmetic

BATCH = 16
PLACE = re.compile(r" \d\d\b")
PLACE_ERROR = 1.5  # standard deviation, in hundredths of the frame
STATE_ERROR = 0.15  # standard deviation, of states whose mean square is one


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


def is_planned(drawn: Sample, readers: Readers) -> TypeGuard[tasks.Sample]:
    """Whether a sample's denoiser is told a plan."""
    return readers.plans and isinstance(drawn, tasks.Sample) and drawn.answer is None


def told(drawn: Sample, readers: Readers) -> str:
    """What a sample's denoiser is told: its prompt, in whose place models that plan have the plan."""
    if not is_planned(drawn, readers):
        return drawn.prompt
    plan = plans.plan_of(drawn)
    return plan if drawn.source_scene is None else misread(plan, np.random.default_rng([drawn.seed, 1]))


def misread(plan: str, rng: np.random.Generator) -> str:
    """A plan whose places are as far off as a language model that looks at a source tells them, which the denoiser sees itself."""

    def near(place: re.Match[str]) -> str:
        return f" {min(max(int(place[0]) + round(PLACE_ERROR * rng.standard_normal()), 0), 99):02d}"

    items = [item if item.startswith("add ") else PLACE.sub(near, item) for item in plan.split("; ")]
    return "; ".join(items)


def told_of(scene: Scene, writer: Writer, readers: Readers, *, still: bool) -> str:
    """The same of a scene by itself, which a caption describes."""
    if readers.plans:
        return plans.plan_of(plans.asked_alone(scene, still=still))
    return caption(writer, scene, still=still).text


def stated(drawn: tasks.Sample, dim: int) -> Tensor:
    """The states (items, dm) at the ends of a plan's items as the language model is taught to have them, about as far off as
    it is left with: so a denoiser can learn to read before that is over, and no word is read twice.

    Of edits the places are as far off as in `misread`.
    """
    rng = np.random.default_rng([drawn.seed, 1])
    error = PLACE_ERROR / 100 if drawn.source_scene is not None else 0.0
    codes = torch.from_numpy(plans.codes_of(drawn, lambda: error * rng.standard_normal()))
    states = F.rms_norm(codes @ fact_directions(dim).T, (dim,))
    return states + STATE_ERROR * torch.from_numpy(rng.standard_normal(states.shape)).float()


def states_of(drawn: Sample, readers: Readers) -> Tensor | None:
    """The same, float16, of a sample whose denoiser reads the ends of its plan's items; of any other None."""
    if readers.item_end is None or not is_planned(drawn, readers):
        return None
    return stated(drawn, readers.mllm.config.get_text_config().hidden_size).half()


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
            batch = [tasks.sample(task, rng, **sizes) for _ in range(BATCH)]
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

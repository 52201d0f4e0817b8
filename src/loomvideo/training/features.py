"""Latents and language-model features of world samples, computed once into shards that the denoiser trains from.

The VAE's encoder costs some ten times what the denoiser's step on the same clip costs, so one process fills a folder
with shards while another trains from all that are there.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loomvideo.data.world.phrases import Writer
from loomvideo.data.world.tasks import Sample, sample
from loomvideo.data.world.words import caption
from loomvideo.models import vae as pixels
from loomvideo.models.chat import Chat, full_chat, tokenise, unconditional_chat, visual_chat
from loomvideo.models.qwen import layer_features
from loomvideo.systems.loomvideo import PREFIXES
from loomvideo.systems.request import Task
from loomvideo.training.mllm import visuals_of
from loomvideo.training.run import fast_arithmetic

BATCH = 16
TASKS = {
    "t2i": Task.TEXT_TO_IMAGE,
    "t2v": Task.TEXT_TO_VIDEO,
    "edit_image": Task.EDIT,
    "edit_video": Task.EDIT,
    "style_image": Task.EDIT,
    "style_video": Task.EDIT,
    "guided_edit": Task.GUIDED_EDIT,
    "mi2v": Task.MULTI_IMAGE_TO_VIDEO,
}
# One prepared sample: "task", "target" (c, f, y, x), "source" the same or absent, "references" a list of (c, 1, y, x),
# "full" and "visual" (blocks, m, dm); all float16. "visual" is absent where nothing is seen.
Prepared = dict[str, Any]


class Sizes(TypedDict, total=False):
    """What a task's samples are drawn with; the world's own sizes where it says nothing."""

    num_frames: int
    height: int
    width: int


@torch.no_grad()
def prepare(
    drawn: Sequence[Sample],
    vae: AutoencoderKLWan,
    mllm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> list[Prepared]:
    """Features of samples that share task, size and length."""
    visuals = [visuals_of(one) for one in drawn]
    moving = drawn[0].num_frames > 1
    prefix = PREFIXES[TASKS[drawn[0].task]][moving]
    full = _layers(
        mllm, tokenizer, [full_chat(seen, prefix + one.prompt) for seen, one in zip(visuals, drawn, strict=True)]
    )
    visual = _layers(mllm, tokenizer, [visual_chat(seen) for seen in visuals]) if visuals[0] else None
    targets = _encode(vae, [clip for one in drawn if (clip := one.target_frames()) is not None])
    clips = [clip for one in drawn if (clip := one.source_frames()) is not None]
    sources = _encode(vae, clips) if clips else None
    prepared: list[Prepared] = []
    for row, (one, target) in enumerate(zip(drawn, targets, strict=True)):
        item: Prepared = {"task": one.task, "target": target, "full": full[row]}
        item["references"] = (
            list(_encode(vae, [picture[None] for picture in one.reference_pictures()])) if one.reference_scenes else []
        )
        if visual is not None:
            item["visual"] = visual[row]
        if sources is not None:
            item["source"] = sources[row]
        prepared.append(item)
    return prepared


@torch.no_grad()
def described(
    drawn: Sequence[Sample],
    prepared: Sequence[Prepared],
    mllm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rng: np.random.Generator,
) -> list[Prepared]:
    """Edits' sources and targets as samples of text-to-image or -video: the latents are there already."""
    still = drawn[0].num_frames == 1
    task = "t2i" if still else "t2v"
    writer = Writer(rng)
    chats, latents = [], []
    for one, item in zip(drawn, prepared, strict=True):
        for scene, name in ((one.source_scene, "source"), (one.scene, "target")):
            if scene is not None and scene.objects:
                text = caption(writer, scene, still=still).text
                chats.append(full_chat([], PREFIXES[TASKS[task]][not still] + text))
                latents.append(item[name])
    layers = _layers(mllm, tokenizer, chats)
    return [
        {"task": task, "target": target, "full": full, "references": []}
        for target, full in zip(latents, layers, strict=True)
    ]


def _encode(vae: AutoencoderKLWan, clips: Sequence[np.ndarray]) -> Tensor:
    batch = torch.cat([pixels.to_pixels(clip) for clip in clips])
    return pixels.encode(vae, batch).half().cpu()


def _layers(mllm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, chats: Sequence[Chat]) -> list[Tensor]:
    """The layers (blocks, m, dm) of every chat, without its padding."""
    inputs = tokenise(tokenizer, chats)
    lengths = (
        [inputs.input_ids.shape[1]] * len(chats)
        if inputs.attention_mask is None
        else inputs.attention_mask.sum(1).tolist()
    )
    layers = torch.stack(layer_features(mllm, inputs.to(mllm.device)), dim=1).half().cpu()  # (b, blocks, m, dm)
    return [layers[row, :, :length].clone() for row, length in enumerate(lengths)]


@torch.no_grad()
def unconditional_layers(mllm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, negative_prompt: str) -> Tensor:
    """What the unconditional branch reads (blocks, m, dm), which dropped conditions train."""
    return _layers(mllm, tokenizer, [unconditional_chat(negative_prompt)])[0]


def fill(
    folder: Path,
    mixture: Sequence[tuple[str, Sizes, float]],
    vae: AutoencoderKLWan,
    mllm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    shard_batches: int = 24,
) -> Iterator[Path]:
    """Write shard after shard into ``folder``, without end; every batch is of one task, drawn by the mixture's shares."""
    folder.mkdir(parents=True, exist_ok=True)
    shares = np.array([share for _, _, share in mixture])
    number = len(list(folder.glob("*.pt")))
    while True:
        rng = np.random.default_rng([seed, number, 3])
        items: list[Prepared] = []
        for _ in range(shard_batches):
            task, sizes, _ = mixture[int(rng.choice(len(mixture), p=shares / shares.sum()))]
            batch = [sample(task, rng, **sizes) for _ in range(BATCH)]
            with fast_arithmetic(mllm.device):
                for same in _same_layout(batch):
                    prepared = prepare(same, vae, mllm, tokenizer)
                    items += prepared
                    if task.startswith("edit"):
                        items += described(same, prepared, mllm, tokenizer, rng)
        path = folder / f"{seed:03d}-{number:06d}.pt"
        torch.save(items, path.with_suffix(".writing"))
        os.replace(path.with_suffix(".writing"), path)
        number += 1
        yield path


def _same_layout(batch: Sequence[Sample]) -> list[list[Sample]]:
    by_layout: dict[tuple, list[Sample]] = {}
    for one in batch:
        by_layout.setdefault((one.num_frames, one.source_scene is None, len(one.reference_scenes)), []).append(one)
    return list(by_layout.values())

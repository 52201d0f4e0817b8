"""Rewards: one number for what was made of a request; larger is better.

They are plug-ins of `reinforce.reward`: a name of `REWARDS`, or ``package.module:name`` of something that is called with
the device once and gives a `Reward`.
"""

import importlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from loomvideo.data.samples import Sample
from loomvideo.data.world.tasks import Sample as WorldSample
from loomvideo.evaluation.judge import NOT_REQUIRED, Verdict, judge
from loomvideo.training.config import ConfigError

FULL_PSNR = 40.0  # dB from which more is worth nothing
PICKSCORE, PICKSCORE_TOKENS = "yuvalkirstain/PickScore_v1", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
PICKED_FRAMES = 4  # of a clip


class Reward(Protocol):
    def __call__(self, sample: Sample, frames: np.ndarray) -> float:
        """Of frames uint8 (t, y, x, 3) made for a sample's request. Groups are of one request, so any scale will do."""
        ...


class WorldReward:
    """The little world's exact judge, dense: the share of what was asked that is right, and how near pixels are."""

    def __init__(self, device: torch.device) -> None:
        pass

    def __call__(self, sample: Sample, frames: np.ndarray) -> float:
        """In 0..1. Raises ConfigError for a sample that is not of the little world."""
        if not isinstance(sample, WorldSample):
            raise ConfigError(
                "reinforce.reward: world judges samples of the little world alone (data.source=world); name another"
            )
        return share_right(judge(frames, sample))


def share_right(verdict: Verdict) -> float:
    """Mean over the required facts, each of which counts by the share of objects that have it; PSNR counts as one more."""
    shares = []
    for fact, right in verdict.facts.items():
        of_objects = [facts[fact] for facts in verdict.objects if fact in facts]
        if fact not in NOT_REQUIRED:
            shares.append(float(np.mean(of_objects)) if of_objects else float(right))
    if verdict.psnr is not None:
        shares.append(min(max(verdict.psnr / FULL_PSNR, 0.0), 1.0))
    return float(np.mean(shares))


class PickScore:
    """How well people would like frames for a prompt (Kirstain et al., 2023): CLIP's cosine, mean over a few frames.

    Raises ConfigError where its weights are not on this machine.
    """

    def __init__(self, device: torch.device, *, weights: str = PICKSCORE, tokens: str = PICKSCORE_TOKENS) -> None:
        from transformers import AutoModel, AutoProcessor

        try:
            self.processor: Any = AutoProcessor.from_pretrained(tokens)
            self.model: Any = AutoModel.from_pretrained(weights).eval().to(device)
        except OSError as error:
            raise ConfigError(
                f"reinforce.reward: PickScore's weights cannot be loaded; fetch them with `hf download {weights}` and "
                f"`hf download {tokens}`, or name another reward"
            ) from error

    @torch.no_grad()
    def __call__(self, sample: Sample, frames: np.ndarray) -> float:
        places = np.unique(np.linspace(0, len(frames) - 1, PICKED_FRAMES).round().astype(int))
        pictures = [Image.fromarray(frames[place]) for place in places]
        seen = self.processor(images=pictures, return_tensors="pt").to(self.model.device)
        read = self.processor(text=[sample.prompt], padding=True, truncation=True, max_length=77, return_tensors="pt")
        said = self.model(**seen, **read.to(self.model.device))
        return float(_unit(said.image_embeds).matmul(_unit(said.text_embeds).T).mean())


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows.float(), dim=-1)


REWARDS: dict[str, Callable[[torch.device], Reward]] = {"world": WorldReward, "pickscore": PickScore}


def make_reward(name: str, device: torch.device) -> Reward:
    """The reward of a name. Raises ConfigError where there is none."""
    if name in REWARDS:
        return REWARDS[name](device)
    module, colon, attribute = name.partition(":")
    try:
        if not colon:
            raise ImportError("no such reward")
        made = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"reinforce.reward: {name}: {error}; use {', '.join(REWARDS)}, or package.module:name of your own"
        ) from error
    return made(device)

"""Train the built-in LoomVideo denoiser from prepared shards: flow matching, condition dropout, pictures before clips."""

import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from loomvideo.models.wan import LoomVideoTransformer3DModel
from loomvideo.training.features import Prepared
from loomvideo.training.objective import Group, dynamic_shift, sample_time, squared_errors
from loomvideo.training.run import Run, RunConfig

ALL_DROPOUT, TEXT_DROPOUT = 0.1, 0.1
BASE_SHIFT = 2.0  # of 64 tokens; more for more, as in the published training
LATENTS_A_BATCH = {
    "cpu": 48,
    "cuda": 1536,
}  # latent frames of 128 x 128 pixels: 48 are 48 pictures or 9 clips of 17 frames
Layout = tuple[tuple[int, ...], bool, tuple[tuple[int, ...], ...]]


def build_denoiser() -> LoomVideoTransformer3DModel:
    model = LoomVideoTransformer3DModel(
        num_attention_heads=7,
        attention_head_dim=32,
        in_channels=48,
        out_channels=48,
        text_dim=8,  # of the published, unused text embedder
        freq_dim=256,
        ffn_dim=672,
        num_layers=6,
        mllm_dim=192,
    )
    # projector and source start at zero to leave a trained denoiser undisturbed; there is none here
    for layer in ("mllm_embedder.linear_2", "source_patch_embedding"):
        nn.init.xavier_uniform_(model.get_parameter(f"{layer}.weight").flatten(1))
    return model


class Shards:
    """All prepared samples of a folder, by layout; new shards are taken up as they appear."""

    def __init__(self, folder: Path, rng: np.random.Generator, latents_a_batch: int) -> None:
        self.folder, self.rng, self.latents_a_batch = folder, rng, latents_a_batch
        self.seen: set[Path] = set()
        self.by_layout: dict[Layout, list[Prepared]] = defaultdict(list)
        self.looked = 0.0

    def refresh(self) -> None:
        if time.monotonic() - self.looked < 20:
            return
        self.looked = time.monotonic()
        for path in sorted(self.folder.glob("*.pt")):
            if path not in self.seen:
                self.seen.add(path)
                for item in torch.load(path, weights_only=True):
                    self.by_layout[layout_of(item)].append(item)

    def __len__(self) -> int:
        return sum(len(items) for items in self.by_layout.values())

    def batch(self, clips_share: float) -> list[Prepared]:
        """Samples of one layout; clips are drawn with ``clips_share``, layouts by how many samples they have."""
        self.refresh()
        moving = self.rng.random() < clips_share
        options = [layout for layout in self.by_layout if (layout[0][1] > 1) == moving] or list(self.by_layout)
        counts = np.array([len(self.by_layout[layout]) for layout in options], float)
        layout = options[int(self.rng.choice(len(options), p=counts / counts.sum()))]
        latents = layout[0][1] * layout[0][2] * layout[0][3] / 64
        size = max(int(self.latents_a_batch / (latents + len(layout[2]))), 4)
        items = self.by_layout[layout]
        return [items[int(index)] for index in self.rng.integers(len(items), size=size)]


def layout_of(item: Prepared) -> Layout:
    return tuple(item["target"].shape), "source" in item, tuple(tuple(one.shape) for one in item["references"])


def drop_conditions(
    items: list[Prepared], unconditional: Tensor, rng: np.random.Generator
) -> tuple[list[Tensor], list[bool]]:
    """Layers of every sample after dropout, and which samples keep their source.

    All conditions go (the unconditional branch of sampling) or the text alone (its visual-only branch). Where references
    are part of the batch's layout, they stay and the text goes instead.
    """
    layers, keeps_source = [], []
    for item in items:
        draw = rng.random()
        everything = draw < ALL_DROPOUT and not item["references"]
        text = draw < ALL_DROPOUT + TEXT_DROPOUT
        layers.append(unconditional if everything else item.get("visual", unconditional) if text else item["full"])
        keeps_source.append(not everything)
    return layers, keeps_source


def make_group(items: list[Prepared], unconditional: Tensor, rng: np.random.Generator, device: torch.device) -> Group:
    """A batch of prepared samples of one layout as the objective takes it."""
    layers, keeps_source = drop_conditions(items, unconditional, rng)
    longest = max(layer.shape[1] for layer in layers)
    context = torch.zeros(layers[0].shape[0], len(items), longest, layers[0].shape[2])
    mask = torch.zeros(len(items), longest, dtype=torch.bool)
    for row, layer in enumerate(layers):
        context[:, row, : layer.shape[1]] = layer.float()
        mask[row, : layer.shape[1]] = True
    latents = torch.stack([item["target"] for item in items]).float().to(device)
    source = None
    if "source" in items[0]:
        source = torch.stack(
            [item["source"].float() * keep for item, keep in zip(items, keeps_source, strict=True)]
        ).to(device)
    references = [
        torch.stack(same).float().to(device) for same in zip(*(item["references"] for item in items), strict=True)
    ]
    tokens = sum(part[0, 0].numel() // 4 for part in [latents, *references])
    return Group(
        latents=latents,
        noise=torch.randn_like(latents),
        time=sample_time(len(items), dynamic_shift(tokens, base=BASE_SHIFT)).to(device),
        layers=list(context.to(device)),
        context_mask=None if bool(mask.all()) else mask.to(device),
        source=source,
        references=references,
    )


def train_denoiser(
    folder: Path,
    shards: Path,
    unconditional: Tensor,
    *,
    minutes: float,
    slice_minutes: float,
    device: torch.device,
    pictures_share: float = 0.6,
) -> None:
    """Train until ``minutes`` are over and write ``folder/transformer``; called again it goes on where it stopped.

    For the first ``pictures_share`` of the run nearly all batches are pictures, then half are clips.
    """
    torch.manual_seed(0)
    model = build_denoiser()
    run = Run(
        RunConfig(
            folder=folder,
            minutes=minutes,
            slice_minutes=slice_minutes,
            matrix_rate=0.015,
            learning_rate=1e-3,
            warmup_steps=40,
        ),
        model,
        device,
    )
    rng = np.random.default_rng([7, run.steps])
    torch.manual_seed(run.steps)
    data = Shards(shards, rng, LATENTS_A_BATCH[device.type])
    while not run.finished:
        items = data.batch(clips_share=0.1 if run.progress < pictures_share else 0.5)
        group = make_group(items, unconditional, rng, device)

        def loss_of(group: Group = group, task: str = items[0]["task"]) -> tuple[Tensor, dict[str, float]]:
            errors = squared_errors(model, group) / group.latents[0].numel()
            bands = ((group.time * 3).long().clamp(max=2)).tolist()
            figures = {
                f"noise_{band}": float(errors.detach()[[b == band for b in bands]].mean()) for band in set(bands)
            }
            moving = "clip" if group.latents.shape[2] > 1 else "picture"
            return errors.mean(), figures | {
                f"{task}_{moving}": float(errors.detach().mean()),
                "samples": float(len(data)),
            }

        run.step(loss_of)
    run.save()
    run.averaged_model().eval().save_pretrained(folder / "transformer")

"""From a configuration to a trained model: what is loaded, what it is trained from, and what is written in the end."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from loomvideo.checkpoint import (
    check_model,
    component_folder,
    components,
    model_index,
    pipeline_class,
    read_json,
    resolve_model,
)
from loomvideo.data.config import load_sets, read_yaml, section_of
from loomvideo.data.reading import Reading
from loomvideo.media.clip import write_picture
from loomvideo.models.qwen import FrameRule, PixelBudget, set_rotary_tables
from loomvideo.models.wan import LoomVideoTransformer3DModel
from loomvideo.systems.request import ModelLimits
from loomvideo.training.builtin import RECIPES
from loomvideo.training.checkpoints import Tensors
from loomvideo.training.config import ConfigError, ReinforceConfig, TrainConfig
from loomvideo.training.distill import DistillTrainer, settle
from loomvideo.training.distributed import Ranks, ranks_of_launch
from loomvideo.training.loomvideo import use_source
from loomvideo.training.lora import add_lora, merge_lora
from loomvideo.training.mllm import Sight
from loomvideo.training.nft import AskedSamples, NftTrainer, Policy, Rollouts
from loomvideo.training.recipe import Draw, Readers, Recipe
from loomvideo.training.results import filled, write_model, write_result
from loomvideo.training.rewards import make_reward
from loomvideo.training.source import BatchSource, PixelSamples, from_pixels, from_shards
from loomvideo.training.trainer import Network, Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """The model folder that a run begins with, and its system's recipe on its language model and VAE."""

    folder: Path
    readers: Readers
    recipe: Recipe
    config: TrainConfig

    def build(self) -> nn.Module:
        """All that may be trained, as it is before the first step."""
        model = self.recipe.build(None if self.config.model.new else self.folder)
        if self.config.model.use_source_embedding is not None:
            use_source(cast("LoomVideoTransformer3DModel", model), self.config.model.use_source_embedding)
        return model


def run_training(config: TrainConfig, device: torch.device) -> Path | None:
    """Train to the last step and give back what was written; None on other ranks, and where a signal stopped the run."""
    if config.data.shards is None and config.data.source is None:
        raise ConfigError("data: name data.shards, a prepared folder, or data.source, a data set YAML or a folder")
    torch.set_float32_matmul_precision("high")  # TF32 where there is a GPU; nothing changes on a CPU
    with ranks_of_launch(device, config.distributed.sequence_parallel) as ranks:
        start = load_start(config, ranks.device)
        source = open_source(config, start.recipe, ranks)
        trainer = make_trainer(config, start, source, ranks)
        finished = trainer.train()
        source.close()
        weights = trainer.weights() if finished else {}
        if not finished or ranks.rank:
            return None
        written = write_result(config, start.recipe, start.build(), weights, start.folder)
        if config.distill is not None:
            settle(written, config.distill, start.recipe.last_timestep)
        return written


def make_trainer(config: TrainConfig, start: Start, source: BatchSource, ranks: Ranks) -> Trainer:
    """The trainer of flow matching, of reinforcement or of distillation."""
    shared: dict[str, Any] = {
        "validation": validation_groups(config, start.recipe, ranks),
        "preview": previewer(config, start) if config.watch.samples_every else None,
    }
    if config.reinforce is not None:
        reinforce = config.reinforce
        policy = make_policy(config, start, reinforce, ranks.device)
        rollouts = Rollouts(source, policy, make_reward(reinforce.reward, ranks.device), reinforce)
        shared |= {"become": policy.become, "beta": reinforce.beta}
        return NftTrainer(config, start.recipe, start.build(), rollouts, ranks, **shared)
    if config.distill is not None:
        limits = ModelLimits(**model_index(start.folder)["limits"])
        shared |= {"teacher": start.build(), "limits": limits, "distill": config.distill}
        return DistillTrainer(config, start.recipe, start.build(), source, ranks, **shared)
    return Trainer(config, start.recipe, start.build(), source, ranks, **shared)


def make_policy(config: TrainConfig, start: Start, reinforce: ReinforceConfig, device: torch.device) -> Policy:
    """The one that draws: a copy of the denoiser, whole on every rank."""
    model = start.build()
    if config.model.lora is not None:
        add_lora(model, config.model.lora)
    precision = torch.bfloat16 if config.model.precision == "bfloat16" else torch.float32
    network = Network(start.recipe, model.to(device))
    return Policy(network, start.readers.vae, reinforce, device=device, precision=precision)


def load_start(config: TrainConfig, device: torch.device) -> Start:
    """Language model and VAE, whose features the recipe needs; the denoiser is built when it is asked for."""
    folder = resolve_model(config.model.start, system=config.system)
    check_model(folder)
    readers = load_readers(folder, device)
    kind: Any = RECIPES[config.system]
    if config.data.shards is None or not getattr(kind, "features_only", False):
        readers.to(device)
    return Start(folder, readers, kind(readers), config)


def load_readers(folder: Path, device: torch.device) -> Readers:
    """A model folder's language model and VAE, still on the CPU, in the precision that suits the device, and its rules."""
    parts: dict[str, Any] = {n: kind for n, kind in components(folder).items() if n in ("vae", "mllm", "tokenizer")}
    loaded = {name: kind.from_pretrained(component_folder(folder, name)) for name, kind in parts.items()}
    said, denoiser = model_index(folder), read_json(folder / "transformer" / "config.json")
    mllm = loaded["mllm"].float() if device.type == "cpu" else loaded["mllm"].bfloat16()
    if "rounded_rotary_tables" in denoiser:  # the language model's follow the denoiser's
        set_rotary_tables(mllm, rounded=denoiser["rounded_rotary_tables"])
    budgets = {name: PixelBudget(**budget) for name, budget in said["pixel_budgets"].items()}
    sight = Sight(FrameRule(**said["frame_rule"]), budgets["image"], budgets["video"])
    if said.get("first_budgets"):
        first = {name: PixelBudget(**budget) for name, budget in said["first_budgets"].items()}
        num_frames = said["limits"].get("whole_source_frames") or sight.num_frames
        sight = replace(sight, first=first, num_frames=num_frames)
    return Readers(
        loaded["vae"].float().eval(),
        mllm.eval(),
        loaded["tokenizer"],
        sight=sight,
        num_blocks=denoiser.get("num_layers"),
        only_last_layer=said.get("only_last_layer", False),
        negative_prompt=said["limits"].get("negative_prompt") or "",
        system_turn=said.get("generate_system"),
        plans=said["limits"].get("think", False),
        item_end=said.get("item_end"),
    )


def open_source(config: TrainConfig, recipe: Recipe, ranks: Ranks, *, validation: bool = False) -> BatchSource:
    """What the run draws from; for validation, its held-out samples."""
    data = config.data
    shared: dict[str, Any] = {
        "seed": config.seed,
        "tokens_per_step": data.tokens,
        "tokens_per_group": data.tokens_per_group,
        "workers": data.workers,
        "rank": 0 if validation else ranks.data_rank,
        "world_size": 1 if validation else ranks.data_ranks,
    }
    shards = data.validation_shards if validation else data.shards
    if shards is not None:
        return from_shards(Path(shards), recipe, **shared)
    said = {"resolution_buckets": data.resolution_buckets, "num_frames": data.num_frames, "fps": data.fps}
    said = {name: value for name, value in said.items() if value is not None}
    sets = load_sets(
        Path(data.source or ""), section="val" if validation else "train", reading=Reading(**said) if said else None
    )
    kind = AskedSamples if config.reinforce is not None and not validation else PixelSamples
    return from_pixels(sets, recipe, ranks.device, bad_share=data.max_bad_share, kind=kind, **shared)


def validation_groups(config: TrainConfig, recipe: Recipe, ranks: Ranks) -> list[list[Draw]]:
    """The first held-out samples, in the groups that they come in; none where the configuration names none."""
    data = config.data
    if data.validation_shards is None and not _has_validation(Path(data.source or "")):
        return []
    source = open_source(config, recipe, ranks, validation=True)
    groups: list[list[Draw]] = []
    left = data.validation_samples
    while left > 0:
        for group in source.next():
            groups.append(group[:left])
            left -= len(groups[-1])
            if left <= 0:
                break
    source.close()
    return groups


def _has_validation(source: Path) -> bool:
    return source.is_file() and bool(section_of(read_yaml(source), "val"))


def previewer(config: TrainConfig, start: Start) -> Callable[[int, Tensors], None]:
    """Writes what the weights of a step make of the prompts: pictures under ``samples`` in the run's folder."""
    if not config.watch.prompts:
        raise ConfigError("watch.samples_every: watch.prompts is empty; name what is to be drawn, or say 0")
    run = Path(config.run_dir)

    def preview(step: int, weights: Tensors) -> None:
        model = start.build()
        if config.model.lora is not None:
            add_lora(model, config.model.lora)
        model = filled(model, weights)
        own = run / "preview.own"
        start.recipe.save(merge_lora(model) if config.model.lora is not None else model, own)
        write_model(start.folder, run / "preview", own)
        pipeline = pipeline_class(config.system).from_pretrained(run / "preview")
        pipeline.set_progress_bar_config(disable=True)
        for number, prompt in enumerate(config.watch.prompts):
            made = pipeline(prompt, num_frames=1, seed=number)
            frames = (255 * made.frames).round().astype("uint8")
            write_picture(run / "samples" / f"step-{step:07d}-{number}.png", frames[0])

    return preview

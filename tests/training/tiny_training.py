"""A denoiser of a few thousand weights, prepared samples of two layouts and an order of them, for the trainer's tests."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

from loomvideo.models.wan import LoomVideoTransformer3DModel
from loomvideo.training.config import TrainConfig, from_mapping
from loomvideo.training.distributed import ranks_of_launch
from loomvideo.training.loomvideo import LoomVideoRecipe
from loomvideo.training.recipe import Draw
from loomvideo.training.trainer import Trainer

CPU = torch.device("cpu")
BLOCKS, WIDTH, CHANNELS = 2, 8, 4


class TinyRecipe(LoomVideoRecipe):
    """LoomVideo's recipe without a language model and a VAE."""

    def __init__(self):
        self.unconditional = torch.zeros(BLOCKS, 2, WIDTH)

    def build(self, start):
        torch.manual_seed(0)
        model = LoomVideoTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            text_dim=4,
            freq_dim=16,
            ffn_dim=32,
            num_layers=BLOCKS,
            mllm_dim=WIDTH,
        )
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.1)
        return model


def sample(index):
    """Every third one is a clip, and the others pictures with a source."""
    rng = np.random.default_rng((9, index))

    def tensor(*shape):
        return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).half()

    moving = index % 3 == 0
    item = {
        "task": "test",
        "name": f"sample {index}",
        "target": tensor(CHANNELS, 2 if moving else 1, 4, 4),
        "full": tensor(BLOCKS, 5, WIDTH),
        "references": [],
    }
    if not moving:
        item |= {"source": tensor(CHANNELS, 1, 4, 4), "visual": tensor(BLOCKS, 3, WIDTH)}
    return item


class TinyBatches:
    """Four groups of two a step, the same on any number of ranks; each rank has every so-many-th of them."""

    def __init__(self, rank=0, ranks=1, spoil=lambda index, item: item):
        self.step, self.rank, self.ranks, self.spoil = 0, rank, ranks, spoil

    def next(self):
        first = 8 * self.step
        drawn = sorted((index % 3 != 0, index) for index in range(first, first + 9))
        self.step += 1
        groups = [[index for moving, index in drawn if moving == wanted] for wanted in (False, True)]
        groups = [group[place : place + 2] for group in groups for place in range(0, len(group), 2)]
        return [
            [Draw(self.spoil(index, sample(index)), (index,)) for index in group]
            for group in groups[self.rank :: self.ranks]
        ]

    def state_dict(self):
        return {"step": self.step}

    def load_state_dict(self, state):
        self.step = state["step"]


def config(folder, **settings):
    said = {
        "run_dir": str(folder),
        "steps": 6,
        "ema_decay": 0.9,
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2},
        "checkpoints": {"every": 2},
        "watch": {"log_every": 1, "validation_every": 3},
    }
    for name, value in settings.items():
        said[name] = {**said[name], **value} if isinstance(said.get(name), dict) else value
    return from_mapping(TrainConfig, said)


def trained_in_one_and_in_two_parts(make, folder):
    """Weights of a run of four steps, and of one that is stopped after two; ``make(folder, steps=4)`` gives its trainer."""
    whole = make(folder / "whole", steps=4)
    whole.train()
    first = make(folder / "parts", steps=4)
    for _ in range(2):
        first.do_step()
        first.step += 1
    first.save()
    second = make(folder / "parts", steps=4)
    assert second.step == 2
    second.train()
    return whole.weights(), second.weights()


def validation_groups():
    return [[Draw(sample(index), (index,))] for index in (1001, 1002, 1003)]


def make_trainer(settings, ranks, batches=None, **others):
    recipe = TinyRecipe()
    batches = batches or TinyBatches(ranks.data_rank, ranks.data_ranks)
    return Trainer(settings, recipe, recipe.build(None), batches, ranks, validation=validation_groups(), **others)


def train(settings, **others):
    with ranks_of_launch(CPU) as ranks:
        trainer = make_trainer(settings, ranks, **others)
        trainer.train()
        return trainer, trainer.weights()


def train_rank(rank, world, port, settings):
    """What every process of a launch runs."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    _, weights = train(settings)
    if rank == 0:
        torch.save(weights, Path(settings.run_dir) / "weights.pt")

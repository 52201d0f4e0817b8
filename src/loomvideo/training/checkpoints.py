"""Checkpoints of a run: written beside and renamed, the last few kept, readable by any number of ranks.

A checkpoint is a folder ``step-N``: tensors by torch.distributed.checkpoint, each rank its shards, and ``state.json``.
"""

import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

from loomvideo.training.config import ConfigError
from loomvideo.training.distributed import Ranks

UNFINISHED = (".writing", ".removing")
Tensors = dict[str, Tensor]


class Checkpoints:
    """Those of one run's folder. All ranks call the same methods."""

    def __init__(self, folder: Path, keep: int, ranks: Ranks) -> None:
        self.folder, self.keep, self.ranks = folder, keep, ranks
        if ranks.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.iterdir():
                if left.suffix in UNFINISHED:
                    shutil.rmtree(left)
        ranks.wait()

    def steps(self) -> list[int]:
        """The steps that there are whole checkpoints of, in order."""
        names = (re.fullmatch(r"step-(\d+)", path.name) for path in self.folder.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def save(self, step: int, tensors: Tensors, state: Mapping[str, Any]) -> None:
        """Write one; a run that is killed at any moment leaves the last whole one."""
        if step in self.steps():
            return
        final = self.folder / f"step-{step}"
        beside = final.with_suffix(".writing")
        if self.ranks.rank == 0:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()
            (beside / "state.json").write_text(json.dumps(state))
        self.ranks.wait()
        with _quiet():
            dcp.save(tensors, checkpoint_id=beside, no_dist=self.ranks.mesh is None)
        self.ranks.wait()
        if self.ranks.rank == 0:
            beside.rename(final)
            for old in self.steps()[: -self.keep]:
                _remove(self.folder / f"step-{old}")
        self.ranks.wait()

    def state(self, step: int) -> dict[str, Any]:
        return json.loads((self.folder / f"step-{step}" / "state.json").read_text())

    def load(self, step: int, tensors: Tensors) -> None:
        """Fill ``tensors``, sharded as they are, with what was written. Raises ConfigError where names differ."""
        place = self.folder / f"step-{step}"
        found = dcp.FileSystemReader(place).read_metadata().state_dict_metadata
        wrong = sorted(set(found) ^ set(tensors))
        if wrong:
            raise ConfigError(
                f"{place} holds another model, optimizer or LoRA than the configuration says ({wrong[0]} and "
                f"{len(wrong) - 1} more): give another run_dir, or the configuration that the run began with"
            )
        with _quiet():
            dcp.load(tensors, checkpoint_id=place, no_dist=self.ranks.mesh is None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the word that one process is alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _remove(folder: Path) -> None:
    """First renamed, so that what is half removed is never taken for whole."""
    going = folder.with_suffix(".removing")
    shutil.rmtree(going, ignore_errors=True)
    folder.rename(going)
    shutil.rmtree(going)


def optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer], parameters: Mapping[str, nn.Parameter]) -> Tensors:
    """What optimizers keep of every parameter, by its name; of a new one zeros, for a checkpoint's tensors to go to."""
    named = {id(parameter): name for name, parameter in parameters.items()}
    tensors = {}
    for optimizer in optimizers:
        for parameter in (one for group in optimizer.param_groups for one in group["params"]):
            kept = optimizer.state[parameter]
            if not kept:
                for key in KEPT[type(optimizer).__name__]:
                    kept[key] = torch.zeros(()) if key == "step" else torch.zeros_like(parameter)
            tensors |= {f"optimizer.{named[id(parameter)]}.{key}": value for key, value in kept.items()}
    return tensors


KEPT = {"AdamW": ("step", "exp_avg", "exp_avg_sq"), "Muon": ("average",)}  # by class of optimizer

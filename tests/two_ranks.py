"""Runs a function in two processes that form a gloo group."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist


def run(function: Callable, *arguments) -> list:
    """What `function(*arguments)` gives on each rank; it must be importable and its results picklable."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, args=(folder, function, arguments), nprocs=2)
        return [torch.load(Path(folder, str(rank)), weights_only=False) for rank in range(2)]


def _rank(rank: int, folder: str, function: Callable, arguments: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(function(*arguments), Path(folder, str(rank)))
    dist.barrier()
    dist.destroy_process_group()

"""Ranks: who this process is among those that train together, what they add up, and how a network is sharded over them."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from loomvideo.parallel import parallelise
from loomvideo.training.config import ConfigError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """One process alone, or one of several that `torchrun` or `accelerate launch` started.

    Ranks with the same ``data_rank`` share the tokens of the same samples.
    """

    device: torch.device
    mesh: DeviceMesh | None = None  # (data, sequence); None: alone
    everyone: DeviceMesh | None = None  # the same ranks in one row, which parameters are split over

    @property
    def rank(self) -> int:
        return 0 if self.mesh is None else dist.get_rank()

    @property
    def data_rank(self) -> int:
        return 0 if self.mesh is None else self.mesh.get_local_rank("data")

    @property
    def data_ranks(self) -> int:
        return 1 if self.mesh is None else self.mesh["data"].size()

    def sum(self, *values: float | Tensor) -> list[float]:
        """Every value, added up over the ranks that have samples of their own."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, *values: float | Tensor) -> list[float]:
        return self._reduce(values, dist.ReduceOp.MAX)

    def _reduce(self, values: Sequence[float | Tensor], operation: Any) -> list[float]:
        together = torch.stack([torch.as_tensor(value, dtype=torch.float64, device="cpu") for value in values])
        if self.mesh is not None:
            together = together.to(self.device)
            dist.all_reduce(together, operation, self.mesh.get_group("data"))
        return together.tolist()

    def gather(self, value: Item) -> list[Item]:
        """What every rank has, in order."""
        if self.mesh is None:
            return [value]
        values: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until all are here."""
        self.gather(None)

    def even(self, groups: Sequence[Item]) -> Iterator[tuple[Item, float]]:
        """Groups and their weights, as many on every rank: sharded networks must be called equally often.

        A rank that has fewer calls its last one again, with weight zero.
        """
        (most,) = self.max(len(groups))
        (least,) = self.max(-len(groups))
        if most and not least:
            raise ConfigError(
                f"a step has no samples for some of the {self.data_ranks} ranks: raise data.tokens, or use fewer ranks"
            )
        for index in range(int(most)):
            yield groups[min(index, len(groups) - 1)], float(index < len(groups))


@contextmanager
def ranks_of_launch(device: torch.device, sequence_parallel: int = 1) -> Iterator[Ranks]:
    """This process's place among those of its launch, for as long as it lasts; alone where there was none."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world % sequence_parallel:
        raise ConfigError(
            f"distributed.sequence_parallel: {sequence_parallel} does not divide the {world} processes of this launch"
        )
    if world == 1:
        yield Ranks(device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=1))
    try:
        shape = (world // sequence_parallel, sequence_parallel)
        mesh = init_device_mesh(device.type, shape, mesh_dim_names=("data", "sequence"))
        yield Ranks(device, mesh, init_device_mesh(device.type, (world,)))
    finally:
        dist.destroy_process_group()


def shard(network: nn.Module, blocks: Sequence[nn.Module], ranks: Ranks, *, reshard_after_forward: bool) -> None:
    """Parameters, gradients and all that optimizers keep, split over the ranks: FSDP2, block by block, then the rest.

    With ``reshard_after_forward`` a block's parameters are gathered for its forward and again for its backward (ZeRO-3);
    without, they stay from forward to backward, while gradients and optimizer stay split (ZeRO-2).
    """
    if ranks.everyone is None:
        return
    mesh = ranks.everyone
    # what a denoiser's `prepare` asks of a block is not the block's forward, so that it is gathered for itself
    for module in [inner for block in blocks for inner in block.modules() if hasattr(inner, "keys_values")]:
        fully_shard(module, mesh=mesh, reshard_after_forward=reshard_after_forward)
        register_fsdp_forward_method(module, "keys_values")
    for module in (*blocks, network):
        fully_shard(module, mesh=mesh, reshard_after_forward=reshard_after_forward)
    warnings.filterwarnings("ignore", message=".*returned a view tensor")  # nothing writes into what a block gives


def share_tokens(denoiser: Any, ranks: Ranks) -> None:
    """Let ranks of the same samples compute a part of their tokens each (loomvideo.parallel)."""
    if ranks.mesh is not None and ranks.mesh["sequence"].size() > 1:
        parallelise(denoiser, ranks.mesh.get_group("sequence"))


def forget_gathered(network: nn.Module) -> None:
    """Let sharded parameters that were changed by hand be gathered anew."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be sharded; every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

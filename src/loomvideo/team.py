"""Several processes that carry out one request together: guidance branches over ranks, tokens within a branch, columns
of the picture while it is decoded."""

import atexit
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from diffusers import AutoencoderKLWan
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from loomvideo.columns import columns_over, join_columns
from loomvideo.models.vae import VAE, decode_in_turn
from loomvideo.parallel import join, parallelised, piece
from loomvideo.sampling.sampler import Branch

Value = TypeVar("Value")


class Team:
    """All ranks of this run. Each holds the whole model and calls the pipeline with the same plan."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.everyone = cast("dist.ProcessGroup", dist.group.WORLD)
        self.size, self.rank = dist.get_world_size(), dist.get_rank()
        self._meshes: dict[int, DeviceMesh] = {}  # by the number of ranks that branches are dealt out to

    @property
    def leads(self) -> bool:
        """Whether this rank is the one that writes and prints."""
        return self.rank == 0

    def agree(self, value: Value) -> Value:
        """The leading rank's value."""
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    @contextmanager
    def divided(self, branches: Sequence[Branch], denoisers: Sequence[ModelMixin]) -> Iterator[list[Branch]]:
        """Branches of one velocity each, made to be computed together while this lasts.

        They are dealt out as far as their number and that of the ranks have a common divisor, so that no rank waits; the
        tokens of each are cut over the rest. Every rank has all velocities.
        """
        dealt = math.gcd(len(branches), self.size)
        mesh = self._mesh(dealt)
        with ExitStack() as stack:
            if dealt < self.size:
                for denoiser in denoisers:
                    stack.enter_context(parallelised(denoiser, mesh.get_group("tokens")))
            yield [self._dealt(branches, mesh.get_group("branches"))] if dealt > 1 else list(branches)

    def decode_in_turn(self, vae: VAE, latents: Iterable[Tensor], total: int) -> Iterator[Tensor]:
        """As models.vae.decode_in_turn, for all ranks: each decodes some columns, where the VAE is Wan's and has enough.

        Otherwise the leading rank decodes, and the others are given nothing.
        """
        parts = iter(latents)
        first = next(parts)
        num_columns = first.shape[-1]
        parts = chain([first], parts)
        if isinstance(vae, AutoencoderKLWan) and self.size <= num_columns and not hasattr(vae, "_hf_hook"):
            with columns_over(vae, num_columns, self.everyone) as own:
                for frames in decode_in_turn(vae, (part[..., own] for part in parts), total):
                    joined = join_columns(frames.permute(0, 1, 2, 4, 3), num_columns, self.everyone)
                    yield joined.permute(0, 1, 2, 4, 3)
        elif self.leads:
            yield from decode_in_turn(vae, parts, total)
        else:
            deque(parts, maxlen=0)  # the latents are made together

    def _dealt(self, branches: Sequence[Branch], group: dist.ProcessGroup) -> Branch:
        own = branches[piece(len(branches), group)]

        def velocities(latents: Tensor, timestep: Tensor) -> Tensor:
            computed = torch.cat([branch(latents, timestep) for branch in own])
            return join(computed[None], len(branches), group)[0]

        return velocities

    def _mesh(self, dealt: int) -> DeviceMesh:
        if dealt not in self._meshes:
            shape, names = (dealt, self.size // dealt), ("branches", "tokens")
            self._meshes[dealt] = init_device_mesh(self.device.type, shape, mesh_dim_names=names)
        return self._meshes[dealt]


def form_team(device: torch.device) -> Team | None:
    """The ranks that torchrun started, each on a device of its own kind; None where this process is alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        # its threads must not outlive the interpreter, which now and then ended in an abort
        atexit.register(dist.destroy_process_group)
    return Team(device)

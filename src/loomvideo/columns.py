"""Wan's VAE decoder on several ranks: each decodes some columns of the picture, exactly as one rank would.

Before every convolution ranks give their outermost columns to their neighbours; the one attention is over whole frames.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock, WanCausalConv3d
from torch import Tensor, nn

from loomvideo.parallel import join, piece


@contextmanager
def columns_over(vae: AutoencoderKLWan, num_columns: int, group: dist.ProcessGroup) -> Iterator[slice]:
    """While it lasts, the decoder takes this rank's of `num_columns` columns of latents, which it is given.

    Every rank must decode the same number of frames. Ranks must not be more than columns.
    """
    own = piece(num_columns, group)
    undo: list[Any] = []
    try:
        for module in vae.decoder.modules():
            undo += _cut(module, own, num_columns, group)
        yield own
    finally:
        for step in reversed(undo):
            step()


def _cut(module: nn.Module, own: slice, num_columns: int, group: dist.ProcessGroup) -> list[Any]:
    """Hooks around a layer that looks at neighbouring columns, and what takes them away again."""
    if isinstance(module, WanAttentionBlock):  # at the resolution of the latents
        before = module.register_forward_pre_hook(lambda _, given: (join_columns(given[0], num_columns, group),))
        after = module.register_forward_hook(lambda _, given, x: x[..., own])
        return [before.remove, after.remove]
    if isinstance(module, WanCausalConv3d) and module._padding[0]:
        name, padding = "_padding", module._padding
        without: tuple[Any, ...] = (0, 0, *padding[2:])
    elif isinstance(module, nn.Conv2d) and module.padding != (0, 0):
        name, padding = "padding", module.padding
        without = (module.padding[0], 0)
    else:
        return []
    setattr(module, name, without)
    hook = module.register_forward_pre_hook(
        lambda _, given: tuple(x if x is None else with_neighbours(x, group) for x in given)
    )
    return [hook.remove, lambda: setattr(module, name, padding)]


def with_neighbours(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """(..., x) with one column more on either side: the neighbours', or zeros at the picture's edges."""
    edges = torch.stack([x[..., 0], x[..., -1]])
    everyones = [torch.empty_like(edges) for _ in range(group.size())]
    dist.all_gather(everyones, edges, group=group)
    nothing, rank = torch.zeros_like(edges[0]), group.rank()
    left = everyones[rank - 1][1] if rank else nothing
    right = everyones[rank + 1][0] if rank + 1 < group.size() else nothing
    return torch.cat([left[..., None], x, right[..., None]], dim=-1)


def join_columns(x: Tensor, num_columns: int, group: dist.ProcessGroup) -> Tensor:
    """(..., x / p) of every rank as (..., x), where every column of latents has become as many as every other."""
    own = piece(num_columns, group)
    by_column = x.unflatten(-1, (own.stop - own.start, -1)).movedim(-2, 0)[None]  # (1, columns, ..., pixels of each)
    return join(by_column, num_columns, group)[0].movedim(0, -2).flatten(-2)

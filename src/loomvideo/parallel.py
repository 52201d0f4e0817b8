"""One denoiser on several devices: its tokens are cut into pieces, the context is whole everywhere.

Every rank holds a contiguous piece of the tokens of each sample, and all weights. Only self-attention looks beyond a piece:
either the heads are dealt out and every rank sees all tokens of its own ("heads", Ulysses), or, for any number of heads,
all keys and values are gathered ("keys"). Pieces may differ by one token, so that nothing is padded and masks stay true.

A network knows nothing of this: hooks around its blocks cut what comes into the first one and join what leaves the last.

p ranks   b batch   n tokens   h heads   k head width
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from loomvideo.models import hunyuan, wan
from loomvideo.models.attention import attention

Method = Literal["heads", "keys"]


def pieces(total: int, parts: int) -> list[int]:
    """Sizes of so many contiguous pieces, the larger ones first, that differ by one at most."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def piece(total: int, group: dist.ProcessGroup) -> slice:
    """This rank's piece of `total` things."""
    sizes, rank = pieces(total, group.size()), group.rank()
    return slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))


class _Join(torch.autograd.Function):
    """Pieces along dimension 1 as a whole, on every rank; all ranks' gradients come back to a piece's owner."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, total: int, group: dist.ProcessGroup) -> Tensor:
        ctx.piece, ctx.group = piece(total, group), group
        sizes = pieces(total, group.size())
        padding = own.new_zeros(len(own), sizes[0] - own.shape[1], *own.shape[2:])  # all_gather wants equal sizes
        padded = torch.cat([own, padding], dim=1)
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:, :size] for part, size in zip(parts, sizes, strict=True)], dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        whole = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(whole, group=ctx.group)
        return whole[:, ctx.piece], None, None


class _Exchange(torch.autograd.Function):
    """Numbers (flat) that go to each rank, for numbers that come from each; gradients go the same way back."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        result = flat.new_empty(sum(received))
        dist.all_to_all_single(result, flat.contiguous(), received, sent, group=group)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _Exchange.apply(gradients[0], ctx.received, ctx.sent, ctx.group), None, None, None  # type: ignore[return-value]


def join(own: Tensor, total: int, group: dist.ProcessGroup) -> Tensor:
    """(b, n / p, ...) of every rank as (b, n, ...) on all of them."""
    return cast("Tensor", _Join.apply(own, total, group))


def exchange(flat: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
    return cast("Tensor", _Exchange.apply(flat, sent, received, group))


class Tokens:
    """The tokens of one denoiser, of which every rank of a group holds a piece."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.total = 0  # of the block that is at work; its hook says so

    @property
    def own(self) -> slice:
        return piece(self.total, self.group)

    def join(self, own: Tensor) -> Tensor:
        return join(own, self.total, self.group)

    def attend_by_heads(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention over all tokens: each rank takes h / p heads of all of them, and gives the result back."""
        ranks = self.group.size()
        batch, num_own, heads, width = len(q), q.shape[1], q.shape[2] // ranks, q.shape[3]
        counts = pieces(self.total, ranks)
        by_rank = torch.cat([q, k, v]).unflatten(2, (ranks, heads)).movedim(2, 0)  # (p, 3 b, n / p, h / p, k)
        sent = [by_rank[0].numel()] * ranks
        received = [3 * batch * count * heads * width for count in counts]
        parts = exchange(by_rank.flatten(), sent, received, self.group).split(received)
        parts = [part.view(3 * batch, count, heads, width) for part, count in zip(parts, counts, strict=True)]
        q, k, v = torch.cat(parts, dim=1).chunk(3)
        attended = attention(q, k, v, mask)  # (b, n, h / p, k)
        flat = torch.cat([part.flatten() for part in attended.split(counts, dim=1)])
        back, home = [size // 3 for size in received], [size // 3 for size in sent]  # a third: the result alone
        own = exchange(flat, back, home, self.group).view(ranks, batch, num_own, heads, width)
        return own.movedim(0, 2).flatten(2, 3)  # (b, n / p, h, k)

    def attend_by_keys(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of this rank's queries to all keys and values: for any number of heads, at more traffic."""
        keys, values = self.join(torch.cat([k, v])).chunk(2)
        if mask is not None and mask.shape[2] > 1:  # tokens that read different ones
            mask = mask[:, :, self.own]
        return attention(q, keys, values, mask)


@contextmanager
def parallelised(model: ModelMixin, group: dist.ProcessGroup, method: Method | None = None) -> Iterator[None]:
    """While it lasts, `parallelise` holds."""
    undo = parallelise(model, group, method)
    try:
        yield
    finally:
        undo()


def parallelise(model: ModelMixin, group: dist.ProcessGroup, method: Method | None = None) -> Callable[[], None]:
    """Cut a denoiser's tokens over the ranks of a group, for sampling and for training; gives back what undoes it.

    Every rank calls `prepare` and `forward` with the same values and has the same velocity. Its gradients are exact once
    they are averaged over the group, as those of data-parallel ranks are. Without a `method`, heads are dealt out where
    their number divides by the group's size, and keys are gathered where it does not.

    Raises:
        ValueError: heads that cannot be dealt out, where that is asked for.
        TypeError: a model that is no denoiser of the three systems.
    """
    if not isinstance(model, wan.WanTransformer | hunyuan.VinoTransformer3DModel):
        raise TypeError(f"{type(model).__name__}: only the denoisers of loomvideo.models can be cut")
    heads = model.config["num_attention_heads"]
    divides = heads % group.size() == 0
    if method == "heads" and not divides:
        raise ValueError(
            f"{heads} heads over {group.size()} ranks: the number of heads must divide by that of ranks, so use another "
            'number of ranks or method="keys"'
        )
    tokens = Tokens(group)
    attend = tokens.attend_by_heads if divides and method != "keys" else tokens.attend_by_keys
    handles = _cut_wan(model, tokens) if isinstance(model, wan.WanTransformer) else _cut_vino(model, tokens)
    looking = [one for one in model.modules() if isinstance(one, wan.SelfAttention | hunyuan.Attention)]
    for module in looking:
        module.attend = attend

    def undo() -> None:
        for handle in handles:
            handle.remove()
        for module in looking:
            del module.attend

    return undo


def _cut_wan(model: wan.WanTransformer, tokens: Tokens) -> list[Any]:
    """Blocks of (x, modulation, num_target, rope, context, mask)."""

    def cut(module: nn.Module, given: tuple[Any, ...], *, first: bool) -> tuple[Any, ...]:
        x, modulation, num_target, rope, context, mask = given
        tokens.total = len(rope)
        own = tokens.own
        own_target = max(0, min(num_target, own.stop) - own.start)
        if mask is not None and mask.shape[2] > 1:  # tokens that read different parts of the context
            mask = mask[:, :, own]
        return x[:, own] if first else x, modulation, own_target, rope[own], context, mask

    return [*_hook(model.blocks, cut), _join_behind(model.blocks[-1], tokens)]


def _cut_vino(model: hunyuan.VinoTransformer3DModel, tokens: Tokens) -> list[Any]:
    """Double blocks of (x, text, embedding, rope, mask), then single blocks of (x, embedding, rope, mask).

    Visual tokens and text are cut as the one sequence that they are in attention: a rank may hold one kind only.
    """

    def cut_two(module: nn.Module, given: tuple[Any, ...], *, first: bool) -> tuple[Any, ...]:
        x, text, embedding, rope, mask = given
        tokens.total = len(rope)
        own, num_visual = tokens.own, len(rope) - text.shape[1]
        if first:
            x, text = x[:, own], text[:, max(0, own.start - num_visual) : max(0, own.stop - num_visual)]
        return x, text, embedding, rope[own], mask

    def cut_one(module: nn.Module, given: tuple[Any, ...], *, first: bool) -> tuple[Any, ...]:
        x, embedding, rope, mask = given
        tokens.total = len(rope)
        return x[:, tokens.own] if first else x, embedding, rope[tokens.own], mask

    double, single = model.transformer_blocks, model.single_transformer_blocks
    hooks = [*_hook(double, cut_two), *_hook(single, cut_one, begins=not double)]
    return [*hooks, _join_behind(single[-1], tokens)]


def _hook(blocks: nn.ModuleList, cut: Callable[..., tuple[Any, ...]], *, begins: bool = True) -> list[Any]:
    return [
        block.register_forward_pre_hook(partial(cut, first=begins and place == 0)) for place, block in enumerate(blocks)
    ]


def _join_behind(block: nn.Module, tokens: Tokens) -> Any:
    def joined(module: nn.Module, given: Any, x: Any) -> Tensor:
        return tokens.join(x)

    return block.register_forward_hook(joined)

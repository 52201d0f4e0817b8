"""Deepstack injection: every denoiser block attends to its own layer of the multimodal language model (fact sheet 3.3)."""

from collections.abc import Sequence

from torch import Tensor


def layers_for_blocks(layers: Sequence[Tensor], num_blocks: int, *, only_last: bool = False) -> list[Tensor]:
    """The last `num_blocks` layers in order, one for each block; with `only_last`, the last layer for every block.

    Raises ValueError when the language model has fewer layers than the denoiser has blocks.
    """
    if only_last:
        return [layers[-1]] * num_blocks
    if len(layers) < num_blocks:
        raise ValueError(
            f"{len(layers)} MLLM layers cannot feed {num_blocks} denoiser blocks: each block takes a layer of its own; "
            f"use an MLLM of at least {num_blocks} layers or a denoiser of at most {len(layers)} blocks"
        )
    return list(layers[len(layers) - num_blocks :])

"""A model's large matrices in eight bits each number: less memory, a little noise."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


class EightBitsError(ValueError):
    """Weights that cannot be kept as asked: the value, the rule and the way out."""


def store_in_fp8(model: Any) -> None:
    """As float8 (e4m3) without a scale, by diffusers; brought to the model's precision while a layer works."""
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=model.dtype)


def store_in_int8(model: Any) -> None:
    """As whole numbers with a scale for every row, by torchao. Raises EightBitsError where that is not installed."""
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise EightBitsError(
            "weights int8: torchao is not installed; pip install 'loomvideo[int8]', or use fp8"
        ) from error

    kept = (*model._skip_layerwise_casting_patterns, "lora_")

    def is_large(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and not any(pattern in name for pattern in kept)

    quantize_(model, Int8WeightOnlyConfig(), filter_fn=is_large)


WAYS: dict[str, Callable[[Any], None]] = {"fp8": store_in_fp8, "int8": store_in_int8}


def store(model: Any, way: str) -> None:
    """Keep a model's large matrices in eight bits. Raises EightBitsError for a way that there is not, or not here."""
    if way not in WAYS:
        raise EightBitsError(f"weights {way}: use {' or '.join(WAYS)}")
    WAYS[way](model)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers as they are stored."""
    return sum(bytes_of(tensor) for tensor in (*model.parameters(), *model.buffers()))


def bytes_of(tensor: Any) -> int:
    if is_traceable_wrapper_subclass(
        tensor
    ):  # stands for others, as one of torchao does; its own element size says nothing
        return sum(bytes_of(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.numel() * tensor.element_size()

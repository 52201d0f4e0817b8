"""LoRA files on the denoiser: diffusers' and Wan's layouts, loaded strictly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from loomvideo.media.limits import check_file

if TYPE_CHECKING:
    from loomvideo.models.wan import LoomVideoTransformer3DModel

PREFIX = "transformer"


class LoraError(ValueError):
    """A LoRA does not fit the denoiser."""


@dataclass(frozen=True)
class Lora:
    path: Path
    weight: float = 1.0


def parse_lora(text: str) -> Lora:
    """``FILE`` or ``FILE:WEIGHT``; a colon followed by no number is part of the name."""
    name, _, weight = text.rpartition(":")
    try:
        lora = Lora(Path(name), float(weight)) if name else Lora(Path(text))
    except ValueError:
        lora = Lora(Path(text))
    check_file(lora.path)
    if lora.path.suffix != ".safetensors":
        raise LoraError(f"{lora.path}: a LoRA is read from safetensors only; convert it first")
    return lora


def load_loras(transformer: "LoomVideoTransformer3DModel", loras: Sequence[Lora]) -> None:
    """Put adapters on the denoiser, all active with their weights. Raises LoraError when one does not fit."""
    if not loras:
        return
    names = [f"lora_{index}" for index in range(len(loras))]
    for name, lora in zip(names, loras, strict=True):
        state, metadata = _read(lora.path)
        _check_targets(transformer, state, lora.path)
        transformer.load_lora_adapter(state, prefix=PREFIX, adapter_name=name, metadata=metadata)
    transformer.set_adapters(names, [lora.weight for lora in loras])


def _read(path: Path) -> tuple[dict[str, Tensor], dict | None]:
    """The file's tensors under diffusers' names, and the adapter's settings where the file holds them."""
    from diffusers.loaders.lora_pipeline import WanLoraLoaderMixin
    from safetensors import SafetensorError

    try:
        state, metadata = WanLoraLoaderMixin.lora_state_dict(
            str(path.parent),
            weight_name=path.name,
            use_safetensors=True,
            local_files_only=True,
            return_lora_metadata=True,
        )
    except SafetensorError as error:
        raise LoraError(f"{path}: this is no safetensors file ({error}); copy it again") from error
    return _prefixed(state), _prefixed(metadata) if metadata else None


def _prefixed(entries: Mapping[str, Any]) -> dict[str, Any]:
    """A pipeline saves its parts' names with a prefix, a denoiser alone without."""
    return {name if name.startswith(f"{PREFIX}.") else f"{PREFIX}.{name}": value for name, value in entries.items()}


def _check_targets(transformer: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Every pair of matrices must have its layer and fit it: peft itself passes over names that it does not know."""
    layers = dict(transformer.named_modules())
    for name, tensor in state.items():
        target, marker, matrix = name.removeprefix(f"{PREFIX}.").partition(".lora_")
        if not marker:
            raise LoraError(f"{path}: {name} is no LoRA matrix (.lora_A or .lora_B); give a LoRA in diffusers' layout")
        layer = layers.get(target)
        layer = getattr(layer, "base_layer", layer)  # where an earlier LoRA stands already
        if not isinstance(layer, nn.Linear):
            raise LoraError(f"{path}: {name} fits no linear layer of this denoiser; it was made for another model")
        inwards = matrix.startswith("A")
        size, expected = (tensor.shape[1], layer.in_features) if inwards else (tensor.shape[0], layer.out_features)
        if size != expected:
            raise LoraError(
                f"{path}: {name} has {size} features and the layer {expected}; it was made for another model"
            )

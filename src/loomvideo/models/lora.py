"""LoRA files: diffusers' and PEFT's layout, kohya's and ComfyUI's, all read into the first and loaded strictly.

A file holds of every layer a pair of matrices, (rank, in) and (out, rank), and may hold an "alpha", which scales their
product by alpha / rank.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from loomvideo.media.limits import check_file

PREFIX = "transformer"
METADATA = "lora_adapter_metadata"  # where diffusers keeps an adapter's settings in a file
HEADS = ("model.diffusion_model.", "diffusion_model.", "transformer.", "lora_unet_", "lora_transformer_")
PAIRS = {"lora_A": "A", "lora_down": "A", "lora.down": "A", "lora_B": "B", "lora_up": "B", "lora.up": "B"}
ENTRY = re.compile(
    r"(?P<layer>.+?)\.(?:(?P<matrix>lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up)(?:\.default)?\.weight|alpha)"
)

# diffusers' names of layers and Wan's own, which kohya and ComfyUI use
WAN_NAMES = (
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_([qkv])$", r".\1"),
    (r"\.to_out\.0$", ".o"),
    (r"\.ffn\.net\.0\.proj$", ".ffn.0"),
    (r"\.ffn\.net\.2$", ".ffn.2"),
    (r"^condition_embedder\.time_embedder\.linear_1$", "time_embedding.0"),
    (r"^condition_embedder\.time_embedder\.linear_2$", "time_embedding.2"),
    (r"^condition_embedder\.time_proj$", "time_projection.1"),
    (r"^condition_embedder\.text_embedder\.linear_1$", "text_embedding.0"),
    (r"^condition_embedder\.text_embedder\.linear_2$", "text_embedding.2"),
    (r"^proj_out$", "head.head"),
)


class LoraError(ValueError):
    """A LoRA does not fit the denoiser: the file, the key, the rule."""


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


def load_loras(transformer: Any, loras: Sequence[Lora]) -> None:
    """Put adapters on the denoiser, all active with their weights. Raises LoraError when one does not fit."""
    if not loras:
        return
    names = [f"lora_{index}" for index in range(len(loras))]
    for name, lora in zip(names, loras, strict=True):
        load_lora(transformer, lora.path, name)
    transformer.set_adapters(names, [lora.weight for lora in loras])


def load_lora(transformer: Any, path: Path, name: str) -> None:
    """Put one file on the denoiser as an adapter of that name."""
    state, metadata = read_lora(path, transformer)
    prefixed = {f"{PREFIX}.{key}": value for key, value in state.items()}
    settings = {f"{PREFIX}.{key}": value for key, value in metadata.items()} if metadata else None
    transformer.load_lora_adapter(prefixed, prefix=PREFIX, adapter_name=name, metadata=settings)


def merge_loras(transformer: Any, loras: Sequence[Lora]) -> None:
    """Add LoRAs to the denoiser's own weights, each by its weight, and leave no adapter behind."""
    load_loras(transformer, loras)
    if loras:
        transformer.fuse_lora(adapter_names=[f"lora_{index}" for index in range(len(loras))])
        transformer.unload_lora()


def read_lora(path: Path, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A file's matrices as ``layer.lora_A.weight`` and ``layer.lora_B.weight`` of the model's layers, and its settings.

    The settings are diffusers', empty where the file has none; an alpha of another layout is multiplied into B. Raises
    LoraError, naming the key, for what is no LoRA, for unknown layers, sizes that do not fit and ranks that differ.
    """
    tensors, metadata = _read(path)
    layers = linear_layers(model)
    names = {_flat(alias): name for name in layers for alias in (name, wan_name(name))}
    pairs: dict[str, dict[str, tuple[str, Tensor]]] = {}
    for key, tensor in tensors.items():
        entry = ENTRY.fullmatch(key)
        if entry is None:
            raise LoraError(
                f"{path}: {key} is no LoRA matrix (lora_A and lora_B, or lora_down and lora_up); other kinds of adapters "
                "are not read"
            )
        layer = names.get(_flat(entry["layer"]))
        if layer is None:
            raise LoraError(f"{path}: {key} fits no linear layer of this denoiser; it was made for another model")
        pairs.setdefault(layer, {})[PAIRS[entry["matrix"]] if entry["matrix"] else "alpha"] = (key, tensor)
    state = {}
    for layer, parts in pairs.items():
        state |= _checked(path, layer, layers[layer], parts)
    return state, metadata


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """By name; those that adapters stand on already, too."""
    found = {name: getattr(module, "base_layer", module) for name, module in model.named_modules()}
    inside = (".base_layer", ".lora_")
    return {
        name: module
        for name, module in found.items()
        if isinstance(module, nn.Linear) and not any(part in name for part in inside)
    }


def wan_name(name: str) -> str:
    """A layer's name in Wan's own program; the same where it has none."""
    for pattern, replacement in WAN_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _flat(name: str) -> str:
    """kohya writes a name's dots as underscores; the rest of the layouts differ by what stands before."""
    head = next((head for head in HEADS if name.startswith(head)), "")
    return name.removeprefix(head).replace(".", "_")


def _checked(path: Path, name: str, layer: nn.Linear, parts: Mapping[str, tuple[str, Tensor]]) -> dict[str, Tensor]:
    for wanted in ("A", "B"):
        if wanted not in parts:
            key, _ = next(iter(parts.values()))
            raise LoraError(f"{path}: {key} stands alone: a layer has two matrices, so the file is not whole")
    (key_a, a), (key_b, b) = parts["A"], parts["B"]
    for key, size, expected in ((key_a, a.shape[-1], layer.in_features), (key_b, b.shape[0], layer.out_features)):
        if size != expected:
            raise LoraError(
                f"{path}: {key} has {size} features and the layer {expected}; it was made for another model"
            )
    if a.shape[0] != b.shape[-1]:
        raise LoraError(f"{path}: {key_a} has rank {a.shape[0]} and {key_b} rank {b.shape[-1]}: they must be equal")
    if "alpha" in parts:
        b = b * (float(parts["alpha"][1]) / a.shape[0])
    return {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            stored = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dict
    except SafetensorError as error:
        raise LoraError(f"{path}: this is no safetensors file ({error}); copy it again") from error
    settings = json.loads(stored.get(METADATA, "{}"))
    return tensors, {key.removeprefix(f"{PREFIX}."): value for key, value in settings.items()}

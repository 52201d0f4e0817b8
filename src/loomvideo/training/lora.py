"""LoRA with peft: adapters on a denoiser's linear layers, and the file that diffusers' and peft's loaders read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loomvideo.models.lora import linear_layers, load_lora
from loomvideo.training.config import ConfigError, LoraConfig

ADAPTER = "default"
FILE = "pytorch_lora_weights.safetensors"  # diffusers' name


def denoiser_of(model: nn.Module) -> Any:
    """The denoiser of what a recipe builds, which may hold more beside it."""
    return getattr(model, "transformer", model)


def add_lora(model: nn.Module, config: LoraConfig) -> None:
    """Put a new adapter on the denoiser, or go on with one from a file; its matrices alone learn of their layers.

    Raises ConfigError for a target that names no linear layer.
    """
    import peft

    denoiser = denoiser_of(model)
    names = list(linear_layers(denoiser))
    for target in config.targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            ends = sorted({name.rsplit(".", 2)[-1] for name in names if not name.rsplit(".", 1)[-1].isdigit()})
            raise ConfigError(
                f"model.lora.targets: {target} ends the name of no linear layer; there are {', '.join(ends)}"
            )
    trained = {name for name, parameter in denoiser.named_parameters() if parameter.requires_grad}
    if config.start is not None:
        load_lora(denoiser, Path(config.start), ADAPTER)
    else:
        # all that is drawn is drawn on the CPU: the same on every rank
        torch.manual_seed(0)
        settings = peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.rank if config.alpha is None else config.alpha,  # pyright: ignore[reportArgumentType]
            target_modules=list(config.targets),
        )
        denoiser.add_adapter(settings, ADAPTER)
    for name, parameter in denoiser.named_parameters():
        parameter.requires_grad_(is_lora(name) or name.replace(".base_layer", "") in trained)
        if is_lora(name):
            parameter.data = parameter.data.float()


def merge_lora(model: nn.Module) -> nn.Module:
    """The model with its adapter added to its weights."""
    denoiser = denoiser_of(model)
    denoiser.fuse_lora()
    denoiser.unload_lora()
    return model


def is_lora(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def save_lora(model: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> Path:
    """Write the adapter's ``weights``, named as in the whole model, for diffusers' and peft's loaders."""
    from diffusers.loaders import WanLoraLoaderMixin
    from peft.utils.save_and_load import get_peft_model_state_dict

    denoiser = denoiser_of(model)
    prefix = next(name for name, module in model.named_modules() if module is denoiser)
    own = {name.removeprefix(f"{prefix}."): value for name, value in weights.items() if is_lora(name)}
    matrices: Any = get_peft_model_state_dict(denoiser, state_dict=own, adapter_name=ADAPTER)
    settings = denoiser.peft_config[ADAPTER].to_dict()
    WanLoraLoaderMixin.save_lora_weights(
        folder, transformer_lora_layers=matrices, transformer_lora_adapter_metadata=settings, weight_name=FILE
    )
    return folder / FILE

"""Models whose weights wait elsewhere (accelerate's hooks): where they compute, and how they are fetched by hand."""

from typing import Any

import torch


def working_device(model: Any) -> torch.device:
    """Where a model computes; offloaded, it lies elsewhere until then."""
    hook = getattr(model, "_hf_hook", None)
    if hook is None:
        return torch.device(model.device)
    inner = [getattr(module, "_hf_hook", None) for module in model.modules()]
    devices = [found for one in inner if (found := getattr(one, "execution_device", None)) is not None]
    return torch.device(devices[0])


def fetch(model: Any) -> None:
    """Bring a model whose own forward is not the way in."""
    if hasattr(model, "_hf_hook"):
        model._hf_hook.pre_forward(model)

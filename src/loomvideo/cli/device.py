"""Where a model runs and in which precision."""

import os

import torch

from loomvideo.cli.options import UsageError


def choose_device(name: str | None) -> torch.device:
    """The named device, else cuda where there is one, else cpu; under torchrun cuda is the process's own.

    Raises UsageError for one that is not there.
    """
    if name in (None, "cuda") and torch.cuda.is_available():
        return torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda")
    if name is None:
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: there is no such kind of device; use cpu, cuda, cuda:1 or mps") from None
    if device not in _present(device.type):
        present = ", ".join(str(device) for kind in ("cpu", "cuda", "mps") for device in _present(kind))
        raise UsageError(f"--device {name}: this machine has none; it has {present}")
    return device


def choose_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The named precision, else bfloat16 on cuda and float32 elsewhere."""
    return getattr(torch, name or ("bfloat16" if device.type == "cuda" else "float32"))


def _present(kind: str) -> list[torch.device]:
    if kind == "cpu":
        return [torch.device("cpu")]
    if kind == "cuda" and torch.cuda.is_available():
        return [torch.device("cuda"), *(torch.device("cuda", index) for index in range(torch.cuda.device_count()))]
    if kind == "mps" and torch.backends.mps.is_available():
        return [torch.device("mps")]
    return []

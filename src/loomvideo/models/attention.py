"""Attention: the one place that calls a kernel, and the choice of that kernel.

b batch   n queries   m keys   h heads   k head width
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import repeat

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _AttentionBackendRegistry,
    attention_backend,
    dispatch_attention_fn,
)
from torch import Tensor

log = logging.getLogger(__name__)
AttentionFunction = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]

# Of diffusers' kernels those that take a mask; the others refuse one, or pass over it in silence.
MASKED = set(
    map(AttentionBackendName, ("native", "_native_cudnn", "_native_efficient", "_native_math", "flex", "xformers"))
)
# What may be chosen: without a loss of precision, and installed rather than fetched. The fastest first.
CANDIDATES = ("_flash_3", "_native_cudnn", "flash", "native")
SCORES_AT_ONCE = 2**22  # of `by_products`; half as many and twice as many take equally long


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Queries (b, n, h, k) to keys and values (b, m, h, k) -> (b, n, h, k), by diffusers' active backend.

    `mask` (b, 1, 1 or n, m) is True at keys that are seen, or what is added to their logits. A kernel that takes no mask
    leaves masked calls to torch's own, which in bfloat16 on CPUs is slower than `by_products`.
    """
    active, backend = _AttentionBackendRegistry.get_active_backend()[0], None
    if active is AttentionBackendName.NATIVE and q.device.type == "cpu" and q.dtype == torch.bfloat16:
        return by_products(q, k, v, mask)
    if mask is not None and active not in MASKED:
        backend = AttentionBackendName.NATIVE
    return dispatch_attention_fn(q, k, v, attn_mask=mask, backend=backend)


def by_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same as two matrix products and a softmax, for some queries at a time, so that memory does not grow with n."""
    q = q.transpose(1, 2) * q.shape[-1] ** -0.5
    k, v = k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous()  # once, and not for every product
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, device=q.device).masked_fill(~mask, float("-inf"))
    bias = None if mask is None else mask.to(q.dtype).expand(-1, -1, q.shape[2], -1)
    queries_at_once = max(SCORES_AT_ONCE // (k.shape[0] * k.shape[1] * k.shape[2]), 1)
    biases = repeat(None) if bias is None else bias.split(queries_at_once, dim=2)
    parts = []
    for part, added in zip(q.split(queries_at_once, dim=2), biases, strict=False):
        scores = part @ k.mT if added is None else part @ k.mT + added  # (b, h, some of n, m)
        parts.append(scores.softmax(-1) @ v)
    return torch.cat(parts, dim=2).transpose(1, 2)


@dataclass(frozen=True)
class Kernel:
    """A kernel that was chosen, and why."""

    name: str  # of diffusers' AttentionBackendName
    passed_over: dict[str, str]  # faster ones, and what keeps each from being used

    def __str__(self) -> str:
        reasons: dict[str, list[str]] = {}
        for name, reason in self.passed_over.items():
            reasons.setdefault(reason, []).append(name)
        others = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
        return f"attention: {self.name}" + (f" (passed over: {others})" if others else "")

    def use(self) -> None:
        """Make it the kernel of this process, and say so."""
        log.info("%s", self)
        with attention_backend(self.name):  # checks what it needs
            pass
        _AttentionBackendRegistry.set_active_backend(AttentionBackendName(self.name))  # pyright: ignore[reportArgumentType]


def choose_kernel(device: torch.device, dtype: torch.dtype) -> Kernel:
    """The fastest kernel that the device runs at this precision; what DIFFUSERS_ATTN_BACKEND names goes first."""
    if named := os.environ.get("DIFFUSERS_ATTN_BACKEND"):
        return Kernel(named, {})
    passed_over: dict[str, str] = {}
    for name in CANDIDATES:
        reason = unsupported(name, device, dtype)
        if reason is None:
            return Kernel(name, passed_over)
        passed_over[name] = reason
    raise AssertionError("torch's own kernel runs everywhere")


def unsupported(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """What keeps a candidate from being used, in a few words; None where nothing does."""
    if name == "native":
        return None
    if device.type != "cuda":
        return f"needs an NVIDIA GPU, this is {device.type}"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"needs bfloat16 or float16, this is {str(dtype).removeprefix('torch.')}"
    if name in ("_flash_3", "_native_cudnn") and torch.cuda.get_device_capability(device) < (9, 0):
        return "needs a Hopper GPU or a newer one"
    package = {"_flash_3": "flash_attn_interface", "flash": "flash_attn"}.get(name)
    return f"{package} is not installed" if package and find_spec(package) is None else None

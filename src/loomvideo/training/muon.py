"""Muon: momentum whose matrices are orthogonalised (K. Jordan, 2024); convolutions count as matrices of their filters."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # fifth-order polynomial that drives all singular values towards one


def orthogonalised(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrix, roughly: singular values end between 0.7 and 1.2."""
    a, b, c = NEWTON_SCHULZ
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """For weights of two and more dimensions; torch's own takes matrices only, and a VAE is convolutions."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        precision: torch.dtype = torch.float32,
    ) -> None:
        """``precision`` is that of the orthogonalisation, which forgives bfloat16."""
        self.precision = precision
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: nn.Parameter, gradient: Tensor, group: dict) -> None:
        state = self.state[parameter]
        average = state.setdefault("average", torch.zeros_like(parameter))
        average.lerp_(gradient, 1 - group["momentum"])
        looked_ahead = gradient.lerp(average, group["momentum"])
        whole = looked_ahead.full_tensor() if isinstance(looked_ahead, DTensor) else looked_ahead
        update = orthogonalised(whole.flatten(1).to(self.precision)).view(parameter.shape).to(parameter.dtype)
        if isinstance(parameter, DTensor):  # every rank knows all of it and keeps its shard
            update = distribute_tensor(update, parameter.device_mesh, parameter.placements, src_data_rank=None)
        tall = max(1.0, parameter.shape[0] ** 2 / parameter.numel()) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * tall)

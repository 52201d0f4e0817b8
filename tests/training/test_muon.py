"""Muon's update is an orthogonal matrix whatever the gradient's scale, for matrices and for convolutions."""

import pytest
import torch
from torch import nn

from loomvideo.training.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(8, 8), (24, 6), (6, 40)])
def test_all_singular_values_come_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalised(torch.randn(shape), steps=8))
    assert values.min() > 0.5
    assert values.max() < 1.35


@pytest.mark.parametrize("shape", [(12, 8), (6, 4, 3, 3), (6, 4, 3, 3, 3)], ids=["linear", "conv2d", "conv3d"])
def test_the_step_does_not_depend_on_the_gradients_scale(shape):
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    steps = []
    for scale in (1e-3, 1.0, 1e3):
        weight = nn.Parameter(torch.zeros(shape))
        weight.grad = scale * gradient
        Muon([weight], lr=0.1).step()
        steps.append(weight.detach().clone())
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(steps[1], steps[2], rtol=1e-3, atol=1e-4)


def test_it_lowers_a_matrix_regression_loss():
    torch.manual_seed(0)
    truth, inputs = torch.randn(8, 8), torch.randn(64, 8)
    layer = nn.Linear(8, 8, bias=False)
    optimizer = Muon(layer.parameters(), lr=0.15)
    losses = []
    for _ in range(60):
        loss = (layer(inputs) - inputs @ truth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]

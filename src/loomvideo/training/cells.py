"""What every token of a picture or clip shows, from the scene itself, and a readout that asks a network for it.

A readout is linear, is trained with the network and thrown away after: without it a network that sees or draws learns
colours and grounds within minutes, but shapes and places late, since few elements of its loss speak of them.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loomvideo.data.world.render import object_masks
from loomvideo.data.world.scene import COLOURS, MOTIONS, SHAPES, SIZES, Scene

NOTHING = len(SHAPES)  # the shape of a cell that no object covers
UNKNOWN = -1  # the shape of a cell of which nobody says what it shows, and the motion of what cannot be seen to move
COVERED = 0.04  # of a cell, for an object to be said to be there
MOTION = 3  # the column of an object's motion
SCORES = (len(SHAPES) + 1, len(COLOURS), len(SIZES), len(MOTIONS), 2)  # shape, colour, size, motion, offset
WIDTH = 6  # shape, colour, size, motion, and how far the object's centre is away, in cells, down and right


def cells_of(
    scene: Scene, *, height: int, width: int, num_frames: int, frames: Sequence[Sequence[int]], rows: int, columns: int
) -> Tensor:
    """What a grid of ``rows`` by ``columns`` cells shows (len(frames), rows, columns, 6) over each group of a clip's frames."""
    cells = torch.zeros(len(frames), rows, columns, WIDTH)
    cells[..., 0] = NOTHING
    if not scene.objects:
        return cells
    drawn = torch.from_numpy(object_masks(scene, height=height, width=width, num_frames=num_frames))  # (o, t, y, x)
    masks = torch.stack([drawn[:, list(group)].mean(1) for group in frames], dim=1)  # (o, f, y, x)
    most, which = F.adaptive_avg_pool2d(masks, (rows, columns)).max(dim=0)  # (f, rows, columns)
    y = torch.linspace(0, rows, 2 * height + 1)[1::2][:, None]  # of pixel centres, in cells
    x = torch.linspace(0, columns, 2 * width + 1)[1::2]
    weight = masks.sum((2, 3)).clamp(min=1e-6)
    centres = torch.stack([(masks * y).sum((2, 3)) / weight, (masks * x).sum((2, 3)) / weight], dim=-1)  # (o, f, 2)
    looks = torch.tensor(
        [
            [
                SHAPES.index(item.shape),
                list(COLOURS).index(item.colour),
                list(SIZES).index(item.size),
                MOTIONS.index(item.motion) if num_frames > 1 else UNKNOWN,
            ]
            for item in scene.objects
        ]
    ).float()
    here = torch.stack(torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij"), dim=-1)
    covered = most > COVERED
    cells[..., : MOTION + 1][covered] = looks[which[covered]]
    frame = torch.arange(len(frames))[:, None, None].expand_as(which)
    cells[..., MOTION + 1 :][covered] = (centres[which, frame] - here)[covered]
    return cells


class Readout(nn.Module):
    """Asks tokens (…, d) what they show."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.readout_head = nn.Linear(dim, sum(SCORES))

    def loss(self, tokens: Tensor, cells: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Of tokens (n, d) against cells (n, 6); and which share of the objects' shapes and motions is read rightly."""
        known = cells[:, 0] != UNKNOWN
        cells = cells[known]
        # of one size, since the streams of deep networks grow to many times their parts
        tokens = F.rms_norm(tokens[known], tokens.shape[-1:])
        scores = self.readout_head(tokens).float().split(SCORES, dim=-1)
        shapes = cells[:, 0].long()
        there = shapes != NOTHING
        objects = max(int(there.sum()), 1)
        loss = F.cross_entropy(scores[0], shapes, reduction="sum") / max(len(cells), 1)
        for column in (1, 2):
            wrong = F.cross_entropy(scores[column][there], cells[there, column].long(), reduction="sum")
            loss = loss + 0.3 * wrong / objects
        loss = loss + 0.3 * F.smooth_l1_loss(scores[-1][there], cells[there, MOTION + 1 :], reduction="sum") / (
            2 * objects
        )
        figures = {"right_cells": _right(scores[0], shapes, there)} if there.any() else {}
        moves = cells[:, MOTION].long()
        seen = there & (moves != UNKNOWN)
        if seen.any():
            loss = loss + 0.3 * F.cross_entropy(scores[MOTION][seen], moves[seen])
            figures["right_motions"] = _right(scores[MOTION], moves, seen)
        return loss, figures


def _right(scores: Tensor, classes: Tensor, where: Tensor) -> float:
    return float((scores.argmax(-1) == classes)[where].float().mean())

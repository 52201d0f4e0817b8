"""Boundary markers: clean references before the target, each between two tokens of the language model (fact sheet 4.1).

A clock gives every token its time: a start marker, the reference's frames, an end marker, and so on; the target's frames
come last. Rows and columns begin at zero in every part, so that pixels of reference and target lie on each other.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Sizes = tuple[int, int, int]  # tokens along time, rows and columns


def boundary_rows(input_ids: Tensor, spans: Sequence[int], *, start_id: int, end_id: int) -> Tensor:
    """Rows (references, 2) of a chat's ids (m,) whose features become the start and end marker of each reference.

    `spans` says how many vision spans a reference has: one for a picture, one for each temporal patch of a video. A
    video's markers are the start of its first span and the end of its last (fact sheet 3.6). Spans are counted from the
    front, where the references are, so that what a prompt says behind them moves nothing.

    Raises ValueError where the chat has fewer spans than the references.
    """
    starts, ends = (input_ids == start_id).nonzero().flatten(), (input_ids == end_id).nonzero().flatten()
    after = torch.tensor([0, *spans], device=input_ids.device).cumsum(0)  # spans before each reference, and in all
    if min(len(starts), len(ends)) < after[-1]:
        raise ValueError(
            f"{len(starts)} vision spans in a chat of references with {list(spans)} spans: the ids must hold every span, "
            "so tokenise the chat with the placeholders of its visuals and with the model's own tokenizer"
        )
    return torch.stack([starts[after[:-1]], ends[after[1:] - 1]], dim=1)


def bounded_tokens(references: Sequence[Tensor], markers: Tensor) -> Tensor:
    """Tokens (b, n_i, d) of each reference between its two markers (b, references, 2, d) -> (b, r, d)."""
    parts = []
    for tokens, pair in zip(references, markers.unbind(dim=1), strict=True):
        start, end = pair.split(1, dim=1)
        parts += [start, tokens, end]
    return torch.cat(parts, dim=1)


def bounded_positions(references: Sequence[Sizes], target: Sizes, shown: Sequence[int] | None = None) -> Tensor:
    """Positions (r + n, 3) along time, rows and columns of all bounded references and the target.

    `shown`: which frames of the target, and of references of its size, there are tokens of; None: all of them.
    """
    parts, clock = [], 0
    for grid in references:
        frames = grid[0]
        start, end = grid_positions((1, 1, 1), clock), grid_positions((1, 1, 1), clock + 1 + frames)
        parts += [start, grid_positions(grid, clock + 1, shown if grid == target else None), end]
        clock += frames + 2
    return torch.cat([*parts, grid_positions(target, clock, shown)])


def grid_positions(grid: Sizes, time: int, shown: Sequence[int] | None = None) -> Tensor:
    """Positions (n, 3) of a token grid whose first frame is at `time`, or of its frames `shown`, in the order time, row, column."""
    times, rows, columns = (torch.arange(size) for size in grid)
    if shown is not None:
        times = times[list(shown)]
    return torch.cartesian_prod(time + times, rows, columns)

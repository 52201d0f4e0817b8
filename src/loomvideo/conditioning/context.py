"""The context of Omni-Video's denoiser: rows of several origins as one sequence (fact sheet 5 and 9.1).

All rows have the width of the text encoder's space. Cross-attention knows no positions among them, so their order matters
only where there are too many.

b batch   m rows   dt width of a row
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Truncation = Literal["source", "released"]


class ContextError(ValueError):
    """Rows that do not make a context of the model: the value, the rule and the way out."""


class CutWarning(UserWarning):
    """A part of a request is not read: which, and the way out."""


# The fixed rows that stand before and behind a part.
BOUNDARIES = {
    "source": ("<img_st>", "<img_ed>"),
    "reference": ("<img_st>", "<img_ed>"),
    "vision": ("<ipl_st>", "<ipl_ed>"),
    "text": ("<prp_st>", "<prp_ed>"),
}
DROPPABLE = ("source", "reference")  # in this order; without text or vision rows nothing says what is wanted


@dataclass(frozen=True)
class ContextLayout:
    """In which order the parts of a context follow each other, and which of them never have boundaries."""

    order: tuple[str, ...]
    bare: tuple[str, ...] = ()


LAYOUTS = {
    "released": ContextLayout(("source", "reference", "vision", "text")),
    "paper": ContextLayout(("vision", "source", "reference", "text")),
    "omnivideo2": ContextLayout(("vision", "text", "source"), bare=("vision",)),
}


def assemble(
    parts: Mapping[str, Tensor | None],
    *,
    layout: ContextLayout,
    max_rows: int,
    boundaries: Mapping[str, Tensor] | None = None,
    truncation: Truncation = "source",
) -> Tensor:
    """One context (m, dt) of at most `max_rows` rows.

    Args:
        parts: rows (m, dt) under "source", "reference", "vision" and "text"; an absent part takes no boundaries either.
        boundaries: the fixed rows (m, dt) under their names; None: the parts follow each other without any.
        truncation: where there are too many rows, "source" drops source rows, then reference rows, from their ends, with
            a warning; "released" keeps the first `max_rows`, whatever they are.

    Raises:
        ContextError: a part that the layout has no place for, boundaries that are not there, or, with "source", text and
            vision rows that are too many by themselves.
    """
    given = {name: rows for name, rows in parts.items() if rows is not None}
    if unknown := sorted(set(given) - set(layout.order)):
        raise ContextError(
            f"context parts {unknown}: this layout has {layout.order}; leave them out or take another one"
        )
    bounds = {name: _bounds(name, rows, layout, boundaries) for name, rows in given.items()}
    if truncation == "source":
        num_fixed = sum(len(before) + len(after) for before, after in bounds.values())
        given = _drop_source_rows(given, max_rows - num_fixed)
    pieces = []
    for name in layout.order:
        if name in given:
            before, after = bounds[name]
            pieces += [before, given[name], after]
    return torch.cat(pieces)[:max_rows]


def pad_context(contexts: Sequence[Tensor], max_rows: int, others: Sequence[int] = ()) -> tuple[Tensor, Tensor | None]:
    """Contexts (m, dt) of different lengths as one batch that attends as if each were padded with zeros to `max_rows`.

    The published denoiser attends to its padding, so padding belongs to its function. All padding rows have the same key
    and value, and so many equal keys are one key whose logit is higher by the logarithm of their number.

    Args:
        others: how many rows each context has besides these; they take the places of as many padding rows.

    Returns:
        Rows (b, m', dt), and what is to be added to their logits, (b, 1, 1, m'); None where every row is a real one.

    Raises:
        ContextError: a context of more than `max_rows` rows.
    """
    lengths = torch.tensor([len(context) for context in contexts])
    longest = int(lengths.max())
    totals = lengths + torch.tensor(list(others) or [0] * len(contexts))
    if (most := int(totals.max())) > max_rows:
        raise ContextError(f"a context of {most} rows: this model takes {max_rows}, so shorten it with assemble()")
    rows = pad_sequence(list(contexts), batch_first=True)
    if int(lengths.min()) == longest and int(totals.min()) == max_rows:
        return rows, None
    rows = torch.nn.functional.pad(rows, (0, 0, 0, 2))
    absent = torch.arange(longest) >= lengths[:, None]
    bias = torch.zeros(len(contexts), longest).masked_fill(absent, -torch.inf)
    bias = torch.cat([bias, _padding_logits(max_rows - totals)], dim=1)
    return rows, bias.to(rows)[:, None, None, :]


def _padding_logits(counts: Tensor) -> Tensor:
    """Two logits (b, 2) whose exponentials add up to `counts` (b,).

    The first is a bfloat16 number below the logarithm, the second makes up the difference: so the sum stays right where
    logits are bfloat16, in which a single one would be up to 1.6 % off.
    """
    first = (counts.double().log() * (1 - torch.finfo(torch.bfloat16).eps)).bfloat16().double()
    return torch.stack([first, (counts - first.exp()).log()], dim=1)


def _bounds(
    name: str, rows: Tensor, layout: ContextLayout, boundaries: Mapping[str, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """The rows before and behind a part; none of them where it has no boundaries."""
    if boundaries is None or name in layout.bare:
        return rows[:0], rows[:0]
    if missing := [boundary for boundary in BOUNDARIES[name] if boundary not in boundaries]:
        raise ContextError(
            f"the {name} rows stand between {' and '.join(BOUNDARIES[name])}, and {missing} are not among the boundary "
            f"embeddings {sorted(boundaries)}: give all of them, or None to go without any"
        )
    before, after = BOUNDARIES[name]
    return boundaries[before], boundaries[after]


def _drop_source_rows(parts: Mapping[str, Tensor], max_rows: int) -> dict[str, Tensor]:
    kept = dict(parts)
    for name in DROPPABLE:
        excess = sum(len(rows) for rows in kept.values()) - max_rows
        if name in kept and excess > 0:
            kept[name] = kept[name][: max(len(kept[name]) - excess, 0)]
            warnings.warn(
                f"the context has room for {len(kept[name])} of {len(parts[name])} {name} rows: the rest of the clip is not "
                "seen by the denoiser; a smaller or shorter clip fits",
                CutWarning,
                stacklevel=3,
            )
    if (total := sum(len(rows) for rows in kept.values())) > max_rows:
        raise ContextError(f"{total} text and vision rows for a context with room for {max_rows}: shorten the prompt")
    return kept

"""One picture of a prompt: its words, what went in, what came out, what would have been right."""

from textwrap import wrap

import numpy as np
from PIL import Image, ImageDraw

from loomvideo.evaluation.cases import Case
from loomvideo.evaluation.judge import Verdict

COLUMNS = 6  # frames of a clip that are shown
GAP = 4
LINE = 12
LABEL = 70  # width of the rows' names
INK, PAPER = (0, 0, 0), (255, 255, 255)


def contact_sheet(case: Case, frames: np.ndarray, verdict: Verdict) -> np.ndarray:
    """uint8 (y, x, 3): rows source, references, output, truth under the prompt and the facts."""
    rows = {
        "source": case.source,
        "references": np.stack(case.references) if case.references else None,
        "output": frames,
        "truth": case.truth(),
    }
    shown = {name: chosen_frames(row) for name, row in rows.items() if row is not None}
    columns = max(len(row) for row in shown.values())
    width = LABEL + columns * (case.width + GAP)
    facts = ", ".join(f"{name} {'right' if right else 'WRONG'}" for name, right in verdict.facts.items())
    lines = [line for text in (case.prompt, facts) for line in wrap(text, max(width // 6, 20))]
    sheet = Image.new("RGB", (width, LINE * len(lines) + GAP + len(shown) * (case.height + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((GAP, LINE * number), line, INK)
    top = LINE * len(lines) + GAP
    for name, row in shown.items():
        draw.text((GAP, top), name, INK)
        for column, frame in enumerate(row):
            sheet.paste(Image.fromarray(frame), (LABEL + column * (case.width + GAP), top))
        top += case.height + GAP
    return np.asarray(sheet)


def chosen_frames(frames: np.ndarray) -> np.ndarray:
    """At most COLUMNS frames, evenly, the first and the last among them."""
    return frames[np.unique(np.linspace(0, len(frames) - 1, COLUMNS).round().astype(int))]

"""Which pattern fills an object: the one whose drawing comes nearest to its pixels."""

import numpy as np

from loomvideo.data.world.render import coverage, fill
from loomvideo.data.world.scene import COLOURS, PATTERNS, Object
from loomvideo.evaluation.objects import Blob, SeenObject
from loomvideo.evaluation.silhouettes import unit_silhouette

LOOKS = 4  # frames that are looked at
SHIFTS = (-1.5, -0.75, 0.0, 0.75, 1.5)  # pixels by which the fitted place may be off
STRAY = 60.0  # RGB distance from a flat colour beyond decoding noise
FLAT_SHARE = 0.85  # of a flat object's pixels that have its colour


def pattern_of(frames: np.ndarray, seen: SeenObject, told: Object) -> str | None:
    """The pattern in the told colours that fits an object best; ``flat`` is only told from anything else, None."""
    if seen.shape is None or not seen.blobs:
        return None
    chosen = np.unique(np.linspace(0, len(seen.blobs) - 1, LOOKS).round().astype(int))
    looks = [_inside(frames, seen.blobs[index], seen.shape, np.radians(seen.degrees[index])) for index in chosen]
    if told.pattern == "flat":
        colour = np.array(COLOURS[told.colour], np.float32)
        share = np.mean([(np.linalg.norm(pixels - colour, axis=-1) < STRAY).mean() for pixels, _, _, _ in looks])
        return "flat" if share > FLAT_SHARE else None
    misses = {pattern: sum(_miss(look, pattern, told) for look in looks) for pattern in PATTERNS}
    return min(misses, key=lambda pattern: misses[pattern])


Look = tuple[np.ndarray, np.ndarray, np.ndarray, float]


def _inside(frames: np.ndarray, blob: Blob, shape: str, angle: float) -> Look:
    """The object's inner pixels (n, 3), their places u, v in its own frame, and half its size in pixels."""
    unit = unit_silhouette(shape)
    half = float(np.sqrt(blob.outline.area / unit.area))
    cos, sin = np.cos(angle), np.sin(angle)
    centre = (blob.outline.x - half * (unit.x * cos - unit.y * sin), blob.outline.y - half * (unit.x * sin + unit.y * cos))
    rows, columns, alpha, u, v = coverage(shape, centre, half, angle, *frames.shape[1:3])
    inner = alpha > 0.99
    return frames[blob.frame, rows, columns][inner].astype(np.float32), u[inner], v[inner], half


def _miss(look: Look, pattern: str, told: Object) -> float:
    """Mean distance of the pixels from the drawn pattern, at the shift where that is least."""
    pixels, u, v, half = look
    drawn = Object(shape=told.shape, colour=told.colour, pattern=pattern, pattern_colour=told.pattern_colour)
    shifts = [(dx / half, dy / half) for dy in SHIFTS for dx in SHIFTS] if pattern != "flat" else [(0.0, 0.0)]
    return min(float(np.linalg.norm(pixels - fill(drawn, u + dx, v + dy), axis=-1).mean()) for dx, dy in shifts)

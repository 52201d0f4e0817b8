"""Which pattern fills an object: the one whose drawing goes along best with its pixels."""

from dataclasses import dataclass

import numpy as np

from loomvideo.data.world.render import coverage, fill
from loomvideo.data.world.scene import COLOURS, PATTERNS, Object
from loomvideo.evaluation.objects import Blob, SeenObject
from loomvideo.evaluation.silhouettes import SYMMETRY, unit_silhouette

LOOKS = 4  # frames that are looked at
SHIFTS = (-1.6, -0.8, 0.0, 0.8, 1.6)  # pixels by which the fitted place may be off
SCALES = (0.94, 1.0, 1.06)  # by which the fitted size may be off
STRAY = 60.0  # RGB distance from a flat colour beyond decoding noise
FLAT_SHARE = 0.85  # of a flat object's pixels that have its colour
LEAST_CORRELATION = 0.35  # below it the pixels follow no pattern


@dataclass(frozen=True)
class Look:
    """The inner pixels of an object in one frame: colours (n, 3), places u, v (n,) in its own frame, half its size in pixels."""

    pixels: np.ndarray
    u: np.ndarray
    v: np.ndarray
    half: float


def pattern_of(frames: np.ndarray, seen: SeenObject, told: Object) -> str | None:
    """The pattern in the told colours that an object has, or None; of a flat object only whether it is flat."""
    if seen.shape is None or not seen.blobs:
        return None
    chosen = np.unique(np.linspace(0, len(seen.blobs) - 1, LOOKS).round().astype(int))
    looks = [
        _looks(frames, seen.blobs[index], seen.shape, float(seen.degrees[index]), turned=bool(seen.degrees.any()))
        for index in chosen
    ]
    if told.pattern == "flat":
        colour = np.array(COLOURS[told.colour], np.float32)
        share = np.mean([(np.linalg.norm(turns[0].pixels - colour, axis=-1) < STRAY).mean() for turns in looks])
        return "flat" if share > FLAT_SHARE else None
    fits = {
        pattern: float(np.mean([max(_correlation(look, pattern, told) for look in turns) for turns in looks]))
        for pattern in PATTERNS[1:]
    }
    best = max(fits, key=lambda pattern: fits[pattern])
    return best if fits[best] > LEAST_CORRELATION else None


def _looks(frames: np.ndarray, blob: Blob, shape: str, degrees: float, *, turned: bool) -> list[Look]:
    """The object at its fitted angle, and where it turns at all angles at which its shape looks the same."""
    period = SYMMETRY[shape] if turned else 360
    return [_look(frames, blob, shape, np.radians(degrees + turn)) for turn in range(0, 360, period)]


def _look(frames: np.ndarray, blob: Blob, shape: str, angle: float) -> Look:
    unit = unit_silhouette(shape)
    half = float(np.sqrt(blob.outline.area / unit.area))
    cos, sin = np.cos(angle), np.sin(angle)
    centre = (
        blob.outline.x - half * (unit.x * cos - unit.y * sin),
        blob.outline.y - half * (unit.x * sin + unit.y * cos),
    )
    rows, columns, alpha, u, v = coverage(shape, centre, half, angle, *frames.shape[1:3])
    inner = alpha > 0.99
    return Look(frames[blob.frame, rows, columns][inner].astype(np.float32), u[inner], v[inner], half)


def _correlation(look: Look, pattern: str, told: Object) -> float:
    """Between the share of the second colour seen and drawn, at the shift and size where it is highest."""
    first, second = (np.array(COLOURS[name], np.float32) for name in (told.colour, told.pattern_colour))
    seen = (look.pixels - first) @ (second - first)
    drawn = Object(shape=told.shape, colour=told.colour, pattern=pattern, pattern_colour=told.pattern_colour)
    places = [
        (scale * look.u + dx / look.half, scale * look.v + dy / look.half)
        for scale in SCALES
        for dy in SHIFTS
        for dx in SHIFTS
    ]
    wanted = [(fill(drawn, u, v) - first) @ (second - first) for u, v in places]
    return max((_pearson(seen, values) for values in wanted), default=0.0)


def _pearson(first: np.ndarray, second: np.ndarray) -> float:
    if len(first) < 8:
        return 0.0
    first, second = first - first.mean(), second - second.mean()
    return float(first @ second / max(np.sqrt(float(first @ first) * float(second @ second)), 1e-6))

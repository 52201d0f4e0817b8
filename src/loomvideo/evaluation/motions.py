"""Which motion a path is: the class of the centroid's, the area's and the angle's way over the clip.

A moving object of the world covers at least 30 % of the frame; what covers between 8 % (still) and 20 % (moving) has no class.
"""

import numpy as np

STILL = 0.08  # of the frame: a path that stays within this does not move
MOVING = 0.20  # of the frame: a path that gets this far moves
TURNING = 0.15  # of the frame: extent of a bounce, and of both sides of an orbit
GROWING = 1.5  # ratio of areas, end over start
STEADY = 1.25  # ratio of areas below which nothing grows
SPIN_STEP = 9.0  # degrees from frame to frame; the fit's own jitter is below
SPIN_TOTAL = 90.0  # degrees over the clip


def spins(degrees: np.ndarray, period: float) -> bool:
    """Whether a path of angles (t,), known up to ``period``, turns on and on.

    At half a period per frame the direction cannot be told, so steps are counted without their sign.
    """
    if len(degrees) < 3:
        return False
    steps = np.abs((np.diff(degrees) + period / 2) % period - period / 2)
    return bool((steps >= SPIN_STEP).mean() >= 0.6 and steps.sum() >= SPIN_TOTAL)


def motion(x: np.ndarray, y: np.ndarray, area: np.ndarray, *, spinning: bool) -> str | None:
    """The world's word for a path, or None where it is none of them.

    ``x, y`` (t,) are fractions of the frame's width and height, ``area`` (t,) any unit, ``spinning`` comes from ``spins``.
    """
    wide, high = np.ptp(x), np.ptp(y)
    if max(wide, high) < (TURNING if spinning else STILL):
        return "spins" if spinning else _change_of_size(area)
    if not _is_steady(area):
        return None
    if _orbits(x, y):
        return "circles around"
    if high >= TURNING and wide < high / 2 and np.abs(np.diff(y)).sum() >= 1.6 * high:
        return "bounces"
    return _one_way(x, y)


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Medians over the first and the last fifth of the clip."""
    few = max(len(values) // 5, 1)
    return float(np.median(values[:few])), float(np.median(values[-few:]))


def _change_of_size(area: np.ndarray) -> str | None:
    start, end = _ends(area)
    if end > GROWING * start:
        return "grows"
    if start > GROWING * end:
        return "shrinks"
    return "stays still" if _is_steady(area) else None


def _is_steady(area: np.ndarray) -> bool:
    start, end = _ends(area)
    return max(start, end) < STEADY * min(start, end)


def _orbits(x: np.ndarray, y: np.ndarray) -> bool:
    """At least two thirds of a turn about the path's middle."""
    if min(np.ptp(x), np.ptp(y)) < TURNING:
        return False
    middle_x, middle_y = (x.max() + x.min()) / 2, (y.max() + y.min()) / 2
    turns = np.unwrap(np.arctan2(y - middle_y, x - middle_x))
    return abs(turns[-1] - turns[0]) >= np.radians(240)


def _one_way(x: np.ndarray, y: np.ndarray) -> str | None:
    along, across, words = (
        (x, y, ("moves left", "moves right")) if np.ptp(x) > np.ptp(y) else (y, x, ("moves up", "moves down"))
    )
    net = along[-1] - along[0]
    straight = np.ptp(across) <= 0.5 * abs(net) and np.abs(np.diff(along)).sum() <= 1.4 * abs(net)
    return words[int(net > 0)] if abs(net) >= MOVING and straight else None

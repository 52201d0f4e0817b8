"""What a scene of the little world is: one to three flat objects, each with a shape, a colour, a size, a place and a motion.

The words and colours are a contract (world sheet): a judge written apart from this project reads frames with them.
Places are fractions of the frame's width and height, sizes fractions of its shorter side, time runs from 0 to 1 over the clip.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "diamond")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (245, 220, 50),
    "green": (50, 170, 70),
    "cyan": (60, 200, 220),
    "blue": (45, 85, 215),
    "purple": (140, 60, 190),
    "pink": (245, 130, 180),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
    "gray": (128, 128, 128),
    "brown": (130, 80, 40),
}
SIZES = {"small": 0.16, "medium": 0.24, "large": 0.34}
SIDEWAYS = {"moves left": -1, "moves right": 1}
UPRIGHT = {"moves up": -1, "moves down": 1}
MOTIONS = ("stays still", *SIDEWAYS, *UPRIGHT, "bounces", "circles around", "spins", "grows", "shrinks")
SPINNING = ("triangle", "star", "heart", "square", "cross")
BACKGROUNDS = ("plain", "gradient", "stripes", "checkerboard", "starry night", "grass", "sky", "photo")
CAMERAS = ("still", "pans left", "pans right", "zooms in")
PATTERNS = ("flat", "dots", "stripes", "checks")
GROWTH = (0.6, 1.3)  # scale at the first and the last frame of an object that grows
CLEARANCE = 0.02  # kept free between an object and the frame's edge


@dataclass(frozen=True, kw_only=True)
class Object:
    """``x, y``: centre at the start; ``travel``: fraction of the frame that a motion covers (its meaning follows the motion)."""

    shape: str
    colour: str
    size: str = "medium"
    motion: str = "stays still"
    x: float = 0.5
    y: float = 0.5
    travel: float = 0.0
    pattern: str = "flat"
    pattern_colour: str = "white"
    scale: float = 1.0  # an edit's factor on the size: 1.5 bigger, 1 / 1.5 smaller


@dataclass(frozen=True, kw_only=True)
class Background:
    kind: str = "plain"
    colours: tuple[str, ...] = ("blue",)  # one for plain, two for gradient, stripes, checkerboard, none for the others
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Scene:
    objects: tuple[Object, ...]
    background: Background
    camera: str = "still"  # moves the background; an object's motion is told relative to the frame


@dataclass(frozen=True)
class Pose:
    x: float
    y: float
    scale: float
    angle: float


def pose(item: Object, time: float) -> Pose:
    """Where an object is at ``time`` in [0, 1]: centre as fractions of the frame, scale on its size, angle in radians."""
    x, y, scale, angle = item.x, item.y, item.scale, 0.0
    if item.motion in SIDEWAYS:
        x += SIDEWAYS[item.motion] * item.travel * time
    elif item.motion in UPRIGHT:
        y += UPRIGHT[item.motion] * item.travel * time
    elif item.motion == "bounces":
        y -= item.travel * abs(np.sin(2 * np.pi * time))
    elif item.motion == "circles around":
        x += item.travel * (np.cos(2 * np.pi * time) - 1)
        y += item.travel * np.sin(2 * np.pi * time)
    elif item.motion == "spins":
        angle = 2 * np.pi * time
    elif item.motion == "grows":
        scale *= GROWTH[0] + (GROWTH[1] - GROWTH[0]) * time
    elif item.motion == "shrinks":
        scale *= GROWTH[1] + (GROWTH[0] - GROWTH[1]) * time
    return Pose(x, y, scale, angle)


@cache
def is_held_out(shape: str, colour: str, motion: str) -> bool:
    """The split of the world sheet: one combination in eight never appears in training."""
    return int(sha256(f"{shape}|{colour}|{motion}".encode()).hexdigest(), 16) % 8 == 0


@cache
def combinations(held_out: bool, motions: tuple[str, ...]) -> tuple[tuple[str, str, str], ...]:
    return tuple(
        (shape, colour, motion)
        for shape in SHAPES
        for colour in COLOURS
        for motion in motions
        if (motion != "spins" or shape in SPINNING) and is_held_out(shape, colour, motion) == held_out
    )


def _pick(rng: np.random.Generator, options: tuple) -> object:
    return options[int(rng.integers(len(options)))]


def sample_background(
    rng: np.random.Generator, kinds: tuple[str, ...] = BACKGROUNDS, avoid: Collection[str] = ()
) -> Background:
    """Half of all backgrounds are plain; none has a colour in ``avoid``."""
    kind = "plain" if "plain" in kinds and rng.random() < 0.5 else str(_pick(rng, kinds))
    free = tuple(colour for colour in COLOURS if colour not in avoid)
    count = {"plain": 1, "gradient": 2, "stripes": 2, "checkerboard": 2}.get(kind, 0)
    colours = tuple(str(colour) for colour in rng.choice(free, size=count, replace=False))
    return Background(kind=kind, colours=colours, seed=int(rng.integers(2**31)))


# colours that a textured ground holds itself, so that an object on it can be told apart
GROUND_COLOURS = {"starry night": {"black", "blue"}, "grass": {"green"}, "sky": {"white", "cyan", "blue"}}


def reach(item: Object, aspect: float) -> tuple[float, float]:
    """Half of the largest extent as fractions of width and height; ``aspect`` is width over height."""
    largest = max(GROWTH) if item.motion in ("grows", "shrinks") else 1.0
    half = SIZES[item.size] * item.scale * largest / 2 * (1.2 if item.motion == "spins" else 1.0)
    return half / max(aspect, 1.0), half * min(aspect, 1.0)


def _placed(rng: np.random.Generator, item: Object, aspect: float) -> Object:
    """Give the object a place and a travel so that the whole path stays inside the frame."""
    half_x, half_y = (half + CLEARANCE for half in reach(item, aspect))
    travel = 0.0
    left, right, top, bottom = half_x, 1 - half_x, half_y, 1 - half_y
    if item.motion in SIDEWAYS or item.motion in UPRIGHT:
        room = (right - left) if item.motion in SIDEWAYS else (bottom - top)
        travel = float(rng.uniform(min(0.34, room), min(0.62, room)))
        sign = (SIDEWAYS | UPRIGHT)[item.motion]
        if item.motion in SIDEWAYS:
            left, right = (left + travel, right) if sign < 0 else (left, right - travel)
        else:
            top, bottom = (top + travel, bottom) if sign < 0 else (top, bottom - travel)
    elif item.motion == "bounces":
        travel = float(rng.uniform(min(0.32, bottom - top), min(0.5, bottom - top)))
        top += travel
    elif item.motion == "circles around":
        travel = float(rng.uniform(0.16, max(0.16, min(0.26, (right - left) / 2, (bottom - top) / 2))))
        left, top, bottom = left + 2 * travel, top + travel, bottom - travel
    x, y = rng.uniform(min(left, right), max(left, right)), rng.uniform(min(top, bottom), max(top, bottom))
    return replace(item, x=float(x), y=float(y), travel=travel)


def apart(first: Object, second: Object, aspect: float) -> bool:
    reach_a, reach_b = reach(first, aspect), reach(second, aspect)
    for time in np.linspace(0, 1, 9):
        a, b = pose(first, time), pose(second, time)
        if abs(a.x - b.x) < reach_a[0] + reach_b[0] and abs(a.y - b.y) < reach_a[1] + reach_b[1]:
            return False
    return True


def place(
    rng: np.random.Generator, items: list[Object], aspect: float, fixed: tuple[Object, ...] = ()
) -> tuple[Object, ...] | None:
    """Places for ``items`` so that no two paths (nor one of ``fixed``) meet, or None when forty tries found none."""
    for _ in range(40):
        placed = list(fixed)
        for item in items:
            candidate = _placed(rng, item, aspect)
            if not all(apart(candidate, other, aspect) for other in placed):
                break
            placed.append(candidate)
        else:
            return tuple(placed[len(fixed) :])
    return None


def sample_scene(
    rng: np.random.Generator,
    *,
    held_out: bool = False,
    num_objects: int | None = None,
    motions: tuple[str, ...] = MOTIONS,
    backgrounds: tuple[str, ...] = BACKGROUNDS,
    cameras: tuple[str, ...] = CAMERAS,
    aspect: float = 1.0,
) -> Scene:
    """A scene of 1, 2 or 3 objects (60, 30, 10 % when not told), no two of one colour and shape, none in its ground's colour."""
    wanted = num_objects or int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))
    options = combinations(held_out, motions)
    while True:
        items: list[Object] = []
        for _ in range(wanted):
            shape, colour, motion = options[int(rng.integers(len(options)))]
            size = str(rng.choice(list(SIZES), p=[0.25, 0.45, 0.3] if wanted == 1 else [0.45, 0.4, 0.15]))
            items.append(Object(shape=shape, colour=colour, motion=motion, size=size))
        if len({(item.shape, item.colour) for item in items}) < wanted:
            continue
        placed = place(rng, items, aspect)
        if placed is None:
            continue
        background = sample_background(rng, backgrounds, avoid={item.colour for item in placed})
        if GROUND_COLOURS.get(background.kind, set()) & {item.colour for item in placed}:
            continue
        textured = background.kind not in ("plain", "gradient")
        camera = str(_pick(rng, cameras)) if textured and rng.random() < 0.4 else "still"
        return Scene(objects=placed, background=background, camera=camera)

"""Draw scenes of the little world: flat antialiased shapes over drawn or photographic grounds."""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import numpy as np
from scipy import ndimage

from loomvideo.data.world.scene import COLOURS, SIZES, Background, Object, Scene, pose

TEMPLATE = 192  # side of a shape's distance template, which covers [-1.25, 1.25] in units of half the object's size
REACH = 1.25
PAN = 0.3  # of the frame's width, over the clip
ZOOM = 1.4


def _polygon(shape: str) -> np.ndarray:
    """Corner points (k, 2) in [-1, 1], y downwards."""
    if shape == "square":
        return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)
    if shape == "triangle":
        return np.array([(0, -0.87), (1, 0.87), (-1, 0.87)], float)
    if shape == "diamond":
        return np.array([(0, -1), (0.75, 0), (0, 1), (-0.75, 0)], float)
    if shape == "cross":
        a = 0.34
        return np.array(
            [
                (-a, -1),
                (a, -1),
                (a, -a),
                (1, -a),
                (1, a),
                (a, a),
                (a, 1),
                (-a, 1),
                (-a, a),
                (-1, a),
                (-1, -a),
                (-a, -a),
            ],
            float,
        )
    if shape == "star":
        turns = np.arange(10) * np.pi / 5 - np.pi / 2
        radius = np.where(np.arange(10) % 2 == 0, 1.05, 0.42)
        points = np.stack([np.cos(turns) * radius, np.sin(turns) * radius], axis=1)
        return points + np.array((0, 0.1))
    turns = np.linspace(0, 2 * np.pi, 120, endpoint=False)  # heart
    points = np.stack(
        [
            16 * np.sin(turns) ** 3,
            -(13 * np.cos(turns) - 5 * np.cos(2 * turns) - 2 * np.cos(3 * turns) - np.cos(4 * turns)),
        ],
        axis=1,
    )
    return points / 16 + np.array((0, -0.15))


def _inside(points: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Even-odd rule."""
    inside = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        crosses = (y0 > y) != (y1 > y)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


@cache
def template(shape: str) -> np.ndarray:
    """Signed distance to the shape's edge (negative inside) on a TEMPLATE x TEMPLATE grid, in units of half the size."""
    axis = (np.arange(TEMPLATE) + 0.5) / TEMPLATE * 2 * REACH - REACH
    x, y = np.meshgrid(axis, axis)
    radius = np.hypot(x, y)
    if shape == "circle":
        return (radius - 1).astype(np.float32)
    if shape == "ring":
        return np.maximum(radius - 1, 0.55 - radius).astype(np.float32)
    inside = _inside(_polygon(shape), x, y)
    unit = 2 * REACH / TEMPLATE
    outwards, inwards = (np.asarray(ndimage.distance_transform_edt(part)) for part in (~inside, inside))
    distance = outwards - inwards
    return (ndimage.gaussian_filter(distance - np.sign(distance) * 0.5, 0.5) * unit).astype(np.float32)


def coverage(
    shape: str, centre: tuple[float, float], half: float, angle: float, height: int, width: int
) -> tuple[slice, slice, np.ndarray, np.ndarray, np.ndarray]:
    """How much of each pixel the shape covers, inside its bounding box: (rows, columns, alpha, u, v).

    ``centre`` and ``half`` are in pixels; ``u, v`` are the pixels' places in the shape's own frame, in [-1.25, 1.25].
    """
    reach = half * (1.45 if angle else 1.1) + 2
    top, bottom = max(int(centre[1] - reach), 0), min(int(centre[1] + reach) + 2, height)
    left, right = max(int(centre[0] - reach), 0), min(int(centre[0] + reach) + 2, width)
    y, x = np.mgrid[top : max(bottom, top), left : max(right, left)].astype(np.float32)
    x, y = (x + 0.5 - centre[0]) / half, (y + 0.5 - centre[1]) / half
    cos, sin = np.cos(angle), np.sin(angle)
    u, v = x * cos + y * sin, y * cos - x * sin
    step = TEMPLATE / (2 * REACH)
    distance = ndimage.map_coordinates(
        template(shape), [(v + REACH) * step - 0.5, (u + REACH) * step - 0.5], order=1, mode="nearest"
    )
    alpha = np.clip(0.5 - distance * half, 0, 1)
    return slice(top, max(bottom, top)), slice(left, max(right, left)), alpha, u, v


def fill(item: Object, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Colour of every pixel of the object (y, x, 3): flat, or a pattern of two colours in the object's own frame."""
    colour, other = (np.array(COLOURS[name], np.float32) for name in (item.colour, item.pattern_colour))
    if item.pattern == "flat":
        return np.broadcast_to(colour, (*u.shape, 3))
    if item.pattern == "stripes":
        second = np.mod(v * 2.0, 1.0) < 0.5
    elif item.pattern == "checks":
        second = (np.floor(u * 2.0) + np.floor(v * 2.0)) % 2 == 0
    else:
        second = np.hypot(np.mod(u * 2, 1) - 0.5, np.mod(v * 2, 1) - 0.5) < 0.28
    return np.where(second[..., None], other, colour)


def _noise(rng: np.random.Generator, height: int, width: int, octaves: int, ratio: float = 0.55) -> np.ndarray:
    """Fractal value noise in [0, 1]."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cells = 2 ** (octave + 1) + 1
        grid = rng.random((cells, cells), dtype=np.float32)
        rows, columns = np.meshgrid(np.linspace(0, cells - 1, height), np.linspace(0, cells - 1, width), indexing="ij")
        total += ratio**octave * ndimage.map_coordinates(grid, [rows, columns], order=1)
    low, high = total.min(), total.max()
    return (total - low) / max(high - low, 1e-6)


@cache
def photographs() -> tuple[np.ndarray, ...]:
    """Pictures that scikit-learn and scikit-image carry; none where those libraries are not installed."""
    pictures: list[np.ndarray] = []
    if find_spec("sklearn"):
        from sklearn.datasets import load_sample_images

        pictures += list(load_sample_images().images)
    if find_spec("skimage"):
        from skimage import data

        pictures += [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    return tuple(pictures)


def _photo(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    pictures = photographs()
    if pictures and rng.random() < 0.4:
        picture = pictures[int(rng.integers(len(pictures)))]
        share = rng.uniform(0.4, 1.0)
        crop_h = int(min(picture.shape[0], picture.shape[1] * height / width) * share)
        crop_w = int(crop_h * width / height)
        top = int(rng.integers(picture.shape[0] - crop_h + 1))
        left = int(rng.integers(picture.shape[1] - crop_w + 1))
        from PIL import Image

        crop = Image.fromarray(picture[top : top + crop_h, left : left + crop_w])
        return np.asarray(crop.resize((width, height), Image.Resampling.BILINEAR), np.float32)
    palette = rng.uniform(0, 255, (3, 3)).astype(np.float32)
    weights = np.stack([_noise(rng, height, width, 6, 0.7) for _ in range(2)])
    first = palette[0] + weights[0][..., None] * (palette[1] - palette[0])
    return first + (weights[1] ** 2)[..., None] * (palette[2] - first)


@dataclass(frozen=True)
class Layout:
    """How a ground of two colours lies: its number of bands or cells along the shorter side, and whether it runs across."""

    bands: int | None = None
    across: bool | None = None


def layout(background: Background) -> Layout:
    """What a drawn ground's seed decides."""
    rng = np.random.default_rng(background.seed)
    if background.kind == "gradient":
        return Layout(across=bool(rng.integers(2)))
    if background.kind == "stripes":
        return Layout(bands=int(rng.integers(6, 10)), across=not rng.integers(2))
    if background.kind == "checkerboard":
        return Layout(bands=int(rng.integers(5, 9)))
    return Layout()


def ground(background: Background, height: int, width: int) -> np.ndarray:
    """The still background, float (y, x, 3) in 0..255."""
    rng = np.random.default_rng(background.seed)
    lying = layout(background)
    colours = [np.array(COLOURS[name], np.float32) for name in background.colours]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    if background.kind == "plain":
        return np.broadcast_to(colours[0], (height, width, 3)).copy()
    if background.kind == "gradient":
        along = x / max(width - 1, 1) if lying.across else y / max(height - 1, 1)
        return colours[0] + along[..., None] * (colours[1] - colours[0])
    if background.kind == "stripes":
        assert lying.bands is not None
        second = np.mod((x if lying.across else y) / (min(height, width) / lying.bands), 2) < 1
        return np.where(second[..., None], colours[1], colours[0])
    if background.kind == "checkerboard":
        assert lying.bands is not None
        cell = min(height, width) / lying.bands
        second = (np.floor(x / cell) + np.floor(y / cell)) % 2 == 0
        return np.where(second[..., None], colours[1], colours[0])
    if background.kind == "starry night":
        sky = np.array((12, 14, 40), np.float32) + (y / height)[..., None] * np.array((14, 16, 40), np.float32)
        for _ in range(int(50 * height * width / 128**2)):
            row, column = int(rng.integers(height)), int(rng.integers(width))
            sky[row : row + 2, column : column + 2] = rng.uniform(150, 255)
        return sky
    if background.kind == "grass":
        blades = (
            _noise(rng, height, width, 6, 0.8) * 0.6
            + ndimage.uniform_filter1d(rng.random((height, width), dtype=np.float32), 5, axis=0) * 0.6
        )
        return np.array((40, 95, 30), np.float32) + blades[..., None] * np.array((60, 85, 40), np.float32)
    if background.kind == "sky":
        clouds = np.clip(_noise(rng, height, width, 5) * 2.2 - 1.1, 0, 1)[..., None]
        blue = np.array((95, 160, 235), np.float32) + (y / height)[..., None] * np.array((70, 50, 15), np.float32)
        return blue + clouds * (np.array((250, 250, 252), np.float32) - blue)
    return _photo(rng, height, width)


def grounds(scene: Scene, height: int, width: int, times: np.ndarray) -> np.ndarray:
    """The background at every time in [0, 1], float32 (t, y, x, 3), with the camera's movement."""
    if scene.camera == "still":
        return np.broadcast_to(ground(scene.background, height, width), (len(times), height, width, 3)).astype(
            np.float32
        )
    if scene.camera == "zooms in":
        still = ground(scene.background, height, width)
        frames = []
        for time in times:
            factor = 1 / (1 + (ZOOM - 1) * time)
            offset = np.array([(height - 1) / 2, (width - 1) / 2]) * (1 - factor)
            frames.append(
                np.stack(
                    [
                        ndimage.affine_transform(still[..., c], [factor, factor], offset, order=1, mode="nearest")
                        for c in range(3)
                    ],
                    -1,
                )
            )
        return np.stack(frames).astype(np.float32)
    extra = int(PAN * width)
    wide = ground(scene.background, height, width + extra)
    starts = [round(extra * float(time if scene.camera == "pans right" else 1 - time)) for time in times]
    return np.stack([wide[:, start : start + width] for start in starts]).astype(np.float32)


def frame_times(num_frames: int) -> np.ndarray:
    """When each frame is seen, in [0, 1] of the clip; a single frame shows the middle of every motion."""
    return np.linspace(0, 1, num_frames) if num_frames > 1 else np.array([0.5])


def render(
    scene: Scene, *, height: int = 128, width: int = 128, num_frames: int = 17, times: np.ndarray | None = None
) -> np.ndarray:
    """The scene's frames, uint8 (t, y, x, 3), evenly over the clip or at given times in [0, 1]."""
    times = frame_times(num_frames) if times is None else times
    frames = grounds(scene, height, width, times)
    short = min(height, width)
    for frame, time in zip(frames, times, strict=True):
        for item in scene.objects:
            at = pose(item, float(time))
            half = SIZES[item.size] * at.scale * short / 2
            rows, columns, alpha, u, v = coverage(
                item.shape, (at.x * width, at.y * height), half, at.angle, height, width
            )
            patch = frame[rows, columns]
            patch += alpha[..., None] * (fill(item, u, v) - patch)
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8)


def object_masks(scene: Scene, *, height: int = 128, width: int = 128, num_frames: int = 17) -> np.ndarray:
    """Coverage of every object in every frame, float32 (objects, t, y, x) in [0, 1]."""
    masks = np.zeros((len(scene.objects), num_frames, height, width), np.float32)
    times = frame_times(num_frames)
    for index, item in enumerate(scene.objects):
        for frame, time in enumerate(times):
            at = pose(item, float(time))
            half = SIZES[item.size] * at.scale * min(height, width) / 2
            rows, columns, alpha, _, _ = coverage(
                item.shape, (at.x * width, at.y * height), half, at.angle, height, width
            )
            masks[index, frame, rows, columns] = alpha
    return masks

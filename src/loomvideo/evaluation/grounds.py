"""Whether the ground behind the objects is the told one, and how the camera moves over it.

Each kind has one check of its own on the pixels outside the objects. Every check must fail on the other kinds' grounds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from loomvideo.data.world.scene import COLOURS, Background
from loomvideo.evaluation import colours

NEAR = 25.0  # ΔE to a palette colour (world sheet)
FRAMES_SEEN = 4  # a ground changes little: a few frames tell its kind
EVEN = 8.0  # ΔE within which a plain ground stays, averaged over 3 x 3 pixels
TEXTURED = 3.5  # ΔE: standard deviation of a texture, averaged over 3 x 3 pixels
BLADES = 1.2  # the same for grass, most of which is finer than that
STARRY_SKY = (19, 22, 60)
GRASS = (72, 140, 52)
SKY_BLUE = ((95, 160, 235), (165, 210, 250))  # at the top and at the bottom
CLOUD = (250, 250, 252)
PANNED = 0.1  # of the frame's width over the clip; the world's pans cover 0.3
ZOOMED = 0.1  # natural logarithm of the factor; the world's zooms reach log 1.4 = 0.34
STEADY = 0.06  # pans and zooms below this are none
FLOW_SIDE = 64  # pixels of the shorter side at which it is measured
VISIBLE = 0.12  # mean squared slope, in values per pixel, of a ground whose movement can be seen


@dataclass(frozen=True)
class Ground:
    """A few frames of a clip, averaged over 3 x 3 pixels against noise, and where no object is."""

    smooth: np.ndarray  # float32 (t, y, x, 3), RGB
    sharp: np.ndarray  # uint8 (t, y, x, 3)
    outside: np.ndarray  # bool (t, y, x)

    @property
    def pixels(self) -> np.ndarray:
        return self.smooth[self.outside]


def ground_of(frames: np.ndarray, outside: np.ndarray) -> Ground:
    chosen = np.unique(np.linspace(0, len(frames) - 1, FRAMES_SEEN).round().astype(int))
    sharp = frames[chosen]
    smooth = ndimage.uniform_filter(sharp.astype(np.float32), 3, axes=(1, 2))
    return Ground(smooth, sharp, outside[chosen])


def shows(ground: Ground, background: Background) -> bool:
    """Whether the ground is of the told kind and colours. An all but hidden ground cannot show anything."""
    return bool(ground.outside.mean() > 0.2 and CHECKS[background.kind](ground, background.colours))


def _rgb(colour: str) -> np.ndarray:
    return np.array(COLOURS[colour], np.float32)


def _is_colour(lab: np.ndarray, colour: str) -> np.ndarray:
    """Whether Lab values (..., 3) are near a palette colour and nearer to it than to any other."""
    distances = colours.difference(lab[..., None, :], colours.palette_lab())
    index = list(COLOURS).index(colour)
    return (distances[..., index] < NEAR) & (distances.argmin(axis=-1) == index)


def _spread(ground: Ground) -> float:
    """Standard deviation in ΔE of what is outside the objects."""
    lab = colours.to_lab(ground.pixels[::7])
    return float(colours.difference(lab, lab.mean(axis=0)).mean())


def _is_plain(ground: Ground, names: Sequence[str]) -> bool:
    lab = colours.to_lab(ground.pixels[::7])
    modal = np.median(lab, axis=0)
    even = float((colours.difference(lab, modal) < EVEN).mean()) > 0.9
    return even and bool(_is_colour(modal, names[0])) and not _is_grassy(ground, ())


def _is_gradient(ground: Ground, names: Sequence[str]) -> bool:
    """A straight line in RGB along one side, from one colour to the other."""
    _, height, width = ground.outside.shape
    _, y, x = np.nonzero(ground.outside)
    for along in (y / (height - 1), x / (width - 1)):
        design = np.stack([1 - along, along], axis=1)
        ends, *_ = np.linalg.lstsq(design[::7], ground.pixels[::7], rcond=None)
        misses = np.linalg.norm(design[::7] @ ends - ground.pixels[::7], axis=1)
        lab = colours.to_lab(np.clip(ends, 0, 255))
        told = any(_is_colour(lab[0], first) and _is_colour(lab[1], second) for first, second in (names, names[::-1]))
        if told and (misses < 30).mean() > 0.9:
            return True
    return False


def _two_coloured(ground: Ground, names: Sequence[str]) -> np.ndarray | None:
    """+1 and -1 where the one and the other colour is, 0 at objects (t, y, x); None where the ground is not of two flat colours."""
    first, second = _rgb(names[0]), _rgb(names[1])
    way = second - first
    pixels = ground.sharp.astype(np.float32) - first
    along = pixels @ way / (way @ way)
    off = np.linalg.norm(pixels - np.clip(along, 0, 1)[..., None] * way, axis=-1)
    out = ground.outside
    flat = (off < 55)[out].mean() > 0.85 and (np.abs(along - 0.5) > 0.25)[out].mean() > 0.7
    share = (along > 0.5)[out].mean()
    return np.where(out, np.where(along > 0.5, 1, -1), 0) if flat and 0.2 < share < 0.8 else None


def _purity(signs: np.ndarray, axis: int) -> float:
    """How much of every line along ``axis`` has the line's own majority colour, 0.5 to 1, over one frame (y, x)."""
    total = np.abs(signs).sum()
    return 0.5 + 0.5 * float(np.abs(signs.sum(axis=axis)).sum() / max(total, 1))


def _changes(signs: np.ndarray, axis: int) -> float:
    """How often the colour changes along a typical line."""
    pairs = signs[:, 1:] * signs[:, :-1] if axis == 1 else signs[1:] * signs[:-1]
    return float(np.median((pairs < 0).sum(axis=axis)))


def _is_striped(ground: Ground, names: Sequence[str]) -> bool:
    signs = _two_coloured(ground, names)
    if signs is None:
        return False
    return all(
        any(_purity(frame, axis) > 0.88 and _changes(frame, 1 - axis) >= 2 for axis in (0, 1)) for frame in signs
    )


def _is_checkered(ground: Ground, names: Sequence[str]) -> bool:
    """Two colours that change along both sides as the product of a row and a column does."""
    signs = _two_coloured(ground, names)
    return signs is not None and all(
        _product_share(frame[::2, ::2]) > 0.55 and min(_changes(frame, 0), _changes(frame, 1)) >= 2 for frame in signs
    )


def _product_share(signs: np.ndarray) -> float:
    singular = np.linalg.svd(signs.astype(np.float32), compute_uv=False)
    return float(singular[0] ** 2 / max(float((singular**2).sum()), 1e-6))


def _is_starry(ground: Ground, _: Sequence[str]) -> bool:
    sharp = ground.sharp[ground.outside].astype(np.float32)
    lightness = sharp.mean(axis=1)
    dark = colours.difference(colours.to_lab(ground.pixels[::7]), colours.to_lab(np.array(STARRY_SKY))) < 20
    stars = (lightness > np.median(lightness) + 35).mean()
    return bool(dark.mean() > 0.88 and 0.002 < stars < 0.1)


def _is_grassy(ground: Ground, _: Sequence[str]) -> bool:
    lab = colours.to_lab(ground.pixels[::7])
    green = (lab[:, 1] < -12) & (lab[:, 2] > 12)
    median = np.median(lab, axis=0)
    from_grass, from_palette = (
        colours.difference(median, colours.to_lab(np.array(GRASS))),
        colours.difference(median, colours.palette_lab()),
    )
    return bool(from_grass < min(20, from_palette.min()) and green.mean() > 0.85 and _spread(ground) > BLADES)


def _is_sky(ground: Ground, _: Sequence[str]) -> bool:
    """Blue, paler towards the bottom, with white clouds."""
    height = ground.outside.shape[1]
    y = np.nonzero(ground.outside)[1][::7, None] / height
    blue = np.array(SKY_BLUE[0], np.float32) * (1 - y) + np.array(SKY_BLUE[1], np.float32) * y
    way = np.array(CLOUD, np.float32) - blue
    pixels = ground.pixels[::7] - blue
    along = np.clip((pixels * way).sum(axis=1) / (way**2).sum(axis=1), 0, 1)
    off = np.linalg.norm(pixels - along[:, None] * way, axis=1)
    return bool((off < 35).mean() > 0.85 and (along < 0.6).mean() > 0.1 and _spread(ground) > TEXTURED)


def _is_photographic(ground: Ground, _: Sequence[str]) -> bool:
    """Uneven, and none of the drawn kinds."""
    if _spread(ground) < TEXTURED or _varies_one_way(ground):
        return False
    nearest = np.bincount(colours.nearest(colours.cells(ground.sharp))[ground.outside], minlength=len(COLOURS))
    commonest = [list(COLOURS)[index] for index in nearest.argsort()[:-3:-1]]
    return not (
        _is_checkered(ground, commonest) or _is_starry(ground, ()) or _is_grassy(ground, ()) or _is_sky(ground, ())
    )


def _varies_one_way(ground: Ground) -> bool:
    """Whether rows or columns explain nearly all the variance, as in gradients and stripes."""
    weight = ground.outside[..., None].astype(np.float32)
    centred = (ground.smooth - ground.pixels.mean(axis=0)) * weight
    total = float((centred**2).sum())
    for axis in (1, 2):
        sums, counts = centred.sum(axis=axis), np.maximum(weight.sum(axis=axis), 1)
        if float((sums**2 / counts).sum()) > 0.95 * total:
            return True
    return False


ABOUT = np.ones((1, 3, 3), bool)  # the neighbours of a pixel in its frame
CHECKS: dict[str, Callable[[Ground, Sequence[str]], bool]] = {
    "plain": _is_plain,
    "gradient": _is_gradient,
    "stripes": _is_striped,
    "checkerboard": _is_checkered,
    "starry night": _is_starry,
    "grass": _is_grassy,
    "sky": _is_sky,
    "photo": _is_photographic,
}


def camera(frames: np.ndarray, outside: np.ndarray) -> str | None:
    """How the ground moves between frames: the camera's word, "" where it is none, None where the ground is too even to tell.

    Least squares on the brightness constancy equation (Lucas & Kanade 1981) with one shift and one zoom per pair of frames.
    """
    step = max(min(frames.shape[1:3]) // FLOW_SIDE, 1)
    grey = ndimage.gaussian_filter(_pooled(frames.mean(axis=-1, dtype=np.float32), step), 2, axes=(1, 2))
    free = _pooled(outside.astype(np.float32), step) == 1
    free = np.asarray(ndimage.binary_erosion(free, ABOUT, iterations=3))  # where smoothing brings nothing of an object
    dy, dx = np.gradient((grey[1:] + grey[:-1]) / 2, axis=(1, 2))
    change = grey[1:] - grey[:-1]
    weight = np.logical_and(free[1:], free[:-1]).astype(np.float32)
    if float((dx**2 * weight).sum() / max(weight.sum(), 1)) < VISIBLE:
        return None
    pairs, height, width = change.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    swell = dx * (x - (width - 1) / 2) + dy * (y - (height - 1) / 2)
    design = np.stack([dx, dy, swell], axis=-1).reshape(pairs, -1, 3)
    weighted = (design * weight.reshape(pairs, -1, 1)).transpose(0, 2, 1)
    moved = np.linalg.solve(weighted @ design + np.eye(3), -weighted @ change.reshape(pairs, -1, 1))[..., 0].sum(axis=0)
    return _camera_word(pan=float(moved[0]) / width, zoom=float(moved[2]))


def _pooled(values: np.ndarray, step: int) -> np.ndarray:
    """Means of (t, y, x) over blocks of step x step pixels; what is over at the right and the bottom is left out."""
    frames, height, width = values.shape[0], values.shape[1] // step, values.shape[2] // step
    blocks = values[:, : height * step, : width * step].reshape(frames, height, step, width, step)
    return blocks.mean(axis=(2, 4))


def _camera_word(*, pan: float, zoom: float) -> str:
    if zoom > ZOOMED:
        return "zooms in"
    if abs(pan) > PANNED:
        return "pans right" if pan < 0 else "pans left"  # the ground moves against the camera
    return "still" if abs(pan) < STEADY and abs(zoom) < STEADY else ""

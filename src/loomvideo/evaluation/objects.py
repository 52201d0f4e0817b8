"""Find the objects of a clip by their told colours, follow them from frame to frame, and say what they are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import ndimage

from loomvideo.data.world.scene import COLOURS, GROUND_COLOURS, GROWTH, SHAPES, SIZES, Background, Object
from loomvideo.evaluation import colours
from loomvideo.evaluation.motions import motion, spins
from loomvideo.evaluation.silhouettes import SYMMETRY, Fit, Silhouette, fit, silhouette, unit_silhouette

NEAR = 25.0  # ΔE to a palette colour (world sheet)
TIGHTER = (25.0, 16.0, 10.0)  # tried in turn where a texture of a like colour runs into the object
APART = 14.0  # ΔE from a smooth ground that is no longer noise
SECOND_SHARE = {"dots": 0.25, "stripes": 0.5, "checks": 0.5}  # of a patterned object's pixels
PRESENT = 0.8  # of the frames in which an object must be found
LIKE_A_SHAPE = 0.6  # overlap below which a blob is no object
CLEARLY_A_SHAPE = 0.85  # the same where a texture can look like an object by chance
# RGB to Y, Cb and Cr (BT.601), the latter two at less weight: codecs and decoders keep edges sharper in brightness than in colour
LUMA_FIRST = np.array([[0.299, 0.587, 0.114], [-0.068, -0.132, 0.2], [0.2, -0.168, -0.032]], np.float32).T
IN_PLANE = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])  # neighbours in space, not in time
ACROSS = np.ones((1, 3, 3), bool)  # closes what is mixed between a pattern's two colours
BORDER = 3  # pixels about an object that its blurred edge may touch
MARGIN = 3  # pixels about a blob in which its soft edge lies


@dataclass(frozen=True)
class View:
    """A clip prepared for looking at: uint8 frames (t, y, x, 3) and what is derived from them once."""

    frames: np.ndarray

    @cached_property
    def cells(self) -> np.ndarray:
        return colours.cells(self.frames)

    @cached_property
    def nearest(self) -> np.ndarray:
        return colours.nearest(self.cells)

    @cached_property
    def lab(self) -> np.ndarray:
        return colours.lab_of(self.cells)

    @cached_property
    def smooth_ground(self) -> np.ndarray | None:
        """RGB (y, x, 3) of a ground that varies along one side only (plain, gradient, still stripes), None for others."""
        few = self.frames[:: max(len(self.frames) // 4, 1)]
        rows = np.median(few[:, :, ::2], axis=(0, 2))[:, None]
        columns = np.median(few[:, ::2], axis=(0, 1))[None]
        seen = colours.lab_of(self.cells[:: max(len(self.frames) // 4, 1), ::2, ::2])
        misses = [
            (colours.difference(seen, colours.to_lab(ground[::2, ::2])) > APART).mean() for ground in (rows, columns)
        ]
        share, ground = min(zip(misses, (rows, columns), strict=True), key=lambda pair: pair[0])
        return np.broadcast_to(ground, self.frames.shape[1:]) if share < 0.4 else None

    @cached_property
    def from_ground(self) -> np.ndarray:
        """ΔE of every pixel (t, y, x) from a smooth ground; infinite over other grounds."""
        if self.smooth_ground is None:
            return np.full(self.frames.shape[:3], np.inf, np.float32)
        return colours.difference(self.lab, colours.to_lab(self.smooth_ground))

    @cached_property
    def foreground(self) -> np.ndarray:
        """Pixels (t, y, x) that differ from a smooth ground; all of them over other grounds."""
        return self.from_ground > APART


@dataclass(frozen=True)
class Blob:
    frame: int
    rows: slice
    columns: slice
    mask: np.ndarray  # bool, inside rows and columns
    outline: Silhouette
    colour: np.ndarray  # RGB, median
    off: float = 0.0  # ΔE of a patterned blob's mean colour from the told one


@dataclass(frozen=True)
class SeenObject:
    """What an object looks like over a clip; a word is None where nothing in the world's vocabulary fits."""

    shape: str | None
    colour: str | None
    motion: str | None
    overlap: float  # mean IoU with the shape's template
    across: float  # mean size of its shape as the world measures it: side to side, as a fraction of the frame's shorter side
    blobs: tuple[Blob, ...]
    share: float  # of the frames in which it was found
    degrees: np.ndarray  # (blobs,) the angle at which its shape fits


def _smallest(short: int) -> float:
    """Pixels of the smallest object's area: a small star at the start of its growth fills a third of its box."""
    return 0.25 * (SIZES["small"] * GROWTH[0] * short) ** 2


def _largest(short: int) -> float:
    return 1.2 * (SIZES["large"] * GROWTH[1] * 1.5 * short) ** 2


def _soft_edge(view: View, frame: int, rows: slice, columns: slice, core: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """How much of each pixel the blob covers: where its colour lies between the ground's and the object's."""
    reach = ndimage.binary_dilation(core, iterations=2)
    pixels = view.frames[frame, rows, columns].astype(np.float32)
    if view.smooth_ground is not None:
        ground = view.smooth_ground[rows, columns]
    elif reach.all():
        return core.astype(np.float32)
    else:
        rows_of, columns_of = np.asarray(
            ndimage.distance_transform_edt(reach, return_distances=False, return_indices=True)
        )
        ground = pixels[rows_of, columns_of]
    way, passed = (colour - ground) @ LUMA_FIRST, (pixels - ground) @ LUMA_FIRST
    along = (passed * way).sum(axis=-1) / np.maximum((way**2).sum(axis=-1), 100)
    return np.where(reach, np.clip(along, 0, 1), 0).astype(np.float32)


def blobs(
    view: View, mask: np.ndarray, *, at_most: int, smallest: float | None = None, soft: bool = True
) -> list[Blob]:
    """The largest components of a mask (t, y, x), ``at_most`` in each frame, of a size that an object can have."""
    short = min(mask.shape[1:])
    labels = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, IN_PLANE, output=labels)
    areas = np.bincount(labels.ravel())
    fitting = np.flatnonzero((areas >= (smallest or _smallest(short))) & (areas <= _largest(short)))
    boxes = ndimage.find_objects(labels)
    taken: dict[int, int] = {}
    found: list[Blob] = []
    for label in sorted(fitting[fitting > 0], key=lambda label: -areas[label]):
        time, rows, columns = boxes[label - 1]
        frame = time.start
        if taken.get(frame, 0) == at_most:
            continue
        taken[frame] = taken.get(frame, 0) + 1
        rows = slice(max(rows.start - MARGIN, 0), rows.stop + MARGIN)
        columns = slice(max(columns.start - MARGIN, 0), columns.stop + MARGIN)
        core = labels[frame, rows, columns] == label
        colour = np.median(view.frames[frame, rows, columns][core], axis=0).astype(np.float32)
        alpha = _soft_edge(view, frame, rows, columns, core, colour) if soft else core.astype(np.float32)
        outline = silhouette(alpha, top=rows.start, left=columns.start)
        if outline is not None:
            found.append(Blob(frame, rows, columns, core, outline, colour))
    return found


def follow(
    found: Sequence[Blob], quality: np.ndarray, *, tracks: int, num_frames: int, height: int, width: int
) -> list[list[int]]:
    """Up to ``tracks`` paths of blobs (indices into ``found``, in the order of time), the most shape-like first.

    A path starts at the best blob left and takes, in each frame on both sides, the blob that is near and looks like a shape.
    """
    places = np.array([(blob.outline.x / width, blob.outline.y / height) for blob in found]).reshape(-1, 2)
    frames = np.array([blob.frame for blob in found], int)
    free = np.ones(len(found), bool)
    limit = min(
        1.0, 4.5 / max(num_frames - 1, 1)
    )  # the fastest bounce covers 0.35 of the frame in an eighth of the clip
    paths: list[list[int]] = []
    while len(paths) < tracks and free.any():
        start = int(np.where(free, quality, -1).argmax())
        path = {int(frames[start]): start}
        for way in (range(frames[start] + 1, num_frames), range(frames[start] - 1, -1, -1)):
            last = start
            for frame in way:
                options = np.flatnonzero(free & (frames == frame))
                distances = np.linalg.norm(places[options] - places[last], axis=1)
                options, distances = options[distances <= limit], distances[distances <= limit]
                if len(options):
                    last = int(options[(quality[options] - distances).argmax()])
                    path[frame] = last
        paths.append([path[frame] for frame in sorted(path)])
        free[paths[-1]] = False
    return paths


def _described(path: Sequence[Blob], fits: Fit, colour: str | None, view: View) -> SeenObject:
    num_frames, height, width = view.frames.shape[:3]
    area = np.array([blob.outline.area for blob in path])
    upright, turned = area @ fits.upright / area.sum(), area @ fits.turned / area.sum()
    spinning = np.array(
        [shape in SYMMETRY and spins(fits.degrees[:, i], SYMMETRY[shape]) for i, shape in enumerate(SHAPES)]
    )
    overlap = np.where(spinning, turned, upright)
    best = int(overlap.argmax())
    x, y = (
        np.array([getattr(blob.outline, axis) for blob in path]) / side for axis, side in (("x", width), ("y", height))
    )
    return SeenObject(
        shape=SHAPES[best] if overlap[best] >= LIKE_A_SHAPE else None,
        colour=colour,
        motion=motion(x, y, area, spinning=bool(spinning[best])) if len(path) > 1 else None,
        overlap=float(overlap[best]),
        across=2 * float(np.sqrt(area / unit_silhouette(SHAPES[best]).area).mean()) / min(height, width),
        blobs=tuple(path),
        share=len(path) / num_frames,
        degrees=fits.degrees[:, best] if spinning[best] else np.zeros(len(path)),
    )


def _seen(view: View, found: list[Blob], colour: str | None, *, tracks: int) -> list[SeenObject]:
    if not found:
        return []
    fits = fit(np.stack([blob.outline.grid for blob in found]))
    num_frames, height, width = view.frames.shape[:3]
    quality = fits.turned.max(axis=1) - np.array([blob.off for blob in found]) / 100
    paths = follow(found, quality, tracks=tracks, num_frames=num_frames, height=height, width=width)
    return [
        _described(
            [found[i] for i in path], Fit(fits.upright[path], fits.turned[path], fits.degrees[path]), colour, view
        )
        for path in paths
    ]


def told_objects(
    view: View, told: Object, count: int, *, background: Background, known: Sequence[SeenObject] = ()
) -> list[SeenObject]:
    """The ``count`` best objects of a told look, apart from those known: what is found at ΔE < 25, or nearer where a texture runs into it."""
    free = ~covered(view, known, border=BORDER)
    search = _flat_candidates if told.pattern == "flat" else _patterned_candidates
    best: list[SeenObject] = []
    for limit in TIGHTER:
        found = search(view, told, limit, free, background, count)
        seen = [
            item
            for item in _seen(view, found, told.colour, tracks=count)
            if item.overlap >= LIKE_A_SHAPE and item.share >= PRESENT
        ]
        best = max(best, seen, key=lambda items: (len(items), sum(item.overlap for item in items)))
        if len(best) == count and all(item.overlap >= CLEARLY_A_SHAPE for item in best):
            break
    return best


def _flat_candidates(
    view: View, told: Object, limit: float, free: np.ndarray, background: Background, count: int
) -> list[Blob]:
    near = (colours.distance_to(view.cells, told.colour) < limit) & (view.nearest == list(COLOURS).index(told.colour))
    return blobs(view, near & view.foreground & free, at_most=count + 3)


def _patterned_candidates(
    view: View, told: Object, limit: float, free: np.ndarray, background: Background, count: int
) -> list[Blob]:
    """Blobs whose mean colour is the pattern's: of anything over a smooth ground, of the colours between the two over others."""
    first, second = (np.array(COLOURS[name], np.float32) for name in (told.colour, told.pattern_colour))
    shares = np.clip(SECOND_SHARE[told.pattern] + np.array([[-0.2], [-0.1], [0.0], [0.1], [0.2]]), 0.1, 0.9)
    means = colours.to_lab(first * (1 - shares) + second * shares)
    if view.smooth_ground is not None:
        ground = colours.to_lab(view.smooth_ground[::4, ::4])
        contrast = np.stack(
            [colours.difference(ground, colour) for colour in colours.to_lab(np.stack([first, second]))]
        )
        mask = view.from_ground > max(APART, 0.4 * float(contrast.min()))
    else:
        mask = _of_either(view, told, limit)
        for colour in background.colours if background.kind in ("stripes", "checkerboard") else ():
            mask &= colours.distance_to(view.cells, colour) > TIGHTER[1]
    found = blobs(view, mask & free, at_most=count + 3, soft=False)
    measured = [replace(blob, off=float(colours.difference(_mean_lab(view, blob), means).min())) for blob in found]
    return [blob for blob in measured if blob.off < NEAR]


def _of_either(view: View, told: Object, limit: float) -> np.ndarray:
    """Pixels near one of a pattern's colours, with the mixed ones between them."""
    near = (
        np.minimum(colours.distance_to(view.cells, told.colour), colours.distance_to(view.cells, told.pattern_colour))
        < limit
    )
    return ndimage.binary_closing(near, ACROSS)


def _mean_lab(view: View, blob: Blob) -> np.ndarray:
    return colours.to_lab(view.frames[blob.frame, blob.rows, blob.columns][blob.mask].mean(axis=0))


def covered(view: View, known: Sequence[SeenObject], *, border: int) -> np.ndarray:
    """Pixels (t, y, x) of the known objects and a border of pixels about them."""
    mask = np.zeros(view.frames.shape[:3], bool)
    for item in known:
        for blob in item.blobs:
            mask[blob.frame, blob.rows, blob.columns] |= blob.mask
    return widened(mask, border) if known else mask


def widened(mask: np.ndarray, border: int) -> np.ndarray:
    """A mask (t, y, x) with a border of pixels added in every frame."""
    return ndimage.maximum_filter(mask, (1, 2 * border + 1, 2 * border + 1))


def other_objects(view: View, known: Sequence[SeenObject], background: Background) -> list[SeenObject]:
    """Objects that are none of ``known``: anything shaped over a smooth ground, flat spots of the palette over others."""
    free = ~covered(view, known, border=BORDER)
    smallest = 0.25 * (SIZES["small"] * min(free.shape[1:])) ** 2
    if background.kind in ("plain", "gradient") and view.smooth_ground is not None:
        mask = ndimage.binary_opening(view.foreground & free, IN_PLANE)  # an edge's mixed colours form thin bands
        seen = _seen(view, blobs(view, mask, at_most=4, smallest=smallest, soft=False), None, tracks=4)
        return [_named(item) for item in seen if item.overlap >= LIKE_A_SHAPE and item.share >= 0.5]
    ground_colours = GROUND_COLOURS.get(background.kind, set()) | set(background.colours)
    others: list[SeenObject] = []
    for index, colour in enumerate(COLOURS):
        if colour in ground_colours:
            continue
        mask = (view.nearest == index) & free
        if not smallest <= mask.sum(axis=(1, 2)).mean() <= 0.25 * mask[0].size:
            continue
        mask &= colours.distance_to(view.cells, colour) < TIGHTER[1]
        mask = ndimage.binary_opening(mask, IN_PLANE)
        seen = _seen(view, blobs(view, mask, at_most=2, smallest=smallest, soft=False), colour, tracks=2)
        others += [
            item
            for item in seen
            if item.overlap >= CLEARLY_A_SHAPE and item.share >= PRESENT and item.across > 0.8 * SIZES["small"]
        ]
    return others


def _named(item: SeenObject) -> SeenObject:
    """The same object with the palette's name for its colour."""
    lab = colours.to_lab(np.median([blob.colour for blob in item.blobs], axis=0))
    distances = colours.difference(colours.palette_lab(), lab)
    return replace(item, colour=list(COLOURS)[int(distances.argmin())] if distances.min() < NEAR else None)

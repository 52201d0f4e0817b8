"""The exact judge of the little world (world sheet, how outputs are judged): what frames show, held against what was asked.

A fact is judged only where the request tells it. ``size`` is reported and not required, except where an edit asks for it.
Nothing here runs a model, so that the judge can score anything that has frames.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, permutations

import numpy as np

from loomvideo.data.world.edits import kept_pixels
from loomvideo.data.world.render import frame_times, ground, grounds, object_masks
from loomvideo.data.world.scene import SIZES, Background, Object, Scene
from loomvideo.data.world.styles import apply_style
from loomvideo.data.world.tasks import Sample
from loomvideo.evaluation import colours
from loomvideo.evaluation.grounds import camera, ground_of, shows
from loomvideo.evaluation.objects import BORDER, SeenObject, View, covered, other_objects, told_objects, widened
from loomvideo.evaluation.patterns import pattern_of

UNCHANGED_PSNR = 25.0  # dB outside the changed objects (world sheet)
STYLE_PSNR = 20.0  # dB from the formula's result
NOT_REQUIRED = ("size", "told_motion")
RIGHT_SIZE = 1.3  # factor about the told size; small, medium and large are 1.4 to 1.5 apart
RESIZED = 1.2  # factor about the size after an edit by 1.5
GROUND_CELLS = 8  # a ground given as a picture is compared on a grid of this side
GROUND_LIKENESS = 15.0  # mean ΔE on that grid
CLEARED = 20.0  # mean ΔE from the ground where an object was removed
WHOLE_GROUND = frozenset({"background", "camera"})


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """``facts`` holds what was judged: count, colour, shape, motion, size, pattern, background, camera, change, unchanged, style;
    of words answer, objects, nothing_else, told_motion.

    ``objects`` are the told objects' own facts in the scene's order, of which ``facts`` holds the conjunction. ``psnr`` in dB is that
    of the pixels an edit must leave, or that from a style's formula; None where there are none.
    """

    facts: Mapping[str, bool]
    objects: tuple[Mapping[str, bool], ...] = ()
    psnr: float | None = None
    seen: tuple[SeenObject, ...] = field(default=(), repr=False)

    @property
    def all_right(self) -> bool:
        return all(right for fact, right in self.facts.items() if fact not in NOT_REQUIRED)


def judge(frames: np.ndarray, sample: Sample) -> Verdict:
    """The verdict on frames, uint8 (t, y, x, 3), made for a sample of a task whose output is frames."""
    if sample.scene is None or sample.answer is not None:
        raise ValueError(f"task {sample.task!r} answers in words: the judge reads frames, so ask it about another task")
    asked = (sample.num_frames, sample.height, sample.width, 3)
    if frames.dtype != np.uint8 or frames.shape != asked:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}: the sample asks for uint8 {asked}")
    source = sample.source_frames()
    if sample.style is not None and source is not None:
        return judge_style(frames, source, sample.style)
    pictured = any(
        not scene.objects and scene.background == sample.scene.background for scene in sample.reference_scenes
    )
    told = sample.told | ({"background"} if pictured else set()) | ({"pattern"} if sample.reference_scenes else set())
    verdict = judge_scene(frames, sample.scene, told=told)
    if pictured and not _ground_is_like(frames, sample.scene):
        verdict = replace(verdict, facts={**verdict.facts, "background": False})
    if source is None or sample.source_scene is None:
        return verdict
    return _with_edit(verdict, frames, sample, source, sample.source_scene)


def judge_scene(frames: np.ndarray, scene: Scene, *, told: Iterable[str] = WHOLE_GROUND) -> Verdict:
    """Count, colours, shapes and motions, and of ``told``: ``background``, ``camera``, ``sizes``, ``pattern``."""
    view = View(frames)
    seen = _seen_objects(view, scene)
    known = [item for item in seen if item is not None]
    others = other_objects(view, known, scene.background)
    objects = tuple(
        _object_facts(view, item, found or _stand_in(item, others, missing=seen.count(None)), found is not None, told)
        for item, found in zip(scene.objects, seen, strict=True)
    )
    facts = {"count": len(known) + len(others) == len(scene.objects)} | _conjunction(objects)
    facts |= _ground_facts(view, [*known, *others], scene, told)
    return Verdict(facts=facts, objects=objects, seen=(*known, *others))


def judge_style(frames: np.ndarray, source: np.ndarray, style: str) -> Verdict:
    """Right where the frames are near the formula's result and no nearer to the unchanged source; any clip may be the source."""
    wanted = apply_style(source, style)
    reached = psnr(frames, wanted)
    return Verdict(facts={"style": bool(reached >= STYLE_PSNR and reached >= psnr(frames, source))}, psnr=reached)


def psnr(first: np.ndarray, second: np.ndarray, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of uint8 frames (t, y, x, 3), of the pixels ``where`` (t, y, x); at most 100."""
    squares = (first.astype(np.float32) - second.astype(np.float32)) ** 2
    error = float((squares if where is None else squares[where]).mean())
    return 10 * float(np.log10(255**2 / max(error, 255**2 * 1e-10)))


# --- objects


def _seen_objects(view: View, scene: Scene) -> list[SeenObject | None]:
    """What was found for every told object, flat ones first; those of one look are told apart by shape and motion."""
    told = scene.objects
    found: list[SeenObject | None] = [None] * len(told)
    order = sorted(range(len(told)), key=lambda index: (told[index].pattern != "flat", _look(told[index])))
    for _, group in groupby(order, key=lambda index: _look(told[index])):
        indices = list(group)
        known = [item for item in found if item is not None]
        seen = told_objects(view, told[indices[0]], len(indices), background=scene.background, known=known)
        rows = permutations([*seen, *[None] * (len(indices) - len(seen))])
        best = max(rows, key=lambda row: _agreement(row, [told[index] for index in indices]))
        for index, item in zip(indices, best, strict=True):
            found[index] = item
    return found


def _look(item: Object) -> tuple[str, str, str]:
    return item.colour, item.pattern, item.pattern_colour if item.pattern != "flat" else ""


def _agreement(seen: Sequence[SeenObject | None], told: Sequence[Object]) -> int:
    return sum(
        2 * (found.shape == item.shape) + (found.motion == item.motion)
        for found, item in zip(seen, told, strict=True)
        if found
    )


def _stand_in(item: Object, others: Sequence[SeenObject], *, missing: int) -> SeenObject | None:
    """An object of another colour that was not told: what a missing one's shape and motion are read from."""
    agreeing = [other for other in others if other.shape == item.shape]
    return (
        max(agreeing or others, key=lambda other: other.overlap, default=None)
        if len(others) <= missing or agreeing
        else None
    )


def _object_facts(
    view: View, told: Object, seen: SeenObject | None, of_its_colour: bool, told_facts: Iterable[str]
) -> dict[str, bool]:
    facts = {"colour": of_its_colour, "shape": seen is not None and seen.shape == told.shape}
    if len(view.frames) > 1:
        facts["motion"] = seen is not None and seen.motion == told.motion
    if "sizes" in told_facts:
        facts["size"] = seen is not None and _is_size(seen, told, RIGHT_SIZE)
    if "pattern" in told_facts:
        facts["pattern"] = seen is not None and of_its_colour and pattern_of(view.frames, seen, told) == told.pattern
    return facts


def _is_size(seen: SeenObject, told: Object, factor: float) -> bool:
    mean_scale = 0.95 if told.motion in ("grows", "shrinks") else 1.0  # halfway between GROWTH's ends
    return 1 / factor < seen.across / (SIZES[told.size] * told.scale * mean_scale) < factor


def _conjunction(objects: Sequence[Mapping[str, bool]]) -> dict[str, bool]:
    names = dict.fromkeys(name for facts in objects for name in facts)
    return {name: all(facts[name] for facts in objects) for name in names}


# --- grounds


def _ground_facts(view: View, seen: Sequence[SeenObject], scene: Scene, told: Iterable[str]) -> dict[str, bool]:
    outside = ~covered(view, seen, border=BORDER)
    facts = {}
    if "background" in told:
        facts["background"] = shows(ground_of(view.frames, outside), scene.background)
    if "camera" in told and len(view.frames) > 1 and (moved := camera(view.frames, outside)) is not None:
        facts["camera"] = moved == scene.camera
    return facts


def _ground_is_like(frames: np.ndarray, scene: Scene) -> bool:
    """Whether the ground has a picture's colours where the picture has them, coarsely, outside the objects."""
    num_frames, height, width = frames.shape[:3]
    masks = object_masks(scene, height=height, width=width, num_frames=num_frames)
    free = ~widened(masks.max(axis=0, initial=0) > 0, BORDER)
    still = np.clip(ground(scene.background, height, width), 0, 255)
    rows, columns = (np.arange(GROUND_CELLS) * side // GROUND_CELLS for side in (height, width))

    def cell_sums(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)

    weight = free.sum(axis=0).astype(np.float32)
    counts = cell_sums(weight)[..., None]
    seen, wanted = (
        cell_sums(values) / np.maximum(counts, 1)
        for values in ((frames * free[..., None]).sum(axis=0), still * weight[..., None])
    )
    differences = colours.difference(colours.to_lab(seen), colours.to_lab(wanted))
    return bool(differences[counts[..., 0] > 0].mean() < GROUND_LIKENESS)


# --- edits


def _with_edit(
    verdict: Verdict, frames: np.ndarray, sample: Sample, source: np.ndarray, source_scene: Scene
) -> Verdict:
    """The verdict with what an edit adds: the change itself where no object shows it, and the pixels that must stay."""
    facts = dict(verdict.facts)
    scene = sample.scene
    assert scene is not None
    if sample.edit is not None and sample.edit.kind == "resize":
        facts["change"] = _is_resized(verdict, scene, sample.edit.target_objects)
    if sample.edit is not None and sample.edit.kind == "remove":
        facts["change"] = all(
            _is_cleared(frames, scene, source_scene.objects[index]) for index in sample.edit.source_objects
        )
    num_frames, height, width = frames.shape[:3]
    kept = ~widened(~kept_pixels(source_scene, scene, height=height, width=width, num_frames=num_frames), BORDER)
    if not kept.any():
        return replace(verdict, facts=facts)
    unchanged = psnr(frames, source, kept)
    return replace(verdict, facts=facts | {"unchanged": unchanged >= UNCHANGED_PSNR}, psnr=unchanged)


def _is_resized(verdict: Verdict, scene: Scene, indices: Sequence[int]) -> bool:
    """Whether there is an object of the told look at its told new size, for every one of ``indices``."""
    return all(
        any(
            seen.colour == (told := scene.objects[index]).colour and _is_size(seen, told, RESIZED)
            for seen in verdict.seen
        )
        for index in indices
    )


def _is_cleared(frames: np.ndarray, scene: Scene, removed: Object) -> bool:
    """Whether the ground's own colour is where the object was."""
    num_frames, height, width = frames.shape[:3]
    alone = Scene(objects=(removed,), background=Background())
    was = object_masks(alone, height=height, width=width, num_frames=num_frames)[0] > 0.5
    wanted = np.clip(grounds(scene, height, width, frame_times(num_frames)), 0, 255)
    seen, told = (colours.to_lab(values[was].astype(np.float32).mean(axis=0)) for values in (frames, wanted))
    return bool(colours.difference(seen, told) < CLEARED)

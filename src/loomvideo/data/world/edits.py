"""Edits of scenes: what changes, and the scene that it gives. The background's seed and all other objects stay as they are."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from loomvideo.data.world.phrases import choose
from loomvideo.data.world.render import object_masks
from loomvideo.data.world.scene import (
    CLEARANCE,
    COLOURS,
    GROUND_COLOURS,
    MOTIONS,
    SHAPES,
    SIDEWAYS,
    SIZES,
    SPINNING,
    UPRIGHT,
    Background,
    Object,
    Scene,
    apart,
    combinations,
    is_held_out,
    place,
    pose,
    reach,
    sample_background,
)

FACTOR = 1.5  # of bigger and smaller
TEXTURED = ("stripes", "checkerboard", "starry night", "grass", "sky", "photo")
PATH_TIMES = np.linspace(0, 1, 9)


@dataclass(frozen=True, kw_only=True)
class Edit:
    """``source_objects`` and ``target_objects``: indices of what changed in the source's and in the target's scene.

    ``value`` is the new colour, shape, motion or style, ``bigger`` or ``smaller``, or the new object as ``green star``;
    ``references`` are the numbers (from 1) of the pictures that the new look comes from, ``ground_reference`` the one of the new background.
    """

    kind: str
    source_objects: tuple[int, ...] = ()
    target_objects: tuple[int, ...] = ()
    value: str = ""
    references: tuple[int, ...] = ()
    ground_reference: int | None = None


@dataclass(frozen=True)
class Context:
    """What an edit of a scene may use."""

    rng: np.random.Generator
    held_out: bool
    aspect: float
    still: bool  # a picture: nothing moves


Edited = tuple[Edit, Scene]


# --- rules that every edited scene keeps


def ground_colours(background: Background) -> set[str]:
    """The colours that no object on this background has."""
    return set(background.colours) | GROUND_COLOURS.get(background.kind, set())


def in_split(item: Object, held_out: bool) -> bool:
    return is_held_out(item.shape, item.colour, item.motion) == held_out


def clash(scene: Scene) -> bool:
    """Whether two objects share colour and shape, or one has a colour of its ground."""
    looks = {(item.shape, item.colour) for item in scene.objects}
    return len(looks) < len(scene.objects) or any(
        item.colour in ground_colours(scene.background) for item in scene.objects
    )


def fitted(item: Object, aspect: float) -> Object | None:
    """The object with its start moved as little as keeps its whole path inside the frame, or None where the path is too long."""
    half_x, half_y = (half + CLEARANCE for half in reach(item, aspect))
    poses = [pose(item, float(time)) for time in PATH_TIMES]
    along_x, along_y = [at.x - item.x for at in poses], [at.y - item.y for at in poses]
    left, right, top, bottom = (
        half_x - min(along_x),
        1 - half_x - max(along_x),
        half_y - min(along_y),
        1 - half_y - max(along_y),
    )
    if left > right or top > bottom:
        return None
    return replace(item, x=min(max(item.x, left), right), y=min(max(item.y, top), bottom))


def all_apart(objects: tuple[Object, ...], aspect: float) -> bool:
    return all(apart(first, second, aspect) for index, first in enumerate(objects) for second in objects[:index])


def which_objects(context: Context, scene: Scene, *, several: float = 0.12) -> tuple[int, ...]:
    """One object, or seldom all of two or three."""
    count = len(scene.objects)
    if count > 1 and context.rng.random() < several:
        return tuple(range(count))
    return (int(context.rng.random() * count),)


def changed(scene: Scene, indices: tuple[int, ...], change: Callable[[Object], Object | None]) -> Scene | None:
    """The scene with ``change`` made to some objects, or None where one of them cannot be."""
    objects = list(scene.objects)
    for index in indices:
        item = change(objects[index])
        if item is None:
            return None
        objects[index] = item
    return replace(scene, objects=tuple(objects))


def accepted(context: Context, scene: Scene | None, indices: tuple[int, ...]) -> bool:
    """Whether the edited scene keeps the split and no two looks clash."""
    if scene is None or clash(scene):
        return False
    return all(in_split(scene.objects[index], context.held_out) for index in indices)


def same_objects(kind: str, indices: tuple[int, ...], value: str) -> Edit:
    return Edit(kind=kind, source_objects=indices, target_objects=indices, value=value)


# --- the edits: each gives None where this scene does not allow it


def recolour(context: Context, scene: Scene) -> Edited | None:
    indices = which_objects(context, scene)
    colour = choose(context.rng, tuple(COLOURS))
    if any(scene.objects[index].colour == colour for index in indices):
        return None
    target = changed(scene, indices, lambda item: replace(item, colour=colour))
    return (
        (same_objects("recolour", indices, colour), target) if target and accepted(context, target, indices) else None
    )


def reshape(context: Context, scene: Scene) -> Edited | None:
    indices = which_objects(context, scene)
    shape = choose(context.rng, SHAPES)
    if any(scene.objects[index].shape == shape or not may_take(shape, scene.objects[index]) for index in indices):
        return None
    target = changed(scene, indices, lambda item: replace(item, shape=shape))
    return (same_objects("reshape", indices, shape), target) if target and accepted(context, target, indices) else None


def may_take(shape: str, item: Object) -> bool:
    """Only shapes whose turning can be seen spin."""
    return item.motion != "spins" or shape in SPINNING


def replace_object(context: Context, scene: Scene) -> Edited | None:
    """Another shape in another colour, at the same place, of the same size and motion."""
    index = which_objects(context, scene, several=0.0)
    old = scene.objects[index[0]]
    shape, colour = choose(context.rng, SHAPES), choose(context.rng, tuple(COLOURS))
    if shape == old.shape or colour == old.colour or not may_take(shape, old):
        return None
    target = changed(scene, index, lambda item: replace(item, shape=shape, colour=colour))
    return (
        (same_objects("replace", index, f"{colour} {shape}"), target)
        if target and accepted(context, target, index)
        else None
    )


def resize(context: Context, scene: Scene) -> Edited | None:
    indices = which_objects(context, scene)
    value, factor = (("bigger", FACTOR), ("smaller", 1 / FACTOR))[int(context.rng.random() * 2)]

    def change(item: Object) -> Object | None:
        resized = replace(item, scale=item.scale * factor)
        return resized if fitted(resized, context.aspect) == resized else None

    target = changed(scene, indices, change)
    if target is None or not accepted(context, target, indices) or not all_apart(target.objects, context.aspect):
        return None
    return same_objects("resize", indices, value), target


def remove(context: Context, scene: Scene) -> Edited | None:
    indices = which_objects(context, scene, several=0.06)
    left = tuple(item for index, item in enumerate(scene.objects) if index not in indices)
    return Edit(kind="remove", source_objects=indices), replace(scene, objects=left)


def add(context: Context, scene: Scene) -> Edited | None:
    if len(scene.objects) > 2:
        return None
    motions = ("stays still",) if context.still or context.rng.random() < 0.3 else MOTIONS
    shape, colour, motion = choose(context.rng, combinations(context.held_out, motions))
    item = Object(shape=shape, colour=colour, motion=motion, size=choose(context.rng, tuple(SIZES)))
    placed = place(context.rng, [item], context.aspect, fixed=scene.objects)
    if placed is None:
        return None
    target = replace(scene, objects=(*scene.objects, *placed))
    index = (len(scene.objects),)
    return (
        (Edit(kind="add", target_objects=index, value=f"{colour} {shape}"), target)
        if accepted(context, target, index)
        else None
    )


def replace_background(context: Context, scene: Scene) -> Edited | None:
    background = sample_background(context.rng, avoid={item.colour for item in scene.objects})
    same = background.kind == scene.background.kind and background.colours == scene.background.colours
    camera = scene.camera if background.kind in TEXTURED else "still"
    target = replace(scene, background=background, camera=camera)
    return None if same or clash(target) else (Edit(kind="background", value=background.kind), target)


TRAVELS = {"bounces": (0.32, 0.45), "circles around": (0.16, 0.22)} | dict.fromkeys((*SIDEWAYS, *UPRIGHT), (0.34, 0.5))


def change_motion(context: Context, scene: Scene) -> Edited | None:
    """Another motion from the same start, which moves only as far as the new path needs to stay inside the frame."""
    indices = which_objects(context, scene)
    motion = choose(context.rng, MOTIONS)

    def change(item: Object) -> Object | None:
        if item.motion == motion or (motion == "spins" and item.shape not in SPINNING):
            return None
        travel = float(context.rng.uniform(*TRAVELS[motion])) if motion in TRAVELS else 0.0
        return fitted(replace(item, motion=motion, travel=travel), context.aspect)

    target = changed(scene, indices, change)
    if target is None or not accepted(context, target, indices) or not all_apart(target.objects, context.aspect):
        return None
    return same_objects("motion", indices, motion), target


def swap_colours(context: Context, scene: Scene) -> Edited | None:
    if len(scene.objects) < 2:
        return None
    one, other = (int(index) for index in context.rng.permutation(len(scene.objects))[:2])
    first, second = scene.objects[one], scene.objects[other]
    if first.colour == second.colour:
        return None
    objects = list(scene.objects)
    objects[one], objects[other] = replace(first, colour=second.colour), replace(second, colour=first.colour)
    target = replace(scene, objects=tuple(objects))
    indices = (one, other)
    return (same_objects("swap", indices, ""), target) if accepted(context, target, indices) else None


EDITS: dict[str, Callable[[Context, Scene], Edited | None]] = {
    "recolour": recolour,
    "reshape": reshape,
    "replace": replace_object,
    "resize": resize,
    "remove": remove,
    "add": add,
    "background": replace_background,
    "motion": change_motion,
    "swap": swap_colours,
}
SHARES = {
    "recolour": 18,
    "reshape": 15,
    "replace": 12,
    "resize": 11,
    "remove": 10,
    "add": 11,
    "background": 14,
    "motion": 15,
    "swap": 3,
}


def kept_pixels(source: Scene, target: Scene, *, height: int, width: int, num_frames: int) -> np.ndarray:
    """Where an edit must leave the source's pixels, bool (t, y, x): outside the changed objects, or, on a new background, inside the others."""

    def covered(scene: Scene, objects: tuple[Object, ...]) -> np.ndarray:
        masks = object_masks(replace(scene, objects=objects), height=height, width=width, num_frames=num_frames)
        return masks.max(axis=0, initial=0)

    def only_in(scene: Scene, other: Scene) -> tuple[Object, ...]:
        return tuple(item for item in scene.objects if item not in other.objects)

    if (source.background, source.camera) == (target.background, target.camera):
        return (covered(source, only_in(source, target)) == 0) & (covered(target, only_in(target, source)) == 0)
    return covered(source, tuple(item for item in source.objects if item in target.objects)) >= 1

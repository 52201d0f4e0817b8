"""Reference pictures, edits guided by them, and clips made of several."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from loomvideo.data.world.edits import Context, Edit, accepted, changed, ground_colours, may_take
from loomvideo.data.world.phrases import choose
from loomvideo.data.world.scene import (
    COLOURS,
    MOTIONS,
    PATTERNS,
    SHAPES,
    SIZES,
    Background,
    Object,
    Scene,
    is_held_out,
    place,
    sample_background,
    sample_scene,
)

MIN_SHIFT = 0.12  # of the frame: how far an object in its picture is from where it is in the clip
GROUNDS = ("plain", "photo")  # behind an object in a picture
FLAT_SHARE = 0.4
Guided = tuple[Edit, Scene, tuple[Scene, ...]]


def shown(item: Object) -> Object:
    """The object as a picture shows it: it stays still."""
    return replace(item, motion="stays still", travel=0.0, scale=1.0)


def may_show(item: Object, held_out: bool) -> bool:
    """Training never shows a held-out combination, not even in a picture."""
    return held_out or not is_held_out(item.shape, item.colour, "stays still")


def fill_colours(item: Object) -> set[str]:
    return {item.colour} if item.pattern == "flat" else {item.colour, item.pattern_colour}


def with_pattern(context: Context, item: Object, avoid: set[str]) -> Object:
    """Flat or in a pattern whose second colour is free too."""
    if context.rng.random() < FLAT_SHARE:
        return replace(item, pattern="flat")
    others = tuple(colour for colour in COLOURS if colour != item.colour and colour not in avoid)
    return replace(item, pattern=choose(context.rng, PATTERNS[1:]), pattern_colour=choose(context.rng, others))


def picture_of(context: Context, item: Object) -> Scene:
    """One picture of the object: another place and another size than in the clip, on a plain or photographic ground."""
    sizes = tuple(size for size in SIZES if size != item.size)
    alone = replace(shown(item), size=choose(context.rng, sizes))
    while True:
        placed = place(context.rng, [alone], context.aspect)
        if placed and np.hypot(placed[0].x - item.x, placed[0].y - item.y) > MIN_SHIFT:
            break
    return Scene(objects=placed, background=sample_background(context.rng, GROUNDS, avoid=fill_colours(item)))


def _replacement(context: Context, old: Object, avoid: set[str]) -> Object | None:
    shape, colour = choose(context.rng, SHAPES), choose(context.rng, tuple(COLOURS))
    new = with_pattern(context, replace(old, shape=shape, colour=colour), avoid)
    return new if shape != old.shape and may_take(shape, old) and may_show(new, context.held_out) else None


def replace_from_pictures(context: Context, scene: Scene) -> Guided | None:
    """One object, seldom two, become the objects of the pictures; they keep place, size and motion."""
    count = 2 if len(scene.objects) > 1 and context.rng.random() < 0.3 else 1
    indices = tuple(int(index) for index in context.rng.permutation(len(scene.objects))[:count])
    target = changed(scene, indices, lambda old: _replacement(context, old, ground_colours(scene.background)))
    if target is None or not accepted(context, target, indices):
        return None
    pictures = tuple(picture_of(context, target.objects[index]) for index in indices)
    edit = Edit(kind="replace", source_objects=indices, target_objects=indices, references=tuple(range(1, count + 1)))
    return edit, target, pictures


def _look_from_picture(context: Context, scene: Scene, kind: str, item_of: Callable[[Object], Object]) -> Guided | None:
    """An object takes the fill of a picture's object, which has another shape."""
    index = int(context.rng.random() * len(scene.objects))
    old = scene.objects[index]
    model = item_of(replace(old, shape=choose(context.rng, SHAPES), colour=choose(context.rng, tuple(COLOURS))))
    new = replace(old, colour=model.colour, pattern=model.pattern, pattern_colour=model.pattern_colour)
    target = changed(scene, (index,), lambda _: new)
    if (
        model.shape == old.shape
        or model.colour == old.colour
        or not may_show(model, context.held_out)
        or not accepted(context, target, (index,))
    ):
        return None
    edit = Edit(kind=kind, source_objects=(index,), target_objects=(index,), references=(1,))
    return (edit, target, (picture_of(context, model),)) if target else None


def pattern_from_picture(context: Context, scene: Scene) -> Guided | None:
    avoid = ground_colours(scene.background)

    def patterned(item: Object) -> Object:
        while (drawn := with_pattern(context, item, avoid)).pattern == "flat":
            pass
        return drawn

    return _look_from_picture(context, scene, "pattern", patterned)


def colour_from_picture(context: Context, scene: Scene) -> Guided | None:
    return _look_from_picture(context, scene, "colour", lambda item: item)


def _free_ground(context: Context, scene: Scene) -> Background | None:
    """A ground for these objects; the camera has to stand still before it, as its picture has the clip's size."""
    used = set[str]().union(*(fill_colours(item) for item in scene.objects))
    background = sample_background(context.rng, avoid=used)
    return None if used & ground_colours(background) else background


def ground_from_picture(context: Context, scene: Scene) -> Guided | None:
    background = _free_ground(context, scene)
    if background is None or (background.kind, background.colours) == (scene.background.kind, scene.background.colours):
        return None
    target = replace(scene, background=background, camera="still")
    return Edit(kind="background", ground_reference=1), target, (Scene(objects=(), background=background),)


def replace_and_ground(context: Context, scene: Scene) -> Guided | None:
    """An object from the first pictures, the ground from the last."""
    replaced = replace_from_pictures(context, scene)
    grounded = ground_from_picture(context, replaced[1]) if replaced else None
    if replaced is None or grounded is None:
        return None
    edit, _, pictures = replaced
    _, target, ground = grounded
    return replace(edit, ground_reference=len(pictures) + 1), target, pictures + ground


GUIDED_EDITS: dict[str, Callable[[Context, Scene], Guided | None]] = {
    "replace": replace_from_pictures,
    "pattern": pattern_from_picture,
    "colour": colour_from_picture,
    "background": ground_from_picture,
    "replace and background": replace_and_ground,
}
GUIDED_SHARES = {"replace": 45, "pattern": 17, "colour": 10, "background": 20, "replace and background": 8}


def pictures_to_scene(context: Context, num_objects: int | None) -> tuple[Scene, tuple[Scene, ...], int | None]:
    """A scene, the pictures of its objects, and the number of the picture of its ground, if one shows that."""
    motions = ("stays still",) if context.still else MOTIONS
    while True:
        drawn = sample_scene(
            context.rng,
            held_out=context.held_out,
            num_objects=num_objects,
            motions=motions,
            cameras=("still",),
            aspect=context.aspect,
        )
        if all(may_show(item, context.held_out) for item in drawn.objects):
            break
    avoid = ground_colours(drawn.background)
    scene = replace(drawn, objects=tuple(with_pattern(context, item, avoid) for item in drawn.objects))
    pictures = tuple(picture_of(context, item) for item in scene.objects)
    if context.rng.random() < 0.5:
        return scene, pictures, None
    return scene, (*pictures, Scene(objects=(), background=scene.background)), len(pictures) + 1

"""How an object is addressed: words that fit it and no other object of its scene."""

import numpy as np

from loomvideo.data.world.phrases import Writer, joined, paraphrases
from loomvideo.data.world.scene import Object, Scene, pose
from loomvideo.data.world.verbs import verb
from loomvideo.data.world.words import COLOUR_WORDS, SHAPE_WORDS, noun

SINGLE = paraphrases("the object | it | the shape | this object | the thing")
ONE = paraphrases("the {word} one | the {word} object | the {word} shape | the {word} thing")
SIDES = {
    "left": paraphrases(
        """
        the left one | the object on the left | the left object | the one on the left | the shape on the left
        | the left {shape}
        """
    ),
    "right": paraphrases(
        """
        the right one | the object on the right | the right object | the one on the right | the shape on the right
        | the right {shape}
        """
    ),
    "top": paraphrases(
        """
        the top one | the object at the top | the upper object | the upper one | the one at the top | the top {shape}
        """
    ),
    "bottom": paraphrases(
        """
        the bottom one | the object at the bottom | the lower object | the lower one | the one at the bottom
        | the bottom {shape}
        """
    ),
}
BY_MOTION = paraphrases(
    """
    the {shape} that {finite} | the one that {finite} | the object that {finite} | the {shape} which {finite}
    | the one which {finite} | the object which {finite} | the thing that {finite}
    """
)
MOVING = paraphrases("the moving {shape} | the moving one | the moving object")
BOTH = paraphrases(
    """
    both | both objects | both of them | the two objects | both shapes | the two shapes | both things
    """
)
ALL = paraphrases(
    """
    all objects | all of them | the three objects | all three | all shapes | all the objects | all three objects
    """
)
PLACES = {
    "left": paraphrases("on the left | at the left | on the left side"),
    "right": paraphrases("on the right | at the right | on the right side"),
    "top": paraphrases("at the top | on top | in the upper part"),
    "bottom": paraphrases("at the bottom | in the lower part"),
    "centre": paraphrases("in the centre | in the middle | at the centre"),
}
IN_PLACE = ("stays still", "spins", "grows", "shrinks")  # motions that leave the centre where it is
SIDE_MARGIN = 0.15
TIMES = np.linspace(0, 1, 5)


def _sides(scene: Scene, index: int) -> list[str]:
    """``left`` where the object is left of every other one for the whole clip, and so on."""
    paths = np.array([[(at.x, at.y) for at in (pose(item, float(time)) for time in TIMES)] for item in scene.objects])
    others = np.delete(paths, index, axis=0)
    low, high = paths[index].min(axis=0), paths[index].max(axis=0)
    before, after = high + SIDE_MARGIN < others.min(axis=(0, 1)), low - SIDE_MARGIN > others.max(axis=(0, 1))
    return [side for side, true in zip(("left", "top", "right", "bottom"), (*before, *after), strict=True) if true]


def place_word(item: Object) -> str:
    """Where an object that stays in its place is: a key of ``PLACES``, or empty where none fits clearly."""
    across, down = item.x - 0.5, item.y - 0.5
    if max(abs(across), abs(down)) < 0.1:
        return "centre"
    if abs(across) > max(1.4 * abs(down), 0.14):
        return "left" if across < 0 else "right"
    if abs(down) > max(1.4 * abs(across), 0.14):
        return "top" if down < 0 else "bottom"
    return ""


def _by_motion(writer: Writer, scene: Scene, item: Object, shape: str) -> str:
    others_still = sum(other.motion == "stays still" for other in scene.objects) == len(scene.objects) - 1
    if item.motion != "stays still" and others_still and writer.chance(0.5):
        return writer.pick(MOVING, shape=shape)
    return writer.pick(BY_MOTION, shape=shape, finite=verb(writer, item.motion).finite)


def is_unique(scene: Scene, item: Object, fact: str) -> bool:
    return sum(getattr(other, fact) == getattr(item, fact) for other in scene.objects) == 1


def _size_is_seen(scene: Scene) -> bool:
    return not any(item.motion in ("grows", "shrinks") for item in scene.objects)


def address(writer: Writer, scene: Scene, index: int, *, still: bool) -> str:
    """Words for one object that fit no other object of the scene."""
    item = scene.objects[index]
    colour, shape = COLOUR_WORDS[item.colour], writer.choose(SHAPE_WORDS[item.shape])
    single = len(scene.objects) == 1
    draw = writer.rng.random()
    if draw < 0.25 and is_unique(scene, item, "shape"):
        return f"the {shape}"
    if draw < 0.37 and is_unique(scene, item, "colour"):
        return writer.pick(ONE, word=colour)
    if draw < 0.52 and single:
        return writer.pick(SINGLE)
    if draw < 0.64 and not single and (sides := _sides(scene, index)):
        return writer.pick(SIDES[writer.choose(sides)], shape=shape)
    if draw < 0.70 and not single and not still and is_unique(scene, item, "motion"):
        return _by_motion(writer, scene, item, shape)
    if draw < 0.75 and not single and is_unique(scene, item, "size") and _size_is_seen(scene):
        return writer.pick(ONE, word=item.size)
    return f"the {noun(writer, item, with_size=True)}" if draw < 0.80 else f"the {colour} {shape}"


def address_each(writer: Writer, scene: Scene, indices: tuple[int, ...], *, still: bool) -> str:
    return joined([address(writer, scene, index, still=still) for index in indices])


def address_all(writer: Writer, scene: Scene, indices: tuple[int, ...], *, still: bool) -> str:
    """Words for one object, or for all two or three of the scene."""
    if len(indices) == 1 or writer.chance(0.3):
        return address_each(writer, scene, indices, still=still)
    return writer.pick(BOTH if len(indices) == 2 else ALL)


def everything(writer: Writer, scene: Scene, *, still: bool) -> str:
    """All objects of a scene: what stands before the background."""
    return address_all(writer, scene, tuple(range(len(scene.objects))), still=still)

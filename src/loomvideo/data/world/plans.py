"""The plan of a scene: what is to be drawn, object by object, each with its place, in one fixed form.

It is what the built-in language model answers before anything is drawn (think mode), and what its denoisers are told in place
of the request: paraphrases end here. Places are hundredths of the frame's width and height, as one token each. Language models
that plan a layout for a denoiser: Lian et al., "LLM-grounded Video Diffusion Models", 2023.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from loomvideo.data.world.render import layout
from loomvideo.data.world.requests import canonical_ground
from loomvideo.data.world.scene import (
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    MOTIONS,
    PATTERNS,
    SHAPES,
    SIDEWAYS,
    SIZES,
    UPRIGHT,
    Background,
    Object,
    Scene,
    pose,
)
from loomvideo.data.world.styles import STYLES
from loomvideo.data.world.tasks import Sample

END = ";"  # of an item
PLACES = tuple(f" {number:02d}" for number in range(100))
# When a motion is farthest from its start; others stay at one place.
CHANGING = ("spins", "grows", "shrinks")  # motions that are more than another place
FARTHEST = dict.fromkeys((*SIDEWAYS, *UPRIGHT), 1.0) | {"bounces": 0.25, "circles around": 0.5}


def plan_of(sample: Sample) -> str:
    """The plan of a sample's target: of an edit what changes and where, of a style its name, of all else the whole scene.

    Raises ValueError for tasks that are answered in words.
    """
    if sample.style is not None:
        return sample.style + END
    if sample.scene is None or sample.task in ("caption", "question"):
        raise ValueError(f"task {sample.task}: nothing is drawn for it, so there is no plan")
    still = sample.num_frames == 1
    if sample.source_scene is not None and sample.edit is not None:
        return " ".join(item + END for item in _changes(sample, still=still))
    return " ".join(item + END for item in scene_items(sample, still=still))


def scene_items(sample: Sample, *, still: bool) -> list[str]:
    """The objects, the ground and a camera that moves."""
    scene, pictures = sample.scene, len(sample.reference_scenes)
    assert scene is not None
    first_frame = sample.task == "i2v"
    named = 0 if first_frame else pictures  # objects that pictures show
    items = ["from Image 1"] if first_frame else []
    for number, item in enumerate(scene.objects, start=1):
        items.append(described(item, still=still, picture=number if number <= named else None))
    shows_ground = not first_frame and pictures > len(scene.objects)
    items.append(f"on Image {pictures}" if shows_ground else f"on {ground_plan(scene.background)}")
    return items if still or scene.camera == "still" else [*items, f"camera {scene.camera}"]


def described(item: Object, *, still: bool, picture: int | None = None) -> str:
    """``small red circle moves right 20 40 to 60 40``; in a picture ``small red circle 40 40``."""
    look = f"{_scaled(item)}{looks(item)} {item.shape}"
    return f"{look}{'' if picture is None else f' of Image {picture}'} {track(item, still=still)}"


def _scaled(item: Object) -> str:
    factor = "" if item.scale == 1 else "bigger " if item.scale > 1 else "smaller "
    return f"{factor}{item.size} "


def looks(item: Object) -> str:
    """``red``, ``red white dots``."""
    return item.colour if item.pattern == "flat" else f"{item.colour} {item.pattern_colour} {item.pattern}"


def track(item: Object, *, still: bool) -> str:
    """Where an object is: in a picture ``40 40``; in a clip how it moves, from where, and to where it moves farthest."""
    if still:
        return _place(item, 0.5)
    way = f"{item.motion}{_place(item, 0.0, joint=' ')}"
    return f"{way} to {_place(item, FARTHEST[item.motion])}" if item.motion in FARTHEST else way


def _place(item: Object, time: float, joint: str = "") -> str:
    at = pose(item, time)
    numbers = [min(max(round(100 * value), 0), 99) for value in (at.x, at.y)]
    return f"{joint}{numbers[0]:02d} {numbers[1]:02d}"


def ground_plan(background: Background) -> str:
    """The ground in words, with what else tells how it is drawn: which way it runs, and how many stripes or cells there are."""
    if background.kind not in ("gradient", "stripes", "checkerboard"):
        return canonical_ground(background)
    lying = layout(background)
    number = "" if lying.bands is None else f" {lying.bands}"
    way = "" if lying.across is None else " across" if lying.across else " down"
    return f"{' and '.join(background.colours)} {background.kind}{number}{way}"


def _changes(sample: Sample, *, still: bool) -> list[str]:
    source, target, edit = sample.source_scene, sample.scene, sample.edit
    assert source is not None
    assert target is not None
    assert edit is not None
    items = []  # an object by its looks and its place: a reader that mistakes the one has the other
    pictures = iter(edit.references)
    before = [source.objects[index] for index in edit.source_objects]
    after = [target.objects[index] for index in edit.target_objects]
    if edit.kind == "add":
        items = [f"add {described(item, still=still)}" for item in after]
    elif edit.kind == "remove":
        items = [f"remove {described(item, still=still)}" for item in before]
    else:
        for old, new in zip(before, after, strict=True):
            which, picture = described(old, still=still), next(pictures, None)
            items.append(f"{_change(edit.kind, new, still=still, picture=picture)} for {which}")
    items += [described(item, still=still) for item in _kept(sample)]
    if edit.ground_reference is not None:
        items.append(f"background Image {edit.ground_reference}")
    elif edit.kind == "background":
        items.append(f"background {ground_plan(target.background)}")
    return items


def _kept(sample: Sample) -> list[Object]:
    """Objects of the source that stand on another ground afterwards: all else of it goes."""
    source, edit = sample.source_scene, sample.edit
    assert source is not None
    assert edit is not None
    if edit.kind != "background" and edit.ground_reference is None:
        return []
    return [item for index, item in enumerate(source.objects) if index not in edit.source_objects]


def _change(kind: str, new: Object, *, still: bool, picture: int | None) -> str:
    of_picture = "" if picture is None else f" of Image {picture}"
    if kind in ("recolour", "swap", "colour"):
        return f"recolour {new.colour}{of_picture}"
    if kind == "pattern":
        return f"pattern {looks(new)}{of_picture}"
    if kind == "reshape":
        return f"reshape {new.shape}"
    if kind.startswith("replace"):
        return f"replace {looks(new)} {new.shape}{of_picture}"
    if kind == "resize":
        return "bigger" if new.scale > 1 else "smaller"
    if kind == "motion":
        return f"move {track(new, still=still)}"
    raise ValueError(f"edit {kind!r}: plans do not know it")


# --- what an item says, as numbers

# Where each fact stands in a code: one of several names, or the numbers of a coordinate, five and behind all of them four.
KINDS = (
    *("object", "ground", "camera", "first frame", "recolour", "pattern", "reshape", "replace", "bigger", "smaller"),
    *("move", "remove", "add", "style"),
)
EDIT_KINDS = {"motion": "move", "swap": "recolour", "colour": "recolour", "replace and background": "replace"}
CHOICES: dict[str, tuple[Any, ...]] = {
    "kind": KINDS,
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "size": tuple(SIZES),
    "scale": ("smaller", "bigger"),
    "motion": MOTIONS,
    "pattern": PATTERNS[1:],
    "pattern colour": tuple(COLOURS),
    "old shape": SHAPES,
    "old colour": tuple(COLOURS),
    "ground": BACKGROUNDS,
    "first colour": tuple(COLOURS),
    "second colour": tuple(COLOURS),
    "across": (False, True),
    "bands": (5, 6, 7, 8, 9),
    "camera": CAMERAS,
    "picture": (1, 2, 3, 4),
    "style": STYLES,
}
COORDINATES = ("x", "y", "far x", "far y")  # of an edit those of the object as it was
WAVES = math.pi / 2 * np.array([1.0, 8.0])
COORDINATE_SIZE = 1 + 2 * len(WAVES)
# What a network sees of slow waves is a blot: edges are as sharp as the fastest wave is, of an eighth of the frame.
FINE_WAVES = math.pi / 2 * np.array([16.0, 32.0])
FINE_SIZE = 2 * len(FINE_WAVES)
OFFSETS = dict(zip(CHOICES, np.cumsum([0, *map(len, CHOICES.values())]).tolist(), strict=False))
FIRST_COORDINATE = sum(map(len, CHOICES.values()))
FIRST_FINE = FIRST_COORDINATE + len(COORDINATES) * COORDINATE_SIZE
CODE_SIZE = FIRST_FINE + len(COORDINATES) * FINE_SIZE
LOUD = 2.0  # grounds and cameras have few facts, which are to be as loud as an object's many

Facts = dict[str, Any]


def item_facts(sample: Sample) -> list[Facts]:
    """What each item of a sample's plan says: names out of CHOICES, and coordinates in 0..1."""
    if sample.style is not None:
        return [{"kind": "style", "style": sample.style}]
    still, scene = sample.num_frames == 1, sample.scene
    assert scene is not None
    if sample.source_scene is None or sample.edit is None:
        return _scene_facts(sample, scene, still=still)
    edit, source = sample.edit, sample.source_scene
    before = [source.objects[index] for index in edit.source_objects]
    after = [scene.objects[index] for index in edit.target_objects]
    if edit.kind == "add":
        facts = [_object_facts(item, still=still) | {"kind": "add"} for item in after]
    elif edit.kind == "remove":
        facts = [_changed_facts("remove", item, None, still=still) for item in before]
    else:
        facts = [_changed_facts(edit.kind, old, new, still=still) for old, new in zip(before, after, strict=True)]
        for number, one in zip(edit.references, facts, strict=False):
            one["picture"] = number
    facts += [_object_facts(item, still=still) for item in _kept(sample)]
    if edit.ground_reference is not None:
        facts.append({"kind": "ground", "picture": edit.ground_reference})
    elif edit.kind == "background":
        facts.append(_ground_facts(scene.background))
    return facts


def _scene_facts(sample: Sample, scene: Scene, *, still: bool) -> list[Facts]:
    pictures = len(sample.reference_scenes)
    facts: list[Facts] = [{"kind": "first frame", "picture": 1}] if sample.task == "i2v" else []
    named = 0 if facts else pictures
    for number, item in enumerate(scene.objects, start=1):
        facts.append(_object_facts(item, still=still) | ({"picture": number} if number <= named else {}))
    shows_ground = sample.task != "i2v" and pictures > len(scene.objects)
    facts.append({"kind": "ground", "picture": pictures} if shows_ground else _ground_facts(scene.background))
    return facts if still or scene.camera == "still" else [*facts, {"kind": "camera", "camera": scene.camera}]


def _looks_facts(item: Object) -> Facts:
    facts: Facts = {"shape": item.shape, "colour": item.colour}
    return facts if item.pattern == "flat" else facts | {"pattern": item.pattern, "pattern colour": item.pattern_colour}


def _object_facts(item: Object, *, still: bool) -> Facts:
    scaled = {} if item.scale == 1 else {"scale": "bigger" if item.scale > 1 else "smaller"}
    return {"kind": "object", "size": item.size} | scaled | _looks_facts(item) | _track_facts(item, still=still)


def _track_facts(item: Object, *, still: bool) -> Facts:
    near = pose(item, 0.5 if still else 0.0)
    far = near if still else pose(item, FARTHEST.get(item.motion, 0.0))
    places = {"x": near.x, "y": near.y, "far x": far.x, "far y": far.y}
    return places if still else places | {"motion": item.motion}


def _changed_facts(kind: str, old: Object, new: Object | None, *, still: bool) -> Facts:
    """Of an object that changes: all that it is to be, as in the plan of a scene, and what it was."""
    was = {"old shape": old.shape, "old colour": old.colour, "size": old.size} | _track_facts(old, still=still)
    if new is None:
        return {"kind": kind} | was
    facts = was | _looks_facts(new) | _track_facts(new, still=still)
    if kind == "resize":
        return facts | {"kind": "bigger" if new.scale > 1 else "smaller"}
    return facts | {"kind": EDIT_KINDS.get(kind, kind)}


def _ground_facts(background: Background) -> Facts:
    lying = layout(background)
    said = {"across": lying.across, "bands": lying.bands}
    colours = dict(zip(("first colour", "second colour"), background.colours, strict=False))
    facts = {"kind": "ground", "ground": background.kind} | colours
    return facts | {name: value for name, value in said.items() if value is not None}


def codes_of(sample: Sample, astray: Callable[[], float] = lambda: 0.0) -> np.ndarray:
    """The facts of a plan's items as numbers, float32 (items, CODE_SIZE); ``astray`` says how far off each coordinate is of
    what stands in a source: where something is added the plan alone decides."""
    codes = [_code(facts, (lambda: 0.0) if facts["kind"] == "add" else astray) for facts in item_facts(sample)]
    return np.stack(codes).astype(np.float32)


def codes_at(sample: Sample, time: float) -> np.ndarray:
    """The codes of a clip's items at ``time`` in 0..1: what moves says where it is then, as if it were in a picture; of what
    turns or grows they say so, too."""
    codes = codes_of(
        replace(sample, scene=_stopped(sample.scene, time), source_scene=_stopped(sample.source_scene, time))
    )
    first = OFFSETS["motion"]
    codes[:, [first + number for number, motion in enumerate(MOTIONS) if motion not in CHANGING]] = 0.0
    return codes


def _stopped(scene: Scene | None, time: float) -> Scene | None:
    if scene is None:
        return None
    there = [(item, pose(item, time)) for item in scene.objects]
    return replace(scene, objects=tuple(replace(item, x=at.x, y=at.y, travel=0.0) for item, at in there))


def _code(facts: Facts, astray: Callable[[], float]) -> np.ndarray:
    code = np.zeros(CODE_SIZE)
    loudness = 1.0 if "x" in facts else LOUD
    for name, value in facts.items():
        if name in CHOICES:
            code[OFFSETS[name] + CHOICES[name].index(value)] = loudness
        else:
            number = COORDINATES.index(name)
            first, fine = FIRST_COORDINATE + number * COORDINATE_SIZE, FIRST_FINE + number * FINE_SIZE
            place = min(max(value + astray(), 0.0), 1.0)
            waves, fine_waves = WAVES * place, FINE_WAVES * place
            code[first : first + COORDINATE_SIZE] = [3.4 * (place - 0.5), *np.sin(waves), *np.cos(waves)]
            code[fine : fine + FINE_SIZE] = [*np.sin(fine_waves), *np.cos(fine_waves)]
    return code


def asked_alone(scene: Scene, *, still: bool, seed: int = 0) -> Sample:
    """A scene by itself as a request without words."""
    task, num_frames = ("t2i", 1) if still else ("t2v", 17)
    return Sample(task=task, prompt="", seed=seed, height=0, width=0, num_frames=num_frames, scene=scene)

"""What a language model says of the little world, held against the scene: answers word by word, captions by what they name."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from loomvideo.data.world.questions import NUMBERS
from loomvideo.data.world.scene import COLOURS, SHAPES, Object, Scene
from loomvideo.data.world.verbs import VERBS
from loomvideo.evaluation.judge import Verdict

SPELLINGS = {"grey": "gray", "center": "centre", "colored": "coloured", "traveling": "travelling"}
OTHER_NAMES = {"plus sign": "cross", "five pointed star": "star"}
BEFORE_SHAPE = {"coloured", "small", "little", "medium", "sized", "large", "big"}  # between a colour and its shape
AFTER_SHAPE = {"in", "that", "which", "is", "are", "of"}  # between a shape and its colour
SHAPE_WORDS = {form: shape for shape in SHAPES for form in (shape, f"{shape}s", f"{shape}es")}
CAMERA = re.compile(r"the camera [^,.;]*")  # it moves, too
# Every way to say a motion, in every form, to one word; and that word's motion.
MOTION_WORDS = {form: motion.replace(" ", "_") for motion, verbs in VERBS.items() for verb in verbs for form in verb}
MOTIONS = {motion.replace(" ", "_"): motion for motion in VERBS}
MOTION = re.compile(rf"\b(?:{'|'.join(sorted(MOTION_WORDS, key=len, reverse=True))})\b")  # the longest first


@dataclass(frozen=True)
class Named:
    """An object that a text names, and how it says that it moves."""

    colour: str
    shape: str
    motion: str | None


def judge_answer(said: str, answer: str) -> Verdict:
    """Right where it is the answer, however written: case, punctuation, spelling and digits do not count."""
    return Verdict(facts={"answer": _plain(said) == _plain(answer)})


def judge_caption(said: str, scene: Scene, *, still: bool) -> Verdict:
    """All right where every object is named with its colour and shape, and no other; motions are reported."""
    named = named_objects(said)
    looks = {(one.colour, one.shape) for one in named}
    objects = tuple(_object_facts(item, named, still=still) for item in scene.objects)
    facts = {
        "objects": all(facts["named"] for facts in objects),
        "nothing_else": looks <= {(item.colour, item.shape) for item in scene.objects},
    }
    if not still:
        facts["told_motion"] = all(facts["told_motion"] for facts in objects)
    return Verdict(facts=facts, objects=objects)


def _object_facts(item: Object, named: Sequence[Named], *, still: bool) -> dict[str, bool]:
    same = [one for one in named if (one.colour, one.shape) == (item.colour, item.shape)]
    facts = {"named": bool(same)}
    return facts if still else facts | {"told_motion": any(one.motion == item.motion for one in same)}


def named_objects(text: str) -> list[Named]:
    """Every shape that a text names together with a colour, in order.

    Its motion is the first one told behind it: of ``a star and a ring both spin`` that is the same for both.
    """
    words = _words(text)
    named = []
    for place, word in enumerate(words):
        if word in SHAPE_WORDS and (colour := _colour_at(words, place)):
            motion = next((MOTIONS[later] for later in words[place + 1 :] if later in MOTIONS), None)
            named.append(Named(colour, SHAPE_WORDS[word], motion))
    return named


def _colour_at(words: Sequence[str], place: int) -> str | None:
    """``small red circle`` or ``circle that is red``."""
    for nearby, between in ((words[:place][::-1], BEFORE_SHAPE), (words[place + 1 :], AFTER_SHAPE)):
        first = next((word for word in nearby if word not in between), None)
        if first in COLOURS:
            return first
    return None


def _words(text: str) -> list[str]:
    """Lower-case words of a text, every way to say a motion as one word, and nothing about the camera."""
    text = _plain(CAMERA.sub(" ", text.lower()))
    for name, shape in OTHER_NAMES.items():
        text = text.replace(name, shape)
    return MOTION.sub(lambda found: MOTION_WORDS[found[0]], text).split()


def _plain(text: str) -> str:
    """Words alone, in lower case and one spelling, small numbers written out."""
    return " ".join(_spelt(word) for word in re.findall(r"[a-z0-9]+", text.lower()))


def _spelt(word: str) -> str:
    if word.isdigit() and int(word) < len(NUMBERS):
        return NUMBERS[int(word)]
    return SPELLINGS.get(word, word)

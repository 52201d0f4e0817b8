"""Captions of scenes: many paraphrases of every fact, short and long, in any order; and requests in a person's own words."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from loomvideo.data.world.phrases import Phrases, Writer, joined, with_article
from loomvideo.data.world.scene import COLOURS, SHAPES, Background, Object, Scene

# --- objects

COLOUR_WORDS = {colour: "grey" if colour == "gray" else colour for colour in COLOURS}
SHAPE_WORDS = {shape: (shape,) for shape in SHAPES} | {"cross": ("cross", "cross", "plus sign"), "star": ("star", "star", "star", "five-pointed star")}
SIZE_WORDS = {"small": ("small", "little"), "medium": ("medium", "medium-sized"), "large": ("large", "big")}
OBJECTS = paraphrases(
    """
    {size}{colour} {shape} | {colour} {size}{shape} | {size}{shape} in {colour} | {size}{colour}-coloured {shape}
    | {size}{colour} coloured {shape} | {size}{shape} that is {colour} | {size}{shape} of {colour} colour
    """
)

# --- motions


class Verb(NamedTuple):
    """The forms of one motion phrase: it moves left, moving left, make it move left, both move left."""

    finite: str
    participle: str
    base: str
    plural: str


def _verb(forms: str, rest: str = "") -> Verb:
    finite, participle, base = (f"{form} {rest}".strip() for form in forms.split("/"))
    return Verb(finite, participle, base, base)


TRAVEL = ("moves/moving/move", "slides/sliding/slide", "glides/gliding/glide", "drifts/drifting/drift", "travels/travelling/travel", "goes/going/go", "floats/floating/float")
SIDEWAYS_ENDS = ("{side}", "to the {side}", "{side}wards", "towards the {side}", "toward the {side}")
UPRIGHT_ENDS = ("{side}", "{side}wards")


def _travel(side: str, ends: tuple[str, ...], *others: Verb) -> tuple[Verb, ...]:
    return tuple(_verb(forms, end.format(side=side)) for end in ends for forms in TRAVEL) + others


VERBS: dict[str, tuple[Verb, ...]] = {
    "stays still": (
        _verb("stays still/staying still/stay still"),
        _verb("stands still/standing still/stand still"),
        Verb("is standing still", "standing still", "stand still", "are standing still"),
        Verb("does not move", "not moving", "not move", "do not move"),
        Verb("is not moving", "not moving", "stop moving", "are not moving"),
        _verb("remains in place/remaining in place/remain in place"),
        _verb("stays in place/staying in place/stay in place"),
        _verb("remains still/remaining still/remain still"),
    ),
    "moves left": _travel("left", SIDEWAYS_ENDS, _verb("moves/moving/move", "from right to left")),
    "moves right": _travel("right", SIDEWAYS_ENDS, _verb("moves/moving/move", "from left to right")),
    "moves up": _travel("up", UPRIGHT_ENDS, _verb("rises/rising/rise"), _verb("climbs/climbing/climb"), _verb("rises/rising/rise", "up"), _verb("climbs/climbing/climb", "up")),
    "moves down": _travel(
        "down",
        UPRIGHT_ENDS,
        _verb("sinks/sinking/sink"),
        _verb("falls/falling/fall"),
        _verb("drops/dropping/drop"),
        _verb("sinks/sinking/sink", "down"),
        _verb("falls/falling/fall", "down"),
        _verb("drops/dropping/drop", "down"),
    ),
    "bounces": (
        _verb("bounces/bouncing/bounce"),
        _verb("jumps up and down/jumping up and down/jump up and down"),
        _verb("bounces up and down/bouncing up and down/bounce up and down"),
        _verb("jumps/jumping/jump"),
        _verb("moves up and down/moving up and down/move up and down"),
        _verb("keeps bouncing/bouncing/keep bouncing"),
    ),
    "circles around": (
        _verb("circles around/circling around/circle around"),
        _verb("orbits/orbiting/orbit"),
        _verb("goes in a circle/going in a circle/go in a circle"),
        _verb("moves in a circle/moving in a circle/move in a circle"),
        _verb("travels in a circle/travelling in a circle/travel in a circle"),
        _verb("goes around in a circle/going around in a circle/go around in a circle"),
        _verb("moves around in a circle/moving around in a circle/move around in a circle"),
    ),
    "spins": (
        _verb("spins/spinning/spin"),
        _verb("rotates/rotating/rotate"),
        _verb("turns/turning/turn"),
        _verb("spins around/spinning around/spin around"),
        _verb("turns around/turning around/turn around"),
        _verb("rotates in place/rotating in place/rotate in place"),
        _verb("spins in place/spinning in place/spin in place"),
    ),
    "grows": (
        _verb("grows/growing/grow"),
        _verb("gets bigger/getting bigger/get bigger"),
        _verb("gets larger/getting larger/get larger"),
        _verb("grows bigger/growing bigger/grow bigger"),
        _verb("becomes bigger/becoming bigger/become bigger"),
        _verb("becomes larger/becoming larger/become larger"),
        _verb("grows larger/growing larger/grow larger"),
    ),
    "shrinks": (
        _verb("shrinks/shrinking/shrink"),
        _verb("gets smaller/getting smaller/get smaller"),
        _verb("becomes smaller/becoming smaller/become smaller"),
        _verb("gets smaller and smaller/getting smaller and smaller/get smaller and smaller"),
        _verb("becomes smaller and smaller/becoming smaller and smaller/become smaller and smaller"),
        _verb("keeps shrinking/shrinking/keep shrinking"),
    ),
}
MOTION_PHRASES = {motion: Phrases(verb.finite for verb in verbs) for motion, verbs in VERBS.items()}
_VERB_BY_FINITE = {verb.finite: verb for verbs in VERBS.values() for verb in verbs}


def verb(writer: Writer, motion: str) -> Verb:
    """One way to say a motion; the plainest a little more often than the others."""
    phrases = MOTION_PHRASES[motion]
    finite = phrases.all[0] if not writer.held_out_phrases and writer.chance(0.12) else writer.pick(phrases)
    return _VERB_BY_FINITE[finite]


CLAUSES = paraphrases(
    """
    {object} {finite} | {object} {participle} | there is {object} that {finite} | {object} that {finite}
    | there is {object} {participle} | {object} is {participle} | {object} which {finite}
    | there is {object} which {finite} | {object} which is {participle}
    """
)
STILL_CLAUSES = paraphrases(
    """
    {object} | there is {object} | one can see {object} | you can see {object} | one sees {object} | you see {object}
    """
)
JOINS = Phrases((" and ", ", and ", " while ", ", while ", ". ", ", ", " and there is also "))
OPENINGS = {
    True: Phrases(("a picture of ", "an image of ", "a picture with ", "an image with ", "an image that shows ", "a picture that shows ", "a photo of ")),
    False: Phrases(("a video of ", "a clip of ", "a video in which ", "a clip in which ", "a scene in which ", "a scene with ", "a clip with ", "a video with ")),
}

# --- backgrounds and camera

TWO_COLOURED = ("gradient", "stripes", "checkerboard")
# nouns that follow a preposition ...
GROUNDS = {
    "plain": Phrases(f"a {plain}{{first}} {noun}" for noun in ("background", "backdrop", "ground", "scene") for plain in ("", "plain ", "solid ")),
    "gradient": paraphrases(
        """
        a gradient from {first} to {second} | a {first} and {second} gradient | a {first} to {second} gradient
        | a gradient background from {first} to {second} | a gradient of {first} and {second}
        | a gradient backdrop from {first} to {second} | a {first} and {second} gradient background
        | a gradient between {first} and {second} | a background with a gradient from {first} to {second}
        """
    ),
    "stripes": paraphrases(
        """
        {first} and {second} stripes | a background of {first} and {second} stripes
        | a {first} and {second} striped background | a background with {first} and {second} stripes
        | a striped {first} and {second} background | a backdrop of {first} and {second} stripes
        | a striped background in {first} and {second} | a {first} and {second} striped backdrop
        | stripes in {first} and {second}
        """
    ),
    "checkerboard": paraphrases(
        """
        a {first} and {second} checkerboard | a checkerboard of {first} and {second}
        | a {first} and {second} checkerboard background | a checkerboard background of {first} and {second}
        | a checkerboard in {first} and {second} | a {first} and {second} checkerboard backdrop
        | a checkerboard backdrop of {first} and {second}
        """
    ),
    "starry night": paraphrases(
        """
        a starry night | a starry night background | a starry night sky | a starry night backdrop | the starry night
        | a starry night scene | a background of starry night
        """
    ),
    "grass": paraphrases(
        """
        grass | a grass background | the grass | green grass | a background of grass | a grass backdrop
        | a ground of grass | a backdrop of grass
        """
    ),
    "sky": paraphrases(
        """
        a sky with clouds | the sky | a sky background | a background of sky with clouds | a blue sky with clouds
        | a cloudy sky | a backdrop of sky and clouds | a background of sky and clouds | a sky backdrop
        """
    ),
    "photo": paraphrases(
        """
        a photographic background | a photo | a photographic texture | a photo background | a photographic backdrop
        | a photo backdrop | a background with a photographic texture | a textured background | a textured backdrop
        """
    ),
}
BEFORE_GROUND = paraphrases("on | against | over | in front of | before")
# ... and what follows "the background is"
GROUND_NAMES = {kind: Phrases(phrase for phrase in phrases.all if "back" not in phrase) for kind, phrases in GROUNDS.items()} | {
    "plain": paraphrases("{first} | plain {first} | solid {first} | a plain {first} | a solid {first}"),
    "photo": paraphrases("a photo | a photographic texture | photographic"),
}
GROUND_SENTENCES = paraphrases(
    """
    the background is {name} | the backdrop is {name} | the ground is {name} | the background shows {name}
    | behind it all is {ground} | it all happens {before} {ground} | the scene has {ground}
    | the scene is set {before} {ground} | in the background is {name}
    """
)
NOT_SHOWN = {"plain"}  # "the background shows red" is no English
CAMERA = {
    "still": paraphrases(
        """
        the camera stays still | the camera does not move | the camera is still | the camera stands still
        | the camera remains still | the camera is not moving
        """
    ),
    "pans left": paraphrases(
        """
        the camera pans left | the camera pans to the left | the camera is panning left
        | the camera pans towards the left | the camera is panning to the left | the camera moves to the left
        | the camera moves left
        """
    ),
    "pans right": paraphrases(
        """
        the camera pans right | the camera pans to the right | the camera is panning right
        | the camera pans towards the right | the camera is panning to the right | the camera moves to the right
        | the camera moves right
        """
    ),
    "zooms in": paraphrases(
        """
        the camera zooms in | the camera is zooming in | the camera slowly zooms in | there is a zoom in
        | the camera is slowly zooming in | there is a slow zoom in
        """
    ),
}
CAMERA_JOINS = Phrases((" while ", ", while ", " as ", ", ", ". ", "; ", " and "))
SENTENCE_JOINS = Phrases((", ", ". ", "; ", " and ", ", and "))


@dataclass(frozen=True)
class Caption:
    """``told`` names the facts besides shape, colour and motion that the text tells: ``background``, ``camera``, ``sizes``."""

    text: str
    told: frozenset[str]


def noun(writer: Writer, item: Object, *, with_size: bool) -> str:
    """``small red circle``."""
    size = f"{writer.choose(SIZE_WORDS[item.size])} " if with_size else ""
    slots = {"size": size, "colour": COLOUR_WORDS[item.colour], "shape": str(writer.choose(SHAPE_WORDS[item.shape]))}
    plain = not writer.held_out_phrases and writer.chance(0.75)
    return OBJECTS.all[0].format(**slots) if plain else writer.pick(OBJECTS, **slots)


def ground_slots(writer: Writer, background: Background) -> dict[str, str]:
    """The two colours of stripes and checks may be told in either order, those of a gradient are from where to where."""
    colours = [COLOUR_WORDS[colour] for colour in background.colours]
    if background.kind in ("stripes", "checkerboard") and writer.chance(0.5):
        colours.reverse()
    return dict(zip(("first", "second"), colours, strict=False))


def ground(writer: Writer, background: Background) -> str:
    """``a plain blue background``: what follows ``on`` or ``against``."""
    phrase = writer.pick(GROUNDS[background.kind], **ground_slots(writer, background))
    return phrase.replace("a orange", "an orange")


def ground_name(writer: Writer, background: Background) -> str:
    """``plain blue``: what follows ``the background is``."""
    return writer.pick(GROUND_NAMES[background.kind], **ground_slots(writer, background)).replace("a orange", "an orange")


def on_ground(writer: Writer, background: Background) -> str:
    return f"{writer.pick(BEFORE_GROUND)} {ground(writer, background)}"


def ground_sentence(writer: Writer, background: Background) -> str:
    name = ground_name(writer, background)
    sentence = writer.pick(GROUND_SENTENCES, name=name, ground=ground(writer, background), before=writer.pick(BEFORE_GROUND))
    return sentence if background.kind not in NOT_SHOWN else sentence.replace("shows", "is").replace("in the background is", "the background is")


def clause(writer: Writer, subject: str, motion: str | None) -> str:
    """``a red circle moves left``; without a motion the bare noun or ``there is a red circle``."""
    if motion is None:
        return subject if writer.chance(0.7) else writer.pick(STILL_CLAUSES, object=subject)
    said = verb(writer, motion)
    slots = {"object": subject, "finite": said.finite, "participle": said.participle}
    plain = not writer.held_out_phrases and writer.chance(0.35)
    return CLAUSES.all[0].format(**slots) if plain else writer.pick(CLAUSES, **slots)


def _objects(writer: Writer, scene: Scene, *, still: bool, with_sizes: bool) -> str:
    subjects = [with_article(noun(writer, item, with_size=with_sizes)) for item in scene.objects]
    motions = {item.motion for item in scene.objects}
    if len(subjects) == 2 and len(motions) == 1 and not still and writer.chance(0.5):
        both = "both " if writer.chance(0.5) else ""
        return f"{joined(subjects)} {both}{verb(writer, *motions).plural}"
    if still:
        return clause(writer, joined(subjects, writer.choose((" and ", ", "))), None)  # type: ignore[arg-type]
    clauses = [clause(writer, subject, _told_motion(writer, item)) for subject, item in zip(subjects, scene.objects, strict=True)]
    if len(clauses) == 3 and writer.chance(0.6):
        return joined(clauses, str(writer.choose((" and ", ", and ", " while "))))
    text = clauses[0]
    for part in clauses[1:]:
        text += writer.pick(JOINS) + part
    return text.replace("there is also there is", "there is also")


def _told_motion(writer: Writer, item: Object) -> str | None:
    return None if item.motion == "stays still" and writer.chance(0.07) else item.motion


def _add_ground(writer: Writer, text: str, background: Background) -> str:
    where = writer.rng.random()
    if where < 0.55:
        return f"{text} {on_ground(writer, background)}"
    if where < 0.62:
        return f"{text} with {ground(writer, background)}"
    if where < 0.82:
        return f"{on_ground(writer, background)}, {text}"
    sentence = ground_sentence(writer, background)
    return f"{text}{writer.pick(SENTENCE_JOINS)}{sentence}" if where < 0.95 else f"{sentence}. {text}"


def _add_camera(writer: Writer, text: str, camera: str) -> str:
    phrase = writer.pick(CAMERA[camera])
    return f"{phrase}. {text}" if writer.chance(0.12) else text + writer.pick(CAMERA_JOINS) + phrase


def caption(writer: Writer, scene: Scene, *, still: bool) -> Caption:
    """A caption of a scene with objects: shapes and colours always, motions unless ``still``, the rest mostly."""
    told = set()
    if writer.chance(0.5):
        told.add("sizes")
    text = _objects(writer, scene, still=still, with_sizes="sizes" in told)
    if writer.chance(0.06):
        opening = writer.pick(OPENINGS[still])
        text = opening + text.removeprefix("there is ") if not text.startswith(("you", "one")) else text
    if writer.chance(0.95):
        told.add("background")
        text = _add_ground(writer, text, scene.background)
    # a camera that moves is told nearly always, so that one left unsaid stands still
    if not still and writer.chance(0.95 if scene.camera != "still" else 0.05):
        told.add("camera")
        text = _add_camera(writer, text, scene.camera)
    return Caption(writer.spelt(text), frozenset(told))


# --- one caption for one scene, and what a person types instead

REQUEST_OPENINGS = paraphrases(
    """
    {text} | please {text} | i want {text} | make {text} | show me {text} | can you make {text} | i would like {text}
    | please make {text} | hi, i want {text} | please show me {text} | {text}, thanks | {text} please
    """
)


def canonical_ground(background: Background) -> str:
    """``plain blue``, ``red and blue stripes``: the colours of two in the palette's order, which needs no left or right."""
    colours = " and ".join(colour for colour in COLOURS if colour in background.colours)
    if background.kind == "plain":
        return f"plain {colours}"
    return f"{colours} {background.kind}" if background.kind in TWO_COLOURED else background.kind


def canonical_caption(scene: Scene, *, still: bool) -> str:
    """The one full caption of a scene, objects in the palette's order; it is what describing and rewriting answer."""
    order = list(COLOURS)
    items = sorted(scene.objects, key=lambda item: (order.index(item.colour), SHAPES.index(item.shape)))
    parts = [f"a {item.size} {item.colour} {item.shape}" + ("" if still else f" {item.motion}") for item in items]
    ground_text = f"{'an' if canonical_ground(scene.background)[0] in 'aeiou' else 'a'} {canonical_ground(scene.background)} background"
    camera = "" if still or scene.camera == "still" else f", the camera {scene.camera}"
    return f"{joined(parts)} on {ground_text}{camera}"


def filled_in(scene: Scene, told: frozenset[str]) -> Scene:
    """The scene with what was not told set to the defaults of a rewritten prompt: medium, plain white (else black), still camera."""
    objects = scene.objects if "sizes" in told else tuple(replace(item, size="medium") for item in scene.objects)
    default = "black" if any(item.colour == "white" for item in objects) else "white"
    background = scene.background if "background" in told else Background(kind="plain", colours=(default,))
    return replace(scene, objects=objects, background=background, camera=scene.camera if "camera" in told else "still")


def _keywords(writer: Writer, scene: Scene, told: frozenset[str]) -> str:
    """``red circle, moves left, blue background``: what is left when a person saves words."""
    parts = []
    for item in scene.objects:
        said = verb(writer, item.motion)
        parts.append(f"{noun(writer, item, with_size='sizes' in told)}{writer.choose((' ', ', '))}{writer.choose((said.finite, said.participle))}")
    if "background" in told:
        parts.append(f"{ground_name(writer, scene.background)}{writer.choose((' background', ' bg', ' backdrop'))}")
    if "camera" in told:
        parts.append(scene.camera if writer.chance(0.5) else f"camera {scene.camera}")
    return str(writer.choose((", ", " ", " - "))).join(parts)


def request(writer: Writer, scene: Scene) -> tuple[str, Scene]:
    """A short or messy request for a clip and the scene it stands for, defaults filled in."""
    if writer.chance(0.4):
        said = caption(writer, scene, still=False)
        text, told = said.text, said.told
    else:
        told = frozenset(fact for fact, odds in (("sizes", 0.4), ("background", 0.6), ("camera", 0.9)) if writer.chance(odds))
        told -= {"camera"} if scene.camera == "still" else set()
        text = writer.spelt(_keywords(writer, scene, told))
    if writer.chance(0.4):
        text = writer.pick(REQUEST_OPENINGS, text=text)
    if writer.chance(0.15):
        text = str(writer.choose((text.upper(), text.lower(), text.replace(" ", "  ", 2), text + "!!", text + "...", text.replace(",", ""))))
    return text, filled_in(scene, told)

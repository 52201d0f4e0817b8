"""Captions of scenes: many paraphrases of every fact, short and long, in any order."""

from dataclasses import dataclass

from loomvideo.data.world.phrases import Phrases, Writer, joined, paraphrases, with_article
from loomvideo.data.world.scene import COLOURS, SHAPES, Background, Object, Scene
from loomvideo.data.world.verbs import verb

COLOUR_WORDS = {colour: "grey" if colour == "gray" else colour for colour in COLOURS}
SHAPE_WORDS = {shape: (shape,) for shape in SHAPES} | {
    "cross": ("cross", "cross", "plus sign"),
    "star": ("star", "star", "star", "five-pointed star"),
}
SIZE_WORDS = {"small": ("small", "little"), "medium": ("medium", "medium-sized"), "large": ("large", "big")}
OBJECTS = paraphrases(
    """
    {size}{colour} {shape} | {colour} {size}{shape} | {size}{shape} in {colour} | {size}{colour}-coloured {shape}
    | {size}{colour} coloured {shape} | {size}{shape} that is {colour} | {size}{shape} of {colour} colour
    """
)
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
JOINS = (" and ", ", and ", " while ", ", while ", ". ", ", ", " and there is also ")
OPENINGS = {
    True: Phrases(
        (
            "a picture of ",
            "an image of ",
            "a picture with ",
            "an image with ",
            "an image that shows ",
            "a picture that shows ",
            "a photo of ",
        )
    ),
    False: Phrases(
        (
            "a video of ",
            "a clip of ",
            "a video in which ",
            "a clip in which ",
            "a scene in which ",
            "a scene with ",
            "a clip with ",
            "a video with ",
        )
    ),
}

# --- backgrounds and camera

# nouns that follow a preposition ...
GROUNDS = {
    "plain": Phrases(
        f"a {plain}{{first}} {noun}"
        for noun in ("background", "backdrop", "ground", "scene")
        for plain in ("", "plain ", "solid ")
    ),
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
GROUND_NAMES = {
    kind: Phrases(phrase for phrase in phrases.all if "back" not in phrase) for kind, phrases in GROUNDS.items()
} | {
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
CAMERA_JOINS = (" while ", ", while ", " as ", ", ", ". ", "; ", " and ")
SENTENCE_JOINS = (", ", ". ", "; ", " and ", ", and ")


@dataclass(frozen=True)
class Caption:
    """``told`` names the facts besides shape, colour and motion that the text tells: ``background``, ``camera``, ``sizes``."""

    text: str
    told: frozenset[str]


def noun(writer: Writer, item: Object, *, with_size: bool) -> str:
    """``small red circle``."""
    size = f"{writer.choose(SIZE_WORDS[item.size])} " if with_size else ""
    slots = {"size": size, "colour": COLOUR_WORDS[item.colour], "shape": writer.choose(SHAPE_WORDS[item.shape])}
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
    return writer.pick(GROUNDS[background.kind], **ground_slots(writer, background))


def ground_name(writer: Writer, background: Background) -> str:
    """``plain blue``: what follows ``the background is``."""
    return writer.pick(GROUND_NAMES[background.kind], **ground_slots(writer, background))


def on_ground(writer: Writer, background: Background) -> str:
    return f"{writer.pick(BEFORE_GROUND)} {ground(writer, background)}"


def ground_sentence(writer: Writer, background: Background) -> str:
    name = ground_name(writer, background)
    sentence = writer.pick(
        GROUND_SENTENCES, name=name, ground=ground(writer, background), before=writer.pick(BEFORE_GROUND)
    )
    return (
        sentence
        if background.kind not in NOT_SHOWN
        else sentence.replace("shows", "is").replace("in the background is", "the background is")
    )


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
        return f"{joined(subjects)} {both}{verb(writer, scene.objects[0].motion).plural}"
    if still:
        return clause(writer, joined(subjects, writer.choose((" and ", ", "))), None)
    clauses = [
        clause(writer, subject, _told_motion(writer, item))
        for subject, item in zip(subjects, scene.objects, strict=True)
    ]
    if len(clauses) == 3 and writer.chance(0.6):
        return joined(clauses, writer.choose((" and ", ", and ", " while ")))
    text = clauses[0]
    for part in clauses[1:]:
        text += writer.choose(JOINS) + part
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
    return f"{text}{writer.choose(SENTENCE_JOINS)}{sentence}" if where < 0.95 else f"{sentence}. {text}"


def _add_camera(writer: Writer, text: str, camera: str) -> str:
    phrase = writer.pick(CAMERA[camera])
    return f"{phrase}. {text}" if writer.chance(0.12) else text + writer.choose(CAMERA_JOINS) + phrase


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

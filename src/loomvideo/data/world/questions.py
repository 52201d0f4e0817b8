"""Questions about a picture or a clip, and their short answers."""

from collections import Counter
from collections.abc import Callable

from loomvideo.data.world.instructions import IN_PLACE, address, place_word
from loomvideo.data.world.phrases import Phrases, Writer
from loomvideo.data.world.scene import COLOURS, SHAPES, Scene
from loomvideo.data.world.words import COLOUR_WORDS, canonical_ground

NUMBERS = ("zero", "one", "two", "three")
PLACES = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom", "centre": "in the centre"}
DESCRIBE = {
    False: paraphrases(
        """
        describe the video | describe this clip | describe the clip | what is in the video?
        | what happens in the video? | what do you see? | caption this video | what is in this clip?
        | describe this video | what happens in this clip? | caption the clip | describe what you see
        | describe what happens
        """
    ),
    True: paraphrases(
        """
        describe the image | describe this picture | describe the picture | what is in the image?
        | what is in this picture? | what do you see? | caption this image | describe this image
        | what is in the picture? | caption the picture | describe what you see | what do you see in this image?
        """
    ),
}
COUNT = paraphrases(
    """
    how many {things} are there? | how many {things} do you see? | how many {things} can you see? | count the {things}
    | what is the number of {things}? | how many {things}? | how many {things} are in it?
    | tell me how many {things} there are | what number of {things} do you see?
    """
)
COLOUR = paraphrases(
    """
    what colour is {who}? | which colour is {who}? | which colour does {who} have? | what is the colour of {who}?
    | what colour does {who} have? | tell me the colour of {who} | tell me which colour {who} is
    | tell me what colour {who} is
    """
)
SHAPE = paraphrases(
    """
    what shape is {who}? | which shape is {who}? | which shape does {who} have? | what is the shape of {who}?
    | what shape does {who} have? | tell me the shape of {who} | tell me which shape {who} is
    """
)
WHERE = paraphrases(
    """
    where is {who}? | where do you see {who}? | where can you see {who}? | tell me where {who} is
    | what is the place of {who}? | in what place is {who}? | in which place is {who}? | what place is {who} in?
    | which place is {who} in?
    """
)
MOTION = paraphrases(
    """
    which way does {who} move? | what does {who} do? | how does {who} move? | what is {who} doing?
    | how is {who} moving? | which way is {who} moving? | tell me how {who} moves | tell me which way {who} moves
    | tell me what {who} does | what is the motion of {who}?
    """
)
GROUND = paraphrases(
    """
    what is the background? | what background is there? | what is in the background? | which background is there?
    | what is the backdrop? | what kind of background is there? | what is behind {who}?
    | tell me what the background is | describe the background | what do you see behind {who}?
    | tell me what is behind {who}
    """
)
GROUND_COLOUR = paraphrases(
    """
    what colour is the background? | which colour is the background? | what is the colour of the background?
    | which colour does the background have? | what colour does the background have?
    | tell me the colour of the background | what colour is the backdrop? | which colour is the backdrop?
    """
)
CAMERA = paraphrases(
    """
    what does the camera do? | how does the camera move? | does the camera move? | which way does the camera move?
    | how is the camera moving? | what is the camera doing? | tell me what the camera does | is the camera moving?
    """
)

Answered = tuple[str, str]


def _by_colour(writer: Writer, scene: Scene, index: int) -> str | None:
    """Words for an object that do not tell its shape."""
    colours = Counter(item.colour for item in scene.objects)
    if len(scene.objects) == 1:
        return str(writer.choose(("the object", "it")))
    item = scene.objects[index]
    return f"the {COLOUR_WORDS[item.colour]} {writer.choose(('object', 'one', 'shape'))}" if colours[item.colour] == 1 else None


def _by_shape(writer: Writer, scene: Scene, index: int) -> str | None:
    """Words for an object that do not tell its colour."""
    shapes = Counter(item.shape for item in scene.objects)
    if len(scene.objects) == 1 and writer.chance(0.4):
        return str(writer.choose(("the object", "it", "the shape")))
    return f"the {scene.objects[index].shape}" if shapes[scene.objects[index].shape] == 1 else None


def _any(writer: Writer, scene: Scene) -> int:
    return int(writer.rng.random() * len(scene.objects))


def count(writer: Writer, scene: Scene, *, still: bool) -> Answered | None:
    draw = writer.rng.random()
    if draw < 0.6:
        things, number = writer.choose(("objects", "shapes", "things")), len(scene.objects)
    elif draw < 0.8:
        shape = scene.objects[_any(writer, scene)].shape if writer.chance(0.7) else str(writer.choose(SHAPES))
        things, number = (f"{shape}es" if shape == "cross" else f"{shape}s"), sum(item.shape == shape for item in scene.objects)
    else:
        colour = scene.objects[_any(writer, scene)].colour if writer.chance(0.7) else str(writer.choose(tuple(COLOURS)))
        things, number = f"{COLOUR_WORDS[colour]} objects", sum(item.colour == colour for item in scene.objects)
    return writer.pick(COUNT, things=str(things)), NUMBERS[number]


def colour(writer: Writer, scene: Scene, *, still: bool) -> Answered | None:
    index = _any(writer, scene)
    who = _by_shape(writer, scene, index)
    return (writer.pick(COLOUR, who=who), scene.objects[index].colour) if who else None


def shape(writer: Writer, scene: Scene, *, still: bool) -> Answered | None:
    index = _any(writer, scene)
    who = _by_colour(writer, scene, index)
    return (writer.pick(SHAPE, who=who), scene.objects[index].shape) if who else None


def where(writer: Writer, scene: Scene, *, still: bool) -> Answered | None:
    """Asked of objects that stay in their place, and where one word fits clearly."""
    index = _any(writer, scene)
    item = scene.objects[index]
    place = place_word(item) if item.motion in IN_PLACE else ""
    who = f"the {COLOUR_WORDS[item.colour]} {item.shape}" if writer.chance(0.6) else _by_colour(writer, scene, index)
    return (writer.pick(WHERE, who=who), PLACES[place]) if place and who else None


def motion(writer: Writer, scene: Scene, *, still: bool) -> Answered | None:
    if still:
        return None
    index = _any(writer, scene)
    item = scene.objects[index]
    who = f"the {COLOUR_WORDS[item.colour]} {item.shape}" if writer.chance(0.5) else _by_colour(writer, scene, index)
    return (writer.pick(MOTION, who=who), item.motion) if who else None


def background(writer: Writer, scene: Scene, *, still: bool) -> Answered | None:
    if scene.background.kind == "plain" and writer.chance(0.4):
        return writer.pick(GROUND_COLOUR), scene.background.colours[0]
    return writer.pick(GROUND, who=address(writer, scene, _any(writer, scene), still=True)), canonical_ground(scene.background)


def camera(writer: Writer, scene: Scene, *, still: bool) -> Answered | None:
    return None if still else (writer.pick(CAMERA), "stays still" if scene.camera == "still" else scene.camera)


QUESTIONS: dict[str, Callable[..., Answered | None]] = {
    "count": count,
    "colour": colour,
    "shape": shape,
    "where": where,
    "motion": motion,
    "background": background,
    "camera": camera,
}
SHARES = {"count": 20, "colour": 18, "shape": 18, "where": 14, "motion": 18, "background": 16, "camera": 4}


def ask(writer: Writer, scene: Scene, kind: str, *, still: bool) -> Answered | None:
    """A question of a kind of ``QUESTIONS`` and its answer, or None where the scene does not allow it."""
    asked = QUESTIONS[kind](writer, scene, still=still)
    return (_spelt(writer, asked[0]), asked[1]) if asked else None


def describe(writer: Writer, *, still: bool) -> str:
    return _spelt(writer, writer.pick(DESCRIBE[still]))


def _spelt(writer: Writer, question: str) -> str:
    text = writer.spelt(question)
    return text.rstrip("?") if text.endswith("?") and writer.chance(0.15) else text

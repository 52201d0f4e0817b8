"""Questions about a picture or a clip, and their short answers."""

from collections.abc import Callable

from loomvideo.data.world.addressing import IN_PLACE, address, is_unique, place_word
from loomvideo.data.world.instructions import plural
from loomvideo.data.world.phrases import Writer, paraphrases
from loomvideo.data.world.requests import canonical_ground
from loomvideo.data.world.scene import COLOURS, SHAPES, Object, Scene
from loomvideo.data.world.words import COLOUR_WORDS

NUMBERS = ("zero", "one", "two", "three")
PLACE_ANSWERS = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "centre": "in the centre",
}
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
    | what is the number of {things}? | how many {things} are in it? | tell me how many {things} there are
    | how many {things} does it show? | how many {things} are shown? | say how many {things} there are
    | how many {things}? | what number of {things} do you see? | tell me the number of {things} | say the number of {things}
    | tell me how many {things} you see | how many {things} are there in all? | what number of {things} is shown?
    """
)
COLOUR = paraphrases(
    """
    what colour is {who}? | which colour is {who}? | which colour does {who} have? | what is the colour of {who}?
    | what colour does {who} have? | tell me the colour of {who} | say the colour of {who} | tell me what colour {who} is
    | say which colour {who} is | what colour do you see on {who}? | in what colour is {who}? | name the colour of {who}
    | tell me which colour {who} is | say what colour {who} is | tell me what colour {who} has | in which colour is {who}?
    """
)
SHAPE = paraphrases(
    """
    what shape is {who}? | which shape is {who}? | which shape does {who} have? | what is the shape of {who}?
    | what shape does {who} have? | tell me the shape of {who} | say what shape {who} is | tell me what shape {who} has
    | name the shape of {who} | what kind of shape is {who}? | tell me which shape {who} is | say the shape of {who}
    | say which shape {who} has | tell me what shape {who} is | which kind of shape is {who}?
    """
)
WHERE = paraphrases(
    """
    where is {who}? | where do you see {who}? | where can you see {who}? | tell me where {who} is
    | what is the place of {who}? | in which place is {who}? | which place is {who} in? | say where {who} is
    | where in it is {who}? | tell me the place of {who} | say in which place {who} is | tell me where you see {who}
    | in what place is {who}? | what place is {who} in? | say where you see {who} | tell me in what place {who} is
    | say the place of {who} | in what place do you see {who}?
    """
)
MOTION = paraphrases(
    """
    which way does {who} move? | what does {who} do? | how does {who} move? | what is {who} doing?
    | how is {who} moving? | which way is {who} moving? | tell me how {who} is moving | tell me which way {who} moves
    | what is the motion of {who}? | say how {who} moves | tell me what {who} is doing | say which way {who} is moving
    | describe the motion of {who} | describe how {who} moves | in what way does {who} move? | say what {who} does
    | tell me what {who} does | tell me how {who} moves | tell me the motion of {who} | say what {who} is doing
    | describe what {who} does | in which way does {who} move? | tell me which way {who} is moving | describe how {who} is moving
    """
)
GROUND = paraphrases(
    """
    what is the background? | what background is there? | what is in the background? | which background is there?
    | what is the backdrop? | what kind of background is there? | what is behind {who}? | what background do you see?
    | tell me what the background is | describe the background | what do you see behind {who}? | say what the background is
    | tell me what is in the background | tell me what kind of background there is | describe what is behind {who}
    | tell me what is behind {who} | say what is behind {who} | which kind of background do you see? | describe the backdrop
    | say what is in the background
    """
)
GROUND_COLOUR = paraphrases(
    """
    what colour is the background? | which colour is the background? | what is the colour of the background?
    | which colour does the background have? | tell me the colour of the background | what colour is the backdrop?
    | say what colour the background is | tell me which colour the background has | name the colour of the background
    | what colour does the background have? | which colour is the backdrop? | tell me what colour the background is
    | what is the colour of the backdrop? | say the colour of the background
    """
)
CAMERA = paraphrases(
    """
    what does the camera do? | how does the camera move? | does the camera move? | which way does the camera move?
    | what is the camera doing? | tell me what the camera does | say how the camera moves | is the camera moving?
    | how is the camera moving? | tell me how the camera moves | say what the camera does | tell me what the camera is doing
    | which way is the camera moving?
    """
)

Answered = tuple[str, str]


def _by_colour(writer: Writer, scene: Scene, item: Object) -> str | None:
    """Words for an object that do not tell its shape."""
    if len(scene.objects) == 1:
        return writer.choose(("the object", "it"))
    if not is_unique(scene, item, "colour"):
        return None
    return f"the {COLOUR_WORDS[item.colour]} {writer.choose(('object', 'one', 'shape'))}"


def _by_shape(writer: Writer, scene: Scene, item: Object) -> str | None:
    """Words for an object that do not tell its colour."""
    if len(scene.objects) == 1 and writer.chance(0.4):
        return writer.choose(("the object", "it", "the shape"))
    return f"the {item.shape}" if is_unique(scene, item, "shape") else None


def _by_colour_or_both(writer: Writer, scene: Scene, item: Object) -> str | None:
    return f"the {COLOUR_WORDS[item.colour]} {item.shape}" if writer.chance(0.55) else _by_colour(writer, scene, item)


def count(writer: Writer, scene: Scene) -> Answered:
    """Of all objects, or of one shape or colour, which the scene mostly has."""
    draw = writer.rng.random()
    item = writer.choose(scene.objects)
    if draw < 0.6:
        things, number = writer.choose(("objects", "shapes", "things")), len(scene.objects)
    elif draw < 0.8:
        shape = item.shape if writer.chance(0.7) else writer.choose(SHAPES)
        things, number = plural(shape), sum(item.shape == shape for item in scene.objects)
    else:
        colour = item.colour if writer.chance(0.7) else writer.choose(tuple(COLOURS))
        things, number = f"{COLOUR_WORDS[colour]} objects", sum(item.colour == colour for item in scene.objects)
    return writer.pick(COUNT, things=things), NUMBERS[number]


def colour(writer: Writer, scene: Scene) -> Answered | None:
    item = writer.choose(scene.objects)
    who = _by_shape(writer, scene, item)
    return (writer.pick(COLOUR, who=who), item.colour) if who else None


def shape(writer: Writer, scene: Scene) -> Answered | None:
    item = writer.choose(scene.objects)
    who = _by_colour(writer, scene, item)
    return (writer.pick(SHAPE, who=who), item.shape) if who else None


def where(writer: Writer, scene: Scene) -> Answered | None:
    """Asked of objects that stay in their place, and where one word fits clearly."""
    item = writer.choose(scene.objects)
    place = place_word(item) if item.motion in IN_PLACE else ""
    who = _by_colour_or_both(writer, scene, item)
    return (writer.pick(WHERE, who=who), PLACE_ANSWERS[place]) if place and who else None


def motion(writer: Writer, scene: Scene) -> Answered | None:
    item = writer.choose(scene.objects)
    who = _by_colour_or_both(writer, scene, item)
    return (writer.pick(MOTION, who=who), item.motion) if who else None


def background(writer: Writer, scene: Scene) -> Answered:
    if scene.background.kind == "plain" and writer.chance(0.4):
        return writer.pick(GROUND_COLOUR), scene.background.colours[0]
    index = int(writer.rng.random() * len(scene.objects))
    return writer.pick(GROUND, who=address(writer, scene, index, still=True)), canonical_ground(scene.background)


def camera(writer: Writer, scene: Scene) -> Answered:
    return writer.pick(CAMERA), "stays still" if scene.camera == "still" else scene.camera


QUESTIONS: dict[str, Callable[[Writer, Scene], Answered | None]] = {
    "count": count,
    "colour": colour,
    "shape": shape,
    "where": where,
    "motion": motion,
    "background": background,
    "camera": camera,
}
SHARES = {"count": 20, "colour": 18, "shape": 18, "where": 14, "motion": 18, "background": 16, "camera": 4}
OF_CLIPS = ("motion", "camera")


def ask(writer: Writer, scene: Scene, kind: str) -> Answered | None:
    """A question of a kind of ``QUESTIONS`` and its answer, or None where the scene does not allow it."""
    asked = QUESTIONS[kind](writer, scene)
    return (_spelt(writer, asked[0]), asked[1]) if asked else None


def describe(writer: Writer, *, still: bool) -> str:
    return _spelt(writer, writer.pick(DESCRIBE[still]))


def _spelt(writer: Writer, question: str) -> str:
    text = writer.spelt(question)
    return text.rstrip("?") if writer.chance(0.15) else text

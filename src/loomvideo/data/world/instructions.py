"""Instructions in words: how objects are addressed, edits, styles, guided edits and prompts with several pictures."""

from collections import Counter

import numpy as np

from loomvideo.data.world.edits import Edit
from loomvideo.data.world.phrases import Phrases, Writer, joined, with_article
from loomvideo.data.world.scene import Object, Scene, pose
from loomvideo.data.world.words import COLOUR_WORDS, SHAPE_WORDS, ground, ground_name, ground_sentence, noun, on_ground, verb

# --- addressing: which words name one object of a scene and no other

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
SIDE_MARGIN = 0.15
TIMES = np.linspace(0, 1, 5)


def _sides(scene: Scene, index: int) -> list[str]:
    """``left`` where the object is left of every other one for the whole clip, and so on."""
    paths = np.array([[(at.x, at.y) for at in (pose(item, float(time)) for time in TIMES)] for item in scene.objects])
    others = np.delete(paths, index, axis=0)
    low, high = paths[index].min(axis=0), paths[index].max(axis=0)
    before, after = high + SIDE_MARGIN < others.min(axis=(0, 1)), low - SIDE_MARGIN > others.max(axis=(0, 1))
    return [side for side, true in zip(("left", "top", "right", "bottom"), (*before, *after), strict=True) if true]


def address(writer: Writer, scene: Scene, index: int, *, still: bool, pronoun: bool = True) -> str:
    """Words for one object that fit no other object of the scene."""
    item = scene.objects[index]
    shape = str(writer.choose(SHAPE_WORDS[item.shape]))
    colour = COLOUR_WORDS[item.colour]
    shapes, colours, motions, sizes = (Counter(getattr(other, name) for other in scene.objects) for name in ("shape", "colour", "motion", "size"))
    draw = writer.rng.random()
    if draw < 0.25 and shapes[item.shape] == 1:
        return f"the {shape}"
    if draw < 0.37 and colours[item.colour] == 1:
        return writer.pick(ONE, word=colour)
    if draw < 0.52 and len(scene.objects) == 1:
        single = writer.pick(SINGLE)
        return single if pronoun or single != "it" else "the object"
    if draw < 0.64 and len(scene.objects) > 1 and (sides := _sides(scene, index)):
        return writer.pick(SIDES[str(writer.choose(sides))], shape=shape)
    if draw < 0.70 and not still and len(scene.objects) > 1 and motions[item.motion] == 1:
        alone = item.motion != "stays still" and motions["stays still"] == len(scene.objects) - 1
        return writer.pick(MOVING, shape=shape) if alone and writer.chance(0.5) else writer.pick(BY_MOTION, shape=shape, finite=verb(writer, item.motion).finite)
    if draw < 0.75 and len(scene.objects) > 1 and sizes[item.size] == 1 and not motions.keys() & {"grows", "shrinks"}:
        return writer.pick(ONE, word=item.size)
    if draw < 0.80:
        return f"the {noun(writer, item, with_size=True)}"
    return f"the {colour} {shape}"


def _address_all(writer: Writer, scene: Scene, indices: tuple[int, ...], *, still: bool, pronoun: bool = True) -> str:
    if len(indices) == 1:
        return address(writer, scene, indices[0], still=still, pronoun=pronoun)
    if writer.chance(0.7):
        return writer.pick(BOTH if len(indices) == 2 else ALL)
    return joined([address(writer, scene, index, still=still) for index in indices])


# --- edits

CHANGE_COLOUR = paraphrases(
    """
    make {who} {colour} | turn {who} {colour} | change {who} to {colour} | recolour {who} {colour}
    | paint {who} {colour} | recolour {who} to {colour} | change the colour of {who} to {colour}
    | paint {who} in {colour} | recolour {who} in {colour} | make the colour of {who} {colour}
    | {who} should be {colour} | turn the colour of {who} to {colour} | change {who} into {colour}
    | I want {who} to be {colour} | turn {who} into {colour_kind} | make {who} {colour} in colour
    """
)
CHANGE_SHAPE = paraphrases(
    """
    turn {who} into {shape} | change {who} to {shape} | change {who} into {shape} | make {who} {shape}
    | make {who} into {shape} | change the shape of {who} to {shape} | replace {who} with {same_colour}
    | {who} should be {shape} | turn {who} into {same_colour} | I want {who} to be {shape}
    | change the shape of {who} into {shape}
    """
)
REPLACE = paraphrases(
    """
    replace {who} with {new} | turn {who} into {new} | change {who} to {new} | change {who} into {new}
    | swap {who} for {new} | put {new} in place of {who} | make {who} {new} | put {new} instead of {who}
    | swap {who} with {new} | replace {who} by {new} | {new} instead of {who} | there should be {new} instead of {who}
    """
)
RESIZE = {
    "bigger": paraphrases(
        """
        make {who} bigger | make {who} larger | enlarge {who} | increase the size of {who} | {who} should be bigger
        | {who} should be larger | make the size of {who} bigger | I want {who} to be bigger | I want {who} larger
        | make {who} bigger in size
        """
    ),
    "smaller": paraphrases(
        """
        make {who} smaller | reduce the size of {who} | {who} should be smaller | make the size of {who} smaller
        | I want {who} to be smaller | I want {who} smaller | make {who} smaller in size | change {who} to be smaller
        | change the size of {who} to be smaller
        """
    ),
}
REMOVE = paraphrases(
    """
    remove {who} | delete {who} | erase {who} | take away {who} | take {who} away | get rid of {who}
    | remove {who} from the scene | delete {who} from the scene | erase {who} from the scene
    | take {who} away from the scene | remove {who} completely | I want {who} removed
    """
)
ADD = paraphrases(
    """
    add {new} | put {new} {there} | place {new} {there} | add {new} {there} | add {new} to the scene | put in {new}
    | also add {new} | there should also be {new} | place {new} in the scene | put {new} in the scene
    | also put {new} {there} | I want {new} {there}
    """
)
THERE = {
    "left": paraphrases("on the left | at the left | on the left side"),
    "right": paraphrases("on the right | at the right | on the right side"),
    "top": paraphrases("at the top | on top | in the upper part"),
    "bottom": paraphrases("at the bottom | in the lower part"),
    "centre": paraphrases("in the centre | in the middle | at the centre"),
    "": paraphrases("there | in the scene | too | as well"),
}
WITH_MOTION = paraphrases(
    """
    {object} that {finite} | {object} {participle} | {object} which {finite} | {object} that is {participle}
    | {object} which is {participle}
    """
)
CHANGE_MOTION = paraphrases(
    """
    make {who} {base} | let {who} {base} | have {who} {base} | {who} should {base} | make it so that {who} {finite}
    | change the motion of {who}: {finite} | I want {who} to {base} | change {who} so that it {finite}
    | now {who} {finite}
    """
)
CHANGE_MOTIONS = paraphrases(
    """
    make {who} {base} | let {who} {base} | have {who} {base} | {who} should {base} | I want {who} to {base}
    | now {who} {plural} | make it so that {who} {plural}
    """
)
CHANGE_GROUND = paraphrases(
    """
    change the background to {ground} | replace the background with {ground} | turn the background into {ground}
    | make the background {name} | change the background to {name} | replace everything behind {who} with {ground}
    | put {who} {on_ground} | turn everything behind {who} into {name} | make everything behind {who} {name}
    | the background should be {name} | swap the background for {ground} | use {ground} instead of the background
    | change the backdrop to {name} | change everything behind {who} to {ground} | replace the backdrop with {ground}
    | I want {ground} | put {ground} behind {who} | everything behind {who} should be {name}
    | make the backdrop {name} | place {who} {on_ground}
    """
)
PAINT_GROUND = paraphrases(
    """
    paint the background {name} | recolour the background {name} | turn the background {name}
    | paint everything behind {who} {name} | change the colour of the background to {name}
    | recolour the background to {name} | change the background colour to {name}
    | recolour everything behind {who} to {name}
    """
)
SWAP = paraphrases(
    """
    swap the colours of {who} | exchange the colours of {who} | let {who} swap colours
    | swap the colours of {who} with each other | {who} should swap colours | make {who} swap colours
    | let {who} exchange colours | make {who} exchange colours
    """
)
INSTEAD = paraphrases("{text} instead of {old} | {text}, not {old} | {text} rather than {old}")
POLITE = paraphrases(
    """
    please {text} | {text} please | can you {text}? | could you {text}? | {text}, please | please could you {text}
    | can you please {text}?
    """
)


def _shape_noun(writer: Writer, item: Object, *, many: bool) -> str:
    shape = str(writer.choose(SHAPE_WORDS[item.shape]))
    if many:
        return f"{shape}es" if shape == "cross" else f"{shape}s"
    return with_article(shape)


def place_word(item: Object) -> str:
    """Where an object that stays in its place is: ``left``, ``right``, ``top``, ``bottom``, ``centre``; empty where none fits clearly."""
    across, down = item.x - 0.5, item.y - 0.5
    if max(abs(across), abs(down)) < 0.1:
        return "centre"
    if abs(across) > 1.4 * abs(down) and abs(across) > 0.14:
        return "left" if across < 0 else "right"
    if abs(down) > 1.4 * abs(across) and abs(down) > 0.14:
        return "top" if down < 0 else "bottom"
    return ""


IN_PLACE = ("stays still", "spins", "grows", "shrinks")


def _recolour_text(writer: Writer, source: Scene, target: Scene, edit: Edit, who: str) -> str:
    old, new = source.objects[edit.source_objects[0]], target.objects[edit.target_objects[0]]
    many = len(edit.source_objects) > 1
    colour = COLOUR_WORDS[new.colour]
    kind = f"{colour} {'ones' if many else ''}".strip() if many else with_article(f"{colour} {writer.choose(('one', old.shape))}")
    text = writer.pick(CHANGE_COLOUR, who=who, colour=colour, colour_kind=kind)
    return writer.pick(INSTEAD, text=text, old=COLOUR_WORDS[old.colour]) if not many and writer.chance(0.07) else text


def _reshape_text(writer: Writer, source: Scene, target: Scene, edit: Edit, who: str) -> str:
    new = target.objects[edit.target_objects[0]]
    many = len(edit.source_objects) > 1
    shape = _shape_noun(writer, new, many=many)
    same = shape if many else with_article(f"{COLOUR_WORDS[new.colour]} {shape.split(' ', 1)[1]}")
    return writer.pick(CHANGE_SHAPE, who=who, shape=shape, same_colour=same)


def _replace_text(writer: Writer, source: Scene, target: Scene, edit: Edit, who: str) -> str:
    return writer.pick(REPLACE, who=who, new=with_article(noun(writer, target.objects[edit.target_objects[0]], with_size=False)))


def _resize_text(writer: Writer, source: Scene, target: Scene, edit: Edit, who: str) -> str:
    return writer.pick(RESIZE[edit.value], who=who)


def _remove_text(writer: Writer, source: Scene, target: Scene, edit: Edit, who: str) -> str:
    return writer.pick(REMOVE, who=who)


def _add_text(writer: Writer, source: Scene, target: Scene, edit: Edit, who: str) -> str:
    item = target.objects[edit.target_objects[0]]
    new = with_article(noun(writer, item, with_size=writer.chance(0.6)))
    there = place_word(item) if item.motion in IN_PLACE and writer.chance(0.7) else ""
    if item.motion == "stays still":
        return writer.pick(ADD, new=new, there=writer.pick(THERE[there]))
    said = verb(writer, item.motion)
    moving = writer.pick(WITH_MOTION, object=new, finite=said.finite, participle=said.participle)
    return writer.pick(ADD, new=moving, there=writer.pick(THERE[there]))


def _motion_text(writer: Writer, source: Scene, target: Scene, edit: Edit, who: str) -> str:
    said = verb(writer, edit.value)
    if len(edit.source_objects) > 1:
        return writer.pick(CHANGE_MOTIONS, who=who, base=said.base, plural=said.plural)
    text = writer.pick(CHANGE_MOTION, who=who, base=said.base, finite=said.finite)
    old = source.objects[edit.source_objects[0]].motion
    return writer.pick(INSTEAD, text=text, old=verb(writer, old).participle) if writer.chance(0.07) else text


def _ground_text(writer: Writer, source: Scene, target: Scene, edit: Edit, who: str) -> str:
    background = target.background
    if background.kind == "plain" and writer.chance(0.25):
        return writer.pick(PAINT_GROUND, who=who, name=COLOUR_WORDS[background.colours[0]])
    slots = {"ground": ground(writer, background), "name": ground_name(writer, background), "on_ground": on_ground(writer, background)}
    return writer.pick(CHANGE_GROUND, who=who, **slots)


def _swap_text(writer: Writer, source: Scene, target: Scene, edit: Edit, who: str) -> str:
    return writer.pick(SWAP, who=who)


_TEXTS = {
    "recolour": _recolour_text,
    "reshape": _reshape_text,
    "replace": _replace_text,
    "resize": _resize_text,
    "remove": _remove_text,
    "add": _add_text,
    "motion": _motion_text,
    "background": _ground_text,
    "swap": _swap_text,
}


def _everything(writer: Writer, scene: Scene, *, still: bool) -> str:
    """Words for all objects of a scene, for what lies behind them."""
    return _address_all(writer, scene, tuple(range(len(scene.objects))), still=still) if scene.objects else "it"


def _polite(writer: Writer, text: str) -> str:
    asks = text.startswith(("the ", "it ", "I ", "both", "all ", "there ", "now "))
    return writer.pick(POLITE, text=text) if writer.chance(0.06) and not asks else text


def instruction(writer: Writer, source: Scene, target: Scene, edit: Edit, *, still: bool) -> str:
    """The edit in words; what it addresses is named so that nothing else in the source fits."""
    if edit.source_objects:
        who = _address_all(writer, source, edit.source_objects, still=still)
        # "swap the colours of it" needs two
        if edit.kind == "swap" and len(source.objects) > 2:
            who = joined([address(writer, source, index, still=still) for index in edit.source_objects])
    else:
        who = _everything(writer, source, still=still)
    return writer.spelt(_polite(writer, _TEXTS[edit.kind](writer, source, target, edit, who)))


# --- styles

STYLE_WORDS: dict[str, Phrases] = {
    "black and white": paraphrases(
        """
        make {it} black and white | turn {it} black and white | black and white | convert {it} to greyscale
        | greyscale | make {it} monochrome | monochrome | change {it} to black and white | turn {it} into greyscale
        | show {it} in black and white | make {it} greyscale | turn {it} monochrome | convert {it} to black and white
        | {it} should be black and white | turn {it} to monochrome | show {it} in greyscale
        """
    ),
    "sepia": paraphrases(
        """
        make {it} sepia | sepia | turn {it} sepia | give {it} a sepia tone | turn {it} into sepia
        | convert {it} to sepia | show {it} in sepia | apply sepia to {it} | change {it} to sepia
        | apply a sepia tone to {it} | {it} should be sepia
        """
    ),
    "inverted": paraphrases(
        """
        invert the colours | invert {it} | invert the colours of {it} | make {it} a negative | negative
        | turn {it} into a negative | show the negative of {it} | turn {it} into its negative
        | show {it} as a negative | invert all colours | invert all the colours of {it} | change {it} to a negative
        | make a negative of {it}
        """
    ),
    "brighter": paraphrases(
        """
        make {it} brighter | brighter | make {it} lighter | lighter | turn {it} brighter | {it} should be brighter
        | brighten {it} | I want {it} to be brighter | I want {it} to be lighter | show {it} brighter
        | {it} should be lighter | show {it} lighter
        """
    ),
    "darker": paraphrases(
        """
        make {it} darker | darker | darken {it} | {it} should be darker | turn {it} darker | I want {it} to be darker
        | show {it} darker | make all of {it} darker
        """
    ),
    "warmer": paraphrases(
        """
        make {it} warmer | warmer | make the colours warmer | warmer colours | {it} should be warmer
        | give {it} warmer colours | make the colours of {it} warmer | turn {it} warmer | I want {it} to be warmer
        | the colours should be warmer | I want warmer colours
        """
    ),
    "colder": paraphrases(
        """
        make {it} colder | make {it} cooler | colder | cooler | make the colours colder | make the colours cooler
        | colder colours | cooler colours | give {it} colder colours | give {it} cooler colours
        | {it} should be colder | {it} should be cooler | make the colours of {it} colder | turn {it} colder
        | turn {it} cooler
        """
    ),
    "blurred": paraphrases(
        """
        blur {it} | make {it} blurry | blur | blurry | make {it} blurred | {it} should be blurry | turn {it} blurry
        | I want {it} to be blurry | show {it} blurred | show {it} blurry | blur all of {it} | {it} should be blurred
        """
    ),
    "pixelated": paraphrases(
        """
        pixelate {it} | turn {it} into a mosaic | pixelate | mosaic | make {it} a mosaic | make {it} pixelated
        | show {it} as a mosaic | apply a mosaic to {it} | {it} should be pixelated | show {it} pixelated
        | turn {it} into mosaic | make a mosaic of {it} | {it} should be a mosaic
        """
    ),
    "mirrored": paraphrases(
        """
        mirror {it} | flip {it} left to right | flip {it} horizontally | flip left to right | flip horizontally
        | mirror | mirror {it} left to right | mirror {it} horizontally | flip {it} from left to right
        | show {it} mirrored | mirror {it} from left to right | {it} should be mirrored | make {it} mirrored
        | flip the left and right of {it}
        """
    ),
    "played backwards": paraphrases(
        """
        play {it} backwards | reverse {it} | play backwards | reverse | play {it} in reverse
        | make {it} play backwards | show {it} backwards | {it} should play backwards | let {it} play backwards
        | make {it} run backwards | run {it} backwards | show {it} in reverse | run {it} in reverse
        """
    ),
}
WHOLE = {
    False: paraphrases(
        """
        it | the video | the clip | this video | this clip | the whole video | everything | the whole clip
        | the whole thing
        """
    ),
    True: paraphrases(
        """
        it | the image | the picture | this image | this picture | the whole image | everything | the whole picture
        | the whole thing
        """
    ),
}


def style_instruction(writer: Writer, style: str, *, still: bool) -> str:
    return writer.spelt(_polite(writer, writer.pick(STYLE_WORDS[style], it=writer.pick(WHOLE[still]))))


# --- reference pictures

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
PICTURE = paraphrases(
    """
    Image {number} | @Image {number} | the {nth} image | image {number} | the {nth} picture | @image {number}
    | picture {number} | reference image {number} | the {nth} reference image
    """
)
ONLY_PICTURE = paraphrases(
    """
    Image 1 | @Image 1 | the first image | the image | the picture | the reference image | the reference picture
    | the reference
    """
)
OF_PICTURE = paraphrases(
    """
    the object in {picture} | the object from {picture} | the object of {picture} | {picture} | the thing in {picture}
    | the object shown in {picture} | the shape in {picture} | what is in {picture}
    """
)
REPLACE_WITH_PICTURE = paraphrases(
    """
    replace {who} with {new} | turn {who} into {new} | change {who} to {new} | swap {who} for {new}
    | put {new} in place of {who} | replace {who} by {new} | change {who} into {new} | use {new} instead of {who}
    | make {who} {new} | put {new} instead of {who} | swap {who} with {new} | make {who} look like {new}
    """
)
PATTERN_OF_PICTURE = paraphrases(
    """
    give {who} the pattern of {new} | give {who} the same pattern as {new} | make the pattern of {who} like {picture}
    | paint {who} with the pattern of {new} | use the pattern of {new} for {who} | paint {who} like {new}
    | give {who} the look of {new} | paint {who} with the pattern of {picture}
    | change the pattern of {who} to the pattern of {new} | {who} should have the pattern of {new}
    | {who} should have the same pattern as {new} | make {who} patterned like {new}
    | copy the pattern of {new} to {who}
    """
)
COLOUR_OF_PICTURE = paraphrases(
    """
    give {who} the colour of {new} | make {who} the colour of {new} | recolour {who} like {picture}
    | paint {who} in the colour of {new} | give {who} the same colour as {new}
    | change the colour of {who} to the colour of {new} | make {who} the same colour as {new}
    | use the colour of {new} for {who} | {who} should have the colour of {new}
    | {who} should have the same colour as {new} | recolour {who} in the colour of {new}
    | paint {who} in the same colour as {new}
    """
)
GROUND_OF_PICTURE = paraphrases(
    """
    use {picture} as the background | replace the background with {picture} | change the background to {picture}
    | make {picture} the background | put {picture} behind {who} | replace everything behind {who} with {picture}
    | turn the background into {picture} | put {who} in front of {picture} | use {picture} as the backdrop
    | change everything behind {who} to {picture} | the background should be {picture}
    | swap the background for {picture} | use the background of {picture} | place {who} in front of {picture}
    """
)
GUIDED = {"replace": REPLACE_WITH_PICTURE, "pattern": PATTERN_OF_PICTURE, "colour": COLOUR_OF_PICTURE}


def _picture(writer: Writer, number: int, *, only: bool) -> str:
    if only and writer.chance(0.5):
        return writer.pick(ONLY_PICTURE)
    return writer.pick(PICTURE, number=str(number), nth=ORDINALS[number - 1])


def _guided_step(writer: Writer, source: Scene, edit: Edit, step: int, *, still: bool, only: bool) -> str:
    picture = _picture(writer, edit.references[step], only=only)
    who = address(writer, source, edit.source_objects[step], still=still)
    return writer.pick(GUIDED[edit.kind], who=who, picture=picture, new=writer.pick(OF_PICTURE, picture=picture))


def guided_instruction(writer: Writer, source: Scene, edit: Edit, *, num_references: int, still: bool) -> str:
    """An instruction that names the reference pictures by number, one step after the other."""
    only = num_references == 1
    steps = [_guided_step(writer, source, edit, step, still=still, only=only) for step in range(len(edit.references))]
    if edit.ground_reference is not None:
        picture = _picture(writer, edit.ground_reference, only=only)
        steps.append(writer.pick(GROUND_OF_PICTURE, picture=picture, who=_everything(writer, source, still=still)))
    return writer.spelt(_polite(writer, str(writer.choose((" and ", ", ", " and "))).join(steps)))


# --- several pictures to one clip

NUMBERED = paraphrases(
    """
    @Image {number} | Image {number} | the {nth} image | @Image {number} | the {nth} picture | @image {number}
    | image {number}
    """
)
FROM_PICTURE = paraphrases(
    """
    the object in {picture} | the {noun} in {picture} | the {shape} in {picture} | the object from {picture}
    | the {noun} from {picture} | {picture} | the {shape} from {picture} | the {noun} of {picture}
    | the object of {picture} | the {shape} of {picture}
    """
)
ON_PICTURE = paraphrases(
    """
    in front of {picture} | on {picture} | on the background of {picture} | in front of the background of {picture}
    | over {picture} | with {picture} as the background | against {picture} | in the scene of {picture}
    | before {picture} | with {picture} behind it | in front of the scene in {picture}
    | on the background in {picture}
    """
)
TOGETHER = paraphrases(
    """
    put {objects} together | {objects} | show {objects} | a picture of {objects} | put {objects} in one picture
    | show {objects} together | {objects} together | {objects} in one picture
    """
)


def _numbered(writer: Writer, number: int) -> str:
    return writer.pick(NUMBERED, number=str(number), nth=ORDINALS[number - 1])


def from_picture(writer: Writer, item: Object, number: int) -> str:
    """``the object in @Image 1``, ``the red star in @Image 1``; a pattern's two colours are left to the picture."""
    shape = str(writer.choose(SHAPE_WORDS[item.shape]))
    named = f"{COLOUR_WORDS[item.colour]} {shape}" if item.pattern == "flat" else shape
    return writer.pick(FROM_PICTURE, picture=_numbered(writer, number), noun=named, shape=shape)


def _pictured_objects(writer: Writer, scene: Scene, *, still: bool) -> str:
    subjects = [from_picture(writer, item, number) for number, item in enumerate(scene.objects, start=1)]
    if still:
        return writer.pick(TOGETHER, objects=joined(subjects))
    said = [verb(writer, item.motion) for item in scene.objects]
    return joined([f"{subject} {motion.finite}" for subject, motion in zip(subjects, said, strict=True)], str(writer.choose((" and ", " while ", ", and "))))


def multi_image_prompt(writer: Writer, scene: Scene, *, ground_number: int | None, still: bool) -> str:
    """The objects of pictures 1, 2, ... moving as told, on the ground of picture ``ground_number`` or on one in words."""
    text = _pictured_objects(writer, scene, still=still)
    if ground_number is not None:
        where = writer.pick(ON_PICTURE, picture=_numbered(writer, ground_number))
    else:
        where = on_ground(writer, scene.background)
        if writer.chance(0.12):
            return writer.spelt(f"{text}, {ground_sentence(writer, scene.background)}")
    return writer.spelt(f"{where[0]}{where[1:]}, {text}" if writer.chance(0.15) else f"{text} {where}")

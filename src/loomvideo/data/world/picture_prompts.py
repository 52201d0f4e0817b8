"""Prompts that name reference pictures: edits guided by them and clips made of several."""

from loomvideo.data.world.addressing import address, everything
from loomvideo.data.world.edits import Edit
from loomvideo.data.world.instructions import polite
from loomvideo.data.world.phrases import Writer, joined, paraphrases
from loomvideo.data.world.scene import Object, Scene
from loomvideo.data.world.verbs import verb
from loomvideo.data.world.words import COLOUR_WORDS, SHAPE_WORDS, ground_sentence, on_ground

# --- guided edits

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


def guided_instruction(writer: Writer, source: Scene, edit: Edit, *, still: bool) -> str:
    """An instruction that names the reference pictures by number, one step after the other."""
    only = len(edit.references) + (edit.ground_reference is not None) == 1
    steps = [_guided_step(writer, source, edit, step, still=still, only=only) for step in range(len(edit.references))]
    if edit.ground_reference is not None:
        picture = _picture(writer, edit.ground_reference, only=only)
        steps.append(writer.pick(GROUND_OF_PICTURE, picture=picture, who=everything(writer, source, still=still)))
    return writer.spelt(polite(writer, writer.choose((" and ", ", ")).join(steps)))


# --- several pictures to one clip

NUMBERED = paraphrases(
    """
    @Image {number} | Image {number} | the {nth} image | the {nth} picture | @image {number} | image {number}
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
SHOWN = paraphrases(
    "{objects} | show {objects} | a picture of {objects} | a picture with {objects} | show me {objects}"
)
SHOWN_TOGETHER = paraphrases(
    """
    {objects} | put {objects} together | show {objects} | a picture of {objects} | put {objects} in one picture
    | show {objects} together | {objects} together | {objects} in one picture
    """
)
JOINS = (" and ", " while ", ", and ")


def _numbered(writer: Writer, number: int) -> str:
    return writer.pick(NUMBERED, number=str(number), nth=ORDINALS[number - 1])


def _from_picture(writer: Writer, item: Object, number: int) -> str:
    """``the object in @Image 1``, ``the red star in @Image 1``; a pattern's two colours are left to the picture."""
    shape = writer.choose(SHAPE_WORDS[item.shape])
    noun = f"{COLOUR_WORDS[item.colour]} {shape}" if item.pattern == "flat" else shape
    return writer.pick(FROM_PICTURE, picture=_numbered(writer, number), noun=noun, shape=shape)


def _pictured_objects(writer: Writer, scene: Scene, *, still: bool) -> str:
    subjects = [_from_picture(writer, item, number) for number, item in enumerate(scene.objects, start=1)]
    if still:
        return writer.pick(SHOWN if len(subjects) == 1 else SHOWN_TOGETHER, objects=joined(subjects))
    motions = [verb(writer, item.motion).finite for item in scene.objects]
    clauses = [f"{subject} {motion}" for subject, motion in zip(subjects, motions, strict=True)]
    return joined(clauses, writer.choose(JOINS))


def multi_image_prompt(writer: Writer, scene: Scene, *, ground_number: int | None, still: bool) -> str:
    """The objects of pictures 1, 2, ... moving as told, on the ground of picture ``ground_number`` or on one in words."""
    text = _pictured_objects(writer, scene, still=still)
    if ground_number is None and writer.chance(0.12):
        return writer.spelt(f"{text}, {ground_sentence(writer, scene.background)}")
    if ground_number is None:
        where = on_ground(writer, scene.background)
    else:
        where = writer.pick(ON_PICTURE, picture=_numbered(writer, ground_number))
    return writer.spelt(f"{where}, {text}" if writer.chance(0.15) else f"{text} {where}")


# --- one picture as the first frame

FIRST_FRAME = paraphrases(
    """
    {picture} is the first frame: {text} | start from {picture}: {text} | go on from {picture}: {text}
    | begin with {picture}: {text} | {text}, starting from {picture} | {text}, {picture} is the first frame
    | continue {picture}: {text} | animate {picture}: {text} | {text}, beginning with {picture}
    """
)


def first_frame_prompt(writer: Writer, text: str) -> str:
    """A caption that names the one picture as the clip's first frame."""
    return writer.pick(FIRST_FRAME, text=text, picture=_numbered(writer, 1))

"""Edits in words."""

from collections.abc import Callable
from dataclasses import dataclass

from loomvideo.data.world.addressing import IN_PLACE, PLACES, address_all, address_each, everything, place_word
from loomvideo.data.world.edits import Edit
from loomvideo.data.world.phrases import Writer, paraphrases, with_article
from loomvideo.data.world.scene import Object, Scene
from loomvideo.data.world.verbs import verb
from loomvideo.data.world.words import COLOUR_WORDS, SHAPE_WORDS, ground, ground_name, noun, on_ground

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
THERE = paraphrases("there | in the scene | too | as well")
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


@dataclass(frozen=True)
class Change:
    """An edit with the scenes before and after it."""

    source: Scene
    target: Scene
    edit: Edit

    @property
    def old(self) -> Object:
        return self.source.objects[self.edit.source_objects[0]]

    @property
    def new(self) -> Object:
        return self.target.objects[self.edit.target_objects[0]]

    @property
    def many(self) -> bool:
        return len(self.edit.source_objects) > 1


def plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _recolour(writer: Writer, change: Change, who: str) -> str:
    colour = COLOUR_WORDS[change.new.colour]
    kind = f"{colour} ones" if change.many else with_article(f"{colour} {writer.choose(('one', change.old.shape))}")
    text = writer.pick(CHANGE_COLOUR, who=who, colour=colour, colour_kind=kind)
    if change.many or not writer.chance(0.07):
        return text
    return writer.pick(INSTEAD, text=text, old=COLOUR_WORDS[change.old.colour])


def _reshape(writer: Writer, change: Change, who: str) -> str:
    shape = writer.choose(SHAPE_WORDS[change.new.shape])
    if change.many:
        return writer.pick(CHANGE_SHAPE, who=who, shape=plural(shape), same_colour=plural(shape))
    same = with_article(f"{COLOUR_WORDS[change.new.colour]} {shape}")
    return writer.pick(CHANGE_SHAPE, who=who, shape=with_article(shape), same_colour=same)


def _replace(writer: Writer, change: Change, who: str) -> str:
    return writer.pick(REPLACE, who=who, new=with_article(noun(writer, change.new, with_size=False)))


def _add(writer: Writer, change: Change, who: str) -> str:
    item = change.new
    new = with_article(noun(writer, item, with_size=writer.chance(0.6)))
    if item.motion != "stays still":
        said = verb(writer, item.motion)
        new = writer.pick(WITH_MOTION, object=new, finite=said.finite, participle=said.participle)
    place = place_word(item) if item.motion in IN_PLACE and writer.chance(0.7) else ""
    return writer.pick(ADD, new=new, there=writer.pick(PLACES[place] if place else THERE))


def _change_motion(writer: Writer, change: Change, who: str) -> str:
    said = verb(writer, change.edit.value)
    if change.many:
        return writer.pick(CHANGE_MOTIONS, who=who, base=said.base, plural=said.plural)
    text = writer.pick(CHANGE_MOTION, who=who, base=said.base, finite=said.finite)
    return (
        writer.pick(INSTEAD, text=text, old=verb(writer, change.old.motion).participle) if writer.chance(0.07) else text
    )


def _change_ground(writer: Writer, change: Change, who: str) -> str:
    background = change.target.background
    if background.kind == "plain" and writer.chance(0.25):
        return writer.pick(PAINT_GROUND, who=who, name=COLOUR_WORDS[background.colours[0]])
    return writer.pick(
        CHANGE_GROUND,
        who=who,
        ground=ground(writer, background),
        name=ground_name(writer, background),
        on_ground=on_ground(writer, background),
    )


_TEXTS: dict[str, Callable[[Writer, Change, str], str]] = {
    "recolour": _recolour,
    "reshape": _reshape,
    "replace": _replace,
    "resize": lambda writer, change, who: writer.pick(RESIZE[change.edit.value], who=who),
    "remove": lambda writer, change, who: writer.pick(REMOVE, who=who),
    "add": _add,
    "motion": _change_motion,
    "background": _change_ground,
    "swap": lambda writer, change, who: writer.pick(SWAP, who=who),
}


def polite(writer: Writer, text: str) -> str:
    """Seldom ``please``, where the text tells to do something."""
    tells = text.startswith(("the ", "it ", "I ", "both", "all ", "there ", "now "))
    return writer.pick(POLITE, text=text) if writer.chance(0.06) and not tells else text


def _who(writer: Writer, source: Scene, edit: Edit, *, still: bool) -> str:
    if not edit.source_objects:
        return everything(writer, source, still=still)
    if len(edit.source_objects) < len(source.objects):
        return address_each(writer, source, edit.source_objects, still=still)
    return address_all(writer, source, edit.source_objects, still=still)


def instruction(writer: Writer, source: Scene, target: Scene, edit: Edit, *, still: bool) -> str:
    """The edit in words; what it addresses is named so that nothing else in the source fits."""
    who = _who(writer, source, edit, still=still)
    return writer.spelt(polite(writer, _TEXTS[edit.kind](writer, Change(source, target, edit), who)))

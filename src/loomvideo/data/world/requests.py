"""The one full caption of a scene, and the requests that a person types instead of it."""

from dataclasses import replace

from loomvideo.data.world.phrases import Writer, joined, paraphrases, with_article
from loomvideo.data.world.scene import COLOURS, SHAPES, Background, Scene
from loomvideo.data.world.verbs import verb
from loomvideo.data.world.words import caption, ground_name, noun

DEFAULT_GROUNDS = ("white", "black", "blue", "green")  # the first that no object has
TWO_COLOURED = ("gradient", "stripes", "checkerboard")
SHORT_FACTS = {"sizes": 0.4, "background": 0.6, "camera": 0.9}  # how often a short request tells them

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
    ground = with_article(f"{canonical_ground(scene.background)} background")
    camera = "" if still or scene.camera == "still" else f", the camera {scene.camera}"
    return f"{joined(parts)} on {ground}{camera}"


def filled_in(scene: Scene, told: frozenset[str]) -> Scene:
    """The scene with what was not told set to the defaults of a rewritten prompt: medium, plain white where that is free, still camera."""
    objects = scene.objects if "sizes" in told else tuple(replace(item, size="medium") for item in scene.objects)
    used = {item.colour for item in objects}
    default = next(colour for colour in DEFAULT_GROUNDS if colour not in used)
    background = scene.background if "background" in told else Background(kind="plain", colours=(default,))
    return replace(scene, objects=objects, background=background, camera=scene.camera if "camera" in told else "still")


def _keywords(writer: Writer, scene: Scene, told: frozenset[str], *, still: bool) -> str:
    """``red circle, moves left, blue background``: what is left when a person saves words."""
    parts = []
    for item in scene.objects:
        parts.append(noun(writer, item, with_size="sizes" in told))
        if not still:
            said = verb(writer, item.motion)
            parts[-1] += writer.choose((" ", ", ")) + writer.choose((said.finite, said.participle))
    if "background" in told:
        parts.append(ground_name(writer, scene.background) + writer.choose((" background", " bg", " backdrop")))
    if "camera" in told:
        parts.append(scene.camera if writer.chance(0.5) else f"camera {scene.camera}")
    return writer.choose((", ", " ", " - ")).join(parts)


def _short_request(writer: Writer, scene: Scene, *, still: bool) -> tuple[str, frozenset[str]]:
    facts = {fact for fact, odds in SHORT_FACTS.items() if writer.chance(odds)}
    told = frozenset(facts - {"camera"} if scene.camera == "still" else facts)
    return writer.spelt(_keywords(writer, scene, told, still=still)), told


def _untidy(writer: Writer, text: str) -> str:
    ways = (text.upper(), text.lower(), text.replace(" ", "  ", 2), text + "!!", text + "...", text.replace(",", ""))
    return writer.choose(ways)


def request(writer: Writer, scene: Scene, *, still: bool) -> tuple[str, Scene, frozenset[str]]:
    """A short or messy request, the scene it stands for, defaults filled in, and the facts that it tells of it."""
    if writer.chance(0.4):
        said = caption(writer, scene, still=still)
        text, told = said.text, said.told
    else:
        text, told = _short_request(writer, scene, still=still)
    if writer.chance(0.4):
        text = writer.pick(REQUEST_OPENINGS, text=text)
    return _untidy(writer, text) if writer.chance(0.15) else text, filled_in(scene, told), told

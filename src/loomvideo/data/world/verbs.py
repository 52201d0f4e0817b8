"""How motions are said: every verb in its forms."""

from typing import NamedTuple

from loomvideo.data.world.phrases import Phrases, Writer


class Verb(NamedTuple):
    """The forms of one motion phrase: it moves left, moving left, make it move left, both move left."""

    finite: str
    participle: str
    base: str
    plural: str


def _verb(forms: str, rest: str = "") -> Verb:
    finite, participle, base = (f"{form} {rest}".strip() for form in forms.split("/"))
    return Verb(finite, participle, base, base)


TRAVEL = (
    "moves/moving/move",
    "slides/sliding/slide",
    "glides/gliding/glide",
    "drifts/drifting/drift",
    "travels/travelling/travel",
    "goes/going/go",
    "floats/floating/float",
)
SIDEWAYS_ENDS = ("{side}", "to the {side}", "{side}wards", "towards the {side}", "toward the {side}")
UPRIGHT_ENDS = ("{side}", "{side}wards")


def _travel(side: str, ends: tuple[str, ...], *others: Verb) -> tuple[Verb, ...]:
    plain, *longer = (tuple(_verb(forms, end.format(side=side)) for forms in TRAVEL) for end in ends)
    return plain + others + sum(longer, ())


VERBS: dict[str, tuple[Verb, ...]] = {
    "stays still": (
        _verb("stays still/staying still/stay still"),
        _verb("stands still/standing still/stand still"),
        Verb("is standing still", "standing still", "stand still", "are standing still"),
        _verb("remains in place/remaining in place/remain in place"),
        Verb("does not move", "not moving", "not move", "do not move"),
        Verb("is not moving", "not moving", "stop moving", "are not moving"),
        _verb("stays in place/staying in place/stay in place"),
        _verb("remains still/remaining still/remain still"),
    ),
    "moves left": _travel("left", SIDEWAYS_ENDS, _verb("moves/moving/move", "from right to left")),
    "moves right": _travel("right", SIDEWAYS_ENDS, _verb("moves/moving/move", "from left to right")),
    "moves up": _travel(
        "up",
        UPRIGHT_ENDS,
        _verb("rises/rising/rise"),
        _verb("climbs/climbing/climb"),
        _verb("rises/rising/rise", "up"),
        _verb("climbs/climbing/climb", "up"),
    ),
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

"""Every word that the little world's prompts and answers can hold, for training a tokeniser."""

from typing import Any

from loomvideo.data.world import (
    addressing,
    instructions,
    picture_prompts,
    questions,
    requests,
    style_prompts,
    verbs,
    words,
)
from loomvideo.data.world.phrases import AMERICAN, Phrases, words_of
from loomvideo.data.world.scene import BACKGROUNDS, CAMERAS, COLOURS, MOTIONS, SHAPES, SIZES

WRITING = (addressing, instructions, picture_prompts, questions, requests, style_prompts, verbs, words)
# words that sentences are put together with in code, not in a list of paraphrases
SAID_BY_CODE = "a an and both as with while on the one ones objects shapes things bg background backdrop camera -"
NUMBERS = tuple(str(number) for number in range(1, 9))
NAMES = (
    *(SHAPES + tuple(instructions.plural(shape) for shape in (*SHAPES, "plus sign", "five-pointed star"))),
    *COLOURS,
    *words.COLOUR_WORDS.values(),
    *(name for names in (*words.SHAPE_WORDS.values(), *words.SIZE_WORDS.values()) for name in names),
    *(*SIZES, *MOTIONS, *BACKGROUNDS, *CAMERAS),
    *(form for forms in verbs.VERBS.values() for said in forms for form in said),
    *(*picture_prompts.ORDINALS, *questions.NUMBERS, *questions.PLACE_ANSWERS.values()),
)


def tables() -> dict[str, Phrases]:
    """Every list of paraphrases by its name, as ``words.GROUNDS.plain``."""
    found: dict[str, Phrases] = {}
    for module in WRITING:
        for name, value in vars(module).items():
            found |= _lists(f"{module.__name__.rsplit('.', 1)[-1]}.{name}", value)
    return found


def _lists(name: str, value: Any) -> dict[str, Phrases]:
    if isinstance(value, Phrases):
        return {name: value}
    entries = value.items() if isinstance(value, dict) and name.rsplit(".", 1)[-1].isupper() else ()
    return {f"{name}.{key}": entry for key, entry in entries if isinstance(entry, Phrases)}


def lexicon() -> tuple[str, ...]:
    """All words, lower case, in both spellings, sorted."""
    texts = [SAID_BY_CODE, *NUMBERS, *NAMES, *(phrase for phrases in tables().values() for phrase in phrases.all)]
    found = set[str]().union(*(words_of(text) for text in texts))
    for british, american in AMERICAN:
        found |= {word.replace(british, american) for word in found}
    return tuple(sorted(found))

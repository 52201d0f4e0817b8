"""Every word that the little world's prompts and answers can hold, for training a tokeniser."""

from types import ModuleType
from typing import Any

from loomvideo.data.world import instructions, questions, words
from loomvideo.data.world.phrases import AMERICAN, Phrases, words_of
from loomvideo.data.world.scene import BACKGROUNDS, CAMERAS, COLOURS, MOTIONS, SHAPES, SIZES

SAID_BY_CODE = (
    "a an and are as background bg both camera one ones is of on or the there that which with while in too shape object objects thing things "
    "moving standing stop not still triangles circles squares stars hearts rings crosses diamonds plus signs five-pointed coloured please"
)
DIGITS = tuple(str(number) for number in range(1, 9))


def _phrases(value: Any) -> set[str]:
    """The texts inside tables of phrases, however they are nested."""
    if isinstance(value, Phrases):
        return set(value.all)
    if isinstance(value, str):
        return {value}
    if isinstance(value, dict):
        return set().union(*(_phrases(entry) for entry in (*value.keys(), *value.values())))
    if isinstance(value, tuple):
        return set().union(*(_phrases(entry) for entry in value))
    return set()


def _tables(module: ModuleType) -> set[str]:
    return set().union(*(_phrases(value) for name, value in vars(module).items() if name.isupper()))


def lexicon() -> tuple[str, ...]:
    """All words, lower case, in both spellings, sorted."""
    texts = {SAID_BY_CODE, *DIGITS, *SHAPES, *COLOURS, *SIZES, *MOTIONS, *BACKGROUNDS, *CAMERAS}
    for module in (words, instructions, questions):
        texts |= _tables(module)
    found = set().union(*(words_of(text) for text in texts))
    for british, american in AMERICAN:
        found |= {word.replace(british, american) for word in found}
    return tuple(sorted(found))

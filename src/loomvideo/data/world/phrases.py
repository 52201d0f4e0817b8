"""Lists of paraphrases, some of them kept for evaluation, and the writer that draws from them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from string import Formatter
from typing import TypeVar

import numpy as np

Choice = TypeVar("Choice")

HELD_OUT_SHARE = 8  # one paraphrase in eight is kept for evaluation
SMALLEST_SPLIT = 6  # shorter lists keep nothing back
# the lists are written in British spelling
AMERICAN = (("colour", "color"), ("grey", "gray"), ("centre", "center"), ("travelling", "traveling"))


def words_of(phrase: str) -> set[str]:
    """The words of a phrase without its slots, lower case, punctuation removed."""
    fixed = " ".join(text for text, *_ in Formatter().parse(phrase))
    return {word for word in (part.strip("-,.;:!?\"'").lower() for part in fixed.split()) if word}


class Phrases:
    """Paraphrases of one fact, the plainest first.

    The first half of a list is always trained. Of the second, those of lowest hash are held out, but none with a word that
    no other phrase of the list has.
    """

    def __init__(self, options: Iterable[str]) -> None:
        self.all = tuple(dict.fromkeys(options))

    @cached_property
    def held_out(self) -> tuple[str, ...]:
        wanted = len(self.all) // HELD_OUT_SHARE + 1 if len(self.all) >= SMALLEST_SPLIT else 0
        kept, chosen = list(self.all), []
        for phrase in sorted(self.all[len(self.all) // 2 :], key=lambda text: sha256(text.encode()).hexdigest()):
            others = set[str]().union(*(words_of(other) for other in kept if other != phrase))
            if len(chosen) < wanted and words_of(phrase) <= others:
                kept.remove(phrase)
                chosen.append(phrase)
        return tuple(chosen)

    @cached_property
    def trained(self) -> tuple[str, ...]:
        return tuple(phrase for phrase in self.all if phrase not in self.held_out)


def paraphrases(text: str) -> Phrases:
    """A list written as one text: ``make {who} bigger | enlarge {who}``."""
    return Phrases(" ".join(option.split()) for option in text.split("|"))


def choose(rng: np.random.Generator, options: Sequence[Choice]) -> Choice:
    return options[int(rng.random() * len(options))]


@dataclass(frozen=True)
class Writer:
    """Draws words: ``held_out_phrases`` asks for the paraphrases that training never sees, wherever a fact has some."""

    rng: np.random.Generator
    held_out_phrases: bool = False

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def choose(self, options: Sequence[Choice]) -> Choice:
        return choose(self.rng, options)

    def pick(self, phrases: Phrases, **slots: str) -> str:
        options = (self.held_out_phrases and phrases.held_out) or phrases.trained
        phrase = choose(self.rng, options)
        return phrase.format(**slots) if slots else phrase

    def spelt(self, text: str) -> str:
        """British or American, with or without a leading capital and a full stop."""
        text = text.replace("a orange", "an orange")  # the only colour with a vowel in front
        if self.chance(0.5):
            for british, american in AMERICAN:
                text = text.replace(british, american)
        if self.chance(0.5):
            text = ". ".join(sentence[:1].upper() + sentence[1:] for sentence in text.split(". "))
        return text + "." if self.chance(0.4) and not text.endswith("?") else text


def with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def joined(parts: Sequence[str], last: str = " and ") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + last + parts[-1]

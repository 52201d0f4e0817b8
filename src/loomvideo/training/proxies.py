"""VINO's proxy tasks, which teach what a reference is and which one a number names (fact sheet 7)."""

from dataclasses import dataclass

import numpy as np

from loomvideo.data.world.phrases import Writer, paraphrases
from loomvideo.data.world.picture_prompts import ORDINALS, PICTURE

MAX_PICTURES = 4  # to pick from
SHOW = paraphrases(
    """
    show {picture} | show {picture} again | {picture} as it is | repeat {picture} | copy {picture} | show me {picture}
    | make {picture} again | give me {picture} | the same as {picture} | take {picture}
    """
)


@dataclass(frozen=True)
class Proxy:
    """A request for one of the pictures that are shown; pictures are numbers into those at hand."""

    prompt: str
    shown: tuple[int, ...]
    target: int


def reconstruction(writer: Writer, picture: int) -> Proxy:
    """One picture is shown and is to be made again."""
    return Proxy(_show(writer, 1), (picture,), picture)


def selection(writer: Writer, rng: np.random.Generator, pictures: int) -> Proxy:
    """Some of so many pictures are shown, two to four, and one of them is asked for by its number."""
    count = int(rng.integers(2, min(MAX_PICTURES, pictures) + 1))
    shown = tuple(int(index) for index in rng.permutation(pictures)[:count])
    number = int(rng.integers(count))
    return Proxy(_show(writer, number + 1), shown, shown[number])


def _show(writer: Writer, number: int) -> str:
    return writer.pick(SHOW, picture=writer.pick(PICTURE, number=str(number), nth=ORDINALS[number - 1]))

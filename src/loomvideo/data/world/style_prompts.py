"""Whole-clip styles in words."""

from loomvideo.data.world.instructions import polite
from loomvideo.data.world.phrases import Phrases, Writer, paraphrases

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
    """The style in words, which may be no more than ``sepia``."""
    phrase = writer.pick(STYLE_WORDS[style])
    text = phrase.format(it=writer.pick(WHOLE[still]))
    return writer.spelt(polite(writer, text) if "{it}" in phrase else text)

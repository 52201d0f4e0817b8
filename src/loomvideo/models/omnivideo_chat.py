"""What Omni-Video's language model is asked, in the turns of a Qwen (fact sheet 2.3 and 9.3).

The released first version speaks Llama's turns to a VILA, which models/vila.py holds; prefixes and answers are the same.
The wording of the second version's questions is not published; these say what it is told to ask.
"""

from collections.abc import Sequence

from loomvideo.models.chat import END_OF_TURN, SYSTEM_TURN, Chat, chat
from loomvideo.models.qwen import Visual
from loomvideo.models.vila import FORMS

FROM_REFERENCE = "Generate a video from this image:\n"

FORESEE = (
    "Foresee what is asked for: say to yourself which subjects the result shows, how they look and move, and where."
)
CAPTION = (
    "Describe this video in one paragraph: what happens, who or what is seen with every feature, the background, how the "
    "camera moves, the style and the framing. Answer with the description alone."
)
EDITED_CAPTION = (
    "A video is described, and an edit of it is asked for. Describe the edited video as if you saw it, in one paragraph, "
    "and do not mention that anything was edited.\nDescription: {caption}\nEdit: {instruction}"
)
EXPANDED_CAPTION = (
    "Describe the video that this request asks for as if you saw it, in one paragraph: what happens, who or what is seen "
    "with every feature, the background, how the camera moves, the style and the framing. Keep every fact of the request."
    "\nRequest: {prompt}"
)


def generation_chat(visuals: Sequence[Visual], prompt: str, *, still: bool, edits: bool, marker: str = "") -> Chat:
    """The chat whose states the vision head reads, answer included.

    `marker` is the token by which this language model asks for generation; one that has none is given no answer.
    """
    prefix = "" if edits else FORMS["t2i" if still else "t2v"].prefix
    if visuals and not edits:
        prefix = FROM_REFERENCE
    asked = chat([*visuals, prefix + prompt])
    return Chat(asked.text + (marker and marker + END_OF_TURN), asked.visuals)


def feature_chat(visuals: Sequence[Visual], prompt: str) -> tuple[Chat, str]:
    """The chat whose states the second version projects, and its first part, of which the states are left out."""
    asked, system = chat([*visuals, prompt]), SYSTEM_TURN.format(FORESEE)
    return Chat(system + asked.text, asked.visuals), system


def caption_chat(source: Visual) -> Chat:
    """Asks for what a source shows."""
    return chat([source, CAPTION])


def edited_caption_chat(caption: str, instruction: str) -> Chat:
    """Asks for what an edited source will show."""
    return chat([EDITED_CAPTION.format(caption=caption, instruction=instruction)])


def expanded_caption_chat(prompt: str) -> Chat:
    """Asks for what a request's clip will show."""
    return chat([EXPANDED_CAPTION.format(prompt=prompt)])

"""Think mode: the language model first says what is to be seen, and the request is carried out as it was said
(Omni-Video's paper; fact sheet of Omni-Video 2.7).

How a model is asked is part of its configuration (`thinking`, a text with {prompt} in it and, if need be, {kind}), for it was
trained with some form of the question. The answer takes the prompt's place where a clip is made from words and pictures. Where
one is edited, it stands behind the instruction, which still has to be carried out; of models that think by default it takes
the instruction's place, too: they answer with what changes, and their denoisers were told such answers alone.
"""

import re
from dataclasses import replace

from loomvideo.systems.plan import Plan
from loomvideo.systems.request import MAX_PROMPT

# For language models that were not trained for it, such as Qwen3-VL.
THINKING = (
    "Rewrite this request for a video model as one plain description of what the result shows: every subject with its "
    "look and motion, the background and the camera. Keep every fact and every mention of an image as it is, add what is "
    "missing, and answer with the description alone.\nRequest: {prompt}"
)
MENTION = re.compile(r"@?\bimage[ _]?(\d+)", re.IGNORECASE)


def question(template: str, prompt: str, kind: str) -> str:
    """What the language model is asked; ``kind`` is what is to be made, "video" or "image"."""
    return template.replace("{kind}", kind).replace("{prompt}", prompt)


def combine(prompt: str, answer: str, *, edits: bool) -> str:
    """The prompt as it is carried out after an answer."""
    return f"{prompt.rstrip('. ')}. {answer}" if edits else answer


def rethought(plan: Plan, answer: str, *, replaces: bool = False) -> Plan:
    """The plan with its prompt as the answer has it, or as it was where the answer is of no use; a note says which.

    ``replaces``: the answer takes the place of an edit's instruction, too.
    """
    answer = " ".join(answer.split())
    prompt = combine(plan.prompt, answer, edits=plan.source is not None and not replaces)
    lost = sorted(mentions(plan.prompt) - mentions(prompt))
    if not answer or lost or len(prompt) > MAX_PROMPT:
        reason = f"it lost Image {', '.join(lost)}" if lost else "it is empty or too long"
        note = f"think: the rewritten prompt was not used, {reason}: {answer[:200]!r}"
        return replace(plan, think=False, notes=(*plan.notes, note))
    return replace(plan, think=False, asked=plan.prompt, prompt=prompt, notes=(*plan.notes, f"think: {prompt}"))


def mentions(prompt: str) -> set[str]:
    """The numbers of the pictures that a prompt names."""
    return {found[1] for found in MENTION.finditer(prompt)}

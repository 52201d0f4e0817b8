"""Samples of every task of the little world: prompt, scenes and what they show, for training and for evaluation."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from loomvideo.data.world import edits, questions, references
from loomvideo.data.world.edits import Context, Edit
from loomvideo.data.world.instructions import instruction
from loomvideo.data.world.phrases import Writer, choose
from loomvideo.data.world.picture_prompts import first_frame_prompt, guided_instruction, multi_image_prompt
from loomvideo.data.world.render import render
from loomvideo.data.world.requests import canonical_caption, request
from loomvideo.data.world.scene import BACKGROUNDS, CAMERAS, MOTIONS, Scene, sample_scene
from loomvideo.data.world.style_prompts import style_instruction
from loomvideo.data.world.styles import PICTURE_STYLES, STYLES, apply_style
from loomvideo.data.world.words import caption

PICTURE_TASKS = ("t2i", "edit_image", "style_image")  # always one frame
MAX_OBJECTS = 3


@lru_cache(maxsize=1)
def _rendered(scene: Scene, height: int, width: int, num_frames: int) -> np.ndarray:
    """A style's source and target are one scene, drawn once."""
    return render(scene, height=height, width=width, num_frames=num_frames)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample. Nothing is drawn until frames are asked for; the same task, seed and sizes give the same sample.

    ``scene`` is the truth of the target; of a style it is the source's scene, and ``style`` names the formula that the target is.
    ``told`` names the facts that the prompt tells besides shapes, colours and motions: ``background``, ``camera``, ``sizes``.
    Of understanding tasks (``caption``, ``question``) there is no target but an ``answer``, and ``asked`` is the kind of question;
    of ``rewrite`` only text, whose ``scene`` says what is told and not where.
    """

    task: str
    prompt: str
    seed: int
    height: int
    width: int
    num_frames: int
    scene: Scene | None = None
    source_scene: Scene | None = None
    reference_scenes: tuple[Scene, ...] = ()
    edit: Edit | None = None
    style: str | None = None
    answer: str | None = None
    asked: str | None = None
    told: frozenset[str] = frozenset()

    def _render(self, scene: Scene, num_frames: int) -> np.ndarray:
        return _rendered(scene, self.height, self.width, num_frames).copy()

    def source_frames(self) -> np.ndarray | None:
        """uint8 (t, y, x, 3), or None where the task has no source."""
        return None if self.source_scene is None else self._render(self.source_scene, self.num_frames)

    def target_frames(self) -> np.ndarray | None:
        """uint8 (t, y, x, 3), or None where the answer is text."""
        if self.scene is None or self.answer is not None:
            return None
        frames = self._render(self.scene, self.num_frames)
        return frames if self.style is None else apply_style(frames, self.style)

    def reference_pictures(self) -> tuple[np.ndarray, ...]:
        """uint8 (y, x, 3) each, of the clip's size."""
        if self.task == "i2v":
            return tuple(self._render(scene, self.num_frames)[0] for scene in self.reference_scenes)
        return tuple(self._render(scene, 1)[0] for scene in self.reference_scenes)


@dataclass(frozen=True)
class Draw:
    """What one sample is drawn from."""

    context: Context
    writer: Writer
    num_objects: int | None

    @property
    def still(self) -> bool:
        return self.context.still

    def scene(self, *, backgrounds: tuple[str, ...] = BACKGROUNDS) -> Scene:
        return sample_scene(
            self.context.rng,
            held_out=self.context.held_out,
            num_objects=self.num_objects,
            motions=("stays still",) if self.still else MOTIONS,
            cameras=("still",) if self.still else CAMERAS,
            backgrounds=backgrounds,
            aspect=self.context.aspect,
        )

    def kind(self, shares: dict[str, int], *, without: tuple[str, ...] = ()) -> str:
        """A name drawn in proportion to its share."""
        names = [name for name in shares if name not in without]
        drawn = self.context.rng.random() * sum(shares[name] for name in names)
        for name in names[:-1]:
            drawn -= shares[name]
            if drawn < 0:
                return name
        return names[-1]


def _generation(draw: Draw) -> dict[str, Any]:
    scene = draw.scene()
    said = caption(draw.writer, scene, still=draw.still)
    return {"scene": scene, "prompt": said.text, "told": said.told}


def _impossible_edits(draw: Draw) -> tuple[str, ...]:
    limits = {"motion": draw.still, "swap": draw.num_objects == 1, "add": draw.num_objects == MAX_OBJECTS}
    return tuple(kind for kind, impossible in limits.items() if impossible)


def _edit(draw: Draw) -> dict[str, Any]:
    kind = draw.kind(edits.SHARES, without=_impossible_edits(draw))
    while (edited := edits.EDITS[kind](draw.context, source := draw.scene())) is None:
        pass
    edit, target = edited
    prompt = instruction(draw.writer, source, target, edit, still=draw.still)
    told = frozenset({"background"} if kind == "background" else ())
    return {"scene": target, "source_scene": source, "edit": edit, "prompt": prompt, "told": told}


def _differs_backwards(scene: Scene) -> bool:
    return scene.camera != "still" or any(item.motion not in ("stays still", "bounces") for item in scene.objects)


def _style_scene(draw: Draw) -> Scene:
    """Half of the scenes are photographic with a moving camera, with and without objects, so that styles carry over to real clips."""
    if draw.context.rng.random() < 0.5:
        return draw.scene()
    scene = draw.scene(backgrounds=("photo",))
    camera = "still" if draw.still else choose(draw.context.rng, CAMERAS)
    empty = draw.num_objects is None and draw.context.rng.random() < 0.4
    return replace(scene, objects=() if empty else scene.objects, camera=camera)


def _style(draw: Draw) -> dict[str, Any]:
    style = choose(draw.context.rng, PICTURE_STYLES if draw.still else STYLES)
    scene = _style_scene(draw)
    while style == "played backwards" and not _differs_backwards(scene):
        scene = _style_scene(draw)
    prompt = style_instruction(draw.writer, style, still=draw.still)
    return {
        "scene": scene,
        "source_scene": scene,
        "style": style,
        "edit": Edit(kind="style", value=style),
        "prompt": prompt,
    }


def _guided_edit(draw: Draw) -> dict[str, Any]:
    kind = draw.kind(references.GUIDED_SHARES)
    while (guided := references.GUIDED_EDITS[kind](draw.context, source := draw.scene())) is None:
        pass
    edit, target, pictures = guided
    prompt = guided_instruction(draw.writer, source, edit, still=draw.still)
    return {"scene": target, "source_scene": source, "edit": edit, "reference_scenes": pictures, "prompt": prompt}


def _multi_image(draw: Draw) -> dict[str, Any]:
    scene, pictures, ground_number = references.pictures_to_scene(draw.context, draw.num_objects)
    prompt = multi_image_prompt(draw.writer, scene, ground_number=ground_number, still=draw.still)
    return {"scene": scene, "reference_scenes": pictures, "prompt": prompt, "told": frozenset({"background"})}


def _image_to_video(draw: Draw) -> dict[str, Any]:
    """The first frame is given, and the prompt tells how the clip goes on."""
    scene = draw.scene()
    said = caption(draw.writer, scene, still=False)
    prompt = first_frame_prompt(draw.writer, said.text)
    return {"scene": scene, "reference_scenes": (scene,), "prompt": prompt, "told": said.told | {"background"}}


def _caption(draw: Draw) -> dict[str, Any]:
    scene = draw.scene()
    prompt = questions.describe(draw.writer, still=draw.still)
    return {"source_scene": scene, "prompt": prompt, "answer": canonical_caption(scene, still=draw.still)}


def _question(draw: Draw) -> dict[str, Any]:
    kind = draw.kind(questions.SHARES, without=questions.OF_CLIPS if draw.still else ())
    while (asked := questions.ask(draw.writer, scene := draw.scene(), kind)) is None:
        pass
    return {"source_scene": scene, "prompt": asked[0], "answer": asked[1], "asked": kind}


def _rewrite(draw: Draw) -> dict[str, Any]:
    text, scene, told = request(draw.writer, draw.scene(), still=draw.still)
    return {"scene": scene, "prompt": text, "answer": canonical_caption(scene, still=draw.still), "told": told}


_MAKERS: dict[str, Callable[[Draw], dict[str, Any]]] = {
    "t2i": _generation,
    "t2v": _generation,
    "edit_image": _edit,
    "edit_video": _edit,
    "style_image": _style,
    "style_video": _style,
    "guided_edit": _guided_edit,
    "mi2v": _multi_image,
    "i2v": _image_to_video,
    "caption": _caption,
    "question": _question,
    "rewrite": _rewrite,
}
TASKS = tuple(_MAKERS)


def sample(
    task: str,
    rng: np.random.Generator,
    *,
    held_out: bool = False,
    held_out_phrases: bool = False,
    height: int = 128,
    width: int = 128,
    num_frames: int = 17,
    num_objects: int | None = None,
) -> Sample:
    """One sample of a task of ``TASKS``; the prompt has no task prefix.

    ``held_out`` asks for the combinations that training never sees (of an edit: in source and target), ``held_out_phrases`` for the
    paraphrases. One frame makes a picture sample of any task; ``PICTURE_TASKS`` always have one.
    """
    # even seeds train and odd ones evaluate, so that they never meet
    return sample_at(
        task,
        int(rng.integers(2**61)) * 2 + held_out,
        held_out_phrases=held_out_phrases,
        height=height,
        width=width,
        num_frames=num_frames,
        num_objects=num_objects,
    )


def sample_at(
    task: str,
    seed: int,
    *,
    held_out_phrases: bool = False,
    height: int = 128,
    width: int = 128,
    num_frames: int = 17,
    num_objects: int | None = None,
) -> Sample:
    """The sample of a seed: an even one for training, an odd one held out."""
    if task not in _MAKERS:
        raise ValueError(f"task {task!r} is unknown to the little world: use one of {', '.join(TASKS)}")
    if task == "i2v" and num_frames == 1:
        raise ValueError("task 'i2v' goes on from its first frame: ask for more than one")
    num_frames = 1 if task in PICTURE_TASKS else num_frames
    rng = np.random.default_rng(seed)
    context = Context(rng=rng, held_out=bool(seed % 2), aspect=width / height, still=num_frames == 1)
    drawn = _MAKERS[task](Draw(context, Writer(rng, held_out_phrases), num_objects))
    return Sample(task=task, seed=seed, height=height, width=width, num_frames=num_frames, **drawn)

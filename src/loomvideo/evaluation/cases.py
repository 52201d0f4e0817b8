"""What a suite asks: prompts of the little world's held-out split, and whole-clip styles on real clips."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from zlib import crc32

import numpy as np

from loomvideo.data.world.phrases import Writer
from loomvideo.data.world.style_prompts import style_instruction
from loomvideo.data.world.styles import STYLES, apply_style
from loomvideo.data.world.tasks import Sample, sample
from loomvideo.evaluation.answers import judge_answer, judge_caption
from loomvideo.evaluation.judge import Verdict, judge, judge_style
from loomvideo.media.clip import MediaError, probe, read_clip

# the suite's names and the world's
WORLD_TASKS = {
    "t2v": "t2v",
    "t2i": "t2i",
    "edit": "edit_video",
    "edit_image": "edit_image",
    "guided_edit": "guided_edit",
    "mi2v": "mi2v",
    "i2v": "i2v",
    "style": "style_video",
    "style_image": "style_image",
    "request": "rewrite",  # as people type them: short, messy, half of it left unsaid
    "request_image": "rewrite",
}
# ... of those that are answered in words
WORD_TASKS = {
    "question": "question",
    "question_image": "question",
    "caption": "caption",
    "caption_image": "caption",
}
REAL_STYLE = "style_real"
TASKS = (*WORLD_TASKS, REAL_STYLE, *WORD_TASKS)
ASKED = ("count", "colour", "shape", "where", "motion")  # kinds of questions; others are passed over
EVALUATION = 0x45564131  # the namespace of these seeds; training draws from others
NUM_OBJECTS = (1, 2, 1, 1, 3, 1, 2, 1, 2, 1)  # 60, 30 and 10 % of one, two and three, in any run of ten
READABLE_TRIES = 20
SIZE_MULTIPLE = 32
CLIP_FPS = 8.0  # of real clips, as the little world's

Result = np.ndarray | str  # uint8 frames (t, y, x, 3), or words


class SuiteError(ValueError):
    """A suite that cannot be run as asked: the value, the rule and the way out."""


@dataclass(frozen=True, kw_only=True)
class Size:
    height: int = 128
    width: int = 128
    num_frames: int = 17


@dataclass(frozen=True, kw_only=True)
class Case:
    """One prompt with what belongs to it. ``seed`` is for the noise.

    Frames of it are uint8 (``num_frames``, ``height``, ``width``, 3); ``source`` (t, y, x, 3) and ``references`` (y, x, 3) too.
    ``kind`` is the edit, style or kind of question, for scores by kind; ``redrawn`` counts scenes passed over because their truth
    cannot be read. A case whose ``answer`` is not None is answered in words.
    """

    task: str
    index: int
    seed: int
    prompt: str
    height: int
    width: int
    num_frames: int
    kind: str = ""
    redrawn: int = 0
    source: np.ndarray | None = field(default=None, repr=False)
    references: tuple[np.ndarray, ...] = field(default=(), repr=False)
    sample: Sample | None = field(default=None, repr=False)  # the little world's truth; of a real clip there is none
    style: str | None = None
    answer: str | None = None

    def truth(self) -> Result:
        """What a perfect model would give."""
        if self.answer is not None:
            return self.answer
        if self.sample is not None:
            target = self.sample.target_frames()
        else:
            target = None if self.source is None or self.style is None else apply_style(self.source, self.style)
        assert target is not None
        return target

    def judge(self, result: Result) -> Verdict:
        if isinstance(result, str):
            return self._judge_words(result)
        if self.sample is not None:
            return judge(result, self.sample)
        assert self.source is not None
        assert self.style is not None
        return judge_style(result, self.source, self.style)

    def _judge_words(self, said: str) -> Verdict:
        assert self.answer is not None
        assert self.sample is not None
        if WORD_TASKS[self.task] == "question":
            return judge_answer(said, self.answer)
        assert self.sample.source_scene is not None
        return judge_caption(said, self.sample.source_scene, still=self.num_frames == 1)


def stream(task: str, seed: int, index: int) -> np.random.Generator:
    """The random numbers of one prompt; they depend on nothing but these three."""
    return np.random.default_rng(np.random.SeedSequence([EVALUATION, seed, crc32(task.encode()), index]))


def world_case(task: str, index: int, *, seed: int, size: Size) -> Case:
    """The prompt of an index, on held-out combinations and in held-out paraphrases.

    A scene whose exact rendering the judge does not find all right (an orange disc where a gradient from red to yellow is
    orange) cannot score a model: the next one is drawn.
    """
    rng = stream(task, seed, index)
    num_frames = 1 if task == "t2i" or task.endswith("_image") else size.num_frames
    for redrawn in range(READABLE_TRIES):
        drawn = sample(
            (WORLD_TASKS | WORD_TASKS)[task],
            rng,
            held_out=True,
            held_out_phrases=True,
            height=size.height,
            width=size.width,
            num_frames=num_frames,
            num_objects=NUM_OBJECTS[index % len(NUM_OBJECTS)],
        )
        if drawn.asked in (None, *ASKED) and is_readable(shown := shown_by(drawn)):
            case_of = drawn if task in WORD_TASKS else shown
            return _case_of(case_of, task, index, redrawn, noise_seed=int(rng.integers(2**31)))
    raise SuiteError(f"{task} prompt {index} at {size}: none of {READABLE_TRIES} scenes can be read; use larger frames")


def shown_by(drawn: Sample) -> Sample:
    """The sample whose target is what a sample's words are about: of a question its source, of a request its scene."""
    if drawn.source_scene is not None and drawn.answer is not None:
        return replace(drawn, scene=drawn.source_scene, source_scene=None, answer=None)
    return replace(drawn, answer=None)


def is_readable(drawn: Sample) -> bool:
    target = drawn.target_frames()
    return target is not None and judge(target, drawn).all_right


def _case_of(drawn: Sample, task: str, index: int, redrawn: int, *, noise_seed: int) -> Case:
    return Case(
        task=task,
        index=index,
        seed=noise_seed,
        prompt=drawn.prompt,
        height=drawn.height,
        width=drawn.width,
        num_frames=drawn.num_frames,
        kind=drawn.style or drawn.asked or (drawn.edit.kind if drawn.edit else ""),
        redrawn=redrawn,
        source=drawn.source_frames(),
        references=drawn.reference_pictures(),
        sample=drawn,
        style=drawn.style,
        answer=drawn.answer,
    )


def clips_in(folder: Path) -> list[Path]:
    """The clips of a folder, by name; pictures and other files are passed over."""
    if not folder.is_dir():
        raise SuiteError(f"{folder} is no folder: --media names one that holds clips")
    clips = [path for path in sorted(folder.iterdir()) if path.is_file() and _is_clip(path)]
    if not clips:
        raise SuiteError(f"{folder} holds no clip: --media names a folder with .mp4 files or others that FFmpeg reads")
    return clips


def _is_clip(path: Path) -> bool:
    try:
        return probe(path).kind == "video"
    except MediaError:  # a README beside the clips
        return False


def real_size(path: Path, area: int) -> tuple[int, int]:
    """Height and width near the clip's ratio and an area, multiples of 32."""
    info = probe(path)
    scale = (area / (info.width * info.height)) ** 0.5
    height, width = (max(1, round(side * scale / SIZE_MULTIPLE)) * SIZE_MULTIPLE for side in (info.height, info.width))
    return height, width


def real_case(clips: list[Path], index: int, *, seed: int, size: Size) -> Case:
    """Every clip in every style in turn."""
    rng = stream(REAL_STYLE, seed, index)
    path, style = clips[index % len(clips)], STYLES[index // len(clips) % len(STYLES)]
    height, width = real_size(path, size.height * size.width)
    source = read_clip(path, fps=CLIP_FPS, max_frames=size.num_frames, size=(height, width)).frames
    return Case(
        task=REAL_STYLE,
        index=index,
        seed=int(rng.integers(2**31)),
        prompt=style_instruction(Writer(rng, held_out_phrases=True), style, still=False),
        height=height,
        width=width,
        num_frames=len(source),
        kind=style,
        source=source,
        style=style,
    )


def cases(task: str, numbers: Iterable[int], *, seed: int, size: Size, media: Path | None) -> Iterator[Case]:
    """The cases of a task with these numbers; of real clips only as many as there are clips times styles."""
    if task in WORLD_TASKS or task in WORD_TASKS:
        for index in numbers:
            yield world_case(task, index, seed=seed, size=size)
    elif task == REAL_STYLE and media is not None:
        clips = clips_in(media)
        for index in numbers:
            if index < len(clips) * len(STYLES):
                yield real_case(clips, index, seed=seed, size=size)
    else:
        raise SuiteError(
            f"task {task!r} needs a folder of clips: give --media"
            if task == REAL_STYLE
            else f"task {task!r}: use {', '.join(TASKS)}"
        )

"""Train the built-in Qwen3-VL and its tokeniser on the little world: plans of requests, captions, questions.

Asked to plan a request, it answers with what is to be drawn and where (data.world.plans); the hidden states over that plan
condition the denoisers.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from loomvideo.data import samples
from loomvideo.data.world import plans
from loomvideo.data.world.addressing import PLACES
from loomvideo.data.world.instructions import plural
from loomvideo.data.world.scene import COLOURS, SHAPES
from loomvideo.data.world.tasks import Sample, sample
from loomvideo.data.world.words import SHAPE_WORDS, SIZE_WORDS
from loomvideo.models import vino_chat
from loomvideo.models.chat import Chat, chat, tokenise
from loomvideo.models.qwen import (
    ChatInputs,
    FrameRule,
    PixelBudget,
    Visual,
    model_arguments,
    picture,
    processor_frames,
    subsample,
    video,
)
from loomvideo.systems import thinking
from loomvideo.systems.loomvideo import PREFIXES
from loomvideo.systems.request import Task
from loomvideo.training.cells import MOTION, UNKNOWN, WIDTH, Readout, cells_of
from loomvideo.training.run import Run, RunConfig, batch_scale

VOCABULARY = 1024
WORDS_APART = 0.1  # standard deviation of a new embedding; learnt ones reach it
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# eight of seventeen frames: with four, a third of a turn apart, a spinning triangle seems to stand still
FRAME_RULE = FrameRule(factor=2, min_frames=8, sampled_frames=8)
IMAGE_BUDGET = PixelBudget(64 * 64, 256 * 256)
VIDEO_BUDGET = PixelBudget(8 * 64 * 64, 8 * 192 * 192)


@dataclass(frozen=True)
class Sight:
    """What a language model is shown of pictures and clips; the built-in one's, unless a model's folder says otherwise."""

    frame_rule: FrameRule = FRAME_RULE
    image: PixelBudget = IMAGE_BUDGET
    video: PixelBudget = VIDEO_BUDGET
    # VINO's resizing before these, and how many frames of a clip it sees then; see systems.vino.VinoPipeline
    first: Mapping[str, PixelBudget] | None = None
    num_frames: int = vino_chat.FRAMES


BUILTIN_SIGHT = Sight()
# How the language model is asked for a plan: think mode's question.
PLANNING = "Plan this {kind}: {prompt}"
# The world's tasks of which plans are read, behind LoomVideo's own words.
TASKS = {
    "t2i": Task.TEXT_TO_IMAGE,
    "t2v": Task.TEXT_TO_VIDEO,
    "edit_image": Task.EDIT,
    "edit_video": Task.EDIT,
    "style_image": Task.EDIT,
    "style_video": Task.EDIT,
    "guided_edit": Task.GUIDED_EDIT,
    "mi2v": Task.MULTI_IMAGE_TO_VIDEO,
}
CELLS_WEIGHT = 0.5  # of the loss on what each visual token shows
PLACE_SPREAD = 8.0  # places of objects are asked in eighths of the frame, about as cells are
CODES_WEIGHT = 1.0  # of the loss on what the ends of a plan's items say
ASKED_LAYER = -3  # whose tokens are asked, too: the layers behind it bring what they know to the answer
WORDS_LOST = 0.08
# Lost more often: "change it into" promised a shape, whatever came behind, because no lesson had a colour there.
JOINTS, JOINTS_LOST = frozenset(("to", "into", "in", "with", "by", "for", "of", "so", "that", "it")), 0.3
# Never lost: "turn it into a blue" without its shape taught that blue alone means some shape, whichever.
NAMES = frozenset(
    re.findall(
        "[a-z]+",
        " ".join(
            (
                *(*COLOURS, "grey", *PLACES, "center", "upper", "lower"),
                *(name for names in (*SHAPE_WORDS.values(), *SIZE_WORDS.values()) for name in names),
                *map(plural, SHAPES),
            )
        ),
    )
)
READ_FIRST = 600  # batches of plans alone: among other lessons the states at their ends take far longer
READING_WEIGHT = 0.1  # of the loss on the request's own words; the answer's words weigh one


def prompts(rng: np.random.Generator, count: int) -> Iterator[str]:
    tasks = (
        "t2v",
        "t2i",
        "edit_video",
        "edit_image",
        "style_video",
        "guided_edit",
        "mi2v",
        "question",
        "caption",
        "rewrite",
    )
    for _ in range(count):
        drawn = sample(str(rng.choice(tasks)), rng)
        yield drawn.prompt
        yield drawn.answer or plans.plan_of(drawn)


def build_tokenizer(seed: int = 0, texts: int = 30_000) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 1,024 tokens learnt from the world's prompts and answers, with Qwen's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    prefixes = ["Generate a video: ", "Generate an image: ", "Edit this video: ", "Edit this image: "]
    prefixes += [
        "Edit this video with reference images: ",
        "Generate a video with reference images: ",
        thinking.question(PLANNING, "", "image"),
        thinking.question(PLANNING, "", "video"),
        "user\n",
        "assistant\n",
    ]
    prefixes += [f"<{tenths / 10:.1f} seconds>" for tenths in range(10)]
    corpus = prefixes * 200 + list(prompts(np.random.default_rng(seed), texts))
    tokenizer.train_from_iterator(corpus, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[token for token in SPECIAL_TOKENS[1:] if token != "<|im_end|>"],
        clean_up_tokenization_spaces=False,
    )
    wrapped.add_tokens(list(plans.PLACES))
    return wrapped


def place_rows(dim: int, std: float) -> Tensor:
    """Embeddings (100, dim) for the places: near places are alike, so that what is learnt of one holds for the next."""
    centres = torch.linspace(0, 1, len(plans.PLACES))[:, None]
    angles = centres * math.pi / 2 * torch.logspace(0, 6, 12, base=2)
    waves = torch.cat([2 * centres - 1, angles.sin(), angles.cos()], dim=1)
    directions = torch.randn(waves.shape[1], dim, generator=torch.Generator().manual_seed(0))
    rows = waves @ directions
    return rows * (std / rows.std())


def teach_places(tokenizer: PreTrainedTokenizerFast, model: Qwen3VLForConditionalGeneration) -> None:
    """Give a model that has no tokens for places, and its tokeniser, those tokens."""
    tokenizer.add_tokens(list(plans.PLACES))
    words: Any = model.get_input_embeddings()
    if len(words.weight) < len(tokenizer):
        std = float(words.weight.detach().std())
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        words = model.get_input_embeddings()
        with torch.no_grad():
            words.weight[-len(plans.PLACES) :] = place_rows(words.weight.shape[1], std)


def build_mllm(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLForConditionalGeneration:
    ids = tokenizer.get_vocab()
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 192,
            "intermediate_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "pad_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_heads": 3,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": 192,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [1, 2],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    model = Qwen3VLForConditionalGeneration(config)
    # Words that no lesson has stay where they begin: far enough apart for a denoiser to be taught them.
    words: Any = model.get_input_embeddings()
    nn.init.normal_(words.weight, std=WORDS_APART)
    with torch.no_grad():
        words.weight[-len(plans.PLACES) :] = place_rows(words.weight.shape[1], WORDS_APART)
    return model


def visuals_of(drawn: samples.Sample, sight: Sight = BUILTIN_SIGHT) -> list[Visual]:
    """References, then the source: the order in which the published program puts them before the model."""
    visuals = [picture(reference, sight.image) for reference in drawn.reference_pictures()]
    source = drawn.source_frames()
    if source is None:
        return visuals
    if len(source) == 1:
        return [*visuals, picture(source[0], sight.image)]
    return [*visuals, video(source, sight.frame_rule, sight.video)]


@cache  # every prepared sample asks for them
def fact_directions(dim: int) -> Tensor:
    """Directions (dim, CODE_SIZE) in which the states at an item's end say its facts, at right angles to each other.

    Those of the finer waves are drawn by themselves: the others' are what they would be without them.
    """
    sizes = (plans.FIRST_FINE, plans.CODE_SIZE - plans.FIRST_FINE)
    drawn = [
        torch.randn(dim, size, generator=torch.Generator().manual_seed(3 + part)) for part, size in enumerate(sizes)
    ]
    return torch.linalg.qr(torch.cat(drawn, dim=1))[0]


@dataclass(frozen=True)
class Lesson:
    """A batch of chats with answers: padded ids, how much each token's prediction weighs, what each visual token sees, and
    what each item of the plans says."""

    inputs: ChatInputs
    weights: Tensor  # (b, m)
    cells: Tensor | None = None  # (visual tokens, 6), see training.cells
    codes: Tensor | None = None  # (items, CODE_SIZE), see data.world.plans
    ends: Tensor | None = None  # bool (b, m), where the items end

    def to(self, device: torch.device) -> "Lesson":
        others = (None if one is None else one.to(device) for one in (self.cells, self.codes, self.ends))
        return Lesson(self.inputs.to(device), self.weights.to(device), *others)


def shown_cells(drawn: Sample, visual: Visual, number: int) -> Tensor:
    """What each token of a sample's visual shows (tokens, 6), in the frames that the tower sees: of references, which come
    first, nothing is said.

    How something moves is known behind the last frames alone, since later frames are hidden from earlier tokens.
    """
    frames, height, width = visual.grid
    if number < len(drawn.reference_scenes):
        return torch.full((frames * height * width // 4, WIDTH), float(UNKNOWN))
    assert drawn.source_scene is not None
    seen = [0]
    if drawn.num_frames > 1:
        handed = subsample(drawn.num_frames, FRAME_RULE)
        seen = [handed[index] for index in processor_frames(len(handed), FRAME_RULE.sampled_frames)]
    together = len(seen) // frames
    cells = cells_of(
        drawn.source_scene,
        height=drawn.height,
        width=drawn.width,
        num_frames=drawn.num_frames,
        frames=[seen[first : first + together] for first in range(0, len(seen), together)],
        rows=height // 2,
        columns=width // 2,
    )
    cells[:-1, ..., MOTION] = UNKNOWN
    # Not how far away an object's centre is, but where: answers tell places, and nothing else tells a token its own.
    rows, columns = cells.shape[1:3]
    here = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), dim=-1) + 0.5
    cells[..., MOTION + 1 :] = PLACE_SPREAD * ((cells[..., MOTION + 1 :] + here) / torch.tensor([rows, columns]) - 0.5)
    return cells.flatten(0, 2)


class Pupil(nn.Module):
    """The language model and, while it learns to see, readouts of what every visual token shows: as it enters, where no
    motion can be seen, and behind the layer ASKED_LAYER.

    Nothing is read out at the ends of a plan's items: there the states of all layers but the first are to be the item's facts,
    in fixed directions, and little else. A readout that learns finds facts however faint they are, and a denoiser takes hours to.
    """

    directions: Tensor

    def __init__(self, mllm: Qwen3VLForConditionalGeneration) -> None:
        super().__init__()
        self.mllm = mllm
        width = mllm.config.get_text_config().hidden_size
        self.readout, self.later_readout = Readout(width), Readout(width)
        self.visual_ids = (mllm.config.image_token_id, mllm.config.video_token_id)
        self.register_buffer("directions", fact_directions(width), persistent=False)
        self.seen: list[Tensor] = []
        self.states: list[Tensor] = []  # of every layer
        mllm.model.visual.merger.register_forward_hook(lambda module, inputs, output: self.seen.append(output))
        for layer in mllm.model.language_model.layers:
            layer.register_forward_hook(self._keep)

    def _keep(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        self.states.append(output[0] if isinstance(output, tuple) else output)

    def forget(self) -> None:
        """What was kept of the last forward."""
        self.seen.clear()
        self.states.clear()

    def reading(self, ids: Tensor, cells: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The readouts' loss after a forward of token ids (b, m) whose visual tokens show ``cells``."""
        still = cells.clone()
        still[:, MOTION] = UNKNOWN
        early, figures = self.readout.loss(torch.cat(self.seen), still)
        visual = torch.isin(ids, torch.tensor(self.visual_ids, device=ids.device))
        late, later = self.later_readout.loss(self.states[ASKED_LAYER][visual], cells)
        return early + late, figures | {f"later_{name}": value for name, value in later.items()}

    def telling(self, ends: Tensor, codes: Tensor) -> Tensor:
        """Mean squared distance of the normalised states at the ``ends`` (b, m) of items from ``codes``: two is chance."""
        wanted = F.rms_norm(codes @ self.directions.T, self.directions.shape[:1])
        said = [F.rms_norm(states[ends].float(), wanted.shape[-1:]) for states in self.states[1:]]
        return torch.stack([(one - wanted).square().mean() for one in said]).mean()


# (task, samples a batch, frames, share, what is answered): text alone is soon learnt, clips are dear. Every word that requests are
# made of has to be in some lesson: of those that are in none, no plan can tell.
PLANNED, READ, SHOWN, TOLD = (
    "its plan",
    "nothing: a plan is read",
    "nothing: behind what is seen a plan is read",
    "in words",
)
MIXTURE = (
    ("rewrite", 48, 1, 0.03, PLANNED),
    ("rewrite", 48, 17, 0.06, PLANNED),
    ("t2i", 48, 1, 0.04, PLANNED),
    ("t2v", 48, 17, 0.13, PLANNED),
    ("t2i", 48, 1, 0.03, READ),
    ("t2v", 48, 17, 0.05, READ),
    ("edit_image", 48, 1, 0.03, READ),
    ("edit_video", 48, 17, 0.04, READ),
    ("guided_edit", 48, 1, 0.02, READ),
    ("guided_edit", 48, 17, 0.02, READ),
    ("mi2v", 48, 1, 0.02, READ),
    ("mi2v", 48, 17, 0.03, READ),
    ("style_image", 48, 1, 0.02, READ),
    ("edit_image", 24, 1, 0.03, SHOWN),
    ("edit_video", 8, 17, 0.02, SHOWN),
    ("guided_edit", 12, 1, 0.01, SHOWN),
    ("mi2v", 12, 17, 0.01, SHOWN),
    ("style_image", 16, 1, 0.01, SHOWN),
    ("edit_image", 32, 1, 0.20, PLANNED),
    ("edit_video", 12, 17, 0.14, PLANNED),
    ("style_image", 24, 1, 0.01, PLANNED),
    ("style_video", 8, 17, 0.01, PLANNED),
    ("guided_edit", 16, 1, 0.05, PLANNED),
    ("guided_edit", 8, 17, 0.03, PLANNED),
    ("mi2v", 16, 1, 0.04, PLANNED),
    ("mi2v", 12, 17, 0.03, PLANNED),
    ("i2v", 12, 17, 0.01, PLANNED),
    ("caption", 48, 1, 0.03, TOLD),
    ("question", 48, 1, 0.04, TOLD),
    ("caption", 12, 17, 0.03, TOLD),
    ("question", 12, 17, 0.07, TOLD),
)


class Lessons(IterableDataset):
    """Endless batches, each of one kind of task; ``seed`` is the number of the first, of a run that goes on that of its next step."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, scale: int = 1) -> None:
        self.tokenizer, self.seed, self.scale = tokenizer, seed, scale

    def __iter__(self) -> Iterator[Lesson]:
        worker = get_worker_info()
        first, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        rng = np.random.default_rng([self.seed, first, 2])
        for number in count(self.seed + first, workers):
            mixture = [kind for kind in MIXTURE if kind[-1] == READ or number >= READ_FIRST]
            shares = np.array([share for _, _, _, share, _ in mixture])
            task, batch, num_frames, _, answered = mixture[int(rng.choice(len(mixture), p=shares / shares.sum()))]
            drawn = [sample(task, rng, num_frames=num_frames) for _ in range(batch * self.scale)]
            if answered == PLANNED:
                drawn = [replace(one, prompt=half_heard(one.prompt, rng)) for one in drawn]
            yield self.lesson(drawn, answered)

    def lesson(self, samples: Sequence[Sample], answered: str) -> Lesson:
        requests, answers = zip(*(asked(drawn, answered) for drawn in samples), strict=True)
        chats = [
            Chat(f"{request.text}{answer}<|im_end|>", request.visuals)
            for request, answer in zip(requests, answers, strict=True)
        ]
        inputs = tokenise(self.tokenizer, chats)
        ids = inputs.input_ids
        weights = torch.full(ids.shape, READING_WEIGHT)
        for row, request in enumerate(requests):
            length = len(self.tokenizer(request.text, add_special_tokens=False)["input_ids"])
            weights[row, length:] = 1.0
        silent = [
            self.tokenizer.convert_tokens_to_ids(token) for token in ("<|image_pad|>", "<|video_pad|>", "<|endoftext|>")
        ]
        weights[torch.isin(ids, torch.tensor(silent))] = 0.0
        seen = [
            (drawn, visual, number)
            for drawn, one in zip(samples, requests, strict=True)
            for number, visual in enumerate(one.visuals)
        ]
        cells = torch.cat([shown_cells(*each) for each in seen]) if seen else None
        if answered == TOLD:
            return Lesson(inputs, weights, cells)
        codes = [plans.codes_of(drawn) for drawn in samples]
        ends = self._ends(torch.tensor([len(items) for items in codes]), ids)
        return Lesson(inputs, weights, cells, torch.from_numpy(np.concatenate(codes)), ends)

    def _ends(self, numbers: Tensor, ids: Tensor) -> Tensor:
        """Where the items of the plans end, so many (b,) in each, bool (b, m); requests may have such marks of their own before."""
        end = self.tokenizer.convert_tokens_to_ids(plans.END)
        assert isinstance(end, int)
        marks = ids.eq(end)
        return marks & (marks.sum(1, keepdim=True) - marks.cumsum(1) < numbers[:, None])


def half_heard(prompt: str, rng: np.random.Generator) -> str:
    """Half of the prompts without a word here and there, so that no fact hangs on all words of a phrase that is known."""
    words = prompt.split(" ")
    shares = np.array([_lost(word) for word in words])
    lost = rng.random(len(words)) < shares * (rng.random() < 0.5)
    return prompt if lost.all() else " ".join(word for word, gone in zip(words, lost, strict=True) if not gone)


def _lost(word: str) -> float:
    """How often a word of a request is lost where some are; ``@Image 1`` and ``blue-coloured`` are names, too."""
    said = re.findall(r"[a-z]+|\d+", word.lower())
    if any(part in NAMES or part.isdigit() for part in said):
        return 0.0
    return JOINTS_LOST if word in JOINTS else WORDS_LOST


def asked(drawn: Sample, answered: str) -> tuple[Chat, str]:
    """The chat of a sample in a lesson, and its answer."""
    if answered == READ:
        return chat([PREFIXES[TASKS[drawn.task]][drawn.num_frames > 1] + plans.plan_of(drawn)]), ""
    if answered == SHOWN:
        return chat([*visuals_of(drawn), plans.plan_of(drawn)]), ""
    if answered == TOLD:
        assert drawn.answer is not None
        return chat([*visuals_of(drawn), drawn.prompt]), drawn.answer
    kind = "image" if drawn.num_frames == 1 else "video"
    return chat([*visuals_of(drawn), thinking.question(PLANNING, drawn.prompt, kind)]), plans.plan_of(drawn)


def mllm_loss(pupil: Pupil, lesson: Lesson) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the next token; the answers' loss and accuracy are reported by kind of visual."""
    ids, weights = lesson.inputs.input_ids[:, 1:], lesson.weights[:, 1:]
    pupil.forget()
    logits = pupil.mllm(**model_arguments(pupil.mllm, lesson.inputs), use_cache=False).logits[:, :-1]
    losses = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view_as(weights)
    answers = weights == 1.0
    right = (logits.argmax(-1) == ids)[answers].float().mean()
    visual = (
        "video"
        if lesson.inputs.pixel_values_videos is not None
        else "image"
        if lesson.inputs.pixel_values is not None
        else "text"
    )
    loss = (losses * weights).sum() / weights.sum()
    figures = {f"right_{visual}": float(right), f"answer_{visual}": float(losses[answers].mean().detach())}
    if lesson.codes is not None and lesson.ends is not None:
        astray = pupil.telling(lesson.ends, lesson.codes)
        loss, figures = loss + CODES_WEIGHT * astray, figures | {"codes": float(astray.detach())}
    if lesson.cells is None:
        return loss, figures
    reading, right = pupil.reading(lesson.inputs.input_ids, lesson.cells)
    return loss + CELLS_WEIGHT * reading, figures | {f"{name}_{visual}": value for name, value in right.items()}


def train_mllm(
    folder: Path, start: Path | None, *, minutes: float, slice_minutes: float, device: torch.device, workers: int
) -> None:
    """Train until ``minutes`` are over and write ``folder/mllm``; called again it goes on where it stopped.

    ``start`` holds a model and its tokeniser to go on from.
    """
    torch.manual_seed(0)
    tokenizer_folder = folder / "tokenizer"
    if not tokenizer_folder.exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(start) if start else build_tokenizer()
        tokenizer.save_pretrained(tokenizer_folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    model = Qwen3VLForConditionalGeneration.from_pretrained(start).float().train() if start else build_mllm(tokenizer)
    teach_places(tokenizer, model)
    tokenizer.save_pretrained(tokenizer_folder)
    pupil = Pupil(model)
    run = Run(
        RunConfig(folder=folder, minutes=minutes, slice_minutes=slice_minutes, matrix_rate=0.01, learning_rate=1.5e-3),
        pupil,
        device,
    )
    lessons = iter(DataLoader(Lessons(tokenizer, run.steps, batch_scale(device)), batch_size=None, num_workers=workers))
    while not run.finished:
        lesson = next(lessons).to(device)
        run.step(lambda lesson=lesson: mllm_loss(pupil, lesson))
    run.save()
    averaged = run.averaged_model().mllm.eval()
    for matrix in float8_matrices(averaged):  # rounded now, so that denoisers learn from the features that are shipped
        matrix.data = matrix.data.to(torch.float8_e4m3fn).to(matrix.dtype)
    averaged.save_pretrained(folder / "mllm")


def float8_matrices(model: Qwen3VLForConditionalGeneration) -> list[nn.Parameter]:
    """What one byte a number is enough for: all matrices between the embeddings."""
    layers = nn.ModuleList([model.model.language_model.layers, model.model.visual.blocks])
    return [parameter for parameter in layers.parameters() if parameter.ndim == 2]

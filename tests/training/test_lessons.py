"""The language model's lessons: every word that requests are made of is in one, and answers say what is wanted."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from loomvideo.checkpoint import resolve_model
from loomvideo.data.world.tasks import sample
from loomvideo.training.cells import UNKNOWN
from loomvideo.training.loomvideo import MIXTURE as REQUESTS
from loomvideo.training.mllm import MIXTURE, Lessons, Pupil, mllm_loss

SAMPLES = 150  # of a task


@pytest.fixture(scope="module")
def lessons():
    folder = resolve_model("builtin").parent
    return Lessons(PreTrainedTokenizerFast.from_pretrained(folder / "mllm"), seed=0)


def words(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_what_requests_say_is_in_the_lessons(lessons):
    """Of the words of requests less than one in two hundred is in no lesson: only those are known to differ."""
    rng = np.random.default_rng(0)
    known = set()
    for task, _, num_frames, _ in MIXTURE:
        for _ in range(SAMPLES):
            drawn = lessons._draw(task, num_frames, rng)
            known |= {*words(lessons.tokenizer, drawn.prompt), *words(lessons.tokenizer, drawn.answer)}
    said = Counter()
    for task, frames in sorted({(task, sizes.get("num_frames", 17)) for task, sizes, _ in REQUESTS}):
        for _ in range(SAMPLES):
            said.update(words(lessons.tokenizer, sample(task, rng, num_frames=frames).prompt))
    unknown = {lessons.tokenizer.decode([token]): count for token, count in said.items() if token not in known}
    assert sum(unknown.values()) / said.total() < 0.005, unknown


def test_a_style_is_answered_with_its_name(lessons):
    drawn = lessons._draw("style_image", 1, np.random.default_rng(1))
    assert drawn.answer == drawn.style


def test_of_references_nothing_is_said_to_be_seen(lessons):
    rng = np.random.default_rng(2)
    drawn = lessons._draw("guided_edit", 1, rng)
    one = lessons.lesson([drawn])
    assert one.cells is not None
    tokens = int((one.inputs.input_ids == lessons.tokenizer.convert_tokens_to_ids("<|image_pad|>")).sum())
    assert len(one.cells) == tokens
    nothing_said = (one.cells[:, 0] == UNKNOWN).sum()
    assert 0 < nothing_said < tokens
    assert torch.all(one.cells[: int(nothing_said), 0] == UNKNOWN)


@pytest.fixture(scope="module")
def pupil():
    folder = resolve_model("builtin").parent
    return Pupil(Qwen3VLForConditionalGeneration.from_pretrained(folder / "mllm").float())


@pytest.mark.parametrize(("task", "frames"), [(task, frames) for task, _, frames, _ in MIXTURE])
def test_every_lesson_can_be_learnt_from(lessons, pupil, task, frames):
    """With or without words on what is seen, its loss is a number and reaches the embeddings."""
    pupil.zero_grad()
    rng = np.random.default_rng(3)
    loss, figures = mllm_loss(pupil, lessons.lesson([lessons._draw(task, frames, rng) for _ in range(2)]))
    loss.backward()
    embedding: Any = pupil.mllm.get_input_embeddings()
    assert torch.isfinite(loss)
    assert embedding.weight.grad.isfinite().all()
    assert embedding.weight.grad.any()
    assert any(name.startswith("right_") for name in figures)

"""The language model's lessons: every word that requests are made of is in one, and answers say what is wanted."""

import json
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from loomvideo.checkpoint import resolve_model
from loomvideo.data.world.plans import CODE_SIZE, END, PLACES, codes_of, plan_of
from loomvideo.data.world.tasks import sample
from loomvideo.training import mllm
from loomvideo.training.cells import UNKNOWN
from loomvideo.training.loomvideo import MIXTURE as REQUESTS
from loomvideo.training.mllm import (
    MIXTURE,
    PLANNED,
    READ,
    READING_WEIGHT,
    SHOWN,
    TOLD,
    Lessons,
    Pupil,
    asked,
    build_mllm,
    fact_directions,
    half_heard,
    mllm_loss,
    place_rows,
    teach_places,
)

SAMPLES = 150  # of a task
KINDS = [(task, frames, answered) for task, _, frames, _, answered in MIXTURE]


@pytest.fixture(scope="module")
def pupil_and_lessons():
    folder = resolve_model("builtin").parent
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder / "mllm").float()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "mllm")
    teach_places(tokenizer, model)
    return Pupil(model), Lessons(tokenizer, seed=0)


@pytest.fixture(scope="module")
def pupil(pupil_and_lessons):
    return pupil_and_lessons[0]


@pytest.fixture(scope="module")
def lessons(pupil_and_lessons):
    return pupil_and_lessons[1]


def words(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def draw(task, num_frames, count=1, seed=3):
    rng = np.random.default_rng(seed)
    return [sample(task, rng, num_frames=num_frames) for _ in range(count)]


# --- what is learnt


def test_what_requests_and_plans_say_is_in_the_lessons(lessons, monkeypatch):
    """Of their words less than one in two hundred is in no lesson: only those are known to differ."""
    monkeypatch.setattr(mllm, "visuals_of", lambda drawn: [])
    known, tokenizer = set(), lessons.tokenizer
    for task, frames, answered in KINDS:
        for drawn in draw(task, frames, SAMPLES, seed=0):
            request, answer = asked(drawn, answered)
            known |= {*words(tokenizer, request.text), *words(tokenizer, answer)}
    said = Counter()
    for task, frames in sorted({(task, sizes.get("num_frames", 17)) for task, sizes, _ in REQUESTS}):
        for drawn in draw(task, frames, SAMPLES, seed=1):
            for text in (drawn.prompt, plan_of(drawn)):
                said.update(words(tokenizer, f" {text}"))  # as it stands behind what a system puts before it
    unknown = {tokenizer.decode([token]): count for token, count in said.items() if token not in known}
    assert sum(unknown.values()) / said.total() < 0.005, unknown


def test_a_request_is_answered_with_its_plan_and_a_question_in_words():
    (drawn,) = draw("style_image", 1)
    request, answer = asked(drawn, PLANNED)
    assert answer == drawn.style + END
    assert f"Plan this image: {drawn.prompt}" in request.text
    assert len(request.visuals) == 1
    (moving,) = draw("t2v", 17)
    request, answer = asked(moving, PLANNED)
    assert answer == plan_of(moving)
    assert f"Plan this video: {moving.prompt}" in request.text
    (question,) = draw("question", 1)
    assert asked(question, TOLD)[1] == question.answer


@pytest.mark.parametrize(("task", "frames", "kind"), [("t2i", 1, "image"), ("t2v", 17, "video")])
def test_a_plan_is_read_as_a_denoiser_is_told_it(task, frames, kind):
    (drawn,) = draw(task, frames)
    request, answer = asked(drawn, READ)
    assert f"Generate {'an' if kind == 'image' else 'a'} {kind}: {plan_of(drawn)}<|im_end|>" in request.text
    assert (answer, request.visuals) == ("", ())
    assert drawn.prompt not in request.text


@pytest.mark.parametrize(("task", "frames"), [("edit_image", 1), ("edit_video", 17), ("mi2v", 1)])
def test_a_plan_is_read_behind_what_is_seen_too(task, frames):
    """As VINO's denoiser is told it: its markers are tokens of the same chat."""
    (drawn,) = draw(task, frames)
    request, answer = asked(drawn, SHOWN)
    assert request.text.endswith(f"<|vision_end|>{plan_of(drawn)}<|im_end|>\n<|im_start|>assistant\n")
    assert len(request.visuals) == len(drawn.reference_scenes) + (drawn.source_scene is not None)
    assert answer == ""


def test_of_references_nothing_is_said_to_be_seen(lessons):
    one = lessons.lesson(draw("guided_edit", 1), PLANNED)
    tokens = int((one.inputs.input_ids == lessons.tokenizer.convert_tokens_to_ids("<|image_pad|>")).sum())
    assert len(one.cells) == tokens
    nothing_said = (one.cells[:, 0] == UNKNOWN).sum()
    assert 0 < nothing_said < tokens
    assert torch.all(one.cells[: int(nothing_said), 0] == UNKNOWN)


def test_plans_are_read_before_anything_else_is_learnt(lessons, monkeypatch):
    """Whoever goes on behind those lessons has none of them again."""
    given = []
    monkeypatch.setattr(mllm.Lessons, "lesson", lambda self, drawn, answered: given.append(answered))
    monkeypatch.setattr(mllm, "READ_FIRST", 12)
    monkeypatch.setattr(mllm, "sample", lambda task, rng, num_frames: draw("t2i", 1)[0])
    for seed, read in ((0, 12), (8, 4), (12, 0)):
        given.clear()
        for _, _ in zip(range(40), mllm.Lessons(lessons.tokenizer, seed), strict=False):
            pass
        assert set(given[:read]) <= {READ}
        assert len(set(given[read:])) == 4


@pytest.mark.parametrize(("task", "frames", "answered"), KINDS)
def test_every_lesson_can_be_learnt_from(lessons, pupil, task, frames, answered):
    """Its loss is a number and reaches the embeddings; plans are asked for their facts at the end of every item."""
    pupil.zero_grad()
    drawn = draw(task, frames, 2)
    lesson = lessons.lesson(drawn, answered)
    loss, figures = mllm_loss(pupil, lesson)
    loss.backward()
    embedding: Any = pupil.mllm.get_input_embeddings()
    assert torch.isfinite(loss)
    assert embedding.weight.grad.isfinite().all()
    assert embedding.weight.grad.any()
    assert any(name.startswith("right_") for name in figures)
    assert ("codes" in figures) == (answered != TOLD)


@pytest.mark.parametrize(("task", "frames", "answered"), KINDS)
def test_every_item_s_end_has_its_facts_and_an_answer_in_words_has_none(lessons, task, frames, answered):
    drawn = draw(task, frames, 3)
    lesson = lessons.lesson(drawn, answered)
    if answered == TOLD:
        assert lesson.codes is None
        assert lesson.ends is None
        return
    codes = [torch.from_numpy(codes_of(one)) for one in drawn]
    assert torch.equal(lesson.codes, torch.cat(codes))
    assert lesson.ends.sum(1).tolist() == [len(each) for each in codes]
    assert (lesson.inputs.input_ids[lesson.ends] == lessons.tokenizer.convert_tokens_to_ids(END)).all()
    if answered == PLANNED:
        assert (lesson.weights[lesson.ends] == 1.0).all(), "an end stands in the answer"


@pytest.mark.parametrize(("task", "frames", "answered"), KINDS)
def test_answers_count_in_full_requests_little_and_what_is_seen_not_at_all(lessons, task, frames, answered):
    drawn = draw(task, frames, 3)
    lesson = lessons.lesson(drawn, answered)
    tokens = lessons.tokenizer.convert_tokens_to_ids
    for one, ids, weights in zip(drawn, lesson.inputs.input_ids, lesson.weights, strict=True):
        answer = asked(one, answered)[1]
        seen = torch.isin(ids, torch.tensor(tokens(["<|image_pad|>", "<|video_pad|>"])))
        padding = ids == lessons.tokenizer.pad_token_id
        assert lessons.tokenizer.decode(ids[weights == 1.0]) == f"{answer}<|im_end|>"
        assert (weights[seen | padding] == 0).all()
        assert weights[~(seen | padding)].unique().tolist() == pytest.approx([READING_WEIGHT, 1.0])


def test_a_mark_in_a_request_is_asked_nothing(lessons):
    drawn = replace(draw("t2i", 1)[0], prompt="a red circle; and nothing else; please")
    lesson = lessons.lesson([drawn], PLANNED)
    marks = lesson.inputs.input_ids == lessons.tokenizer.convert_tokens_to_ids(END)
    assert int(marks.sum()) == 2 + len(lesson.codes)
    assert lesson.ends[marks].tolist() == [False] * 2 + [True] * len(lesson.codes)


# --- facts in the states


def test_facts_are_said_in_directions_at_right_angles_that_are_always_the_same():
    directions = fact_directions(192)
    torch.testing.assert_close(directions.T @ directions, torch.eye(CODE_SIZE), rtol=0, atol=1e-5)
    assert torch.equal(directions, fact_directions(192))


def saying(pupil, codes, ends):
    """States of every layer that are the codes where they are to be said, and anything in the first layer and elsewhere."""
    said = codes @ pupil.directions.T
    states = 100 * torch.randn(3, *ends.shape, said.shape[1], generator=torch.Generator().manual_seed(0))
    states[1:, ends] = 7 * said
    return list(states)


@pytest.mark.parametrize(("task", "frames"), [("t2v", 17), ("edit_image", 1), ("mi2v", 17), ("style_image", 1)])
def test_states_that_say_an_item_s_facts_are_not_astray_at_all(lessons, pupil, task, frames):
    """However large they are; and what says nothing is astray by all that there is to say."""
    lesson = lessons.lesson(draw(task, frames, 3), PLANNED)
    pupil.forget()
    pupil.states.extend(saying(pupil, lesson.codes, lesson.ends))
    assert float(pupil.telling(lesson.ends, lesson.codes)) == pytest.approx(0, abs=1e-6)
    assert float(pupil.telling(lesson.ends, -lesson.codes)) == pytest.approx(4, rel=1e-3)
    pupil.states[1] = torch.zeros_like(pupil.states[1])
    assert float(pupil.telling(lesson.ends, lesson.codes)) == pytest.approx(0.5, rel=1e-3), "one of two layers"
    pupil.forget()


# --- requests that are half heard


def is_part_in_order(some, all_):
    rest = iter(all_)
    return all(word in rest for word in some)


def test_of_half_of_the_requests_whole_words_are_lost_but_never_all():
    rng = np.random.default_rng(0)
    prompts = [drawn.prompt for drawn in draw("t2v", 17, 600)]
    heard = [half_heard(prompt, rng) for prompt in prompts]
    for prompt, left in zip(prompts, heard, strict=True):
        assert left
        assert is_part_in_order(left.split(" "), prompt.split(" "))
    unchanged = sum(map(str.__eq__, prompts, heard)) / len(prompts)
    assert 0.45 < unchanged < 0.75, "half, and those whose words happened to stay"
    assert all(half_heard("star", rng) == "star" for _ in range(200))


def lost_of(prompt, times=1000):
    rng = np.random.default_rng(0)
    heard = [half_heard(prompt, rng).split(" ") for _ in range(times)]
    return {word: sum(word not in words for words in heard) for word in prompt.split(" ")}


def test_words_that_join_others_are_lost_more_often_than_what_they_join():
    lost = lost_of("change the square into blue")
    assert lost["into"] > 2 * max(lost["change"], lost["the"]) > 0


@pytest.mark.parametrize(
    "named",
    [
        "blue-coloured square",
        "Grey plus sign.",
        "little five-pointed stars",
        "medium-sized ring",
        "@Image 1.",
        "left upper center",
    ],
)
def test_what_is_named_is_never_lost(named):
    """Of a request that no longer says what, only a guess can be learnt, and the guess is made where nothing is lost, too."""
    lost = lost_of(f"change it into the {named}")
    last = named.split(" ")
    assert not any(lost[word] for word in last if word != "@Image")
    assert lost["change"] > 0


# --- places


def without_places(tokenizer):
    """The tokeniser as it was before there were places."""
    said = json.loads(tokenizer.backend_tokenizer.to_str())
    said["added_tokens"] = [token for token in said["added_tokens"] if token["content"] not in PLACES]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(said)), pad_token="<|endoftext|>")


def test_an_old_model_and_its_tokeniser_are_given_the_places_once(lessons):
    tokenizer = without_places(lessons.tokenizer)
    old = len(tokenizer)
    model = build_mllm(tokenizer)
    before = model.get_input_embeddings().weight.detach().clone()
    assert len(words(tokenizer, " 37")) > 1
    teach_places(tokenizer, model)
    assert len(tokenizer) == old + len(PLACES) == len(model.get_input_embeddings().weight)
    assert tokenizer.convert_tokens_to_ids(list(PLACES)) == list(range(old, old + len(PLACES)))
    rows = model.get_input_embeddings().weight.detach().clone()
    assert torch.equal(rows[:old], before)
    torch.testing.assert_close(rows[old:].std(), before.std(), rtol=1e-3, atol=0)
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert model.config.get_text_config().vocab_size == len(tokenizer)
    with torch.no_grad():
        model.get_input_embeddings().weight[old:] += 1.0  # as training would change them
    teach_places(tokenizer, model)
    assert torch.equal(model.get_input_embeddings().weight[old:], rows[old:] + 1.0)
    assert len(tokenizer) == old + len(PLACES)


def test_a_model_whose_tokeniser_has_the_places_already_is_given_them(lessons):
    """As a run that was stopped between the two."""
    tokenizer = without_places(lessons.tokenizer)
    model = build_mllm(tokenizer)
    tokenizer.add_tokens(list(PLACES))
    teach_places(tokenizer, model)
    assert len(model.get_input_embeddings().weight) == len(tokenizer)
    near = model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids([" 40", " 41", " 90"])]
    assert (near[0] - near[1]).norm() < 0.7 * (near[0] - near[2]).norm()


def test_places_nearby_are_alike():
    rows = place_rows(192, std=0.1)
    apart = torch.cdist(rows, rows)
    number = torch.arange(len(PLACES))
    distance = (number[:, None] - number).abs()
    assert apart[distance == 1].max() < 0.8 * apart[distance >= 10].min()
    assert apart[distance > 0].min() > 0.2 * apart.mean(), "no two are one place"
    assert float(rows.std()) == pytest.approx(0.1, rel=1e-3)


def test_a_place_is_one_token_and_a_plan_is_decoded_as_it_was_written(lessons):
    tokenizer = lessons.tokenizer
    assert all(len(words(tokenizer, place)) == 1 for place in PLACES)
    for task in ("t2v", "edit_image", "mi2v"):
        for drawn in draw(task, 17, 20):
            ids = words(tokenizer, plan_of(drawn))
            told = [token for token in tokenizer.convert_ids_to_tokens(ids) if token in PLACES]
            assert told == re.findall(r" \d\d\b", plan_of(drawn))
            assert tokenizer.decode(ids) == plan_of(drawn)

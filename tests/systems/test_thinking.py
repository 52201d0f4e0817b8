"""Think mode changes what is asked for and nothing else, and never loses a reference."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loomvideo.models.reader import QwenReader
from loomvideo.systems.plan import plan
from loomvideo.systems.request import MAX_PROMPT, ModelLimits, Request
from loomvideo.systems.thinking import THINKING, combine, mentions, question, rethought

LIMITS = ModelLimits(fps=8, area=64 * 64, max_area=64 * 64, max_frames=9, default_frames=5)
PICTURE = np.zeros((40, 40, 3), np.uint8)


def planned(prompt, **parts):
    return plan(Request(prompt=prompt, think=True, **parts), LIMITS)


@given(st.text(min_size=1, max_size=200), st.text(max_size=200))
def test_nothing_but_the_prompt_and_the_notes_is_changed(prompt, answer):
    before = replace(planned("x"), prompt=prompt)
    after = rethought(before, answer)
    assert not after.think
    for name in vars(before):
        if name not in ("prompt", "notes", "think", "asked"):
            assert getattr(after, name) is getattr(before, name)
    unused = after.notes[-1].startswith("think: the rewritten prompt was not used")
    assert after.asked == (None if unused else prompt)
    assert len(after.notes) == len(before.notes) + 1


@given(st.sets(st.integers(1, 8)), st.sets(st.integers(1, 8)))
def test_no_reference_is_ever_lost(asked, answered):
    before = replace(planned("x"), prompt="put " + " and ".join(f"@Image {i}" for i in asked))
    after = rethought(before, "there is " + " by ".join(f"image {i}" for i in answered))
    assert mentions(after.prompt) >= {str(i) for i in asked}
    assert (after.prompt == before.prompt) == (not asked <= answered)


def test_an_answer_takes_the_place_of_a_description():
    after = rethought(planned("red ball, left"), " a red circle\nmoves left ")
    assert after.prompt == "a red circle moves left"
    assert after.notes[-1] == "think: a red circle moves left"


def test_an_answer_stands_behind_an_instruction():
    after = rethought(planned("make it blue.", source=PICTURE), "a blue circle")
    assert after.prompt == combine("make it blue.", "a blue circle", edits=True) == "make it blue. a blue circle"


def test_the_answer_of_a_model_that_thinks_by_default_takes_an_instructions_place_too():
    after = rethought(planned("make it blue.", source=PICTURE), "recolour blue at 40 40;", replaces=True)
    assert after.prompt == "recolour blue at 40 40;"


@pytest.mark.parametrize("answer", ["recolour blue at 40 40;", "recolour blue of Image 2 at 40 40;"])
def test_an_answer_that_takes_an_instructions_place_loses_no_reference_either(answer):
    before = planned("colour it as in Image 1", source=PICTURE, references=[PICTURE])
    after = rethought(before, answer, replaces=True)
    assert after.prompt == before.prompt
    assert "it lost Image 1" in after.notes[-1]


@pytest.mark.parametrize("answer", ["", "  \n", "x" * (MAX_PROMPT + 1)])
def test_an_answer_of_no_use_leaves_the_request_as_it_was_and_says_so(answer):
    after = rethought(planned("a star"), answer)
    assert after.prompt == "a star"
    assert "was not used" in after.notes[-1]


def test_the_question_holds_the_prompt_as_it_is():
    assert question(THINKING, "a {weird} prompt", "image").endswith("Request: a {weird} prompt")
    assert question("{prompt}", "a star", "image") == "a star"


def test_the_question_may_name_what_is_made():
    assert question("Plan this {kind}: {prompt}", "a {kind} star", "video") == "Plan this video: a {kind} star"


@pytest.mark.parametrize("caption_system", [None, "Say it."])
@pytest.mark.parametrize(("num_frames", "kind"), [(1, "image"), (5, "video")])
def test_every_system_asks_for_what_the_plan_makes(small_pipeline, caption_system, num_frames, kind):
    systems = ("vino",) if caption_system else ("loomvideo", "vino", "omnivideo")
    for pipe in map(small_pipeline, systems):
        pipe.register_to_config(thinking="Plan this {kind}: {prompt}", caption_system=caption_system)
        made = plan(Request(prompt="a star", num_frames=num_frames), pipe.limits)
        assert f"Plan this {kind}: a star<|im_end|>" in pipe.thinking_chat(made).text


# --- whether


@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize("said", [None, False, True])
def test_the_model_says_whether_to_think_where_the_request_does_not(default, said):
    decided = plan(Request(prompt="x", think=said), replace(LIMITS, think=default))
    assert decided.think is (default if said is None else said)


def test_a_task_may_have_a_choice_of_its_own():
    limits = replace(LIMITS, think=True, task_defaults={"edit": {"think": False}})
    assert plan(Request(prompt="x"), limits).think
    assert not plan(Request(prompt="x", source=PICTURE), limits).think


# --- with a language model


@pytest.fixture
def pipe(small_pipeline):
    return small_pipeline("loomvideo")


def test_the_same_seed_gives_the_same_answer_and_another_one_another(pipe):
    def thought(seed):
        return pipe.think(plan(Request(prompt="a star", num_frames=1, seed=seed, think=True), pipe.limits)).prompt

    first = thought(1)
    torch.rand(5)  # what else is drawn has no part in it
    assert thought(1) == first
    assert thought(2) != first


def test_of_an_edit_the_answer_is_the_likeliest_whatever_the_seed(pipe):
    source = np.zeros((1, 64, 64, 3), np.uint8)
    asked = [Request(prompt="make it red", source=source, seed=seed, think=True) for seed in range(4)]
    assert len({pipe.think(plan(one, pipe.limits)).prompt for one in asked}) == 1


def test_a_model_that_thinks_by_default_thinks_unless_it_is_told_not_to(pipe, monkeypatch):
    monkeypatch.setattr(QwenReader, "answer", lambda self, chat, decoding: iter(["a green ", "star"]))
    pipe.limits = replace(pipe.limits, think=True)
    prompts = [pipe("a star", num_frames=1, think=think, output_type="latent").plan.prompt for think in (None, False)]
    assert prompts == ["a green star", "a star"]


@pytest.mark.parametrize(("default", "prompt"), [(True, "a green star"), (False, "make it green. a green star")])
def test_what_an_answer_does_to_an_instruction_is_the_models_choice(pipe, monkeypatch, default, prompt):
    monkeypatch.setattr(QwenReader, "answer", lambda self, chat, decoding: iter(["a green ", "star"]))
    pipe.limits = replace(pipe.limits, think=default)
    decided = plan(Request(prompt="make it green", source=PICTURE, num_frames=1, think=True), pipe.limits)
    assert pipe.think(decided).prompt == prompt

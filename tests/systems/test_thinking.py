"""Think mode changes what is asked for and nothing else, and never loses a reference."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        if name not in ("prompt", "notes", "think"):
            assert getattr(after, name) is getattr(before, name)
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


@pytest.mark.parametrize("answer", ["", "  \n", "x" * (MAX_PROMPT + 1)])
def test_an_answer_of_no_use_leaves_the_request_as_it_was_and_says_so(answer):
    after = rethought(planned("a star"), answer)
    assert after.prompt == "a star"
    assert "was not used" in after.notes[-1]


def test_the_question_holds_the_prompt_as_it_is():
    assert question(THINKING, "a {weird} prompt").endswith("Request: a {weird} prompt")
    assert question("{prompt}", "a star") == "a star"

"""What is right of words about a scene: the answer itself, and every object by name."""

import numpy as np
import pytest

from loomvideo.data.world.phrases import Writer
from loomvideo.data.world.questions import NUMBERS
from loomvideo.data.world.requests import canonical_caption
from loomvideo.data.world.scene import Background, Object, Scene, sample_scene
from loomvideo.data.world.words import caption
from loomvideo.evaluation.answers import judge_answer, judge_caption, named_objects

SCENE = Scene(
    objects=(
        Object(shape="circle", colour="red", motion="moves left"),
        Object(shape="star", colour="gray", motion="circles around"),
    ),
    background=Background(colours=("blue",)),
)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("two", "two"),
        ("Two.", "two"),
        ("2", "two"),
        ("Grey", "gray"),
        ("on the left!", "on the left"),
        ("in the center", "in the centre"),
    ],
)
def test_how_an_answer_is_written_does_not_count(said, answer):
    assert judge_answer(said, answer).all_right


@pytest.mark.parametrize("said", ["three", "", "two circles", "one or two", "22"])
def test_another_answer_or_more_than_the_answer_is_wrong(said):
    assert not judge_answer(said, "two").all_right


def test_every_number_of_the_world_may_be_a_digit():
    assert all(judge_answer(str(number), word).all_right for number, word in enumerate(NUMBERS))


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("still", [False, True])
def test_every_caption_of_the_world_names_its_objects_and_no_others(still, held_out):
    rng = np.random.default_rng(5)
    for _ in range(200):
        scene = sample_scene(rng, held_out=held_out)
        for writer in (Writer(rng), Writer(rng, held_out_phrases=True)):
            text = caption(writer, scene, still=still).text
            assert judge_caption(text, scene, still=still).all_right, text


@pytest.mark.parametrize("still", [False, True])
def test_the_full_caption_is_right_in_everything(still):
    rng = np.random.default_rng(6)
    for _ in range(200):
        scene = sample_scene(rng)
        facts = judge_caption(canonical_caption(scene, still=still), scene, still=still).facts
        assert all(facts.values())
        assert ("told_motion" in facts) != still


def test_the_full_caption_of_another_scene_is_wrong():
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(200):
        scene, other = sample_scene(rng), sample_scene(rng)
        same = {(i.colour, i.shape) for i in scene.objects} == {(i.colour, i.shape) for i in other.objects}
        right = judge_caption(canonical_caption(other, still=False), scene, still=False).all_right
        assert right == same
        wrong += not right
    assert wrong > 150


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("a red circle moves left and a gray star orbits", (True, True, True)),
        ("A circle that is red. A star in grey!", (True, True, False)),
        ("a red circle and a gray star both move left", (True, True, False)),
        ("a red circle moves right and a gray star circles around", (True, True, False)),
        ("a red circle moves left", (False, True, False)),
        ("a red star moves left and a gray circle orbits", (False, False, False)),
        ("a red circle moves left, a gray star orbits, a green ring spins", (True, False, True)),
        ("a circle and a star on a red and gray checkerboard", (False, True, False)),
        ("a red circle and a gray star, the camera moves to the left", (True, True, False)),
        ("", (False, True, False)),
    ],
)
def test_names_nothing_else_and_motions_are_facts_of_their_own(text, facts):
    verdict = judge_caption(text, SCENE, still=False)
    assert tuple(verdict.facts[name] for name in ("objects", "nothing_else", "told_motion")) == facts
    assert verdict.all_right == (facts[0] and facts[1])


def test_an_object_needs_its_own_colour():
    assert named_objects("a circle on a red background") == []
    assert [(one.colour, one.shape) for one in named_objects("two small red circles, one star of blue colour")] == [
        ("red", "circle"),
        ("blue", "star"),
    ]

"""Samples of the little world's tasks: the split, what an edit may touch, what references show."""

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from loomvideo.data.world.edits import FACTOR, SHARES, ground_colours, kept_pixels
from loomvideo.data.world.references import GUIDED_SHARES, MIN_SHIFT
from loomvideo.data.world.render import object_masks
from loomvideo.data.world.scene import SIZES, SPINNING, is_held_out, pose
from loomvideo.data.world.styles import STYLES, apply_style
from loomvideo.data.world.tasks import PICTURE_TASKS, TASKS, sample, sample_at

SMALL = {"height": 48, "width": 64, "num_frames": 5}
EDITS = ("edit_image", "edit_video", "guided_edit")
SIZES_TRAINED = [(128, 128), (96, 160), (160, 96)]


@cache
def draw(task, count=120, *, seed=0, **options):
    """Samples are drawn once and shared by the tests."""
    rng = np.random.default_rng(seed)
    return tuple(sample(task, rng, **options) for _ in range(count))


def scenes(item):
    return [scene for scene in (item.scene, item.source_scene, *item.reference_scenes) if scene is not None]


def combos(scene):
    return [(item.shape, item.colour, item.motion) for item in scene.objects]


# --- every task


@pytest.mark.parametrize("task", TASKS)
def test_a_training_sample_shows_no_held_out_combination_not_even_in_its_pictures(task):
    for item in draw(task):
        assert not any(is_held_out(*combo) for scene in scenes(item) for combo in combos(scene)), item


@pytest.mark.parametrize("task", TASKS)
def test_an_evaluation_sample_asks_for_held_out_combinations_only(task):
    for item in draw(task, 15, held_out=True):
        truth = item.scene or item.source_scene
        assert all(is_held_out(*combo) for combo in combos(truth)), item


@pytest.mark.parametrize("task", TASKS)
def test_the_seed_gives_the_sample_and_training_and_evaluation_seeds_never_meet(task):
    for held_out in (False, True):
        for item in draw(task, 15, held_out=True) if held_out else draw(task)[:15]:
            assert item.seed % 2 == held_out
            assert sample_at(task, item.seed) == item
    assert draw.__wrapped__(task, 3) == draw(task)[:3]


@pytest.mark.parametrize("task", TASKS)
def test_prompts_are_words_without_open_slots_and_answers_are_given_where_there_is_no_target(task):
    for item in draw(task):
        assert item.prompt.strip() == item.prompt != ""
        assert not set("{}") & set(item.prompt)
        assert (item.answer is None) == (task not in ("caption", "question", "rewrite"))
        assert item.answer is None or item.answer.strip()


@pytest.mark.parametrize("task", [task for task in TASKS if task != "rewrite"])
@pytest.mark.parametrize(("height", "width"), SIZES_TRAINED)
def test_objects_stay_inside_the_frame_apart_and_off_their_ground_s_colour(task, height, width):
    for item in draw(task, 12, height=height, width=width):
        for scene in scenes(item):
            assert len({(thing.shape, thing.colour) for thing in scene.objects}) == len(scene.objects) <= 3
            for thing in scene.objects:
                assert thing.colour not in ground_colours(scene.background)
                assert thing.motion != "spins" or thing.shape in SPINNING
                for time in np.linspace(0, 1, 9):
                    at = pose(thing, float(time))
                    half = SIZES[thing.size] * at.scale * min(height, width) / 2
                    assert half - 0.5 <= at.x * width <= width - half + 0.5
                    assert half - 0.5 <= at.y * height <= height - half + 0.5


@pytest.mark.parametrize("task", TASKS)
def test_frames_have_the_asked_size_and_pictures_one_frame(task):
    item = draw(task, 1, seed=3, **SMALL)[0]
    frames = 1 if task in PICTURE_TASKS else 5
    for clip in (item.source_frames(), item.target_frames()):
        assert clip is None or (clip.shape, clip.dtype) == ((frames, 48, 64, 3), np.uint8)
    assert all((picture.shape, picture.dtype) == ((48, 64, 3), np.uint8) for picture in item.reference_pictures())
    assert (item.source_frames() is None) == (task in ("t2i", "t2v", "mi2v", "i2v", "rewrite"))
    assert (item.target_frames() is None) == (task in ("caption", "question", "rewrite"))


def test_image_to_video_goes_on_from_the_picture_that_its_prompt_names():
    for item in draw("i2v", 30):
        np.testing.assert_array_equal(item.reference_pictures()[0], item.target_frames()[0])
        assert re.search(r"@?image 1|first (image|picture)", item.prompt, re.IGNORECASE), item.prompt
    with pytest.raises(ValueError, match="more than one"):
        draw("i2v", 1, num_frames=1)


@pytest.mark.parametrize("task", ["t2v", "guided_edit", "mi2v", "caption", "question", "rewrite"])
def test_one_frame_makes_a_picture_sample_in_which_nothing_moves(task):
    for item in draw(task, 30, num_frames=1):
        assert all(thing.motion == "stays still" for scene in scenes(item) for thing in scene.objects)
        assert all(scene.camera == "still" for scene in scenes(item))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("num_objects", [1, 2, 3])
def test_the_number_of_objects_can_be_told(task, num_objects):
    for item in draw(task, 2, num_objects=num_objects):
        first = item.source_scene or item.scene
        assert len(first.objects) == num_objects


def test_one_two_and_three_objects_come_in_the_shares_of_the_world_sheet():
    counts = Counter(len(item.scene.objects) for item in draw("t2v", 400))
    for number, share in ((1, 0.6), (2, 0.3), (3, 0.1)):
        assert abs(counts[number] / 400 - share) < 0.08


def test_an_unknown_task_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="task 'dance' is unknown to the little world: use one of t2i, t2v"):
        sample("dance", np.random.default_rng(0))


# --- edits


@pytest.mark.parametrize("task", EDITS)
def test_an_edit_leaves_all_pixels_outside_the_changed_objects_as_they_are(task):
    for item in draw(task, 20, seed=1, **SMALL):
        source, target = item.source_frames(), item.target_frames()
        kept = kept_pixels(item.source_scene, item.scene, height=48, width=64, num_frames=len(source))
        np.testing.assert_array_equal(source[kept], target[kept])


@pytest.mark.parametrize("task", EDITS)
def test_an_edit_changes_what_it_says_and_no_other_object(task):
    for item in draw(task):
        edit, source, target = item.edit, item.source_scene, item.scene
        rest = [thing for index, thing in enumerate(source.objects) if index not in edit.source_objects]
        assert rest == [thing for index, thing in enumerate(target.objects) if index not in edit.target_objects]
        changes_ground = edit.kind == "background" or edit.ground_reference is not None
        assert (source.background == target.background) != changes_ground
        assert source != target


def test_every_kind_of_edit_and_of_guided_edit_occurs():
    kinds = Counter(item.edit.kind for item in draw("edit_video", 300))
    assert set(kinds) == set(SHARES)
    assert set(SHARES) - {item.edit.kind for item in draw("edit_image", 200)} == {"motion"}
    guided = {(item.edit.kind, item.edit.ground_reference is not None) for item in draw("guided_edit")}
    assert len(guided) == len(GUIDED_SHARES)


@pytest.mark.parametrize("kind", SHARES)
def test_only_the_told_fact_of_an_object_changes(kind):
    free = {
        "recolour": {"colour"},
        "swap": {"colour"},
        "reshape": {"shape"},
        "replace": {"shape", "colour"},
        "resize": {"scale"},
        "motion": {"motion", "travel", "x", "y"},
    }
    for item in (item for item in draw("edit_video", 300) if item.edit.kind == kind):
        for before, after in zip(
            item.edit.source_objects, item.edit.target_objects, strict=kind not in ("add", "remove")
        ):
            old, new = vars(item.source_scene.objects[before]), vars(item.scene.objects[after])
            assert {name for name in old if old[name] != new[name]} <= free[kind]


def test_bigger_and_smaller_are_a_factor_of_one_and_a_half():
    for item in (item for item in draw("edit_image", 200) if item.edit.kind == "resize"):
        index = item.edit.source_objects[0]
        factor = item.scene.objects[index].scale / item.source_scene.objects[index].scale
        assert factor == pytest.approx(FACTOR if item.edit.value == "bigger" else 1 / FACTOR)


def test_kept_pixels_are_inside_unchanged_objects_where_the_background_is_new():
    item = next(item for item in draw("edit_video", 20, seed=1, **SMALL) if item.edit.kind == "background")
    kept = kept_pixels(item.source_scene, item.scene, height=48, width=64, num_frames=5)
    assert kept.any()
    assert not kept[(object_masks(item.scene, height=48, width=64, num_frames=5) < 1).all(axis=0)].any()


def test_an_object_that_gets_another_motion_starts_where_it_was_unless_its_path_needs_room():
    starts = [
        (item.source_scene.objects[index], item.scene.objects[index])
        for item in draw("edit_video", 300)
        if item.edit.kind == "motion" and item.edit.value in ("stays still", "spins")
        for index in item.edit.source_objects
    ]
    assert starts
    assert all((old.x, old.y) == (new.x, new.y) for old, new in starts if old.motion not in ("grows", "shrinks"))


# --- styles


@pytest.mark.parametrize("task", ["style_image", "style_video"])
def test_a_style_s_target_is_its_formula_on_the_source(task):
    for item in draw(task, 12, **SMALL):
        np.testing.assert_array_equal(item.target_frames(), apply_style(item.source_frames(), item.style))


def test_half_of_the_style_clips_are_photographic_and_many_have_a_moving_camera():
    drawn = draw("style_video", 250)
    assert {item.style for item in drawn} == set(STYLES)
    photos = [item.scene for item in drawn if item.scene.background.kind == "photo"]
    assert 0.4 < len(photos) / 250 < 0.7
    assert np.mean([scene.camera != "still" for scene in photos]) > 0.5
    assert {len(scene.objects) for scene in photos} == {0, 1, 2, 3}


def test_a_clip_that_is_played_backwards_looks_different():
    for item in (item for item in draw("style_video", 60, **SMALL) if item.style == "played backwards"):
        assert not np.array_equal(item.source_frames(), item.target_frames())


# --- reference pictures


def test_a_guided_edit_s_object_looks_as_in_its_picture():
    for item in draw("guided_edit"):
        for number, index in zip(item.edit.references, item.edit.target_objects, strict=True):
            shown, made = item.reference_scenes[number - 1].objects[0], item.scene.objects[index]
            assert (shown.colour, shown.pattern) == (made.colour, made.pattern)
            assert shown.pattern == "flat" or shown.pattern_colour == made.pattern_colour
            assert (shown.shape == made.shape) == (item.edit.kind == "replace")
        if item.edit.ground_reference is not None:
            assert item.reference_scenes[item.edit.ground_reference - 1].background == item.scene.background


@pytest.mark.parametrize("task", ["guided_edit", "mi2v"])
def test_a_picture_shows_one_still_object_at_another_place_and_size_on_a_plain_or_photographic_ground(task):
    patterns = Counter()
    for item in draw(task):
        made = {(thing.colour, thing.pattern): thing for thing in item.scene.objects}
        for picture in item.reference_scenes:
            if not picture.objects:
                continue
            (shown,) = picture.objects
            thing = made[shown.colour, shown.pattern]
            patterns[shown.pattern] += 1
            assert shown.size != thing.size
            assert np.hypot(shown.x - thing.x, shown.y - thing.y) > MIN_SHIFT
            assert picture.background.kind in ("plain", "photo")
            assert shown.colour not in picture.background.colours
    assert set(patterns) == {"flat", "dots", "stripes", "checks"}


def test_a_background_s_picture_is_the_target_s_ground_pixel_by_pixel():
    for item in (item for item in draw("guided_edit", 20, seed=1, **SMALL) if item.edit.kind == "background"):
        picture, target = item.reference_pictures()[0], item.target_frames()
        bare = ~object_masks(item.scene, height=48, width=64, num_frames=5).any(axis=0)
        np.testing.assert_array_equal(target[bare], np.broadcast_to(picture, target.shape)[bare])


def test_several_pictures_give_one_object_each_and_the_last_may_give_the_ground():
    counts = Counter()
    for item in draw("mi2v", 250):
        objects = [picture for picture in item.reference_scenes if picture.objects]
        counts[len(item.reference_scenes)] += 1
        assert [picture.objects[0].shape for picture in objects] == [thing.shape for thing in item.scene.objects]
        assert len(item.reference_scenes) - len(objects) in (0, 1)
        if len(item.reference_scenes) > len(objects):
            assert item.reference_scenes[-1].background == item.scene.background
    assert set(counts) == {1, 2, 3, 4}


@pytest.mark.parametrize("task", ["guided_edit", "mi2v"])
def test_no_prompt_names_a_picture_that_is_not_given(task):
    ordinals = ("first", "second", "third", "fourth")
    for item in draw(task):
        text = item.prompt.lower()
        given = len(item.reference_scenes)
        assert not any(f"{word} {number}" in text for word in ("image", "picture") for number in range(given + 1, 9))
        assert not any(word in text for word in ordinals[given:])


# --- understanding


def test_answers_are_short_and_canonical():
    answers = {item.answer for item in draw("question", 400)}
    assert {"one", "two", "three", "red", "star", "on the left", "moves right", "plain blue"} <= answers
    assert max(len(answer.split()) for answer in answers) <= 4


def test_how_many_objects_is_answered_by_their_number():
    names = ("zero", "one", "two", "three")
    asked = [
        item
        for item in draw("question", 400)
        if "many objects" in item.prompt.lower() or "many things" in item.prompt.lower()
    ]
    assert asked
    assert all(item.answer == names[len(item.source_scene.objects)] for item in asked)


def test_a_described_clip_tells_every_fact():
    for item in draw("caption"):
        for thing in item.source_scene.objects:
            assert f"{thing.size} {thing.colour} {thing.shape} {thing.motion}" in item.answer
        assert all(colour in item.answer for colour in item.source_scene.background.colours)

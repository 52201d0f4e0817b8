"""Plans of the little world: what they tell of a scene can be read back from them, and is what is drawn."""

import re
from dataclasses import replace
from functools import cache
from itertools import groupby

import numpy as np
import pytest

from loomvideo.data.world.plans import (
    CHOICES,
    CODE_SIZE,
    COORDINATE_SIZE,
    COORDINATES,
    END,
    FARTHEST,
    FINE_SIZE,
    FIRST_COORDINATE,
    FIRST_FINE,
    LOUD,
    OFFSETS,
    PLACES,
    asked_alone,
    codes_of,
    ground_plan,
    item_facts,
    plan_of,
)
from loomvideo.data.world.render import ground, layout
from loomvideo.data.world.scene import MOTIONS, Background, pose
from loomvideo.data.world.tasks import PICTURE_TASKS, TASKS, sample, sample_at

IN_WORDS = ("caption", "question")
DRAWN = tuple(task for task in TASKS if task not in IN_WORDS)
WHOLE = ("t2i", "t2v", "mi2v", "i2v", "rewrite")  # their plans tell whole scenes
EDITS = ("edit_image", "edit_video", "guided_edit")
AT = re.compile("".join(f"({'|'.join(PLACES)})" for _ in "xy"))
MOVING = re.compile("|".join(MOTIONS))


@cache
def draw(task, count=100, **options):
    rng = np.random.default_rng(5)
    return tuple(sample(task, rng, **options) for _ in range(count))


def drawn(*tasks):
    """Clips of the tasks, and pictures of those that have them."""
    for task in tasks:
        yield from draw(task)
        if task not in (*PICTURE_TASKS, "i2v"):
            yield from draw(task, num_frames=1)


def items_of(one):
    assert plan_of(one).endswith(END)
    return [item.strip() for item in plan_of(one).removesuffix(END).split(END)]


def objects_of(one):
    """The object that each item of a whole scene's plan tells of, None where it tells of something else."""
    objects = iter(one.scene.objects)
    return [next(objects) if facts["kind"] == "object" else None for facts in item_facts(one)]


def read_places(text):
    return [tuple(int(number) / 100 for number in match) for match in AT.findall(text)]


def expected_places(item, *, still):
    """When they are to be told: in the middle of a picture; of a clip at the start and, of what travels, farthest from it."""
    times = [0.5] if still else [0.0, FARTHEST[item.motion]] if item.motion in FARTHEST else [0.0]
    return [(at.x, at.y) for at in (pose(item, time) for time in times)]


def same_places(text, item, *, still):
    told, true = read_places(text), expected_places(item, still=still)
    return len(told) == len(true) and bool(np.all(np.abs(np.subtract(told, true)) <= 0.005 + 1e-9))


def test_a_place_is_two_digits_behind_a_space():
    assert len(set(PLACES)) == 100
    assert all(re.fullmatch(r" \d\d", place) for place in PLACES)
    assert [int(place) for place in PLACES] == list(range(100))


@pytest.mark.parametrize("task", DRAWN)
def test_a_plan_is_as_many_items_as_there_is_something_said_of(task):
    for one in drawn(task):
        assert plan_of(one).count(END) == len(item_facts(one)) > 0
        assert all(items_of(one))


@pytest.mark.parametrize("task", IN_WORDS)
def test_what_is_answered_in_words_has_no_plan(task):
    for one in draw(task, 5):
        with pytest.raises(ValueError, match=f"task {task}: nothing is drawn"):
            plan_of(one)


@pytest.mark.parametrize("task", DRAWN)
def test_a_plan_does_not_depend_on_the_words_of_the_request(task):
    for one in drawn(task):
        assert plan_of(replace(one, prompt="x")) == plan_of(one)


@pytest.mark.parametrize("task", [task for task in DRAWN if task != "rewrite"])  # a rewritten request tells other facts
def test_paraphrases_of_one_scene_have_one_plan(task):
    pairs = [(one, sample_at(task, one.seed, held_out_phrases=True)) for one in draw(task, 40)]
    assert any(one.prompt != other.prompt for one, other in pairs)
    assert all(plan_of(one) == plan_of(other) for one, other in pairs)


# --- whole scenes


@pytest.mark.parametrize("task", WHOLE)
def test_every_object_is_told_with_its_looks_and_its_place(task):
    for one in drawn(task):
        still, items = one.num_frames == 1, items_of(one)
        said = [(text, item) for text, item in zip(items, objects_of(one), strict=True) if item is not None]
        assert [item for _, item in said] == list(one.scene.objects)
        for text, item in said:
            assert {item.shape, item.colour, item.size} <= set(text.split())
            assert item.pattern == "flat" or f"{item.pattern_colour} {item.pattern}" in text
            assert same_places(text, item, still=still), (text, item)


@pytest.mark.parametrize("task", WHOLE)
def test_a_clips_plan_tells_motions_and_the_camera_and_a_pictures_none(task):
    for one in drawn(task):
        for text, item in zip(items_of(one), objects_of(one), strict=True):
            if item is not None:
                assert MOVING.findall(text) == ([] if one.num_frames == 1 else [item.motion])
        moves = one.num_frames > 1 and one.scene.camera != "still"
        assert (f"camera {one.scene.camera}" in items_of(one)) == moves
        assert ("camera" in plan_of(one)) == moves


def test_what_travels_is_told_where_it_is_farthest_from_its_start():
    """No place on an object's way is farther from the start than the one that is told."""
    seen = set()
    for one in drawn("t2v"):
        for text, item in zip(items_of(one), objects_of(one), strict=True):
            if item is None or one.num_frames == 1:
                continue
            seen.add(item.motion)
            start, farthest = np.array(read_places(text))[[0, -1]]
            way = np.array([(at.x, at.y) for at in (pose(item, time) for time in np.linspace(0, 1, 65))])
            reached = np.linalg.norm(way - way[0], axis=1).max()
            assert np.linalg.norm(farthest - start) == pytest.approx(reached, abs=0.015)
    assert set(FARTHEST) < seen


def test_the_ground_is_told_unless_a_picture_gives_it():
    for one in drawn("t2i", "t2v", "rewrite", "mi2v"):
        shown = len(one.reference_scenes) > len(one.scene.objects)
        told = f"on Image {len(one.reference_scenes)}" if shown else f"on {ground_plan(one.scene.background)}"
        assert told in items_of(one)
        assert shown or all(colour in told.split() for colour in one.scene.background.colours)


@pytest.mark.parametrize("task", ["mi2v", "guided_edit", "i2v"])
def test_a_plan_names_every_picture_of_the_request_and_no_other(task):
    for one in drawn(task):
        named = {int(number) for number in re.findall(r"Image (\d+)", plan_of(one))}
        assert named == set(range(1, len(one.reference_scenes) + 1))


def test_an_object_is_told_with_its_own_picture():
    for one in drawn("mi2v"):
        for number, (text, item) in enumerate(zip(items_of(one), one.scene.objects, strict=False), start=1):
            assert f"{item.shape} of Image {number} " in text


def test_a_scene_by_itself_has_the_plan_of_its_request():
    for one in drawn("t2i", "t2v"):
        assert plan_of(asked_alone(one.scene, still=one.num_frames == 1)) == plan_of(one)


# --- edits


@pytest.mark.parametrize("task", EDITS)
def test_an_edit_names_the_place_of_each_changed_object(task):
    for one in drawn(task):
        if one.edit.kind in ("add", "background"):
            continue
        before = [one.source_scene.objects[index] for index in one.edit.source_objects]
        assert before
        for text, item in zip(items_of(one), before, strict=False):
            joint = "remove" if one.edit.kind == "remove" else " for "
            assert same_places(text[text.rindex(joint) + len(joint) :], item, still=one.num_frames == 1), (text, item)


def new_value(kind, item, *, still):
    """Words that the plan of an edit of this kind has to say of the changed object."""
    looks = [item.colour] if item.pattern == "flat" else [item.colour, item.pattern_colour, item.pattern]
    return {
        "recolour": [item.colour],
        "swap": [item.colour],
        "colour": [item.colour],
        "pattern": looks,
        "reshape": [item.shape],
        "replace": [*looks, item.shape],
        "resize": ["bigger" if item.scale > 1 else "smaller"],
        "motion": item.motion.split(),
    }[kind]


@pytest.mark.parametrize("task", EDITS)
def test_an_edit_names_what_becomes_of_each_changed_object(task):
    kinds = set()
    for one in drawn(task):
        still, edit = one.num_frames == 1, one.edit
        kinds.add(edit.kind)
        after = [one.scene.objects[index] for index in edit.target_objects]
        if edit.kind in ("remove", "background"):
            continue
        for text, item in zip(items_of(one), after, strict=False):
            if edit.kind == "add":
                assert text.startswith("add ")
                assert {item.size, item.shape, item.colour} <= set(text.split())
                assert same_places(text, item, still=still)
                continue
            change = text.rsplit(" for ", 1)[0].split(" of Image ")[0]
            assert set(new_value(edit.kind, item, still=still)) <= set(change.split()), (text, item)
            if edit.kind == "motion":
                assert same_places(change, item, still=still)
    assert {"background", "replace"} <= kinds


def test_of_another_look_the_plan_says_from_which_picture_it_is():
    for one in drawn("guided_edit"):
        for text, number in zip(items_of(one), one.edit.references, strict=False):
            assert f" of Image {number} for " in text


@pytest.mark.parametrize("task", EDITS)
def test_another_ground_is_named_with_its_picture_or_in_words(task):
    for one in drawn(task):
        changes = one.edit.kind == "background" or one.edit.ground_reference is not None
        assert changes == ("background" in plan_of(one))
        if one.edit.ground_reference is not None:
            assert f"background Image {one.edit.ground_reference}" in items_of(one)
        elif changes:
            assert f"background {ground_plan(one.scene.background)}" in items_of(one)


@pytest.mark.parametrize("task", EDITS)
def test_of_another_ground_the_plan_names_what_stands_on_it_before_it(task):
    """All else of the source goes; elsewhere all else stays and is not named."""
    for one in drawn(task):
        still, changed = one.num_frames == 1, len(one.edit.source_objects)
        kept = [item for index, item in enumerate(one.source_scene.objects) if index not in one.edit.source_objects]
        if "background" not in plan_of(one):
            assert len(items_of(one)) == (len(one.edit.target_objects) if one.edit.kind == "add" else changed)
            continue
        said, facts = items_of(one)[changed:], item_facts(one)[changed:]
        assert said[-1].startswith("background ")
        assert [text.split()[:3] for text in said[:-1]] == [
            [item.size, *([item.colour, item.shape] if item.pattern == "flat" else [item.colour, item.pattern_colour])]
            for item in kept
        ]
        assert [each["kind"] for each in facts] == ["object"] * len(kept) + ["ground"]
        for text, item in zip(said, kept, strict=False):
            assert same_places(text, item, still=still)


def test_different_edits_of_one_scene_have_different_plans():
    for one in drawn("edit_image", "edit_video"):
        undone = replace(one, scene=one.source_scene, edit=replace(one.edit, target_objects=one.edit.source_objects))
        if one.edit.kind not in ("add", "remove", "resize"):
            assert plan_of(undone) != plan_of(one)


@pytest.mark.parametrize("task", ["style_image", "style_video"])
def test_the_plan_of_a_style_is_its_name(task):
    assert all(plan_of(one) == one.style + END for one in draw(task))


# --- what items say, as facts and as numbers


def expected_track(item, *, still):
    (x, y), (far_x, far_y) = [expected_places(item, still=still)[index] for index in (0, -1)]
    return dict(zip(COORDINATES, (x, y, far_x, far_y), strict=True))


@pytest.mark.parametrize("task", WHOLE)
def test_an_objects_facts_are_its_own(task):
    for one in drawn(task):
        still = one.num_frames == 1
        told = [facts for facts in item_facts(one) if facts["kind"] == "object"]
        assert len(told) == len(one.scene.objects)
        for facts, item in zip(told, one.scene.objects, strict=True):
            assert (facts["shape"], facts["colour"], facts["size"]) == (item.shape, item.colour, item.size)
            assert facts.get("motion") == (None if still else item.motion)
            assert facts.get("pattern", "flat") == item.pattern
            assert "pattern colour" not in facts or facts["pattern colour"] == item.pattern_colour
            track = expected_track(item, still=still)
            assert {name: facts[name] for name in COORDINATES} == pytest.approx(track, abs=1e-6)


@pytest.mark.parametrize("task", EDITS)
def test_an_edits_facts_are_what_changed_and_what_is_to_be(task):
    for one in drawn(task):
        edit, still, facts = one.edit, one.num_frames == 1, item_facts(one)
        before = [one.source_scene.objects[index] for index in edit.source_objects]
        after = [one.scene.objects[index] for index in edit.target_objects]
        if edit.kind not in ("add", "background"):
            for said, old in zip(facts, before, strict=False):
                assert (said["old shape"], said["old colour"]) == (old.shape, old.colour)
                if edit.kind != "motion":
                    assert {name: said[name] for name in COORDINATES} == pytest.approx(expected_track(old, still=still))
        if edit.kind not in ("remove", "background"):
            for said, new in zip(facts, after, strict=False):
                assert (said["shape"], said["colour"], said["size"]) == (new.shape, new.colour, new.size)
                assert said.get("pattern", "flat") == new.pattern
                if edit.kind in ("add", "motion"):
                    assert {name: said[name] for name in COORDINATES} == pytest.approx(expected_track(new, still=still))
        pictures = [said["picture"] for said in facts if "picture" in said]
        assert pictures == [*edit.references, *([] if edit.ground_reference is None else [edit.ground_reference])]


def read_code(code):
    """The facts that a code holds: it says each name once, and of a place where it is."""
    facts = {}
    for name, choices in CHOICES.items():
        (found,) = np.nonzero(code[OFFSETS[name] : OFFSETS[name] + len(choices)])
        if len(found):
            facts[name] = choices[int(found.item())]
    for number, name in enumerate(COORDINATES):
        first = FIRST_COORDINATE + number * COORDINATE_SIZE
        if code[first : first + COORDINATE_SIZE].any():
            facts[name] = code[first] / 3.4 + 0.5
    return facts


@pytest.mark.parametrize("task", DRAWN)
def test_a_code_holds_all_facts_of_its_item_and_no_others(task):
    for one in drawn(task):
        facts, codes = item_facts(one), codes_of(one)
        assert codes.shape == (len(facts), CODE_SIZE)
        assert codes.dtype == np.float32
        for said, code in zip(facts, codes, strict=True):
            read = read_code(code)
            assert read.keys() == said.keys()
            for name, value in said.items():
                assert read[name] == (pytest.approx(value, abs=1e-6) if name in COORDINATES else value)
            names = code[:FIRST_COORDINATE]
            assert set(names[names != 0]) == {1.0 if "x" in said else LOUD}


def places_of_code(*names):
    """Which numbers of a code are said by these facts."""
    held = np.zeros(CODE_SIZE, dtype=bool)
    for name in names:
        if name in CHOICES:
            held[OFFSETS[name] : OFFSETS[name] + len(CHOICES[name])] = True
        else:
            number = COORDINATES.index(name)
            first, fine = FIRST_COORDINATE + number * COORDINATE_SIZE, FIRST_FINE + number * FINE_SIZE
            held[first : first + COORDINATE_SIZE] = held[fine : fine + FINE_SIZE] = True
    return held


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"shape": "star"}, ["shape"]),
        ({"colour": "red"}, ["colour"]),
        ({"size": "large"}, ["size"]),
        ({"x": 0.123}, ["x", "far x"]),
        ({"y": 0.123}, ["y", "far y"]),
    ],
)
def test_scenes_that_differ_in_one_fact_differ_in_their_codes_there_alone(changed, names):
    differing = 0
    for one in draw("t2i"):
        first, *others = one.scene.objects
        other = replace(one, scene=replace(one.scene, objects=(replace(first, **changed), *others)))
        differ = codes_of(one) != codes_of(other)
        assert not differ[1:].any()
        assert not differ[0, ~places_of_code(*names)].any()
        differing += bool(differ.any())
    assert differing > 50


# --- grounds


def runs(line):
    """How many stretches of one colour a row or column of pixels has."""
    return len(list(groupby(map(tuple, line))))


@pytest.mark.parametrize("kind", ["gradient", "stripes", "checkerboard"])
@pytest.mark.parametrize(("height", "width"), [(128, 128), (96, 160), (160, 96)])
def test_the_layout_of_a_ground_is_the_one_that_is_drawn(kind, height, width):
    told = set()
    for seed in range(40):
        background = Background(kind=kind, colours=("red", "blue"), seed=seed)
        lying, pixels = layout(background), ground(background, height, width)
        told.add(lying)
        rows_alike, columns_alike = bool((pixels == pixels[:1]).all()), bool((pixels == pixels[:, :1]).all())
        across = {(True, False): True, (False, True): False, (False, False): None}[rows_alike, columns_alike]
        assert lying.across is across, "across: what differs are the columns"
        if lying.bands is not None:
            line = pixels[:, 0] if across is False or (across is None and height < width) else pixels[0]
            assert runs(line) == np.ceil(lying.bands * len(line) / min(height, width) - 1e-6)
    assert len(told) > 1


def test_a_grounds_words_tell_its_layout():
    for seed in range(40):
        for kind in ("gradient", "stripes", "checkerboard"):
            background = Background(kind=kind, colours=("red", "blue"), seed=seed)
            lying, words = layout(background), ground_plan(background).split()
            assert words[:4] == ["red", "and", "blue", kind]
            assert words[4:] == [
                *([] if lying.bands is None else [str(lying.bands)]),
                *([] if lying.across is None else ["across" if lying.across else "down"]),
            ]


def test_which_colour_comes_first_is_told():
    one, other = (Background(kind="stripes", colours=colours, seed=3) for colours in (("red", "blue"), ("blue", "red")))
    assert not np.array_equal(ground(one, 32, 32), ground(other, 32, 32))
    assert ground_plan(one) != ground_plan(other)

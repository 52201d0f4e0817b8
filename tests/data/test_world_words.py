"""The little world's words: every fact has paraphrases, some are kept for evaluation, and all words are known."""

import re

import numpy as np
import pytest

from loomvideo.data.world.addressing import address
from loomvideo.data.world.instructions import instruction
from loomvideo.data.world.lexicon import lexicon, tables
from loomvideo.data.world.phrases import AMERICAN, Phrases, Writer, joined, words_of
from loomvideo.data.world.requests import canonical_caption, filled_in, request
from loomvideo.data.world.scene import (
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    MOTIONS,
    SHAPES,
    Background,
    Object,
    Scene,
    sample_scene,
)
from loomvideo.data.world.style_prompts import STYLE_WORDS
from loomvideo.data.world.tasks import TASKS, sample
from loomvideo.data.world.verbs import MOTION_PHRASES, VERBS
from loomvideo.data.world.words import SHAPE_WORDS, SIZE_WORDS, caption

# the world sheet's words of every fact
SHEET_MOTIONS = {
    "stays still": "stays still, stands still, is standing still, does not move, remains in place",
    "moves left": "moves left, slides left, glides left, drifts left, travels left, goes left, floats left, moves to the left, moves towards the left",
    "moves right": "moves right, glides to the right, moves rightwards",
    "moves up": "moves up, moves upwards, rises, climbs",
    "moves down": "moves down, moves downwards, sinks, falls, drops",
    "bounces": "bounces, jumps up and down",
    "circles around": "circles around, orbits, goes in a circle",
    "spins": "spins, rotates, turns",
    "grows": "grows, gets bigger",
    "shrinks": "shrinks, gets smaller",
}
SHEET_STYLES = {
    "black and white": "black and white, greyscale, monochrome",
    "sepia": "sepia",
    "inverted": "invert the colours, negative",
    "brighter": "brighter, lighter",
    "darker": "darker",
    "warmer": "warmer",
    "colder": "colder, cooler",
    "blurred": "blur, blurry",
    "pixelated": "pixelate, mosaic",
    "mirrored": "mirror, flip left to right, flip horizontally",
    "played backwards": "play backwards, reverse",
}
SHEET_WORDS = {
    "t2v": "background backdrop ground scene plain solid gradient stripes checkerboard starry night grass sky camera pans zooms while and there is",
    "edit_video": "make turn into change to recolour paint remove delete erase take away add put place replace with swap the background everything behind "
    "bigger smaller instead of the object it both left one color colour grey gray recolor",
    "guided_edit": "image @image first like pattern colour background 1 2",
}


def prompts(task, count):
    rng = np.random.default_rng(11)
    return [sample(task, rng).prompt for _ in range(count)]


def words_in(texts):
    return {word.strip("-,.;:!?\"'").lower() for text in texts for word in text.split()} - {""}


def one_object(**facts):
    return Scene(
        objects=(Object(**({"shape": "circle", "colour": "red"} | facts)),), background=Background(colours=("blue",))
    )


# --- paraphrases


@pytest.mark.parametrize("name", tables())
def test_a_list_is_split_into_trained_and_held_out_paraphrases_and_no_word_is_lost(name):
    phrases = tables()[name]
    assert set(phrases.trained) | set(phrases.held_out) == set(phrases.all)
    assert not set(phrases.trained) & set(phrases.held_out)
    assert phrases.all[0] in phrases.trained
    assert set().union(*map(words_of, phrases.trained)) == set().union(*map(words_of, phrases.all))


def test_training_draws_every_trained_paraphrase_and_evaluation_only_held_out_ones():
    phrases = MOTION_PHRASES["moves left"]
    for held_out, expected in ((False, phrases.trained), (True, phrases.held_out)):
        writer = Writer(np.random.default_rng(0), held_out)
        assert {writer.pick(phrases) for _ in range(2000)} == set(expected)


def test_a_short_list_keeps_nothing_back_so_evaluation_draws_from_all_of_it():
    phrases = Phrases(("one", "two"))
    assert phrases.held_out == ()
    writer = Writer(np.random.default_rng(0), held_out_phrases=True)
    assert {writer.pick(phrases) for _ in range(50)} == {"one", "two"}


def test_motions_backgrounds_instructions_and_styles_all_keep_paraphrases_for_evaluation():
    split = {name.split(".", 1)[1] for name, phrases in tables().items() if phrases.held_out}
    assert {f"MOTION_PHRASES.{motion}" for motion in MOTIONS} <= split
    assert {
        "CLAUSES",
        "OBJECTS",
        "GROUNDS.plain",
        "CHANGE_COLOUR",
        "CHANGE_SHAPE",
        "REMOVE",
        "ADD",
        "CHANGE_GROUND",
        "REPLACE_WITH_PICTURE",
    } <= split


def test_training_captions_never_hold_a_held_out_motion_phrase():
    trained = " | ".join(
        caption(Writer(np.random.default_rng(5)), one_object(motion=motion), still=False).text.lower()
        for motion in MOTIONS
        for _ in range(40)
    )
    for phrases in MOTION_PHRASES.values():
        for phrase in phrases.held_out:
            within_another = any(phrase in other for other in phrases.trained)
            assert within_another or not re.search(rf"\b{phrase}\b", trained), phrase


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_motion_is_said_in_every_way_of_the_world_sheet(motion):
    assert set(SHEET_MOTIONS[motion].split(", ")) <= set(MOTION_PHRASES[motion].all)
    assert all(len(set(verb)) >= 3 or motion == "stays still" for verb in VERBS[motion])


@pytest.mark.parametrize("style", STYLE_WORDS)
def test_a_style_is_said_in_every_way_of_the_world_sheet(style):
    written = " | ".join(STYLE_WORDS[style].trained)
    assert all(word in written for word in SHEET_STYLES[style].split(", "))


@pytest.mark.parametrize("task", SHEET_WORDS)
def test_the_words_of_the_world_sheet_occur_in_training_prompts(task):
    assert set(SHEET_WORDS[task].split()) <= words_in(prompts(task, 700))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("held_out_phrases", [False, True])
def test_the_lexicon_holds_every_word_of_prompts_and_answers(task, held_out_phrases):
    rng = np.random.default_rng(3)
    drawn = [sample(task, rng, held_out_phrases=held_out_phrases) for _ in range(60)]
    known = set(lexicon()) | {
        f"{colour}-{word}" for colour in words_in(COLOURS) | {"grey"} for word in ("coloured", "colored")
    }
    assert words_in([item.prompt for item in drawn]) | words_in([item.answer or "" for item in drawn]) <= known


def test_spelling_is_british_or_american_and_capital_and_full_stop_come_and_go():
    texts = [Writer(np.random.default_rng(seed)).spelt("the colour is grey") for seed in range(60)]
    assert set(texts) == {
        f"{first}he {colour}{stop}"
        for first in "tT"
        for colour in ("colour is grey", "color is gray")
        for stop in ("", ".")
    }
    assert not any(british in word and american in word for word in lexicon() for british, american in AMERICAN)


# --- captions


@pytest.mark.parametrize("still", [False, True])
def test_a_caption_tells_shape_and_colour_of_every_object_and_what_told_says(still):
    rng = np.random.default_rng(7)
    for _ in range(300):
        scene = sample_scene(rng, motions=("stays still",) if still else MOTIONS)
        said = caption(Writer(rng), scene, still=still)
        text = said.text.lower().replace("gray", "grey")
        for item in scene.objects:
            assert any(shape in text for shape in SHAPE_WORDS[item.shape]), (text, item)
            assert item.colour.replace("gray", "grey") in text
        assert ("sizes" in said.told) == any(
            re.search(rf"\b{size}\b", text) for item in scene.objects for size in SIZE_WORDS[item.size]
        )
        if "background" in said.told:
            assert all(colour.replace("gray", "grey") in text for colour in scene.background.colours)
        assert ("camera" in said.told) == bool(re.search(r"\bcamera\b|\bzoom\b", text))


def test_a_picture_caption_tells_no_motion_and_no_camera():
    rng = np.random.default_rng(8)
    forms = {form for verbs in VERBS.values() for verb in verbs for form in verb[:2]}
    for _ in range(300):
        said = caption(Writer(rng), sample_scene(rng, motions=("stays still",), cameras=("still",)), still=True)
        assert not any(re.search(rf"\b{form}\b", said.text.lower()) for form in forms), said.text
        assert "camera" not in said.told


def test_the_background_is_told_nearly_always_and_a_moving_camera_too():
    rng = np.random.default_rng(9)
    told = [caption(Writer(rng), one_object(), still=False).told for _ in range(400)]
    assert 0.9 < np.mean(["background" in facts for facts in told]) < 1
    panning = Scene(objects=one_object().objects, background=Background(kind="grass", colours=()), camera="pans left")
    assert np.mean(["camera" in caption(Writer(rng), panning, still=False).told for _ in range(400)]) > 0.9


@pytest.mark.parametrize("motion", [motion for motion in MOTIONS if motion != "stays still"])
def test_a_moving_object_s_motion_is_always_told(motion):
    rng = np.random.default_rng(10)
    forms = [form for verb in VERBS[motion] for form in verb]
    for _ in range(100):
        text = (
            caption(Writer(rng), one_object(motion=motion), still=False).text.lower().replace("traveling", "travelling")
        )
        assert any(form in text for form in forms), text


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_every_kind_of_background_is_said_in_at_least_five_ways(kind):
    count = {"plain": 1, "gradient": 2, "stripes": 2, "checkerboard": 2}.get(kind, 0)
    scene = Scene(objects=one_object().objects, background=Background(kind=kind, colours=("green", "pink")[:count]))
    rng = np.random.default_rng(12)
    endings = {caption(Writer(rng), scene, still=True).text.lower().rstrip(".").split("circle")[-1] for _ in range(200)}
    assert len(endings) > 20


@pytest.mark.parametrize("camera", [camera for camera in CAMERAS if camera != "still"])
def test_one_scene_has_one_canonical_caption_whatever_the_order_of_its_objects(camera):
    first, second = (
        Object(shape="star", colour="blue", motion="spins", size="large"),
        Object(shape="ring", colour="red", motion="moves up", size="small"),
    )
    background = Background(kind="stripes", colours=("white", "orange"))
    captions = {
        canonical_caption(Scene(objects=objects, background=background, camera=camera), still=False)
        for objects in ((first, second), (second, first))
    }
    assert captions == {
        f"a small red ring moves up and a large blue star spins on an orange and white stripes background, the camera {camera}"
    }


def test_what_a_request_leaves_out_is_filled_in_with_defaults():
    scene = Scene(
        objects=(Object(shape="star", colour="white", size="large", motion="grows"),),
        background=Background(kind="sky", colours=()),
        camera="zooms in",
    )
    assert (
        canonical_caption(filled_in(scene, frozenset()), still=False)
        == "a medium white star grows on a plain black background"
    )
    assert filled_in(scene, frozenset({"sizes", "background", "camera"})) == scene


def test_a_request_names_every_object_of_the_scene_it_stands_for():
    rng = np.random.default_rng(13)
    for _ in range(300):
        text, scene, _ = request(Writer(rng), sample_scene(rng), still=False)
        low = text.lower().replace("gray", "grey").replace("  ", " ")
        assert all(
            item.colour.replace("gray", "grey") in low and any(name in low for name in SHAPE_WORDS[item.shape])
            for item in scene.objects
        ), text
        assert scene.background.colours != (scene.objects[0].colour,)


# --- addressing


def fits(text, scene):
    """The objects that words such as ``the red circle`` or ``the small one`` fit, told apart by shape, colour and size."""
    low = text.lower()
    found = list(scene.objects)
    for fact, names in (
        ("shape", {shape: SHAPE_WORDS[shape] for shape in SHAPES}),
        ("colour", {colour: (colour.replace("gray", "grey"),) for colour in COLOURS}),
        ("size", SIZE_WORDS),
    ):
        said = {value for value, words in names.items() if any(re.search(rf"\b{word}\b", low) for word in words)}
        found = [item for item in found if not said or getattr(item, fact) in said]
    return found


def test_what_is_addressed_by_its_look_is_the_only_one_of_that_look():
    rng = np.random.default_rng(14)
    by_place_or_motion = re.compile(r"left|right|top|bottom|upper|lower|that|which|moving")
    checked = 0
    for _ in range(500):
        scene = sample_scene(rng)
        index = int(rng.integers(len(scene.objects)))
        text = address(Writer(rng), scene, index, still=True)
        if not by_place_or_motion.search(text):
            assert fits(text, scene) == [scene.objects[index]], (text, scene)
            checked += 1
    assert checked > 300


def test_the_left_one_is_left_of_the_others_for_the_whole_clip():
    apart = Scene(
        objects=(Object(shape="star", colour="red", x=0.2), Object(shape="star", colour="blue", x=0.8)),
        background=Background(colours=("white",)),
    )
    texts = {address(Writer(np.random.default_rng(seed)), apart, 0, still=False) for seed in range(200)}
    assert "the left one" in texts
    assert not any("right" in text for text in texts)
    crossing = Scene(
        objects=(Object(shape="star", colour="red", x=0.2, y=0.2, motion="moves right", travel=0.6), apart.objects[1]),
        background=apart.background,
    )
    texts = {address(Writer(np.random.default_rng(seed)), crossing, 1, still=False) for seed in range(200)}
    assert not any(side in text for text in texts for side in ("on the left", "the left one", "the right one"))


def test_a_single_object_may_be_called_it_and_two_objects_never():
    single = {address(Writer(np.random.default_rng(seed)), one_object(), 0, still=True) for seed in range(200)}
    assert {"it", "the object", "the circle", "the red circle", "the red one"} <= single
    two = Scene(
        objects=(*one_object().objects, Object(shape="star", colour="green", x=0.8)),
        background=Background(colours=("white",)),
    )
    assert not {address(Writer(np.random.default_rng(seed)), two, 0, still=True) for seed in range(200)} & {
        "it",
        "the object",
    }


def test_an_instruction_names_the_new_value():
    rng = np.random.default_rng(15)
    for _ in range(200):
        drawn = sample("edit_image", rng)
        text = (
            instruction(Writer(rng), drawn.source_scene, drawn.scene, drawn.edit, still=True)
            .lower()
            .replace("gray", "grey")
        )
        if drawn.edit.kind == "recolour":
            assert drawn.edit.value.replace("gray", "grey") in text
        if drawn.edit.kind == "reshape":
            assert any(name in text for name in SHAPE_WORDS[drawn.edit.value])


def test_parts_are_joined_with_commas_and_a_last_word():
    assert [joined(["a"]), joined(["a", "b"]), joined(["a", "b", "c"])] == ["a", "a and b", "a, b and c"]

"""True renders are right, also as an imperfect decoder shows them; a render that is wrong in one fact is wrong in that fact."""

from dataclasses import replace

import numpy as np
import pytest
from worlds import DECODERS, blurred, one_object

from loomvideo.data.world.render import render
from loomvideo.data.world.scene import (
    COLOURS,
    MOTIONS,
    SHAPES,
    SPINNING,
    Background,
    Object,
    Scene,
    place,
    sample_scene,
)
from loomvideo.data.world.styles import STYLES, apply_style
from loomvideo.data.world.tasks import sample
from loomvideo.evaluation.judge import judge, judge_scene, judge_style, psnr

SCENES = 16


def scenes(seed=0, count=SCENES, **options):
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, held_out=True, **options) for _ in range(count)]


def wrong_facts(verdict):
    return {fact for fact, right in verdict.facts.items() if not right}


@pytest.mark.parametrize("decoder", DECODERS)
def test_true_renders_are_all_right(decoder):
    verdicts = [judge_scene(decoder(render(scene)), scene) for scene in scenes()]
    assert sum(verdict.all_right for verdict in verdicts) >= SCENES - 1  # 97 % over many scenes


@pytest.mark.parametrize(("height", "width", "num_frames"), [(96, 160, 9), (160, 96, 17), (128, 128, 1), (256, 448, 9)])
def test_sizes_and_lengths_make_no_difference(height, width, num_frames):
    drawn = scenes(1, 8, aspect=width / height)
    verdicts = [judge_scene(render(scene, height=height, width=width, num_frames=num_frames), scene) for scene in drawn]
    assert sum(verdict.all_right for verdict in verdicts) >= 7


@pytest.mark.parametrize("shape", SHAPES)
def test_another_shape_is_wrong_in_its_shape_alone(shape):
    frames = render(one_object(shape=shape), num_frames=5)
    for told in set(SHAPES) - {shape}:
        assert wrong_facts(judge_scene(frames, one_object(shape=told))) == {"shape"}


@pytest.mark.parametrize("colour", [name for name in COLOURS if name != "blue"])
def test_another_colour_is_wrong_in_its_colour_alone(colour):
    told = "red" if colour != "red" else "green"
    assert wrong_facts(judge_scene(render(one_object(colour=colour), num_frames=5), one_object(colour=told))) == {
        "colour"
    }


@pytest.mark.parametrize("made", MOTIONS)
def test_another_motion_is_wrong_in_its_motion_alone(made):
    travel = {"circles around": 0.2}.get(made, 0.35)
    x, y = {
        "moves left": (0.7, 0.5),
        "moves right": (0.3, 0.5),
        "moves up": (0.5, 0.7),
        "moves down": (0.5, 0.3),
        "bounces": (0.5, 0.7),
        "circles around": (0.7, 0.5),
    }.get(made, (0.5, 0.5))
    frames = render(one_object(shape="star", motion=made, x=x, y=y, travel=travel), num_frames=9)
    for told in MOTIONS:
        assert wrong_facts(judge_scene(frames, one_object(shape="star", motion=told))) == (
            {"motion"} if told != made else set()
        )


def test_an_object_more_or_less_is_noticed_on_plain_grounds():
    rng = np.random.default_rng(2)
    for scene in scenes(3, 12, backgrounds=("plain",), num_objects=1):
        used = {scene.objects[0].colour, *scene.background.colours}
        colour = next(name for name in rng.permutation(list(COLOURS)) if name not in used)
        extra = place(rng, [Object(shape="heart", colour=str(colour), size="small")], 1.0, fixed=scene.objects)
        more = replace(scene, objects=(*scene.objects, *extra))
        assert wrong_facts(judge_scene(render(more), scene)) == {"count"}
        assert "count" in wrong_facts(judge_scene(render(scene), more))


def test_a_second_object_of_the_same_look_is_noticed():
    told = one_object(x=0.25)
    made = replace(told, objects=(*told.objects, replace(told.objects[0], x=0.75)))
    assert wrong_facts(judge_scene(render(made), told)) == {"count"}


def test_another_ground_is_wrong_in_the_background_alone():
    for background in (
        Background(colours=("green",)),
        Background(kind="gradient", colours=("green", "yellow")),
        Background(kind="grass", colours=(), seed=1),
    ):
        assert wrong_facts(judge_scene(render(one_object(background=background)), one_object())) == {"background"}


def test_facts_of_two_objects_are_reported_one_by_one():
    first, second = Object(shape="star", colour="red", x=0.25), Object(shape="ring", colour="green", x=0.75)
    told = Scene(objects=(first, second), background=Background())
    made = replace(told, objects=(first, replace(second, shape="cross")))
    verdict = judge_scene(render(made), told)
    assert [facts["shape"] for facts in verdict.objects] == [True, False]
    assert verdict.facts["shape"] is False


def test_what_is_not_told_is_not_judged():
    scene = one_object(background=Background(kind="checkerboard", colours=("green", "white")))
    assert {"background", "camera", "size"}.isdisjoint(judge_scene(render(scene), scene, told=()).facts)


def test_a_wrong_size_is_reported_and_leaves_the_rest_right():
    verdict = judge_scene(render(one_object(size="large")), one_object(size="small"), told={"sizes"})
    assert wrong_facts(verdict) == {"size"}
    assert verdict.all_right


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((17, 128, 128, 3), np.uint8),
        np.random.default_rng(0).integers(0, 256, (17, 128, 128, 3)).astype(np.uint8),
    ],
)
def test_black_frames_and_noise_have_nothing_right(frames):
    verdict = judge_scene(frames, one_object())
    assert {"count", "colour", "shape", "motion", "background"} <= wrong_facts(verdict)


# --- samples of the tasks


def drawn(task, count, seed=5):
    rng = np.random.default_rng(seed)
    return [sample(task, rng, held_out=True) for _ in range(count)]


@pytest.mark.parametrize(
    "task", ["t2v", "t2i", "edit_image", "edit_video", "guided_edit", "mi2v", "style_image", "style_video"]
)
def test_the_truth_of_every_task_is_all_right(task):
    verdicts = [judge(item.target_frames(), item) for item in drawn(task, 12)]
    assert sum(verdict.all_right for verdict in verdicts) >= 11


def test_an_edit_that_changes_nothing_is_wrong_and_keeps_every_pixel():
    for item in drawn("edit_video", 12):
        verdict = judge(item.source_frames(), item)
        assert not verdict.all_right
        assert verdict.psnr is None or verdict.psnr > 90 or item.edit.kind == "background"


def test_an_edit_that_spoils_the_rest_is_wrong_in_what_should_stay():
    item = next(
        item
        for item in drawn("edit_video", 20)
        if item.edit.kind == "recolour" and item.scene.background.kind == "plain"
    )
    spoilt = np.clip(item.target_frames().astype(int) + 20, 0, 255).astype(np.uint8)
    verdict = judge(spoilt, item)
    assert verdict.facts["unchanged"] is False
    assert verdict.psnr < 25


def test_a_reference_is_followed_in_colour_and_pattern():
    item = next(
        item
        for item in drawn("guided_edit", 40)
        if item.edit.kind == "pattern" and item.scene.background.kind == "plain"
    )
    index = item.edit.target_objects[0]
    told = item.scene.objects[index]
    flat, other = (
        replace(told, pattern="flat"),
        replace(told, pattern="checks" if told.pattern != "checks" else "stripes"),
    )
    for wrong in (flat, other):
        objects = tuple(wrong if number == index else kept for number, kept in enumerate(item.scene.objects))
        assert judge(render(replace(item.scene, objects=objects)), item).facts["pattern"] is False
    assert judge(blurred(item.target_frames()), item).facts["pattern"] is True


@pytest.mark.parametrize("style", STYLES)
def test_a_style_is_judged_by_its_formula_on_any_clip(style):
    source = render(replace(scenes(9, 1, backgrounds=("photo",))[0], camera="pans left"))
    assert judge_style(apply_style(source, style), source, style).all_right
    assert judge_style(source, source, style).all_right is False
    other = STYLES[STYLES.index(style) - 1]
    assert (
        judge_style(apply_style(source, other), source, style).psnr
        < judge_style(apply_style(source, style), source, style).psnr
    )


def test_psnr_follows_its_definition():
    frames = np.full((1, 4, 4, 3), 100, np.uint8)
    assert psnr(frames, frames) == 100
    assert psnr(frames, frames + np.uint8(10)) == pytest.approx(20 * np.log10(25.5))
    assert psnr(frames, frames + np.uint8(10), np.zeros((1, 4, 4), bool) | np.eye(4, dtype=bool)) == pytest.approx(
        20 * np.log10(25.5)
    )


def test_answers_and_frames_of_another_size_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="answers in words"):
        judge(np.zeros((1, 8, 8, 3), np.uint8), sample("caption", rng))
    with pytest.raises(ValueError, match="the sample asks for uint8"):
        judge(np.zeros((1, 8, 8, 3), np.uint8), sample("t2v", rng))


def test_only_shapes_that_spin_have_angles():
    for shape in SPINNING:
        frames = render(one_object(shape=shape, motion="spins"))
        assert judge_scene(frames, one_object(shape=shape, motion="spins")).all_right

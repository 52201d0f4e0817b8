"""From what a person asked to what is done: every choice, every limit, every refusal, before any weights are touched."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from loomvideo.media.clip import Clip, MediaError, write_clip, write_picture
from loomvideo.media.letterbox import box_size
from loomvideo.media.resize import cover_crop
from loomvideo.systems.loomvideo import prefixed
from loomvideo.systems.plan import plan
from loomvideo.systems.request import ModelLimits, Request, RequestError, Task

REAL_CLIPS = Path(__file__).parents[3] / "shared" / "media"
SMALL = ModelLimits(fps=8, area=128 * 128, max_frames=33, default_frames=17, max_area=256 * 256)
PUBLISHED = ModelLimits(
    fps=24,
    area=480 * 832,
    max_frames=121,
    default_frames=81,
    max_area=736 * 1280,
    default_height=480,
    default_width=832,
    negative_prompt="blurred",
)
PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
CLIP = Clip(np.random.default_rng(1).integers(0, 256, (17, 48, 64, 3), np.uint8), fps=8.0)


def planned(limits=SMALL, **request):
    return plan(Request(**{"prompt": "a red circle", **request}), limits)


def refusal(limits=SMALL, **request):
    with pytest.raises((RequestError, MediaError)) as caught:
        planned(limits, **request)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- laws


sides = st.one_of(st.none(), st.integers(1, 180))
requests = st.fixed_dictionaries(
    {
        "height": sides,
        "width": sides,
        "num_frames": st.one_of(st.none(), st.integers(1, 33)),
        "source": st.sampled_from([None, CLIP]),
        "references": st.sampled_from([(), (PICTURE,), (PICTURE, PICTURE[:, :20])]),
        "fps": st.sampled_from([None, 8, 30.0]),
    }
)


@settings(deadline=None)
@given(requests)
def test_every_plan_can_be_generated_and_holds_its_output(request):
    decided = planned(**request)
    assert decided.height % 32 == decided.width % 32 == 0
    assert decided.num_frames % 4 == 1
    assert decided.height * decided.width <= SMALL.max_area
    assert 1 <= decided.num_frames <= SMALL.max_frames
    assert 0 <= decided.height - decided.output_height < 32
    assert 0 <= decided.width - decided.output_width < 32
    assert 0 <= decided.num_frames - decided.output_frames < 4
    assert decided.output_frames == 1 or decided.output_height % 2 == decided.output_width % 2 == 0
    sizes = [getattr(decided, name) for name in ("height", "width", "num_frames", "output_height", "output_width")]
    assert all(type(size) is int for size in [*sizes, decided.output_frames, decided.seed])
    if decided.source is not None:
        assert decided.source.shape == (decided.num_frames, decided.height, decided.width, 3)
    assert all(reference.shape == (decided.height, decided.width, 3) for reference in decided.references)
    assert all("\n" not in note for note in decided.notes)


@settings(deadline=None)
@given(requests)
def test_what_was_asked_is_what_comes_out(request):
    decided = planned(**request)
    even = decided.output_frames > 1
    for name in ("height", "width"):
        if request[name]:
            assert getattr(decided, f"output_{name}") - request[name] in ((0, 1) if even else (0,))
    if request["num_frames"]:
        longest = 17 if request["source"] else 33
        assert decided.output_frames == min(request["num_frames"], longest)


@settings(deadline=None)
@given(st.integers(16, 1000), st.integers(16, 1000))
def test_an_unasked_size_keeps_the_sources_ratio_within_one_multiple(height, width):
    ratio = width / height
    decided = planned(source=np.zeros((height, width, 3), np.uint8), limits=PUBLISHED)
    assert abs(decided.width - math.sqrt(PUBLISHED.area * ratio)) <= 16
    assert abs(decided.height - math.sqrt(PUBLISHED.area / ratio)) <= 16


@settings(deadline=None)
@given(sides, sides)
def test_the_middle_of_the_planned_source_is_the_source_at_the_outputs_size(height, width):
    decided = planned(source=CLIP, height=height, width=width)
    expected = cover_crop(CLIP.frames, decided.output_height, decided.output_width)
    np.testing.assert_array_equal(decided.cut(decided.source), expected)


# --- tasks and their words


@pytest.mark.parametrize(
    ("given_parts", "task", "prefix"),
    [
        ({}, "t2v", "Generate a video: "),
        ({"num_frames": 1}, "t2i", "Generate an image: "),
        ({"task": "t2v", "num_frames": 1}, "t2i", "Generate an image: "),
        ({"task": "t2i"}, "t2i", "Generate an image: "),
        ({"source": CLIP}, "edit", "Edit this video: "),
        ({"source": PICTURE}, "edit", "Edit this image: "),
        ({"source": CLIP, "num_frames": 1}, "edit", "Edit this image: "),
        ({"source": CLIP, "references": [PICTURE]}, "ref_edit", "Edit this video with reference images: "),
        ({"source": PICTURE, "references": [PICTURE]}, "ref_edit", "Edit this image with reference images: "),
        ({"references": [PICTURE]}, "mi2v", "Generate a video with reference images: "),
        ({"references": [PICTURE], "num_frames": 1}, "mi2v", "Generate an image with reference images: "),
    ],
)
def test_the_task_and_its_prefix_follow_from_what_is_given(given_parts, task, prefix):
    decided = planned(**given_parts)
    assert decided.task is Task(task)
    assert prefixed(decided) == prefix + "a red circle"
    assert (decided.num_frames == 1) == ("an image" in prefix or "this image" in prefix)


def test_an_edit_has_its_own_text_guidance_and_options_come_first():
    assert planned().guidance_scale == 5.0
    assert planned(source=CLIP).guidance_scale == 2.5
    assert planned(references=[PICTURE]).guidance_scale == 5.0
    assert planned(source=CLIP, guidance_scale=0).guidance_scale == 0
    assert planned(guidance_scale_visual=3).guidance_scale_visual == 3
    assert planned(num_inference_steps=4).num_inference_steps == 4


def test_a_model_may_have_defaults_of_its_own_for_a_task_and_for_one_frame_of_it():
    own = {
        "t2i": {"default_height": 64, "default_width": 192, "guidance_scale": 3.0},
        "t2v": {"default_frames": 9},
        "edit": {"guidance_scale": 6.0, "negative_prompt": "blurred"},
        "edit_image": {"guidance_scale": 1.5},
    }
    limits = replace(SMALL, task_defaults=own)
    assert planned(limits).num_frames == 9
    picture = planned(limits, num_frames=1)
    assert (picture.height, picture.width, picture.guidance_scale) == (64, 192, 3.0)
    assert planned(limits, num_frames=1, height=96).height == 96
    assert (planned(limits, source=CLIP).guidance_scale, planned(limits, source=CLIP).negative_prompt) == (
        6.0,
        "blurred",
    )
    assert planned(limits, source=PICTURE).guidance_scale == 1.5
    assert planned(limits, source=PICTURE).negative_prompt == "blurred"
    assert planned(limits, source=CLIP, references=[PICTURE]).guidance_scale == SMALL.guidance_scale_edit


def test_a_task_may_have_a_rate_and_a_length_of_its_own():
    own = {"edit": {"fps": 4, "default_source_frames": 5}}
    limits = replace(SMALL, task_defaults=own)
    edit = planned(limits, source=CLIP)
    assert (edit.num_frames, edit.fps) == (5, 4.0)
    assert any("5 frames unless num_frames says more" in note for note in edit.notes)
    longer = planned(limits, source=CLIP, num_frames=9)
    np.testing.assert_array_equal(longer.cut(longer.source), cover_crop(CLIP.frames[::2], *longer.source.shape[1:3]))
    assert planned(limits).fps == SMALL.fps
    assert planned(limits, source=CLIP, fps=8.0).notes[-1].startswith("written at 8 fps, 2 times the speed")
    with pytest.raises(ValueError, match="default_source_frames=6"):
        replace(SMALL, default_source_frames=6)


def test_defaults_of_a_task_are_limits_or_refused_with_their_name():
    with pytest.raises(ValueError, match=r"\['guidance'\] are no fields of ModelLimits"):
        replace(SMALL, task_defaults={"t2i": {"guidance": 3.0}})


def test_references_are_cropped_to_the_size_generated_or_keep_their_ratio_at_an_area_of_their_own():
    tall = PICTURE[:, :20]
    cropped = planned(references=[PICTURE, tall])
    assert {reference.shape[:2] for reference in cropped.references} == {(cropped.height, cropped.width)}
    boxed = planned(replace(SMALL, reference_area=64 * 64), references=[PICTURE, tall])
    sizes = [reference.shape[:2] for reference in boxed.references]
    assert sizes == [box_size(48, 64, 64 * 64, 32), box_size(48, 20, 64 * 64, 32)]


def test_the_first_frame_of_a_video_lies_where_the_output_will():
    limits = replace(SMALL, tasks=("i2v",), reference_area=64 * 64)
    decided = planned(limits, task="i2v", references=[PICTURE], height=50, width=70)
    np.testing.assert_array_equal(decided.cut(decided.references[0][None])[0], cover_crop(PICTURE, 50, 70))


def test_all_of_a_source_is_planned_where_a_language_model_is_to_see_it():
    limits = replace(SMALL, whole_source_frames=5, max_frames=9, default_frames=9)
    np.testing.assert_array_equal(planned(limits, source=CLIP).whole_source, CLIP.frames[[0, 4, 8, 12, 16]])
    assert planned(limits, source=CLIP, num_frames=1).whole_source is None
    assert planned(limits, source=PICTURE).whole_source is None
    assert planned(source=CLIP).whole_source is None


def test_an_edited_picture_may_be_named_by_its_place_behind_the_references():
    assert planned(source=PICTURE, references=[PICTURE], prompt="Image 2 in the colours of Image 1").task == "ref_edit"
    assert planned(source=PICTURE, prompt="@Image 1 in blue").task == "edit"


def test_a_missing_negative_prompt_is_the_models_and_an_empty_one_is_empty():
    assert planned(PUBLISHED).negative_prompt == "blurred"
    assert planned(PUBLISHED, negative_prompt="").negative_prompt == ""


def test_seed_minus_one_draws_a_fresh_seed_and_records_it():
    assert planned(seed=5).seed == 5
    assert planned(seed=-1).seed != planned(seed=-1).seed


# --- size and length


def test_the_models_own_size_is_square_or_its_default():
    assert (planned().height, planned().width, planned().num_frames) == (128, 128, 17)
    assert (planned(PUBLISHED).height, planned(PUBLISHED).width, planned(PUBLISHED).num_frames) == (480, 832, 81)


def test_one_given_side_brings_the_other_in_the_sources_ratio():
    decided = planned(source=PICTURE, width=128)
    assert (decided.output_height, decided.output_width) == (96, 128)
    assert planned(PUBLISHED, height=240, num_frames=1).output_width == 416


def test_720p_is_generated_at_the_next_size_and_cropped():
    decided = planned(PUBLISHED, height=720, width=1280, num_frames=5)
    assert (decided.height, decided.width) == (736, 1280)
    assert (decided.output_height, decided.output_width) == (720, 1280)
    assert "1280x736 is generated and cropped to 1280x720" in decided.notes[0]


def test_a_video_has_even_sides_and_a_picture_what_was_asked():
    assert (planned(height=99, width=77).output_height, planned(height=99, width=77).output_width) == (100, 78)
    assert any("even sides" in note for note in planned(height=99, width=77).notes)
    assert planned(height=99, width=77, num_frames=1).output_height == 99


def test_a_length_that_the_model_cannot_take_is_cut_from_the_next():
    decided = planned(num_frames=15)
    assert (decided.num_frames, decided.output_frames) == (17, 15)
    assert decided.notes == ("17 frames are generated and cut to 15, since the model makes 1 + 4n",)
    assert planned(source=CLIP, num_frames=15).output_frames == 15


def test_a_source_is_as_long_as_it_is_up_to_what_the_model_makes():
    assert planned(source=CLIP).num_frames == 17
    long = Clip(np.repeat(CLIP.frames, 4, axis=0), fps=8.0)
    decided = planned(source=long)
    assert decided.num_frames == 33
    assert any("the first 4.1 s of the source's 8.5 s" in note for note in decided.notes)
    np.testing.assert_array_equal(planned(source=long, num_frames=5).source, decided.source[:5])


def test_more_frames_than_the_source_has_gives_what_it_has_and_says_so():
    decided = planned(source=CLIP, num_frames=30)
    assert decided.output_frames == 17
    assert any("17 frames are made and not 30" in note for note in decided.notes)


def test_a_source_is_resampled_to_the_models_rate():
    fast = Clip(np.arange(48, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8), fps=24.0)
    decided = planned(source=fast)
    assert decided.source[:, 0, 0, 0].tolist() == list(range(0, 39, 3))


def test_another_file_rate_changes_the_speed_and_says_so():
    decided = planned(fps=16)
    assert (decided.fps, decided.num_frames) == (16.0, 17)
    assert decided.notes == ("written at 16 fps, 2 times the speed: the model generates at 8 fps",)
    assert planned(fps=8).notes == ()


def test_the_first_reference_gives_the_ratio_of_a_multi_image_video():
    wide, tall = np.zeros((50, 200, 3), np.uint8), np.zeros((200, 50, 3), np.uint8)
    assert (planned(references=[wide, tall]).height, planned(references=[wide, tall]).width) == (64, 256)


# --- what may be given


@pytest.mark.parametrize(
    "picture",
    [
        PICTURE,
        PICTURE[..., 0],
        PICTURE / 255,
        (PICTURE / 255).astype(np.float32),
        Image.fromarray(PICTURE),
        Image.fromarray(PICTURE).convert("RGBA"),
        np.dstack([PICTURE, np.full((48, 64), 255, np.uint8)]),
    ],
    ids=["uint8", "grey", "float64", "float32", "pil", "pil alpha", "alpha"],
)
def test_a_picture_may_be_an_array_or_a_pil_picture(picture):
    decided = planned(source=picture, references=picture, height=48, width=64)
    assert decided.task is Task.GUIDED_EDIT
    if np.ndim(picture) != 2:
        np.testing.assert_array_equal(decided.cut(decided.source)[0], PICTURE)


def test_a_clip_may_be_an_array_or_a_list_of_pictures_at_the_models_rate():
    expected = planned(source=CLIP).source
    for source in (CLIP.frames, CLIP.frames / 255, list(CLIP.frames), [Image.fromarray(f) for f in CLIP.frames]):
        np.testing.assert_array_equal(planned(source=source).source, expected)


def test_files_are_read(tmp_path):
    write_clip(tmp_path / "in.mp4", CLIP)
    write_picture(tmp_path / "ref.png", PICTURE)
    decided = planned(source=str(tmp_path / "in.mp4"), references=[tmp_path / "ref.png"])
    assert decided.source.shape == (17, 96, 160, 3)
    np.testing.assert_array_equal(decided.references[0], cover_crop(PICTURE, decided.height, decided.width))
    assert prefixed(planned(source=tmp_path / "ref.png")).startswith("Edit this image: ")


@pytest.mark.parametrize(("name", "size"), [("tennis_478p.mp4", (96, 160)), ("florist_480p.mp4", (96, 160))])
def test_real_clips_go_through_an_edit_at_their_own_ratio(name, size):
    if not (REAL_CLIPS / name).exists():
        pytest.skip(f"{name} is not in shared/media beside the repository")
    decided = planned(source=REAL_CLIPS / name)
    assert decided.source.shape == (29 if "florist" in name else 33, *size, 3)
    asked = planned(PUBLISHED, source=REAL_CLIPS / name, height=478, width=848, num_frames=5)
    assert asked.source.shape == (5, 480, 864, 3)


# --- refusals: the value, the rule, the way out


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"prompt": ""}, "prompt is empty: say what is to be seen"),
        ({"prompt": " \n"}, "prompt is empty"),
        ({"prompt": None}, "prompt=None: must be text"),
        ({"prompt": "a" * 100_000}, "prompt has 100,000 characters: at most 10,000"),
        ({"prompt": "a\udcff"}, "prompt holds a broken character at 1"),
        ({"negative_prompt": "a" * 10_001}, "negative_prompt has 10,001 characters"),
        ({"height": 0}, "height=0: must be a whole number of pixels, of 1 or more"),
        ({"width": -64}, "width=-64: must be"),
        ({"height": 64.5}, "height=64.5: must be"),
        ({"width": "wide"}, "width='wide': must be"),
        ({"height": True}, "height=True: must be"),
        ({"num_frames": 0}, "num_frames=0: must be a whole number of frames"),
        ({"num_frames": -5}, "num_frames=-5"),
        ({"num_frames": 34}, r"num_frames=34: this model makes at most 33 frames \(4.1 s at 8 fps\), so ask for 33"),
        ({"num_inference_steps": 0}, "num_inference_steps=0: must be a whole number of steps, from 1 to 1000"),
        ({"num_inference_steps": 1001}, "num_inference_steps=1001"),
        ({"fps": 0}, "fps=0: must be a number above 0 and at most 240"),
        ({"fps": float("nan")}, "fps=nan"),
        ({"guidance_scale": float("inf")}, "guidance_scale=inf: must be a number from 0"),
        ({"guidance_scale_visual": -1}, "guidance_scale_visual=-1"),
        ({"seed": -2}, "seed=-2: must be a whole number from 0"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"task": "inpaint"}, "task='inpaint': there is no such task; use one of t2i, t2v, edit, ref_edit, mi2v"),
        ({"task": "edit"}, "task=edit takes a source and no references, but no source and 0 .* use task=t2v"),
        ({"task": "t2v", "source": PICTURE}, "task=t2v takes no source .* use task=edit"),
        ({"task": "edit", "source": PICTURE, "references": [PICTURE]}, "use task=ref_edit"),
        ({"task": "mi2v"}, "task=mi2v takes no source and references"),
        ({"task": "t2i", "num_frames": 5}, "num_frames=5: task t2i makes one picture; use t2v"),
        ({"height": 512, "width": 512}, "generates 512x512 pixels .* at most 65,536, so use height=256, width=256"),
        ({"height": 1, "width": 100_000}, "this model makes at most 65,536"),
        ({"source": PICTURE, "num_frames": 17}, "num_frames=17: an edited picture is one picture"),
        ({"references": [PICTURE] * 9}, "9 references: this model takes at most 8, so leave 1 out"),
        ({"references": [PICTURE] * 2, "prompt": "put @Image 3 left"}, "names @Image 3 and 2 references are given"),
        ({"references": [PICTURE], "prompt": "put Image 2 left"}, "names Image 2 and 1 reference is given"),
        ({"references": [PICTURE], "prompt": "put @Image 0 left"}, "names @Image 0"),
        ({"prompt": "put @Image 1 left"}, "names @Image 1 and 0 references are given"),
        ({"source": CLIP, "references": [PICTURE], "prompt": "Image 2 left"}, "names Image 2 and 1 reference is given"),
        ({"prompt": "a <|image_pad|> kite"}, r"prompt holds '<\|image_pad\|>', a language model's own mark"),
        (
            {"references": [np.zeros((16, 3300, 3), np.uint8)]},
            "reference 1 is 3300x16: one side is more than 200 times",
        ),
        ({"task": "clone", "source": PICTURE, "references": [PICTURE]}, "task=clone: this model does t2i, t2v, edit"),
        ({"think": 1}, "think=1: must be true or false"),
        ({"references": [CLIP]}, "reference 1 is a video: give a picture"),
        ({"source": ""}, "source is an empty path"),
        ({"source": 7}, "source is a int: give a path"),
        ({"source": Image.new("RGB", (1, 1))}, "source: 1x1 pixels; sides must be 16"),
        ({"source": np.zeros((64, 64, 2), np.uint8)}, r"source has shape \(64, 64, 2\)"),
        ({"source": PICTURE.astype(np.int64)}, "source is an array of int64: give uint8"),
        ({"source": PICTURE * 1.0}, "source holds floats outside 0..1"),
        ({"source": np.full((64, 64, 3), np.nan)}, "source holds floats outside 0..1"),
        ({"source": [PICTURE, PICTURE[1:]]}, "source: a list of frames must hold decoded pictures of one size"),
        ({"references": ["missing.png"]}, r"missing\.png: there is no such file"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(asked, message):
    assert re.search(message, refusal(**asked))


def test_a_plain_mention_of_an_image_is_a_subject_where_there_are_no_references():
    assert planned(prompt="the album cover of Image 7").prompt == "the album cover of Image 7"
    assert planned(prompt="@Image 1 on @Image 2", references=[PICTURE, PICTURE]).references


def test_options_are_checked_before_files_are_opened():
    assert "num_frames=0" in refusal(source="missing.mp4", num_frames=0)
    assert "512x512" in refusal(source="missing.mp4", height=512, width=512)
    assert "9 references" in refusal(source="missing.mp4", references=["missing.png"] * 9)


def test_all_headers_are_read_before_a_pixel_is(tmp_path, monkeypatch):
    write_clip(tmp_path / "in.mp4", CLIP)
    monkeypatch.setattr("loomvideo.systems.plan.read_frames", lambda *_: pytest.fail("a file was decoded"))
    assert "missing.png" in refusal(source=tmp_path / "in.mp4", references=["missing.png"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_frames": 32}, r"max_frames=32: the VAE takes 1 \+ 4\*n frames"),
        ({"frame_stride": 8}, "frame_stride=8"),
        ({"area": 2**20}, "area=1048576: must be from 1024 to max_area=65536"),
        ({"default_height": 64}, "default_height and default_width go together"),
    ],
)
def test_limits_that_contradict_themselves_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)

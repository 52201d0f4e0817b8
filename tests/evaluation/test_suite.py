"""A perfect maker of frames scores all right, a bad one nothing; runs repeat, stop and go on; seeds never meet training's."""

import json
from itertools import count

import numpy as np
import pytest

from loomvideo.data.world.scene import is_held_out
from loomvideo.data.world.styles import STYLES
from loomvideo.evaluation.cases import ASKED, NUM_OBJECTS, WORD_TASKS, WORLD_TASKS, Size, SuiteError, cases, world_case
from loomvideo.evaluation.sheets import contact_sheet
from loomvideo.evaluation.suite import Score, evaluate, table

SMALL = Size(num_frames=9)


def perfect(case):
    return case.truth()


def source_or_black(case):
    return case.source if case.source is not None else np.zeros((case.num_frames, case.height, case.width, 3), np.uint8)


@pytest.mark.parametrize("task", WORLD_TASKS)
def test_the_true_renderer_scores_everything_right(task):
    scores = evaluate(perfect, tasks=[task], num_prompts=3, size=SMALL)["tasks"][task]
    assert scores["all_right"]["right"] == scores["all_right"]["total"] == 3
    assert all(fact["right"] == fact["total"] for name, fact in scores["facts"].items() if name != "size")


@pytest.mark.parametrize("task", WORD_TASKS)
def test_the_true_answers_score_everything_right_and_others_nothing(task):
    right = evaluate(perfect, tasks=[task], num_prompts=6, size=SMALL)["tasks"][task]
    assert right["all_right"]["right"] == right["all_right"]["total"] == 6
    assert all(fact["right"] == fact["total"] for fact in right["facts"].values())
    wrong = evaluate(lambda case: "a purple elephant", tasks=[task], num_prompts=6, size=SMALL)["tasks"][task]
    assert wrong["all_right"]["right"] == 0


def test_questions_are_of_the_kinds_that_count_and_scored_by_them():
    asked = evaluate(perfect, tasks=["question", "question_image"], num_prompts=30, size=SMALL)["tasks"]
    assert set(asked["question"]["by_kind"]) == set(ASKED)
    assert set(asked["question_image"]["by_kind"]) == set(ASKED) - {"motion"}  # which one picture does not show


@pytest.mark.parametrize("task", WORD_TASKS)
def test_what_is_asked_about_is_held_out(task):
    for case in cases(task, range(4), seed=0, size=SMALL, media=None):
        motions = [item.motion for item in case.sample.source_scene.objects]
        assert case.sample.seed % 2
        assert all(
            is_held_out(item.shape, item.colour, motion)
            for item, motion in zip(case.sample.source_scene.objects, motions, strict=True)
        )
        assert len(case.source) == case.num_frames == (1 if task.endswith("image") else SMALL.num_frames)


def test_a_short_request_is_judged_for_what_it_tells_and_nothing_else():
    told = set()
    for case in cases("request", range(30), seed=0, size=SMALL, media=None):
        judged = set(case.judge(case.truth()).facts) - {"count", "colour", "shape", "motion"}
        assert judged <= {name.replace("sizes", "size") for name in case.sample.told}
        assert case.source is None
        told.add(case.sample.told)
    assert frozenset() in told
    assert any("background" in each for each in told)


def test_what_was_said_is_kept_with_what_is_true(tmp_path):
    evaluate(lambda case: "Two.", tasks=["question"], num_prompts=1, size=SMALL, records=tmp_path / "run.jsonl")
    row = json.loads((tmp_path / "run.jsonl").read_text().splitlines()[1])
    assert row["said"] == "Two."
    assert row["answer"] == world_case("question", 0, seed=0, size=SMALL).answer


@pytest.mark.parametrize("task", ["t2v", "edit", "style_image"])
def test_unchanged_sources_and_black_frames_score_nothing(task):
    assert evaluate(source_or_black, tasks=[task], num_prompts=4, size=SMALL)["tasks"][task]["all_right"]["right"] == 0


def test_one_two_and_three_objects_come_as_sixty_thirty_and_ten_per_cent():
    asked = [len(case.sample.scene.objects) for case in cases("t2v", range(10), seed=0, size=SMALL, media=None)]
    assert asked == list(NUM_OBJECTS)
    assert [asked.count(number) for number in (1, 2, 3)] == [6, 3, 1]


def test_every_combination_asked_for_is_held_out():
    for case in cases("t2v", range(6), seed=0, size=SMALL, media=None):
        assert all(is_held_out(item.shape, item.colour, item.motion) for item in case.sample.scene.objects)


def test_sample_seeds_are_odd_where_training_draws_even_ones():
    assert all(case.sample.seed % 2 for case in cases("t2i", range(6), seed=0, size=SMALL, media=None))


def test_a_case_depends_on_its_task_seed_and_index_alone():
    first, again = (world_case("t2i", 3, seed=1, size=SMALL) for _ in range(2))
    assert (first.prompt, first.seed) == (again.prompt, again.seed)
    assert first.prompt != world_case("t2i", 3, seed=2, size=SMALL).prompt


def test_the_wilson_interval_matches_a_known_value():
    low, high = Score(81, 263).interval  # Newcombe 1998, table I
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert Score(0, 10).interval[0] == 0
    assert Score(10, 10).interval[1] == pytest.approx(1)


# --- records


def stopping_after(number, calls):
    def generate(case):
        if next(calls) == number:
            raise KeyboardInterrupt
        return perfect(case)

    return generate


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    options = {"tasks": ["t2i", "style_image"], "num_prompts": 3, "records": tmp_path / "run.jsonl"}
    with pytest.raises(KeyboardInterrupt):
        evaluate(stopping_after(4, count()), **options)
    made = []
    report = evaluate(lambda case: made.append((case.task, case.index)) or perfect(case), **options)
    assert made == [("style_image", 1), ("style_image", 2)]
    assert [scores["all_right"]["total"] for scores in report["tasks"].values()] == [3, 3]


def test_a_line_cut_short_is_done_again(tmp_path):
    records = tmp_path / "run.jsonl"
    evaluate(perfect, tasks=["t2i"], num_prompts=2, records=records)
    records.write_text(records.read_text()[:-20])
    made = []
    evaluate(lambda case: made.append(case.index) or perfect(case), tasks=["t2i"], num_prompts=2, records=records)
    assert made == [1]
    assert [json.loads(line)["index"] for line in records.read_text().splitlines()[1:]] == [0, 1]


def test_records_of_other_settings_are_not_gone_on_with(tmp_path):
    options = {"tasks": ["t2i"], "num_prompts": 1, "records": tmp_path / "run.jsonl"}
    evaluate(perfect, settings={"steps": 10}, **options)
    with pytest.raises(SuiteError, match="name another --output"):
        evaluate(perfect, settings={"steps": 20}, **options)


def test_what_is_no_record_file_is_refused(tmp_path):
    (tmp_path / "run.jsonl").write_text("hello\n")
    with pytest.raises(SuiteError, match="no results of this suite"):
        evaluate(perfect, tasks=["t2i"], num_prompts=1, records=tmp_path / "run.jsonl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["t2x"]}, "not in the suite"),
        ({"num_prompts": 0}, "at least 1"),
        ({"tasks": ["style_real"]}, "--media"),
    ],
)
def test_what_cannot_be_asked_is_refused(options, message):
    with pytest.raises(SuiteError, match=message):
        evaluate(perfect, **{"tasks": ["t2i"], "num_prompts": 1, **options})


# --- real clips


@pytest.fixture
def media(tmp_path):
    pytest.importorskip("av")
    from loomvideo.media.clip import Clip, write_clip

    folder = tmp_path / "media"
    folder.mkdir()
    ramp = np.broadcast_to(np.linspace(0, 255, 96, dtype=np.uint8)[None, None, :, None], (12, 64, 96, 3))
    frames = (ramp * np.linspace(0.4, 1, 12)[:, None, None, None]).astype(np.uint8)
    write_clip(folder / "clip.mp4", Clip(frames, 8.0), metadata=None, sound_from=None)
    (folder / "README.md").write_text("clips\n")
    return folder


def test_real_clips_are_asked_in_every_style_once(media):
    asked = list(cases("style_real", range(200), seed=0, size=SMALL, media=media))
    assert [case.style for case in asked] == list(STYLES)
    assert {(case.height, case.width, case.num_frames) for case in asked} == {(96, 160, 9)}
    assert all(case.source.shape == (9, 96, 160, 3) for case in asked)


def test_the_formula_scores_all_styles_of_real_clips_right(media):
    scores = evaluate(perfect, tasks=["style_real"], size=SMALL, media=media)["tasks"]["style_real"]
    assert (scores["all_right"]["right"], scores["all_right"]["total"]) == (len(STYLES), len(STYLES))
    assert scores["psnr"]["mean"] == 100


# --- what a person reads


def test_the_table_names_every_task_with_its_counts():
    report = evaluate(perfect, tasks=["t2i", "style_image"], num_prompts=2)
    lines = table(report).splitlines()
    assert [line.split()[0] for line in lines] == ["task", "t2i", "style_image"]
    assert "2/2 = 100.0%" in lines[1]


def test_a_contact_sheet_shows_all_rows(media):
    case = world_case("guided_edit", 0, seed=0, size=SMALL)
    sheet = contact_sheet(case, case.truth(), case.judge(case.truth()))
    assert sheet.dtype == np.uint8
    assert sheet.shape[0] > 4 * case.height  # source, references, output, truth

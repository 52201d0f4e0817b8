"""``loomvideo evaluate`` asks a model for every case, writes its scores, and goes on where it was stopped."""

import argparse
import json

import numpy as np
import pytest

from loomvideo.cli import evaluate as command
from loomvideo.cli.main import main
from loomvideo.evaluation.cases import WORD_TASKS
from loomvideo.systems.request import EVERY_SYSTEM, ModelLimits


class BlackSession:
    """A model that makes black frames."""

    def __init__(self, options, progress):
        self.options = {"system": "loomvideo", "model": "black"} | dict(options)
        self.limits = ModelLimits(
            fps=8.0,
            area=128 * 128,
            max_frames=17,
            default_frames=17,
            max_area=256 * 256,
            tasks=(*EVERY_SYSTEM, "i2v"),
        )

    def generate(self, decided):
        BlackSession.plans.append(decided)
        return np.zeros((decided.output_frames, decided.output_height, decided.output_width, 3), np.uint8)


@pytest.fixture(autouse=True)
def _black(monkeypatch):
    BlackSession.plans = []
    monkeypatch.setattr(command, "Session", BlackSession)


def test_a_model_is_asked_what_it_does():
    limits = ModelLimits(
        fps=8.0, area=128**2, max_frames=17, default_frames=17, max_area=256**2, tasks=("t2i", "t2v", "edit")
    )
    arguments = argparse.Namespace(tasks=None, media=None)
    assert command.chosen_tasks(arguments, limits) == (
        *("t2v", "t2i", "edit", "edit_image", "style", "style_image", "request", "request_image"),
        *WORD_TASKS,
    )


def test_every_task_is_planned_as_its_own(tmp_path, capsys):
    tasks = list(command.GENERATED)
    assert (
        main(
            [
                "evaluate",
                "--tasks",
                ",".join(tasks),
                "--num-prompts",
                "1",
                "--output",
                str(tmp_path / "s.json"),
                "--quiet",
            ]
        )
        == 0
    )
    assert [str(decided.task) for decided in BlackSession.plans] == list(command.GENERATED.values())
    assert capsys.readouterr().out == ""


def test_scores_records_and_sheets_are_written(tmp_path, capsys):
    words = [
        "evaluate",
        "--tasks",
        "t2i",
        "--num-prompts",
        "2",
        "--steps",
        "3",
        "--output",
        str(tmp_path / "out" / "s.json"),
        "--save-samples",
        str(tmp_path / "sheets"),
    ]
    assert main(words) == 0
    report = json.loads((tmp_path / "out" / "s.json").read_text())
    assert report["tasks"]["t2i"]["all_right"]["total"] == 2
    assert report["settings"]["num_inference_steps"] == 3
    assert [decided.num_inference_steps for decided in BlackSession.plans] == [3, 3]
    assert sorted(path.name for path in (tmp_path / "sheets").iterdir()) == ["t2i_0000_wrong.png", "t2i_0001_wrong.png"]
    assert "0/2" in capsys.readouterr().out
    assert main(words) == 0
    assert len(BlackSession.plans) == 2  # the second run found both


class Sage:
    """A language model that is right about pictures and silent about clips."""

    def describe(self, shown, question, *, decoding):
        Sage.asked.append((type(shown).__name__, question, decoding))
        return iter(["two ", "circles"])


class WordSession(BlackSession):
    understanding = Sage()

    @property
    def pipeline(self):
        pytest.fail("the denoiser was loaded for questions")


def test_questions_are_put_to_the_language_model_alone_and_answered_with_the_likeliest_words(
    monkeypatch, tmp_path, capsys
):
    Sage.asked = []
    monkeypatch.setattr(command, "Session", WordSession)
    output = tmp_path / "s.json"
    assert (
        main(["evaluate", "--tasks", ",".join(WORD_TASKS), "--num-prompts", "1", "--output", str(output), "--json"])
        == 0
    )
    assert [kind for kind, _, _ in Sage.asked] == ["Clip", "ndarray", "Clip", "ndarray"]
    assert {decoding.temperature for _, _, decoding in Sage.asked} == {0}
    assert set(json.loads(capsys.readouterr().out)["tasks"]) == set(WORD_TASKS)
    rows = [json.loads(line) for line in output.with_suffix(".jsonl").read_text().splitlines()[1:]]
    assert {row["said"] for row in rows} == {"two circles"}


def test_thinking_is_asked_for_and_part_of_what_was_measured(tmp_path):
    words = ["evaluate", "--tasks", "request,request_image", "--num-prompts", "1", "--quiet"]
    for name, more in (("plain", []), ("think", ["--think"]), ("not", ["--no-think"])):
        assert main([*words, *more, "--output", str(tmp_path / f"{name}.json")]) == 0
    assert [(str(decided.task), decided.think) for decided in BlackSession.plans] == [
        *[("t2v", False), ("t2i", False)],
        *[("t2v", True), ("t2i", True)],
        *[("t2v", False), ("t2i", False)],
    ]
    assert BlackSession.plans[0].prompt == BlackSession.plans[2].prompt
    names = ("plain", "think", "not")
    settings = [json.loads((tmp_path / f"{name}.json").read_text())["settings"] for name in names]
    assert [each.get("think") for each in settings] == [None, True, False]


@pytest.mark.parametrize(
    "words",
    [["--tasks", "t2x"], ["--tasks", ","], ["--tasks", "style_real"], ["--num-prompts", "0"], ["--media", "nowhere"]],
)
def test_what_cannot_be_measured_is_one_line_and_status_two(words, tmp_path, capsys):
    assert main(["evaluate", "--num-prompts", "1", "--output", str(tmp_path / "s.json"), *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: ")

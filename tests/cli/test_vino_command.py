"""VINO from the command line: every task on real files, and the published program's flags and task files."""

import argparse
import json

import pytest

from loomvideo import VinoPipeline
from loomvideo.cli import generate as command
from loomvideo.cli.options import Parser
from loomvideo.media.clip import probe, read_metadata
from vino_parts import published_vino

TASKS = {
    "t2i": ["--num-frames", 1],
    "t2v": [],
    "i2v": ["--task", "i2v", "--reference", "a.png"],
    "mi2v": ["--reference", "a.png", "b.png"],
    "edit_image": ["--source", "a.png"],
    "ref_edit_image": ["--source", "a.png", "--reference", "b.png"],
    "edit": ["--source", "clip.mp4"],
    "ref_edit": ["--source", "clip.mp4", "--reference", "b.png"],
    "clone": ["--task", "clone", "--source", "clip.mp4", "--reference", "b.png"],
    "camera_clone": ["--task", "camera_clone", "--source", "clip.mp4", "--reference", "b.png"],
}


@pytest.fixture
def vino(loomvideo, tiny_vino, inputs, monkeypatch):
    """loomvideo generate --system vino with the tiny model, in the folder of the inputs, unless weights are named."""
    monkeypatch.chdir(inputs)

    def run(*words):
        model = [] if "--ckpt_path" in words else ["--model", tiny_vino]
        return loomvideo("generate", "--system", "vino", *model, *words)

    return run


@pytest.mark.parametrize("task", TASKS)
def test_every_task_runs_on_real_files(vino, tmp_path, task):
    output = tmp_path / f"{task}.{'png' if task in ('t2i', 'edit_image', 'ref_edit_image') else 'mp4'}"
    outcome = vino(*TASKS[task], "--prompt", "a red kite", "--output", output)
    assert (outcome.status, outcome.err) == (0, "")
    recipe = read_metadata(output)
    assert recipe["system"] == "vino"
    assert recipe["task"] == task.removesuffix("_image")
    frames = 1 if output.suffix == ".png" else 9 if "--source" in TASKS[task] else 5
    assert recipe["num_frames"] == frames
    assert probe(output).kind == ("image" if frames == 1 else "video")


def test_clip_tasks_refuse_a_picture_in_place_of_the_clip(vino):
    outcome = vino("--task", "clone", "--source", "a.png", "--reference", "b.png", "--prompt", "x")
    assert outcome.status == 2
    assert "motion is taken from a clip" in outcome.err


def test_a_mark_of_the_language_model_in_a_prompt_is_one_line(vino):
    outcome = vino("--reference", "a.png", "--prompt", "put <|image_pad|> there")
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert "<|image_pad|>" in outcome.err


def test_think_mode_tells_what_became_of_the_prompt(vino, tmp_path):
    outcome = vino("--source", "clip.mp4", "--prompt", "paint it", "--think", "--output", tmp_path / "out.mp4")
    assert (outcome.status, outcome.err) == (0, "")
    assert "think: " in outcome.out
    recipe = read_metadata(tmp_path / "out.mp4")
    assert (recipe["prompt"], recipe["think"]) == ("paint it", True)
    assert recipe["rewritten_prompt"].startswith("paint it")


@pytest.mark.parametrize("file", ["clip.mp4", "a.png"])
def test_it_describes_clips_and_pictures(loomvideo, tiny_vino, inputs, file):
    words = ("--model", tiny_vino, "--max-new-tokens", 3, "--json", "--quiet")
    outcome = loomvideo("describe", inputs / file, *words)
    assert outcome.status == 0
    assert json.loads(outcome.out)["question"]


def test_a_model_of_another_system_is_refused_by_name(loomvideo, tiny_model):
    outcome = loomvideo("generate", "--system", "vino", "--model", tiny_model, "--prompt", "x")
    assert outcome.status == 2
    assert "is a model of loomvideo and not of vino" in outcome.err


# --- the published flags

SAME = [
    ("--output_height 480", "--height 480"),
    ("--output_width 848", "--width 848"),
    ("--output_num_frames 81", "--num-frames 81"),
    ("--guidance_scale 6.5", "--guidance-scale 6.5"),
    ("--guidance_scale_image 3.0", "--guidance-scale-visual 3.0"),
    ("--negative_prompt grey", "--negative-prompt grey"),
    ("--ckpt_path vino.ckpt", "--checkpoint vino.ckpt"),
    ("--output_path out", "--output out"),
]


@pytest.mark.parametrize(("old", "new"), SAME, ids=lambda words: words.split()[0])
def test_a_published_flag_means_what_ours_means(old, new):
    def parsed(words):
        parser = Parser()
        command.add_parser(parser.add_subparsers())
        return parser.parse_args(["generate", "--prompt", "x", *words.split()])

    assert isinstance(parsed(old), argparse.Namespace)
    assert vars(parsed(old)) == vars(parsed(new))


@pytest.fixture
def records(vino, tmp_path):
    """Carries out records with more flags, from JSON; the results by index."""

    def run(records, *flags, content=None):
        file = tmp_path / "task.json"
        file.write_text(json.dumps(records) if content is None else content)
        outcome = vino("--json_path", file, "--output_path", tmp_path / "out", *flags)
        journal = tmp_path / "out" / "results.jsonl"
        entries = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
        return outcome, {entry["id"]: entry for entry in entries}

    return run


RECORDS = [
    {"index": 0, "task": "t2i", "caption": "a kite"},
    {"index": 1, "task": "t2v", "caption": "a kite", "ref_image_paths": None, "ref_video_path": ""},
    {"index": "i2v", "task": "i2v", "caption": "Image 1 moves", "ref_image_paths": ["a.png"]},
    {"index": "ti2v", "task": "ti2v", "caption": "Image 1 meets Image 2", "ref_image_paths": ["a.png", "b.png"]},
    {"index": "ti2i", "task": "ti2i", "caption": "blue", "ref_image_paths": ["a.png"], "ref_image_have_base": False},
    {
        "index": "base",
        "task": "ti2i",
        "caption": "x",
        "ref_image_paths": ["b.png", "a.png"],
        "ref_image_have_base": True,
    },
    {"index": "two", "task": "ti2i", "caption": "x", "ref_image_paths": ["b.png", "a.png"]},
    {"index": "tv2v", "task": "tv2v", "caption": "paint it", "ref_video_path": "clip.mp4"},
    {"index": "tiv2v", "task": "tiv2v", "caption": "x", "ref_image_paths": ["b.png"], "ref_video_path": "clip.mp4"},
]
OURS = {
    "0": ("t2i", 0), "1": ("t2v", 0), "i2v": ("i2v", 1), "ti2v": ("mi2v", 2), "ti2i": ("edit", 0),
    "base": ("ref_edit", 1), "two": ("mi2v", 2), "tv2v": ("edit", 0), "tiv2v": ("ref_edit", 1),
}  # fmt: skip


def test_every_record_of_a_task_file_becomes_a_file_of_its_index(records, tmp_path):
    outcome, results = records(RECORDS)
    assert outcome.status == 0, outcome.err
    assert {name: entry["status"] for name, entry in results.items()} == dict.fromkeys(OURS, "done")
    for name, (task, num_references) in OURS.items():
        recipe = read_metadata(results[name]["output"])
        assert (recipe["task"], len(recipe["references"])) == (task, num_references)
    pictures = {name for name, entry in results.items() if entry["output"].endswith(".png")}
    assert pictures == {"0", "ti2i", "base", "two"}
    assert {file.stem for file in (tmp_path / "out").iterdir()} == {*OURS, "results"}
    again, _ = records(RECORDS)
    assert again.status == 0


def test_the_picture_to_edit_is_the_last_one(records):
    _, results = records([RECORDS[5]])
    recipe = read_metadata(results["base"]["output"])
    assert (recipe["source"], recipe["references"]) == ("a.png", ["b.png"])


def test_nothing_leaks_from_a_record_into_the_next(records):
    """The published program keeps the size and length of an edited picture for all that follows."""
    flags = ["--output_height", 32, "--output_width", 48, "--output_num_frames", 5]
    _, results = records([RECORDS[1], RECORDS[4], {**RECORDS[1], "index": "after"}], *flags)
    before, after = (read_metadata(results[name]["output"]) for name in ("1", "after"))
    assert before == after
    assert (after["height"], after["width"], after["num_frames"]) == (32, 48, 5)
    edited = read_metadata(results["ti2i"]["output"])
    assert edited["num_frames"] == 1
    assert edited["width"] > edited["height"]
    assert (edited["height"], edited["width"]) != (32, 48)


def test_the_guidance_flags_and_the_seed_are_honoured(records):
    flags = ["--guidance_scale", 2.5, "--guidance_scale_image", 2.0, "--seed", 666]
    _, results = records([RECORDS[0], RECORDS[7]], *flags)
    for name in ("0", "tv2v"):
        recipe = read_metadata(results[name]["output"])
        assert (recipe["guidance_scale"], recipe["guidance_scale_visual"], recipe["seed"]) == (2.5, 2.0, 666)


def test_pictures_and_clips_have_each_their_negative_prompt_and_an_empty_one_is_one(records):
    flags = ["--negative_prompt", "grey", "--negative_prompt_video", ""]
    _, results = records([RECORDS[0], RECORDS[1]], *flags)
    assert [read_metadata(results[name]["output"])["negative_prompt"] for name in ("0", "1")] == ["grey", ""]


def test_a_request_of_one_frame_takes_the_negative_prompt_of_pictures(records):
    _, results = records([RECORDS[1]], "--negative_prompt", "grey", "--output_num_frames", 1)
    assert read_metadata(results["1"]["output"])["negative_prompt"] == "grey"


BAD_RECORDS = [
    ({"task": "t2i", "caption": "x"}, "has no id"),
    ({"index": "../up", "task": "t2i", "caption": "x"}, "names no file"),
    ({"index": 1, "task": "v2t", "caption": "x"}, "task='v2t': there is no such task"),
    ({"index": 1, "task": "t2i"}, "caption=None: must be text"),
    ({"index": 1, "task": "t2i", "caption": ""}, "prompt is empty"),
    ({"index": 1, "task": "tv2v", "caption": "x"}, "give ref_video_path"),
    ({"index": 1, "task": "ti2i", "caption": "x", "ref_image_paths": []}, "give ref_image_paths"),
    ({"index": 1, "task": "t2v", "caption": "x", "ref_video_path": "clip.mp4"}, "takes no ref_video_path"),
    ({"index": 1, "task": "t2v", "caption": "x", "ref_image_paths": ["a.png"]}, "task=t2v takes no source and no ref"),
    ({"index": 1, "task": "ti2v", "caption": "x", "ref_image_paths": [3]}, "ref_image_paths=[3]: must be a path or"),
    ({"index": 1, "task": "ti2v", "caption": "x", "ref_image_paths": ["no.png"]}, "no.png"),
    ({"index": 1, "task": "tv2v", "caption": "x", "ref_video_path": "a.png.mp4"}, "a.png.mp4"),
    (
        {"index": 1, "task": "ti2i", "caption": "x", "ref_image_paths": "a.png", "ref_image_have_base": "yes"},
        "have_base",
    ),
    ("t2i", "no JSON object"),
]


def test_a_bad_record_is_a_failed_entry_and_the_others_are_made(records):
    bad = [
        {**record, "index": f"bad{i}"} if isinstance(record, dict) and record.get("index") == 1 else record
        for i, (record, _) in enumerate(BAD_RECORDS)
    ]
    outcome, results = records([*bad, RECORDS[0]])
    assert outcome.status == 1
    assert results["0"]["status"] == "done"
    failed = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(failed) == len(BAD_RECORDS)
    for line, (_, message) in zip(failed, BAD_RECORDS, strict=True):
        assert message in line


def test_a_path_is_never_evaluated(records, tmp_path):
    """The published program calls eval on it."""
    trap = f"__import__('pathlib').Path({str(tmp_path / 'made')!r}).touch()"
    outcome, _ = records([{"index": 1, "task": "ti2v", "caption": "x", "ref_image_paths": trap}])
    assert outcome.status == 1
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(("content", "message"), [("{}", "holds no list"), ("[1,", "no JSON")])
def test_a_file_that_is_no_list_of_records_is_one_line(records, content, message):
    outcome, _ = records([], content=content)
    assert outcome.status == 2
    assert message in outcome.err


@pytest.mark.parametrize("words", [["--prompt", "x"], ["--source", "clip.mp4"], ["--like", "a.png"], ["--batch", "x"]])
def test_what_the_records_say_may_not_be_said_besides(records, words):
    outcome, _ = records([RECORDS[0]], *words)
    assert outcome.status == 2
    assert words[0] in outcome.err or "carries no recipe" in outcome.err


def test_the_negative_prompt_of_videos_belongs_to_records(vino):
    outcome = vino("--prompt", "x", "--negative_prompt_video", "grey")
    assert outcome.status == 2
    assert "--json_path" in outcome.err


# --- published weights as they are


@pytest.fixture
def weights(tiny_vino, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    published_vino(VinoPipeline.from_pretrained(tiny_vino), tmp_path / "checkpoints")
    return [
        *("--ckpt_path", tmp_path / "checkpoints" / "vino.ckpt"),
        *("--mm_encoder_path", tmp_path / "checkpoints" / "qwen-4b"),
        *("--vae_path", tmp_path / "checkpoints" / "hunyuan" / "vae"),
        *("--transformer_path", tmp_path / "checkpoints" / "hunyuan"),
    ]


def test_an_old_command_line_works_as_it_is(records, weights, tmp_path):
    flags = ["--output_height", 48, "--output_width", 64, "--output_num_frames", 5, "--steps", 2]
    outcome, results = records([RECORDS[1]], *weights, *flags)
    assert outcome.status == 0, outcome.err
    recipe = read_metadata(results["1"]["output"])
    assert (recipe["fps"], recipe["guidance_scale"], recipe["height"], recipe["width"]) == (24, 7.0, 48, 64)
    (folder,) = (tmp_path / "cache" / "loomvideo" / "published").iterdir()
    made = folder.stat().st_mtime_ns
    records([{**RECORDS[1], "index": "again"}], *weights, *flags)
    assert folder.stat().st_mtime_ns == made


def test_vae_and_transformer_of_two_repositories_are_refused(records, weights, tmp_path):
    outcome, _ = records([RECORDS[0]], *weights[:-1], tmp_path / "elsewhere")
    assert outcome.status == 2
    assert "name one HunyuanVideo repository" in outcome.err

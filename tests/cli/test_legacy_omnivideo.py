"""An old command line of Omni-Video's programs needs only `loomvideo generate --system omnivideo` before it."""

import argparse
import json
import shlex

import pytest

from loomvideo import OmniVideoPipeline
from loomvideo.cli import generate as command
from loomvideo.cli import published_omnivideo
from loomvideo.cli.options import MODEL_OPTIONS, REQUEST_OPTIONS, Parser, UsageError, given
from loomvideo.media.clip import read_clip, read_metadata
from omnivideo_parts import first_release, mllm_of, release_first, release_second, second_release, wan_base_of

SAME = [
    ("--src_file_path in.mp4", "--source in.mp4"),
    ("--save_file out.mp4", "--output out.mp4"),
    ("--frame_num 17", "--num-frames 17"),
    ("--sample_fps 8", "--fps 8"),
    ("--sample_steps 40", "--steps 40"),
    ("--base_seed 7", "--seed 7"),
    ("--ckpt_dir released", "--checkpoint released"),
    ("--prompt_file lines.jsonl", "--batch lines.jsonl"),
    ("--output_dir out", "--output-dir out"),
    ("--task t2v-A14B", "--task t2v"),
    ("--task t2v-1.3B", "--task t2v"),
    *[(f"--task {task}", "--task edit") for task in ("i2i", "v2v", "v2v-A14B", "v2v-1.3B")],
]


def parsed(words: str) -> argparse.Namespace:
    parser = Parser()
    commands = parser.add_subparsers()
    command.add_parser(commands)
    return parser.parse_args(["generate", "--prompt", "x", *shlex.split(words)])


def left_open(words: str) -> dict:
    """What a command line's own flags say, as options."""
    arguments = parsed(words)
    return published_omnivideo.defaults(arguments, given(arguments, (*REQUEST_OPTIONS, *MODEL_OPTIONS)))


@pytest.mark.parametrize(("old", "new"), SAME, ids=lambda words: words.split()[0])
def test_an_old_option_means_what_the_new_one_means(old, new):
    assert vars(parsed(old)) == vars(parsed(new))


@pytest.fixture(scope="module")
def released(tiny_model, tmp_path_factory):
    """Both releases as they are published, with a base inside, and a language model."""
    folder = tmp_path_factory.mktemp("released")
    first, second = first_release(tiny_model, stored=True), second_release(tiny_model)
    wan_base_of(first, release_first(first, folder / "first") / "wan/wanxiang1_3b")
    wan_base_of(second, release_second(second, folder / "second"))
    mllm_of(first, folder / "qwen")
    return folder


@pytest.fixture
def brief(monkeypatch):
    """A language model of random weights would go on for long."""
    monkeypatch.setattr(OmniVideoPipeline, "say", lambda self, chat: "a star")


# --- what the flags say


@pytest.mark.parametrize(("model", "scale"), [("first", 6.0), ("released", 5.0), ("second", 5.0)])
def test_a_scale_has_the_effect_that_it_had(omnivideo_models, model, scale):
    assert left_open(f"--model {omnivideo_models / model} --sample_guide_scale 5.0")["guidance_scale"] == scale


def test_a_size_is_width_by_height(omnivideo_models):
    said = left_open(f"--model {omnivideo_models / 'first'} --size 832*480")
    assert (said["height"], said["width"]) == (480, 832)


@pytest.mark.parametrize(
    ("model", "source", "size"),
    [
        ("first", "clip.mp4", (352, 640)),
        ("first", "a.png", (480, 480)),
        ("second", "clip.mp4", (480, 832)),
        ("first", None, None),
    ],
)
def test_without_a_size_an_edit_has_that_of_its_program(omnivideo_models, inputs, model, source, size):
    words = f"--model {omnivideo_models / model} --sample_guide_scale 3" + (
        f" --source {inputs / source}" if source else ""
    )
    said = left_open(words)
    assert (None if size is None else (said["height"], said["width"])) == size
    assert "height" in said or size is None


def test_the_second_release_s_videos_have_a_seed_of_their_own(omnivideo_models, inputs):
    assert left_open(f"--model {omnivideo_models / 'second'} --size 64*64")["seed"] == 1818
    assert "seed" not in left_open(f"--model {omnivideo_models / 'second'} --size 64*64 --source {inputs / 'clip.mp4'}")
    assert "seed" not in left_open(f"--model {omnivideo_models / 'first'} --size 64*64")


def test_without_such_flags_nothing_is_said(omnivideo_models):
    assert left_open(f"--model {omnivideo_models / 'first'} --frame_num 5") == {}


@pytest.mark.parametrize("words", ["--sample_solver unipc", "--sample_shift 5.0", "--max_context_len 2000"])
def test_what_the_model_folder_says_too_may_be_repeated(omnivideo_models, words):
    assert left_open(f"--model {omnivideo_models / 'first'} {words}") == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--sample_solver dpm++", "says unipc"),
        ("--sample_shift 3", "says 5"),
        ("--max_context_len 1024", "says 2000"),
        ("--use_visual_as_input", "no published weights were trained with it"),
        ("--condition_mode text_only", "there is only full"),
        ("--skip_num 4", "cut it before"),
        ("--size 832", r"width\*height"),
        ("--new_checkpoint a.pt", "--ckpt_dir"),
        ("--new_checkpoint_high a.pt", "go together"),
    ],
)
def test_what_would_be_read_otherwise_is_refused(omnivideo_models, words, message):
    with pytest.raises(UsageError, match=message):
        left_open(f"--model {omnivideo_models / 'first'} {words}")


def test_these_flags_are_not_for_another_system(tiny_model):
    with pytest.raises(UsageError, match="say --system omnivideo"):
        left_open(f"--model {tiny_model} --sample_guide_scale 5")


def test_flags_without_effect_are_read(omnivideo_models):
    words = "--adapter_in_channels 1152 --use_visual_context_adapter --ar_conv_mode llama_3 --sp_size 1 --t5_fsdp"
    assert left_open(f"--model {omnivideo_models / 'first'} {words} --condition_mode full --skip_num 0") == {}


# --- whole command lines

FIRST = "--size 64*64 --sample_steps 2 --sample_guide_scale 5.0 --sample_shift 5.0 --sample_solver unipc --base_seed 1"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "loomvideo" / "published"


def test_an_old_command_line_of_the_first_release_works_as_it_is(loomvideo, released, cache, inputs):
    model = ("--system", "omnivideo", "--ckpt_dir", released / "first", "--qwen3vl_model_path", released / "qwen")
    words = ("generate", *model, *FIRST.split(), "--use_visual_context_adapter")
    made = loomvideo(*words, "--task", "t2v", "--prompt", "a star", "--frame_num", 5, "--save_file", "star.mp4")
    assert (made.status, made.err) == (0, "")
    recipe = read_metadata("star.mp4")
    assert (recipe["guidance_scale"], recipe["fps"], recipe["height"]) == (6.0, 16, 64)
    edited = loomvideo(
        *words, "--task", "v2v", "--src_file_path", inputs / "clip.mp4", "--prompt", "snow", "--save_file", "snow.mp4"
    )
    assert (edited.status, edited.err) == (0, "")
    assert read_metadata("snow.mp4")["fps"] == 8
    assert len(read_clip("snow.mp4", fps=8, max_frames=81).frames) == 9
    assert len(list(cache.iterdir())) == 1  # one model folder for both


def test_an_old_command_line_of_the_second_release_works_as_it_is(loomvideo, released, cache, brief, tmp_path):
    high, low = (released / f"second/{level}_noise_model/model.pt" for level in ("high", "low"))
    model = ("--system", "omnivideo", "--ckpt_dir", released / "second", "--qwen3vl_model_path", released / "qwen")
    lines = [{"sample_id": "a", "Prompt": "a star", "num_frames": 5}, {"id": "b", "prompt": "a ring", "num_frames": 1}]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    made = loomvideo(
        *("generate", *model, "--new_checkpoint_high", high, "--new_checkpoint_low", low, "--max_context_len", 1500),
        *("--size", "64*64", "--sample_steps", 2, "--prompt_file", "lines.jsonl", "--output_dir", "out"),
    )
    assert (made.status, made.err) == (0, "")
    assert read_metadata(tmp_path / "out/a.mp4")["seed"] == 1818
    assert (tmp_path / "out/b.png").is_file()
    [folder] = cache.iterdir()
    assert OmniVideoPipeline.from_pretrained(folder).transformer.config["max_context_len"] == 1500


def test_another_solver_makes_another_folder(loomvideo, released, cache):
    model = ("--system", "omnivideo", "--ckpt_dir", released / "first", "--qwen3vl_model_path", released / "qwen")
    rest = ("--size", "64*64", "--sample_steps", 2, "--prompt", "x", "--num-frames", 1, "--output", "x.png")
    for solver in ("unipc", "dpm++"):
        assert loomvideo("generate", *model, *rest, "--sample_solver", solver).status == 0
    assert len(list(cache.iterdir())) == 2
    kinds = {type(OmniVideoPipeline.from_pretrained(folder).scheduler).__name__ for folder in cache.iterdir()}
    assert kinds == {"WanUniPCScheduler", "WanDPMSolverScheduler"}

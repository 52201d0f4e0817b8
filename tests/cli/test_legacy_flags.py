"""An old command line of the published program needs only its launcher replaced (fact sheet 7.3 and 7.4)."""

import argparse
import json

import pytest
import yaml

from loomvideo.cli import generate as command
from loomvideo.cli.options import Parser
from loomvideo.media.clip import probe, read_clip, read_metadata
from published_parts import published_parts

SAME = [
    ("--source_video_path in.mp4", "--source in.mp4"),
    ("--ref_image_paths a.png b.png", "--reference a.png --reference b.png"),
    ("--num_inference_steps 30", "--steps 30"),
    ("--num_frames 17", "--num-frames 17"),
    ("--guidance_scale 4.5", "--guidance-scale 4.5"),
    ("--guidance_scale_visual 1.2", "--guidance-scale-visual 1.2"),
    ("--negative_prompt grey", "--negative-prompt grey"),
    ("--output_path out.mp4", "--output out.mp4"),
    ("--ckpt_path gen_model.pth", "--checkpoint gen_model.pth"),
    ("--config_path inference.yaml", "--config inference.yaml"),
    ("--seed -1", "--seed -1"),
    *[(f"--task {task}", f"--task {task}") for task in ("t2v", "edit", "ref_edit", "mi2v")],
]


def parsed(words: str) -> argparse.Namespace:
    parser = Parser()
    commands = parser.add_subparsers()
    command.add_parser(commands)
    return parser.parse_args(["generate", "--prompt", "x", *words.split()])


@pytest.mark.parametrize(("old", "new"), SAME, ids=lambda words: words.split()[0])
def test_an_old_option_means_what_the_new_one_means(old, new):
    assert vars(parsed(old)) == vars(parsed(new))


@pytest.fixture
def published(tiny_model, tmp_path, monkeypatch):
    """The published layout in small: gen_model.pth and inference.yaml in the working folder."""
    import torch
    from safetensors.torch import load_file

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = published_parts(tiny_model, tmp_path / "parts")
    (tmp_path / "inference.yaml").write_text(yaml.safe_dump(config))
    torch.save(
        load_file(tiny_model / "transformer" / "diffusion_pytorch_model.safetensors"), tmp_path / "gen_model.pth"
    )
    return config


OLD = "--config_path inference.yaml --ckpt_path gen_model.pth --height 64 --width 64 --num_inference_steps 2 --seed 1"


def test_an_old_command_line_works_as_it_is(loomvideo, published, tmp_path):
    outcome = loomvideo(
        *("generate", *OLD.split(), "--task", "t2v", "--prompt", "a star", "--num_frames", 5),
        *("--output_path", "results/star.mp4"),
    )
    assert (outcome.status, outcome.err) == (0, "")
    assert len(read_clip("results/star.mp4", fps=24, max_frames=81).frames) == 5
    recipe = read_metadata("results/star.mp4")
    assert (recipe["fps"], recipe["guidance_scale"], recipe["guidance_scale_visual"]) == (24, 4.0, 1.25)
    assert recipe["negative_prompt"] == "Generate an image: grey"


def test_the_model_folder_is_made_once_and_holds_the_configurations_settings(loomvideo, published, tmp_path):
    words = ("generate", *OLD.split(), "--task", "t2v", "--prompt", "x", "--num_frames", 1)
    assert loomvideo(*words, "--output_path", "a.png").status == 0
    (folder,) = (tmp_path / "cache" / "loomvideo" / "published").iterdir()
    index = json.loads((folder / "model_index.json").read_text())
    assert (index["frame_rule"]["factor"], index["only_last_layer"]) == (4, False)
    made = folder.stat().st_mtime_ns
    assert loomvideo(*words, "--output_path", "b.png").status == 0
    assert folder.stat().st_mtime_ns == made
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def with_config(tiny_model, *words):
    """The published defaults, with the tiny model in place of an imported one."""
    return ("generate", "--config_path", "inference.yaml", "--model", tiny_model, "--prompt", "x", *words)


def test_an_edit_takes_its_own_guidance_and_the_sources_own_size(loomvideo, published, tiny_model, inputs):
    words = with_config(tiny_model, "--task", "edit", "--source_video_path", inputs / "clip.mp4")
    assert loomvideo(*words, "--output_path", "out.mp4").status == 0
    assert read_metadata("out.mp4")["guidance_scale"] == 2.0
    assert (probe("out.mp4").width, probe("out.mp4").height) == (96, 64)


def test_a_multi_image_video_takes_the_first_references_size(loomvideo, published, tiny_model, inputs):
    words = with_config(tiny_model, "--task", "mi2v", "--ref_image_paths", inputs / "a.png", inputs / "b.png")
    assert loomvideo(*words, "--height", 32, "--output_path", "out.mp4").status == 0
    assert (probe("out.mp4").width, probe("out.mp4").height) == (96, 32)
    assert read_metadata("out.mp4")["guidance_scale"] == 4.0


def test_options_win_over_the_configuration(loomvideo, published, tiny_model):
    words = with_config(tiny_model, "--guidance_scale", 3, "--negative_prompt", "", "--num_frames", 1)
    loomvideo(*words, "--output_path", "out.png")
    recipe = read_metadata("out.png")
    assert (recipe["guidance_scale"], recipe["negative_prompt"]) == (3.0, "")


def test_one_frame_for_an_mp4_is_written_as_jpg(loomvideo, published, tiny_model, tmp_path):
    loomvideo(*with_config(tiny_model, "--num_frames", 1, "--output_path", "star.mp4"))
    assert (tmp_path / "star.jpg").is_file()
    assert not (tmp_path / "star.mp4").exists()


@pytest.mark.parametrize(("num_frames", "suffix"), [(1, "png"), (5, "mp4")])
def test_without_a_path_the_file_is_named_as_it_was(loomvideo, published, tiny_model, tmp_path, num_frames, suffix):
    loomvideo(*with_config(tiny_model, "--task", "t2v", "--num_frames", num_frames))
    (made,) = (tmp_path / "outputs").iterdir()
    assert made.match(f"loomvideo_t2v_????????_??????.{suffix}")


def test_a_configuration_without_weights_says_what_is_missing(loomvideo, published):
    outcome = loomvideo("generate", "--config_path", "inference.yaml", "--prompt", "x")
    assert outcome.status == 2
    assert "--checkpoint" in outcome.err

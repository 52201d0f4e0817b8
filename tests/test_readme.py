"""Every command of the README runs as it stands there."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loomvideo.cli.main import main
from loomvideo.data.world.render import render
from loomvideo.data.world.scene import Background, Object, Scene
from loomvideo.media.clip import Clip, write_clip, write_picture

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.strip().splitlines()]
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.S)
HUB = {
    "Qwen/Qwen3-VL-8B-Instruct": "mllm",
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": "base",
    "Qwen/Qwen3-VL-4B-Instruct": "qwen-4b",
    "hunyuanvideo-community/HunyuanVideo": "hunyuan",
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": "wan-1.3b",
}


@pytest.fixture(scope="module", autouse=True)
def small_vino():
    """Published sizes are too large for a test."""
    from loomvideo.cli import import_omnivideo, import_vino

    small = {"area": 48 * 64, "reference_area": 48 * 64, "default_frames": 5, "max_frames": 9, "num_inference_steps": 2}
    defaults = {"task_defaults": {}, "default_height": 48, "default_width": 64}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_vino, "PUBLISHED_LIMITS", replace(import_vino.PUBLISHED_LIMITS, **small, **defaults))
        limits = replace(import_omnivideo.FIRST_LIMITS, **{**small, "reference_area": None}, **defaults)
        patch.setattr(import_omnivideo.OmniVideoWeights, "limits", limits)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model, tiny_vino):
    """The files that the README's commands speak of, and small stand-ins for the published repositories."""
    import torch
    from safetensors.torch import load_file

    from loomvideo import VinoPipeline
    from omnivideo_parts import base_of, first_release, release_first
    from published_parts import published_parts
    from vino_parts import published_vino

    folder = tmp_path_factory.mktemp("readme")
    scene = Scene(
        objects=(Object(shape="circle", colour="red", motion="moves right", x=0.25, travel=0.5),),
        background=Background(colours=("blue",)),
    )
    write_clip(folder / "in.mp4", Clip(render(scene), 8.0))
    for name, colour in (("ref", "green"), ("a", "yellow"), ("b", "pink")):
        picture = Scene(objects=(Object(shape="star", colour=colour),), background=Background(colours=("white",)))
        write_picture(folder / f"{name}.png", render(picture, num_frames=1)[0])
    request = '{"id": "one", "prompt": "a green heart", "num_frames": 1}\n'
    (folder / "requests.jsonl").write_text(request)
    published_parts(tiny_model, folder)
    weights = {}
    for file in (tiny_model / "transformer").glob("*.safetensors"):
        weights |= load_file(file)
    torch.save(weights, folder / "gen_model.pth")
    published_vino(VinoPipeline.from_pretrained(tiny_vino), folder)
    omnivideo = first_release(tiny_model, stored=True)
    release_first(omnivideo, folder / "omni-video")
    base_of(omnivideo, folder / "wan-1.3b")
    (folder / "task.json").write_text('[{"index": 1, "task": "t2i", "caption": "a green heart"}]')
    return folder


def local(word):
    return HUB.get(word, word)


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("loomvideo ")])
def test_a_command_of_the_readme_runs(command, folder, monkeypatch, capsys):
    """In the README's order, since some read what others wrote; the published repositories are small local ones."""
    monkeypatch.chdir(folder)
    words = [local(word) for word in shlex.split(command, comments=True)[1:]]
    assert main(words) == 0, capsys.readouterr().err
    if "--output" in words and "--dry-run" not in words:
        assert Path(words[words.index("--output") + 1]).exists()


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("make ")])
def test_a_make_target_of_the_readme_exists(command):
    target = shlex.split(command, comments=True)[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def test_there_is_no_other_kind_of_command():
    assert all(line.startswith(("loomvideo ", "make ")) for line in COMMANDS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_of_the_readme_runs(program):
    names: dict = {}
    exec(program, names)
    assert names["frames"].ndim == 4
    assert np.isfinite(names["frames"]).all()


def test_every_file_that_the_readme_links_to_exists():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert all((ROOT / link).exists() for link in links)

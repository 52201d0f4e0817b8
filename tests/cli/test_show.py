"""An output carries what it was made from."""

import json

import pytest

from loomvideo import __version__


@pytest.mark.parametrize("name", ["out.mp4", "out.webm", "out.gif", "out.png", "out.jpg"])
def test_every_format_carries_its_recipe(generate, loomvideo, tiny_model, tmp_path, name):
    made = generate("--prompt", "a “quoted” star ★", "--seed", 3, "--output", tmp_path / name, "--json")
    recipe = json.loads(loomvideo("show", tmp_path / name, "--json").out)
    assert recipe == json.loads(made.out)["recipe"]
    expected = {
        "prompt": "a “quoted” star ★",
        "seed": 3,
        "model": str(tiny_model),
        "system": "loomvideo",
        "version": __version__,
        "num_inference_steps": 2,
    }
    assert expected.items() <= recipe.items()


def test_the_recipe_names_source_and_references_as_they_were_typed(generate, loomvideo, inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(inputs)
    words = ("--source", "clip.mp4", "--reference", "a.png", "b.png", "--prompt", "use Image 2")
    generate(*words, "--output", tmp_path / "out.mp4")
    recipe = json.loads(loomvideo("show", tmp_path / "out.mp4", "--json").out)
    assert (recipe["source"], recipe["references"]) == ("clip.mp4", ["a.png", "b.png"])


def test_show_prints_one_line_for_each_thing_known(generate, loomvideo, tmp_path):
    generate("--prompt", "a star", "--output", tmp_path / "out.mp4")
    lines = [line.split(maxsplit=1) for line in loomvideo("show", tmp_path / "out.mp4").out.splitlines()]
    assert lines[0] == ["prompt", "a star"]
    assert ["seed", "0"] in lines


def test_a_file_without_recipe_is_said_to_have_none(loomvideo, inputs):
    outcome = loomvideo("show", inputs / "clip.mp4")
    assert outcome.status == 2
    assert outcome.err.startswith(f"error: {inputs / 'clip.mp4'}: carries no recipe")

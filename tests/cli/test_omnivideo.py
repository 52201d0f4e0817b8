"""Omni-Video from the command line, on real files."""

import json
import shutil

import pytest

from loomvideo import OmniVideoPipeline
from loomvideo.models.reader import QwenReader


@pytest.mark.parametrize(
    "words",
    [
        ("--output", "out.mp4"),
        ("--output", "out.png"),
        ("--source", "clip.mp4", "--output", "out.mp4"),
        ("--source", "a.png", "--output", "out.png"),
        ("--reference", "a.png", "--output", "out.mp4"),
        ("--reference", "a.png", "--task", "i2v", "--output", "out.mp4"),
    ],
    ids=" ".join,
)
def test_every_task_runs_on_real_files_and_again_from_its_recipe(loomvideo, omnivideo_models, inputs, tmp_path, words):
    words = [inputs / word if (inputs / word).is_file() else word for word in words]
    words[-1] = tmp_path / words[-1]
    made = loomvideo("generate", "--model", omnivideo_models / "first", "--prompt", "a star", *words)
    assert (made.status, made.err) == (0, "")
    again = words[-1].with_stem("again")
    assert loomvideo("generate", "--like", words[-1], "--output", again, *words[:-2]).status == 0
    assert again.read_bytes() == words[-1].read_bytes()


def test_a_source_that_does_not_fit_the_context_is_told_in_one_line(loomvideo, omnivideo_models, inputs, tmp_path):
    shutil.copytree(omnivideo_models / "first", tmp_path / "short")
    file = tmp_path / "short/transformer/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_context_len": 22}))
    edit = (
        "--source",
        inputs / "clip.mp4",
        "--prompt",
        "a",
        "--negative-prompt",
        "b",
        "--output",
        tmp_path / "out.mp4",
    )
    made = loomvideo("generate", "--model", tmp_path / "short", *edit)
    assert made.status == 0
    assert made.err.startswith("warning: the context has room for ")
    assert made.err.count("\n") == 1
    too_long = loomvideo("generate", "--model", tmp_path / "short", *edit, "--prompt", "a" * 40)
    assert too_long.status == 2
    assert too_long.err.endswith("shorten the prompt\n")


def test_questions_are_answered_without_what_makes_pixels(loomvideo, omnivideo_models, inputs, monkeypatch):
    loaded = []
    genuine = OmniVideoPipeline.from_pretrained
    monkeypatch.setattr(
        OmniVideoPipeline, "from_pretrained", lambda *words, **parts: loaded.append(parts) or genuine(*words, **parts)
    )
    asked = loomvideo("describe", inputs / "clip.mp4", "--model", omnivideo_models / "second", "--max-new-tokens", 3)
    assert asked.status == 0
    left_out = {name for name, part in loaded[0].items() if part is None}
    assert {"transformer", "transformer_2", "text_encoder", "vae", "state_projection"} <= left_out


def test_weights_in_the_model_list_are_counted_part_by_part(loomvideo, omnivideo_models):
    line = loomvideo("models", omnivideo_models / "first").out.splitlines()[-1]
    assert line.startswith(f"{omnivideo_models / 'first'}: omnivideo, ")
    assert "adapter " in line
    assert "text_encoder " in line


def test_a_request_that_is_thought_about_is_carried_out_as_it_was_rewritten(
    loomvideo, omnivideo_models, inputs, tmp_path, monkeypatch
):
    monkeypatch.setattr(QwenReader, "answer", lambda self, chat, decoding: iter(["a green ", "star"]))
    model = ("generate", "--model", omnivideo_models / "first")
    thought = loomvideo(*model, "--prompt", "star", "--think", "--output", tmp_path / "thought.mp4")
    assert thought.out.splitlines()[0] == "think: a green star"
    assert json.loads(loomvideo("show", tmp_path / "thought.mp4", "--json").out)["rewritten_prompt"] == "a green star"
    edit = loomvideo(
        *(*model, "--source", inputs / "a.png", "--prompt", "Green.", "--think", "--output", tmp_path / "edit.png")
    )
    assert "think: Green. a green star" in edit.out

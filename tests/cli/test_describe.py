"""Questions about clips and pictures, and requests that are thought about first."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from loomvideo import LoomVideoPipeline
from loomvideo.media.clip import read_metadata
from loomvideo.models.reader import Decoding
from loomvideo.systems.pipeline import VideoPipeline
from loomvideo.systems.plan import plan
from loomvideo.systems.request import Request


@pytest.fixture
def describe(loomvideo, tiny_model):
    def run(*words):
        return loomvideo("describe", "--model", tiny_model, "--max-new-tokens", 6, *words)

    return run


@pytest.fixture
def answers(monkeypatch):
    """Makes the language model say something: answers("a star")."""

    def say(text):
        monkeypatch.setattr(VideoPipeline, "reader", property(lambda self: Parrot(text)))

    return say


class Parrot:
    def __init__(self, text):
        self.text = text

    def answer(self, chat, decoding):
        return iter(self.text.split(" "))


@pytest.mark.parametrize("name", ["clip.mp4", "a.png"])
def test_an_answer_is_printed_as_it_comes_and_whole_as_json(describe, answers, inputs, name):
    answers("two circles")
    assert describe(inputs / name).out == "twocircles\n"
    told = json.loads(describe(inputs / name, "--question", "how many?", "--json").out)
    assert (told["question"], told["answer"]) == ("how many?", "twocircles")


def test_the_same_seed_gives_the_same_answer(describe, inputs):
    first, second = (describe(inputs / "clip.mp4", "--temperature", 1, "--top-p", 1, "--seed", 3).out for _ in range(2))
    assert first == second


def test_only_the_language_model_is_loaded(tiny_model):
    pipeline = LoomVideoPipeline.from_pretrained(tiny_model, transformer=None, vae=None)
    assert (pipeline.transformer, pipeline.vae) == (None, None)
    assert pipeline.reader.mllm is pipeline.mllm


def test_asking_changes_no_random_numbers(tiny_model, inputs):
    pipeline = LoomVideoPipeline.from_pretrained(tiny_model, transformer=None, vae=None)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    "".join(pipeline.describe(inputs / "a.png", "what?", decoding=Decoding(temperature=1, max_new_tokens=3)))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--question", " "), "question is empty"),
        (("--temperature", -1), "temperature is at least 0"),
        (("--top-p", 2), "top_p above 0 and at most 1"),
        (("--max-new-tokens", 0), "one token is made"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(describe, inputs, words, message):
    outcome = describe(inputs / "a.png", *words)
    assert (outcome.status, outcome.out) == (2, "")
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_missing_file_is_told_before_the_model_is_loaded(describe, no_loading, tmp_path):
    assert "no such file" in describe(tmp_path / "no.mp4").err


def test_a_rewritten_prompt_is_printed_and_kept(generate, loomvideo, answers, tmp_path):
    answers("bigstar")
    made = generate("--prompt", "star", "--think", "--output", tmp_path / "out.mp4")
    assert made.out.splitlines()[0] == "think: bigstar"
    recipe = json.loads(loomvideo("show", tmp_path / "out.mp4", "--json").out)
    assert (recipe["prompt"], recipe["think"], recipe["rewritten_prompt"]) == ("star", True, "bigstar")
    again = generate("--like", tmp_path / "out.mp4", "--output", tmp_path / "again.mp4")
    assert again.status == 0
    assert (
        loomvideo("show", tmp_path / "again.mp4", "--json").out == loomvideo("show", tmp_path / "out.mp4", "--json").out
    )
    assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "out.mp4").read_bytes()


@pytest.fixture
def thinking_model(tiny_model, tmp_path):
    """The tiny model with limits that say to think."""
    folder = tmp_path / "thinks"
    shutil.copytree(tiny_model, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["limits"]["think"] = True
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(("words", "thought"), [([], True), (["--think"], True), (["--no-think"], False)])
def test_a_model_may_think_by_default_and_files_are_made_again_as_they_were(
    generate, answers, thinking_model, tmp_path, words, thought
):
    answers("bigstar")
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    made = generate("--model", thinking_model, "--prompt", "star", *words, "--output", first)
    assert ("think: bigstar" in made.out) is thought
    recipe = read_metadata(first)
    assert (recipe["think"], recipe.get("rewritten_prompt")) == (thought, "bigstar" if thought else None)
    assert generate("--like", first, "--output", again).status == 0
    assert again.read_bytes() == first.read_bytes()
    generate("--like", first, "--no-think", "--output", again)
    assert "rewritten_prompt" not in read_metadata(again)


def test_a_recipe_says_nothing_of_thinking_where_nobody_did(generate, tmp_path):
    generate("--prompt", "star", "--output", tmp_path / "out.png")
    assert not {"think", "rewritten_prompt"} & set(read_metadata(tmp_path / "out.png"))


def test_thinking_that_loses_a_reference_is_not_followed(generate, answers, inputs, tmp_path):
    answers("nothing of it")
    reference = ("--reference", inputs / "a.png", "--prompt", "the object in Image 1 moves")
    made = generate(*reference, "--think", "--output", tmp_path / "out.mp4")
    assert "was not used, it lost Image 1" in made.out
    plain = generate(*reference, "--output", tmp_path / "plain.mp4")
    assert plain.status == made.status == 0


def test_a_memory_limit_holds_for_what_reads_alone(describe, answers, inputs):
    """The denoiser and the VAE are not loaded, so they are not counted."""
    answers("two circles")
    told = describe(inputs / "a.png", "--memory-limit", "20GB")
    assert told.out == "twocircles\n"
    assert "needed of 20.00 GB" in told.err
    assert "this model needs" in describe(inputs / "a.png", "--memory-limit", "1MB").err


def test_frames_that_are_streamed_are_thought_about_too(tiny_model, answers):
    """As those that are made at once; `evaluate` streams."""
    answers("a-red-star")
    pipeline = LoomVideoPipeline.from_pretrained(tiny_model)
    pipeline.set_progress_bar_config(disable=True)
    asked = plan(Request(prompt="a star", num_frames=1, num_inference_steps=1, seed=0, think=True), pipeline.limits)
    made = pipeline.generate(asked)
    assert made.plan.prompt == "a-red-star"
    stages = []
    streamed = np.concatenate(list(pipeline.stream(asked, callback_on_stage=stages.append)))
    assert stages[0] == "think"
    told, plain = (
        np.concatenate(list(pipeline.stream(replace(asked, think=False, prompt=prompt))))
        for prompt in ("a-red-star", "a star")
    )
    assert np.array_equal(streamed, told)
    assert not np.array_equal(streamed, plain)

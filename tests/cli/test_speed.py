"""``--speed`` reaches the sampling of every system, and is recorded."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from loomvideo import LoomVideoPipeline
from loomvideo.media.clip import read_metadata, read_picture
from loomvideo.models.eight_bits import EightBitsError, weight_bytes
from loomvideo.sampling.caches import EXACT, Shortcuts
from loomvideo.systems.plan import plan
from loomvideo.systems.request import LEAST_STEPS, SPEEDS, ModelLimits, Request, RequestError

STEPS = 8


@pytest.fixture(params=["loomvideo", "vino", "omnivideo"])
def pipe(request, small_pipeline):
    pipeline = small_pipeline(request.param)
    pipeline.calls = []
    pipeline.transformer.register_forward_hook(lambda _, given, __: pipeline.calls.append(len(given[0])))
    return pipeline


def asked(pipe, **options):
    """Latents, and how many branches were computed over all steps."""
    pipe.calls.clear()
    options = {"num_frames": 1, "guidance_scale": 2.0, "num_inference_steps": STEPS, "output_type": "latent"} | options
    return pipe("a red circle", **options).frames, sum(pipe.calls)


def test_each_speed_takes_its_part_of_the_models_own_steps(pipe):
    pipe.limits = replace(pipe.limits, num_inference_steps=STEPS * 4)
    counts = {speed: asked(pipe, speed=speed, num_inference_steps=None)[1] for speed in SPEEDS}
    assert counts == {speed: 2 * int(STEPS * 4 / part) for speed, part in SPEEDS.items()}
    assert list(counts.values()) == sorted(counts.values(), reverse=True)


def test_a_number_of_steps_that_is_asked_for_wins_and_a_model_of_few_keeps_them(pipe):
    exact, whole = asked(pipe)
    same, again = asked(pipe, speed="fast")
    assert (same == exact).all()
    assert again == whole == 2 * STEPS
    pipe.limits = replace(pipe.limits, num_inference_steps=LEAST_STEPS)
    assert asked(pipe, speed="fast", num_inference_steps=None)[1] == 2 * LEAST_STEPS


def test_a_plan_says_what_a_speed_left_out():
    limits = ModelLimits(fps=8, area=64 * 64, max_area=96 * 96, max_frames=9, default_frames=5, num_inference_steps=50)
    assert plan(Request(prompt="x", speed="fast"), limits).notes[-1] == "fast: 8 steps in place of 50"
    assert plan(Request(prompt="x"), limits).num_inference_steps == 50


@pytest.mark.parametrize(
    "shortcuts",
    [
        Shortcuts(guided_levels=(0.5, 1.0)),
        Shortcuts(guidance_every=2),
        Shortcuts(forecast_every=2),
        Shortcuts(first_block=100.0),
    ],
    ids=lambda shortcuts: next(name for name, value in vars(shortcuts).items() if value != getattr(EXACT, name)),
)
def test_each_shortcut_is_near_the_exact_result_and_not_it(pipe, shortcuts):
    exact, _ = asked(pipe)
    near, _ = asked(pipe, shortcuts=shortcuts)
    distance = float((near - exact).norm() / exact.norm())
    blocks = [one for one in pipe.transformer.modules() if type(one).__name__ in pipe.transformer._repeated_blocks]
    if shortcuts.first_block and len(blocks) < 2:
        assert distance == 0  # there is nothing behind the first block
    else:
        assert 0 < distance < 2


@pytest.mark.parametrize("way", ["fp8", "int8"])
def test_weights_in_eight_bits_are_near_the_exact_result_in_less_memory(pipe, way):
    exact, _ = asked(pipe)
    before = weight_bytes(pipe.transformer)
    pipe.store_weights(way)
    near, _ = asked(pipe)
    assert pipe.transformer.dtype == torch.float32
    assert weight_bytes(pipe.transformer) < 0.8 * before
    assert 0 < float((near - exact).norm() / exact.norm()) < {"fp8": 0.2, "int8": 0.1}[way]


def test_another_way_to_store_weights_is_refused(pipe):
    with pytest.raises(EightBitsError, match="weights int4: use fp8 or int8"):
        pipe.store_weights("int4")


def test_without_torchao_int8_says_how_to_get_it(generate, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    result = generate("--prompt", "x", "--weights", "int8", "--output", tmp_path / "a.png")
    assert result.status == 2
    assert "torchao is not installed; pip install 'loomvideo[int8]', or use fp8" in result.err


def test_another_speed_is_refused(pipe):
    with pytest.raises(RequestError, match="speed='slow': must be one of exact, balanced, fast"):
        asked(pipe, speed="slow")


def test_the_recipe_names_the_speed_and_makes_the_picture_again(generate, loomvideo, tmp_path):
    words = ("--prompt", "x", "--steps", 3, "--device", "cpu", "--quiet")
    first, again, exact = (tmp_path / f"{name}.png" for name in ("first", "again", "exact"))
    assert generate(*words, "--speed", "fast", "--output", first).status == 0
    assert read_metadata(first)["speed"] == "fast"
    assert loomvideo("generate", "--like", first, "--output", again, "--quiet").status == 0
    assert (read_picture(again) == read_picture(first)).all()
    assert generate(*words, "--output", exact).status == 0
    assert "speed" not in read_metadata(exact)


def test_the_recipe_names_weights_and_compiling(generate, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(LoomVideoPipeline, "compile_denoisers", lambda pipeline: compiled.append(pipeline))
    words = ("--prompt", "x", "--steps", 1, "--device", "cpu", "--quiet", "--weights", "fp8", "--compile")
    assert generate(*words, "--output", tmp_path / "a.png").status == 0
    assert len(compiled) == 1
    recipe = read_metadata(tmp_path / "a.png")
    assert (recipe["weights"], recipe["compile"]) == ("fp8", True)


def test_a_suite_is_measured_at_a_speed(loomvideo, tiny_model, tmp_path):
    words = ("--model", tiny_model, "--device", "cpu", "--tasks", "t2i", "--num-prompts", 1, "--steps", 2)
    size = ("--height", 64, "--width", 64, "--num-frames", 5)
    result = loomvideo("evaluate", *words, *size, "--speed", "balanced", "--output", tmp_path / "a.json", "--quiet")
    assert result.status == 0
    assert json.loads((tmp_path / "a.json").read_text())["settings"]["speed"] == "balanced"


def test_another_speed_is_refused_on_the_command_line(generate):
    result = generate("--prompt", "x", "--speed", "slow")
    assert result.status == 2
    assert "slow" in result.err

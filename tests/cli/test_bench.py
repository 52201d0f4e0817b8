"""``loomvideo bench`` says what was measured, of what and where."""

import re

import pytest
import torch

from loomvideo.evaluation.speed import bars, count_flops, psnr, relative_distance, side_by_side
from loomvideo.systems.request import SPEEDS

SMALL = ("--width", "128", "--layers", "1", "--tokens", "40", "--context", "6", "--steps", "1", "--repeats", "1")


def rows(text):
    return [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("|")
    ]


def test_an_edit_is_measured_against_the_published_way_and_gives_the_same(loomvideo, tmp_path):
    result = loomvideo("bench", "edit", *SMALL, "--output", tmp_path / "deep" / "edit.md")
    assert result.status == 0
    assert f"torch {torch.__version__}" in result.out
    head, _, float32, bfloat16 = rows(result.out)
    assert [float32[0], bfloat16[0]] == ["float32", "bfloat16"]
    assert float(float32[head.index("largest difference")]) < 1e-4
    assert 0 < float(bfloat16[head.index("norm to the first")]) < 2e-2
    assert (tmp_path / "deep" / "edit.md").read_text() == result.out


def test_a_source_that_is_added_costs_less_than_one_beside_the_target_the_more_so_the_longer(loomvideo):
    result = loomvideo("bench", "source", *SMALL, "--lengths", "20,400")
    assert result.status == 0
    head, _, short, long = rows(result.out)
    place = head.index("by FLOPs")
    assert 1.5 < float(short[place]) < float(long[place]) < 4
    assert len(re.findall(r"#{5,}", result.out)) == 2


def test_every_approximation_and_preset_is_measured_on_a_model(loomvideo, tiny_model):
    words = ("--model", tiny_model, "--device", "cpu", "--num-frames", "5", "--repeats", "1")
    result = loomvideo("bench", "speed", *words)
    assert result.status == 0
    names = [row[0] for row in rows(result.out)]
    assert "exact" in names
    assert {f"--speed {name}" for name, part in SPEEDS.items() if part > 1} <= set(names)
    exact = next(row for row in rows(result.out) if row[0] == "exact")
    assert exact[3:-1] == ["1.00", "inf", "inf"]
    assert all(int(row[-1]) >= 1 for row in rows(result.out)[2:])
    assert int(exact[1]) >= max(int(row[1]) for row in rows(result.out)[2:])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("edit", "--width", "100"), "--width 100: must be a multiple of 128"),
        (("edit", "--layers", "0"), "--layers 0: must be 1 or more"),
        (("edit", "--steps", "9"), "--steps 9: must be"),
        (("edit", "--precisions", "float8"), "--precisions float8: must be"),
        (("source", "--lengths", "a"), "--lengths a: must be"),
        (("walk",), "walk"),
    ],
)
def test_what_cannot_be_measured_is_refused(loomvideo, words, message):
    result = loomvideo("bench", *words)
    assert result.status == 2
    assert message in result.err


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_is_rehearsed_in_small(tmp_path):
    import json
    import subprocess
    import sys
    from pathlib import Path

    script = Path(__file__).parents[2] / "benchmarks" / "h200.py"
    subprocess.run([sys.executable, script, "--small", "--output", tmp_path], check=True, capture_output=True)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["denoiser"]["flops"] > 0
    assert set(results["samplings"]) == {f"{task}, {speed}" for task in ("text-to-video", "edit") for speed in SPEEDS}
    assert results["wan_pipeline"]["text-to-video"] > 0
    assert results["decoding"]["seconds"] > 0
    assert "of 24.00 GB" in results["limited"]["arrangement"]


def test_ways_take_turns():
    order = []

    def way(name):
        def run():
            order.append(name)
            return torch.zeros(1)

        return run

    timings, results = side_by_side({"a": way("a"), "b": way("b")}, repeats=2)
    assert order == ["a", "b"] * 3
    assert [len(timing.wall) for timing in timings.values()] == [2, 2]
    assert list(results) == ["a", "b"]


def test_distances():
    truth = torch.full((4,), 0.5)
    assert psnr(truth, truth) == float("inf")
    assert psnr(truth + 0.1, truth) == pytest.approx(20, abs=1e-3)
    assert relative_distance(1.1 * truth, truth) == pytest.approx(0.1, abs=1e-6)


def test_flops_of_attention_are_counted():
    q = torch.randn(1, 2, 10, 8)
    flops = count_flops(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert flops == 2 * 2 * 2 * 10 * 10 * 8


def test_bars_are_as_long_as_their_values():
    lines = bars(["1", "10"], [1.0, 2.0], width=10).splitlines()
    assert [line.count("#") for line in lines] == [5, 10]

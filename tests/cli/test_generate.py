"""What a person types and gets."""

import json
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from loomvideo.cli import progress
from loomvideo.cli.session import Session
from loomvideo.media.clip import probe, read_clip, read_metadata, read_picture


def test_the_same_request_gives_the_same_bytes(generate, tmp_path):
    for name in ("first.mp4", "second.mp4"):
        assert generate("--prompt", "a red circle", "--output", tmp_path / name).status == 0
    assert (tmp_path / "first.mp4").read_bytes() == (tmp_path / "second.mp4").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        ("--prompt", "a blue square"),
        ("--seed", 1),
        ("--steps", 3),
        ("--guidance-scale", 2),
        ("--negative-prompt", "stars"),
        ("--dtype", "float16"),
    ],
    ids=lambda change: change[0],
)
def test_every_sampling_option_shows_in_the_picture(generate, tmp_path, change):
    request = ("--prompt", "a red circle", "--num-frames", 1)
    generate(*request, "--output", tmp_path / "plain.png")
    assert generate(*request, *change, "--output", tmp_path / "changed.png").status == 0
    assert (read_picture(tmp_path / "plain.png") != read_picture(tmp_path / "changed.png")).any()


@pytest.mark.parametrize(
    ("words", "task", "num_frames"),
    [
        ([], "t2v", 5),
        (["--num-frames", "1"], "t2i", 1),
        (["--source", "clip.mp4"], "edit", 9),
        (["--source", "a.png"], "edit", 1),
        (["--source", "clip.mp4", "--reference", "a.png"], "ref_edit", 9),
        (["--source", "a.png", "--reference", "b.png"], "ref_edit", 1),
        (["--reference", "a.png", "--reference", "b.png"], "mi2v", 5),
        (["--reference", "a.png", "b.png"], "mi2v", 5),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_the_task_follows_from_what_is_given(generate, inputs, tmp_path, monkeypatch, words, task, num_frames):
    monkeypatch.chdir(inputs)
    output = tmp_path / ("out.png" if num_frames == 1 else "out.mp4")
    outcome = generate("--prompt", "make it green", *words, "--output", output, "--json")
    assert (outcome.status, outcome.err) == (0, "")
    made = json.loads(outcome.out)
    assert (made["task"], made["num_frames"]) == (task, num_frames)
    if num_frames > 1:
        assert len(read_clip(output, fps=8, max_frames=17).frames) == num_frames


def test_what_was_chosen_is_said(generate, inputs, tmp_path):
    outcome = generate("--source", inputs / "clip.mp4", "--prompt", "make it snow", "--output", tmp_path / "out.mp4")
    assert "note: 64x64 was chosen: the source's 96x64" in outcome.out
    assert str(tmp_path / "out.mp4") in outcome.out.splitlines()[-1]


def test_a_size_and_length_the_model_cannot_take_are_made_all_the_same(generate, tmp_path):
    outcome = generate(
        "--prompt", "a star", "--height", 50, "--width", 70, "--num-frames", 3, "--output", tmp_path / "out.mp4"
    )
    assert outcome.status == 0
    info = probe(tmp_path / "out.mp4")
    assert (info.height, info.width) == (50, 70)
    assert len(read_clip(tmp_path / "out.mp4", fps=8, max_frames=17).frames) <= 3


def test_a_picture_file_asks_for_one_frame(generate, tmp_path):
    assert generate("--prompt", "a star", "--output", tmp_path / "star.png").status == 0
    assert probe(tmp_path / "star.png").kind == "image"


def test_without_an_output_the_file_is_named_by_task_and_time(generate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert generate("--prompt", "a star", "--num-frames", 1).status == 0
    assert [path.match("loomvideo_t2i_*_*.png") for path in (tmp_path / "outputs").iterdir()] == [True]


def test_json_is_one_object(generate, tmp_path):
    outcome = generate("--prompt", "a star", "--seed", 7, "--output", tmp_path / "out.mp4", "--json")
    made = json.loads(outcome.out)
    assert made["output"] == str(tmp_path / "out.mp4")
    assert (made["seed"], made["width"], made["height"], made["fps"]) == (7, 64, 64, 8)
    assert made["seconds"] > 0
    assert made["recipe"] == read_metadata(tmp_path / "out.mp4")


def test_quiet_prints_nothing(generate, inputs, tmp_path):
    outcome = generate("--source", inputs / "clip.mp4", "--prompt", "snow", "--output", tmp_path / "out.mp4", "--quiet")
    assert (outcome.status, outcome.out, outcome.err) == (0, "", "")


def test_a_drawn_seed_is_recorded(generate, tmp_path):
    made = json.loads(generate("--prompt", "x", "--seed", -1, "--output", tmp_path / "a.png", "--json").out)
    assert made["seed"] >= 0
    generate("--prompt", "x", "--seed", made["seed"], "--output", tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_like_makes_a_file_again(generate, inputs, tmp_path):
    first, again = tmp_path / "first.mp4", tmp_path / "again.mp4"
    generate(
        *("--source", inputs / "clip.mp4", "--reference", inputs / "a.png", "--prompt", "use Image 1"),
        *("--steps", 3, "--seed", 4, "--fps", 12, "--height", 40, "--output", first),
    )
    assert generate("--like", first, "--output", again).status == 0
    assert first.read_bytes() == again.read_bytes()


def test_like_with_a_change_keeps_the_rest(generate, tmp_path):
    first, changed = tmp_path / "first.mp4", tmp_path / "changed.mp4"
    generate("--prompt", "a star", "--steps", 3, "--output", first)
    generate("--like", first, "--seed", 5, "--output", changed)
    before, after = read_metadata(first), read_metadata(changed)
    assert after == before | {"seed": 5}


@pytest.mark.parametrize(("words", "kept"), [(["--keep-source"], True), (["--no-keep-source"], False), ([], None)])
def test_whether_the_source_is_kept_is_recorded_where_it_was_said(generate, inputs, tmp_path, words, kept):
    for name, request in (
        ("first.png", ["--prompt", "make it green", "--source", inputs / "a.png", *words]),
        ("again.png", ["--like", tmp_path / "first.png"]),
    ):
        assert generate(*request, "--output", tmp_path / name).status == 0
        assert read_metadata(tmp_path / name).get("keep_source") is kept


def test_a_sources_sound_is_kept_unless_the_speed_changes(generate, inputs, tmp_path):
    with_sound = add_sound(inputs / "clip.mp4", tmp_path / "sound.mp4")
    for words, kept in (([], True), (["--fps", 16], False)):
        output = tmp_path / f"{kept}.mp4"
        assert generate("--source", with_sound, "--prompt", "snow", *words, "--output", output).status == 0
        assert probe(output).has_sound is kept


def add_sound(clip, output):
    import av

    frames = read_clip(clip, fps=8, max_frames=9).frames
    with av.open(str(output), "w") as container:
        picture = container.add_stream("libx264", rate=8, width=frames.shape[2], height=frames.shape[1])
        sound = container.add_stream("aac", rate=48_000)
        for frame in frames:
            container.mux(picture.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        tone = np.sin(np.arange(48_000) / 20).astype(np.float32)[None]
        audio = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        audio.rate, audio.pts, audio.time_base = 48_000, 0, Fraction(1, 48_000)
        for packet in (*sound.encode(audio), *sound.encode(), *picture.encode()):
            container.mux(packet)
    return output


@pytest.fixture(scope="module")
def lora(tiny_model, tmp_path_factory):
    """A LoRA of the tiny denoiser, as peft and diffusers save it."""
    import torch
    from peft import LoraConfig

    from loomvideo import LoomVideoTransformer3DModel

    torch.manual_seed(1)
    denoiser = LoomVideoTransformer3DModel.from_pretrained(tiny_model / "transformer")
    denoiser.add_adapter(LoraConfig(r=2, lora_alpha=8, target_modules=["to_q", "to_v"], init_lora_weights=False))
    folder = tmp_path_factory.mktemp("lora")
    denoiser.save_lora_adapter(folder, weight_name="lora.safetensors")
    return folder / "lora.safetensors"


def test_a_lora_counts_by_its_weight(generate, lora, tmp_path):
    pictures = []
    for number, words in enumerate(([], ["--lora", f"{lora}:0"], ["--lora", lora], ["--lora", lora, "--lora", lora])):
        output = tmp_path / f"{number}.png"
        assert generate("--prompt", "a star", *words, "--output", output).status == 0
        pictures.append(read_picture(output).astype(int))
    plain, weightless, once, twice = pictures
    assert (weightless == plain).all()
    assert (once != plain).any()
    assert (twice != once).any()


def test_an_interruption_leaves_nothing_behind(generate, tmp_path, monkeypatch):
    def interrupted(session, decided):
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "generate", interrupted)
    outcome = generate("--prompt", "a star", "--output", tmp_path / "out.mp4")
    assert (outcome.status, outcome.err) == (130, "error: interrupted\n")
    assert not list(tmp_path.iterdir())


def test_a_mistake_of_ours_keeps_its_traceback(generate, tmp_path, monkeypatch):
    def broken(session, decided):
        raise ValueError("not raised by a rule of this package")

    monkeypatch.setattr(Session, "generate", broken)
    with pytest.raises(ValueError, match="not raised by a rule"):
        generate("--prompt", "a star", "--output", tmp_path / "out.mp4")


def test_progress_in_a_log_is_a_line_now_and_then_with_the_time_left(capsys, monkeypatch):
    clock = iter([0.0, 0.0, 4.0, 20.0, 22.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    lines = progress.Lines()
    lines.stage("denoising")
    for step in (1, 2, 3):
        lines.step(step, 10)
    assert capsys.readouterr().err == "denoising: step 2 of 10, 80 s left\n"


def test_progress_in_a_terminal_names_stage_step_and_total():
    from io import StringIO

    from rich.console import Console
    from rich.progress import Progress

    display = Progress(*progress.columns(), console=Console(file=StringIO(), width=120, force_terminal=True))
    bar = progress.Bar(display)
    bar.stage("denoising")
    bar.step(2, 10)
    with display.console.capture() as shown:
        display.console.print(display.get_renderable())
    assert "denoising" in shown.get()
    assert "2/10" in shown.get()
    bar.stage("writing")
    assert [(task.description, task.total) for task in display.tasks] == [("writing", None)]


@pytest.mark.parametrize("words", [["--help"], ["generate", "--help"]], ids=" ".join)
def test_help_comes_without_loading_torch(words):
    program = (
        "import sys\n"
        "from loomvideo.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    help_text = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert help_text.returncode == 0, help_text.stderr
    assert "loomvideo generate --prompt" in help_text.stdout

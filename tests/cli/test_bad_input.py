"""Bad input gets one line that names the value, the rule and the way out, exit status 2, and leaves no file behind."""

import errno
import json
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

from loomvideo.media import video
from loomvideo.media.clip import write_picture
from published_parts import published_parts


def picture_header(width: int, height: int) -> bytes:
    """A PNG file whose header promises a size and which holds a few bytes of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture
def place(inputs, tmp_path, monkeypatch):
    """A folder with good and bad files, to work in; what is made there is found by ``left_behind``."""
    folder = tmp_path / "place"
    shutil.copytree(inputs, folder)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("Dear diary, this is no video.\n" * 50)
    clip = (folder / "clip.mp4").read_bytes()
    (folder / "truncated.mp4").write_bytes(clip[: len(clip) * 2 // 3])
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))
    write_picture(folder / "tiny.png", np.zeros((1, 1, 3), np.uint8))
    (folder / "huge.png").write_bytes(picture_header(60_000, 60_000))
    (folder / "a_file").write_text("")
    (folder / "broken.safetensors").write_bytes(b"no tensors")
    (folder / "published.yaml").write_text("generation: {guidance_scale: 3.0}")
    (folder / "list.yaml").write_text("- 1\n- 2")
    (folder / "typo.yaml").write_text("generation: {guidance_scale: strong}")
    monkeypatch.chdir(folder)
    return folder


BAD_REQUESTS = [
    # sources
    (["--source", "missing.mp4", "--prompt", "snow"], "missing.mp4.*no such file"),
    (["--source", "empty.mp4", "--prompt", "snow"], "empty.mp4.*empty"),
    (["--source", "truncated.mp4", "--prompt", "snow"], "truncated.mp4.*cut off"),
    (["--source", "noise.mp4", "--prompt", "snow"], "noise.mp4.*no video or picture"),
    (["--source", "text.mp4", "--prompt", "snow"], "text.mp4.*no video or picture"),
    (["--source", ".", "--prompt", "snow"], r"\..*folder"),
    (["--source", "tiny.png", "--prompt", "snow"], "tiny.png.*1x1"),
    (["--source", "huge.png", "--prompt", "snow"], "huge.png.*60000x60000 pixels"),
    # references
    (["--reference", "missing.png", "--prompt", "snow"], "missing.png.*no such file"),
    (["--reference", "tiny.png", "--prompt", "snow"], "tiny.png.*1x1"),
    (["--reference", "huge.png", "--prompt", "snow"], "huge.png.*60000x60000 pixels"),
    (["--reference", "clip.mp4", "--prompt", "snow"], "reference 1 is a video.*picture"),
    (["--reference", *["a.png"] * 9, "--prompt", "snow"], "9 references.*at most 8"),
    (["--reference", "a.png", "b.png", "--prompt", "put @Image 3 there"], "@Image 3.*2 references"),
    # numbers
    *[
        (["--prompt", "snow", option, value], rf"{option[2:].replace('-', '_').replace('steps', 'step')}.*{value}")
        for option in ("--num-frames", "--steps", "--height", "--width")
        for value in ("0", "-1")
    ],
    (["--prompt", "snow", "--height", "many"], "--height.*'many'.*whole number"),
    (["--prompt", "snow", "--guidance-scale", "nan"], "--guidance-scale.*'nan'.*number"),
    (["--prompt", "snow", "--fps", "0"], "fps=0"),
    (["--prompt", "snow", "--seed", "-2"], "seed=-2"),
    (["--prompt", "snow", "--height", "9000", "--width", "9000"], "9000.*at most"),
    (["--prompt", "snow", "--num-frames", "1000"], "num_frames=1000.*at most 9"),
    # words
    (["--prompt", ""], "prompt is empty"),
    (["--prompt", "   "], "prompt is empty"),
    (["--prompt", "x" * 100_000], "prompt has 100,000 characters"),
    ([], "--prompt is missing"),
    # names
    (["--prompt", "snow", "--task", "paint"], "--task.*paint"),
    (["--prompt", "snow", "--task", "edit"], "task=edit.*source"),
    (["--prompt", "snow", "--system", "loom"], "--system.*loom"),
    (["--prompt", "snow", "--model", "no_such_model"], "no_such_model is no model"),
    (["--prompt", "snow", "--model", "a_file"], "a_file.*no model"),
    (["--prompt", "snow", "--device", "quantum"], "--device quantum"),
    (["--prompt", "snow", "--device", "cuda:99"], "--device cuda:99.*this machine"),
    (["--prompt", "snow", "--dtype", "int4"], "--dtype.*int4"),
    (["--prompt", "snow", "--lora", "missing.safetensors:0.5"], "missing.safetensors.*no such file"),
    (["--prompt", "snow", "--lora", "a.png"], "a.png.*safetensors"),
    # outputs
    (["--prompt", "snow", "--output", "a_file/out.mp4"], "a_file/out.mp4.*cannot be written"),
    (["--prompt", "snow", "--output", "out.avi"], "out.avi.*'.avi'.*mp4"),
    (["--prompt", "snow", "--output", "out.png", "--num-frames", "5"], "out.png.*one frame"),
    (["--source", "clip.mp4", "--prompt", "snow", "--output", "clip.mp4"], "clip.mp4.*input too"),
    (["--like", "clip.mp4"], "clip.mp4.*no recipe"),
    (["--like", "missing.mp4"], "missing.mp4.*no such file"),
    # options that do not go together, or do not exist
    (["--prompt", "snow", "--batch", "requests.jsonl"], "--batch and --output-dir"),
    (["--prompt", "snow", "--config_path", "list.yaml"], "list.yaml.*mapping"),
    (["--prompt", "snow", "--config_path", "typo.yaml"], "typo.yaml.*guidance_scale='strong'"),
    (["--prompt", "snow", "--config_path", "missing.yaml"], "missing.yaml"),
    (["--prompt", "snow", "--ckpt_path", "missing.pth"], "missing.pth.*no such file"),
    (["--promt", "snow"], "--promt.*did you mean --prompt"),
    (["--prompt", "snow", "--num", "5"], "--num.*no such option"),
    (["--prompt"], "--prompt.*expected"),
]


def shortened(value: object) -> str | None:
    return " ".join(value)[:60] or "nothing" if isinstance(value, list) else ""


@pytest.mark.parametrize(("words", "message"), BAD_REQUESTS, ids=shortened)
def test_bad_input_is_told_in_one_line_before_the_model_is_loaded(generate, no_loading, place, words, message):
    before = contents(place)
    output = [] if {"--output", "--batch"} & set(words) else ["--output", "out.mp4"]
    check_one_line(generate(*output, *words), message)
    assert contents(place) == before


def check_one_line(outcome, message):
    assert outcome.status == 2
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert len(outcome.err) < 500
    assert re.search(message, outcome.err), outcome.err
    assert "Traceback" not in outcome.err + outcome.out


def contents(folder):
    """Every file and its bytes, with hidden files and empty folders."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "COMMAND"),
        (["genrate"], "genrate.*generate"),
        (["--prompt", "x"], "--prompt"),
        (["show"], "FILE"),
        (["show", "clip.mp4", "--jsno"], "--jsno.*did you mean --json"),
        (["demo", "--output-dir", "a_file"], "a_file.*cannot be written"),
    ],
    ids=shortened,
)
def test_other_commands_tell_in_one_line_too(loomvideo, no_loading, place, words, message):
    before = contents(place)
    check_one_line(loomvideo(*words), message)
    assert contents(place) == before


def test_the_process_ends_with_status_2_and_no_traceback(place):
    command = [sys.executable, "-m", "loomvideo.cli.main", "generate", "--prompt", "", "--source", "missing.mp4"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert re.fullmatch("error: .*missing.mp4.*\n", ended.stderr)


# --- weights


@pytest.fixture
def damaged(tiny_model, tmp_path):
    """A copy of the tiny model whose denoiser's tensors a function has changed."""
    from safetensors.torch import load_file, save_file

    def damage(change):
        folder = tmp_path / "damaged"
        shutil.copytree(tiny_model, folder)
        file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
        state = load_file(file)
        change(state)
        save_file(state, file)
        return folder

    return damage


DAMAGES = {
    "another shape": (
        lambda state: state.update({"proj_out.bias": state["proj_out.bias"][:3].clone()}),
        "proj_out.bias",
    ),
    "a missing tensor": (lambda state: state.pop("blocks.1.attn1.to_q.weight"), "missing: blocks.1.attn1.to_q.weight"),
    "a tensor too many": (lambda state: state.update(spare=state["proj_out.bias"].clone()), "unexpected: spare"),
    "NaN weights": (lambda state: state["proj_out.bias"].fill_(float("nan")), "step 1 of 2.*NaN"),
    "infinite weights": (lambda state: state["patch_embedding.weight"].fill_(float("inf")), "step 1 of 2.*NaN"),
}


@pytest.mark.parametrize(("change", "message"), DAMAGES.values(), ids=DAMAGES)
def test_weights_that_do_not_fit_are_named(generate, damaged, tmp_path, change, message):
    output = tmp_path / "out" / "out.mp4"
    check_one_line(generate("--model", damaged(change), "--prompt", "snow", "--output", output), message)
    assert not list(output.parent.glob("*"))


def test_a_model_folder_without_limits_is_refused(generate, tiny_model, no_loading, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    index = json.loads((folder / "model_index.json").read_text())
    del index["limits"]
    (folder / "model_index.json").write_text(json.dumps(index))
    outcome = generate("--model", folder, "--prompt", "snow", "--output", tmp_path / "out.mp4")
    check_one_line(outcome, "model_index.json.*limit")


def test_a_lora_for_another_model_is_refused(generate, tmp_path):
    import torch
    from safetensors.torch import save_file

    for name, message in (("blocks.7.attn1.to_q", "blocks.7.*another model"), ("blocks.0.attn1.to_q", "5 features")):
        file = tmp_path / "lora.safetensors"
        save_file({f"{name}.lora_A.weight": torch.ones(2, 5), f"{name}.lora_B.weight": torch.ones(5, 2)}, file)
        outcome = generate("--lora", file, "--prompt", "snow", "--output", tmp_path / "out.png")
        check_one_line(outcome, message)
    file.write_bytes(b"no tensors")
    outcome = generate("--lora", file, "--prompt", "snow", "--output", tmp_path / "out.png")
    check_one_line(outcome, "no safetensors file")


class Payload:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_code_in_a_pickle_is_not_run(loomvideo, tiny_model, tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.save({"proj_out.bias": Payload()}, tmp_path / "evil.pth")
    (tmp_path / "old.yaml").write_text(json.dumps(published_parts(tiny_model, tmp_path / "parts")))
    words = ("--ckpt_path", "evil.pth", "--config_path", "old.yaml", "--prompt", "snow", "--output_path", "out.mp4")
    check_one_line(loomvideo("generate", *words), "evil.pth is refused.*code")
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "out.mp4").exists()


# --- the disk


def test_a_full_disk_leaves_no_file(generate, tmp_path, monkeypatch):
    def no_room(path, *arguments):
        path.write_bytes(b"half a file")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(video, "save_video", no_room)
    output = tmp_path / "out" / "out.mp4"
    check_one_line(generate("--prompt", "snow", "--output", output), "No space left on device.*make room")
    assert not list(output.parent.glob("*"))


@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "out.png"])
def test_a_file_that_may_not_grow_leaves_no_file(generate, tmp_path, name):
    """The same through the real writers: the system ends every file at 1000 bytes."""
    output = tmp_path / "out" / name
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        outcome = generate("--prompt", "snow", "--output", output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    check_one_line(outcome, "cannot be written")
    assert not list(output.parent.glob("*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_told_before_the_work(generate, no_loading, tmp_path):
    tmp_path.chmod(0o500)
    check_one_line(generate("--prompt", "snow", "--output", tmp_path / "out.mp4"), "Permission denied")

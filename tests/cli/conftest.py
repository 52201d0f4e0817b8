"""What a command line is tested with: a runner, and small input files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from loomvideo.cli.main import main
from loomvideo.media.clip import Clip, write_clip, write_picture


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str


@pytest.fixture
def loomvideo(capsys):
    """Runs a command line in this process: loomvideo("show", path) -> Outcome."""

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as stopped:  # --help and --version
            status = stopped.code or 0
        return Outcome(status, *capsys.readouterr())

    return run


@pytest.fixture
def generate(loomvideo, tiny_model):
    """loomvideo generate with the tiny model, unless another is named."""

    def run(*words: object) -> Outcome:
        model = [] if {"--model", "--ckpt_path", "--like"} & set(words) else ["--model", tiny_model]
        return loomvideo("generate", *model, *words)

    return run


@pytest.fixture
def no_loading(monkeypatch):
    """Loading weights fails the test: what is told must be told before."""
    from loomvideo import LoomVideoPipeline

    def load(*arguments, **settings):
        pytest.fail("the model was loaded")

    monkeypatch.setattr(LoomVideoPipeline, "from_pretrained", load)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    """A folder with clip.mp4 (9 frames of 96x64 at 8 fps), a.png and b.png."""
    folder = tmp_path_factory.mktemp("inputs")
    frames = np.full((9, 64, 96, 3), 40, np.uint8)
    for time, frame in enumerate(frames):
        frame[20:40, 8 * time : 8 * time + 20] = (220, 40, 40)
    write_clip(folder / "clip.mp4", Clip(frames, 8))
    write_picture(folder / "a.png", frames[0])
    write_picture(folder / "b.png", frames[-1, ::-1].copy())
    return folder


@pytest.fixture(scope="session")
def omnivideo_models(tiny_model, tmp_path_factory) -> Path:
    """Omni-Video's model folders in small: first and second release, and "released", the first with its form of guidance."""
    from omnivideo_parts import first_release, second_release

    folder = tmp_path_factory.mktemp("omnivideo")
    made = {
        "first": first_release(tiny_model, stored=True),
        "released": first_release(tiny_model, guidance="released"),
        "second": second_release(tiny_model),
    }
    for name, pipe in made.items():
        pipe.save_pretrained(folder / name)
    return folder

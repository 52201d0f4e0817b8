"""``torchrun -m loomvideo``: several processes make what one makes, and one of them writes."""

import json
import subprocess
import sys

import numpy as np
import pytest

from loomvideo.cli.main import main
from loomvideo.media.clip import read_picture


def torchrun(*words, folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, "-m", "loomvideo", *words], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_two_processes_write_one_picture_and_one_line(tiny_model, tmp_path):
    words = ["generate", "--prompt", "x", "--model", str(tiny_model), "--device", "cpu", "--json", "--seed", "-1"]
    done = torchrun(*words, "--output", "two.png", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)  # printed once
    assert [file.name for file in tmp_path.glob("*.png")] == ["two.png"]
    alone = tmp_path / "one.png"
    assert main([*words[:-1], str(made["seed"]), "--quiet", "--output", str(alone)]) == 0
    one, two = (read_picture(file).astype(int) for file in (alone, tmp_path / "two.png"))
    assert np.abs(one - two).max() <= 1


@pytest.mark.slow
def test_what_a_person_did_wrong_is_said_once(tiny_model, tmp_path):
    done = torchrun("generate", "--prompt", " ", "--model", str(tiny_model), "--device", "cpu", folder=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("error: prompt is empty") == 1

"""``loomvideo train`` and ``loomvideo lora``: from clips to a LoRA that generation takes, and merged into a model."""

import numpy as np
import pytest
import yaml

from loomvideo.media.pictures import read_picture


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A LoRA of the built-in model after two steps on four pictures, trained in this process."""
    import torch

    from loomvideo.training.config import read_config
    from loomvideo.training.launch import run_training

    folder = tmp_path_factory.mktemp("trained")
    pictures = {"world": ["t2i"], "height": 64, "width": 64, "num_frames": 1, "num_samples": 4}
    (folder / "data.yaml").write_text(yaml.safe_dump({"train": {"small": pictures}, "val": {"small": pictures}}))
    said = {
        "run_dir": str(folder / "run"),
        "steps": 2,
        "model": {"lora": {"rank": 2, "targets": ["to_q"]}},
        "data": {"source": "data.yaml", "tokens": 8, "workers": 1, "validation_samples": 2},
        "optimizer": {"learning_rate": 0.05, "warmup_steps": 1},
        "watch": {"tensorboard": True, "samples_every": 2, "prompts": ["a red circle"]},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(said))
    made = run_training(read_config(folder / "run.yaml"), torch.device("cpu"))
    return folder / "run", made


def test_a_run_leaves_a_lora_pictures_and_what_tensorboard_shows(trained):
    folder, made = trained
    assert made == folder / "lora" / "pytorch_lora_weights.safetensors"
    assert made.is_file()
    assert read_picture(folder / "samples" / "step-0000002-0.png").shape == (128, 128, 3)
    assert list((folder / "tensorboard").iterdir())
    assert "validation/all" in (folder / "log.jsonl").read_text()


def test_a_merged_lora_is_the_lora(loomvideo, trained, tmp_path):
    _, lora = trained
    assert loomvideo("lora", "merge", "--lora", f"{lora}:8", "--output", tmp_path / "merged").status == 0
    asked = ("--prompt", "a red circle", "--num-frames", 1, "--steps", 2, "--height", 64, "--width", 64)
    pictures = {}
    for name, words in {
        "plain": (),
        "lora": ("--lora", f"{lora}:8"),
        "merged": ("--model", tmp_path / "merged"),
    }.items():
        assert loomvideo("generate", *words, *asked, "--output", tmp_path / f"{name}.png").status == 0
        pictures[name] = read_picture(tmp_path / f"{name}.png").astype(int)
    assert np.abs(pictures["merged"] - pictures["lora"]).max() <= 2
    assert np.abs(pictures["plain"] - pictures["lora"]).max() > 2


def test_merging_into_a_folder_that_is_there_is_refused(loomvideo, trained, tmp_path):
    outcome = loomvideo("lora", "merge", "--lora", trained[1], "--output", tmp_path)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "is there already" in outcome.err


def test_a_plan_is_printed_and_nothing_loaded(loomvideo, no_loading):
    outcome = loomvideo("train", "finetune", "--plan")
    assert outcome.status == 0
    assert "of them trained" in outcome.out
    assert "GiB" in outcome.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("finetune",), "data.shards"),
        (("finetune", "learning_rate=1"), "did you mean optimizer.learning_rate"),
        (("nothing.yaml",), "no such file"),
        (("builtin",), "--part is missing"),
        (("builtin", "steps=1", "--part", "vae", "--run-dir", "runs"), "reads no configuration"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(loomvideo, words, message):
    outcome = loomvideo("train", *words)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert message in outcome.err

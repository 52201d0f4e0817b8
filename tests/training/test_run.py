"""A run saves whole states only, goes on where it stopped, and does not learn from a loss that is no number."""

import pytest
import torch
from torch import nn

from loomvideo.training import run as run_module
from loomvideo.training.run import Run, RunConfig, is_hidden_matrix


def make_run(folder, minutes=10.0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
    config = RunConfig(
        folder=folder, minutes=minutes, slice_minutes=minutes, matrix_rate=0.02, learning_rate=1e-2, warmup_steps=1
    )
    return Run(config, model, torch.device("cpu"))


def train(run, steps):
    inputs = torch.randn(32, 8, generator=torch.Generator().manual_seed(3))
    for _ in range(steps):
        run.step(lambda: ((run.model(inputs) - inputs.flip(1)).square().mean(), {}))


def test_a_resumed_run_has_the_weights_averages_and_steps_of_the_stopped_one(tmp_path):
    stopped = make_run(tmp_path)
    train(stopped, 5)
    stopped.save()
    resumed = make_run(tmp_path)
    assert resumed.steps == 5
    assert resumed.seconds == pytest.approx(stopped.seconds)
    for name, value in stopped.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value)
        torch.testing.assert_close(resumed.ema[name], stopped.ema[name])


def test_a_resumed_optimiser_takes_the_step_that_the_stopped_one_would_take(tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "_rate", lambda self: 1.0)
    stopped = make_run(tmp_path)
    train(stopped, 4)
    stopped.save()
    resumed = make_run(tmp_path)
    train(stopped, 1)
    train(resumed, 1)
    for name, value in stopped.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=0, atol=0)


def test_a_save_that_fails_leaves_the_last_whole_state(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    train(run, 1)
    run.save()
    whole = run.file.read_bytes()

    def half_written(state, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_module.torch, "save", half_written)
    with pytest.raises(OSError, match="No space"):
        run.save()
    assert run.file.read_bytes() == whole


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_changes_no_weight(tmp_path, value):
    run = make_run(tmp_path)
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    run.step(lambda: (run.model(torch.ones(1, 8)).sum() * value, {}))
    for name, tensor in run.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name])


def test_training_lowers_the_loss_and_the_average_follows_the_weights(tmp_path):
    run = make_run(tmp_path)
    train(run, 1)
    first = run.averages["loss"]
    train(run, 80)
    assert run.averages["loss"] < 0.5 * first
    for name, value in run.model.state_dict().items():
        assert (run.ema[name] - value).abs().mean() < 0.5 * value.abs().mean()


def test_only_hidden_matrices_go_to_muon():
    assert is_hidden_matrix("blocks.0.attn1.to_q.weight", nn.Parameter(torch.zeros(8, 8)))
    assert is_hidden_matrix("encoder.mid_block.resnets.0.conv1.weight", nn.Parameter(torch.zeros(8, 8, 3, 3, 3)))
    for name, shape in [
        ("patch_embedding.weight", (8, 4, 1, 2, 2)),
        ("proj_out.weight", (8, 8)),
        ("blocks.0.scale_shift_table", (1, 6, 8)),
        ("blocks.0.attn1.to_q.bias", (8,)),
        ("encoder.norm_out.gamma", (8, 1, 1, 1)),
    ]:
        assert not is_hidden_matrix(name, nn.Parameter(torch.zeros(shape)))

"""A run saves whole states only, goes on where it stopped, and does not learn from a loss that is no number."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from loomvideo.training import run as run_module
from loomvideo.training.run import Run, RunConfig, is_hidden_matrix
from two_ranks import run as run_ranks


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


def halves(rank):
    """Different samples for each rank."""
    return torch.randn(16, 8, generator=torch.Generator().manual_seed(rank))


def loss_on(run, rank):
    inputs = halves(rank)
    return (run.model(inputs) - inputs.flip(1)).square().mean()


def exactly(monkeypatch):
    """In float32 and at one rate, so that order and clock of the sums change nothing."""
    monkeypatch.setattr(run_module, "computes_bfloat16", lambda device: False)
    monkeypatch.setattr(Run, "_rate", lambda self: 1.0)


def trained_by_a_rank(folder, spoilt=None):
    exactly(pytest.MonkeyPatch())
    run = make_run(folder)
    for step in range(3):
        factor = float("nan") if (dist.get_rank(), step) == spoilt else 1.0
        run.step(lambda factor=factor: (loss_on(run, dist.get_rank()) * factor, {}))
    run.save()
    return run.leads, run.averages, dict(run.model.state_dict())


def test_two_processes_take_the_steps_of_one_with_their_mean_gradient(tmp_path, monkeypatch):
    exactly(monkeypatch)
    alone = make_run(tmp_path / "alone")
    for _ in range(3):
        alone.step(lambda: ((loss_on(alone, 0) + loss_on(alone, 1)) / 2, {}))
    (leads, figures, mine), (follows, others, theirs) = run_ranks(trained_by_a_rank, tmp_path / "two")
    assert (leads, follows) == (True, False)
    for name in ("loss", "gradient"):
        assert figures[name] == others[name] == pytest.approx(alone.averages[name], rel=1e-5)
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(mine[name], theirs[name], rtol=0, atol=0)
        torch.testing.assert_close(mine[name], value, rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_no_number_in_one_process_skips_the_step_of_all(tmp_path):
    (_, _, mine), (_, _, theirs) = run_ranks(trained_by_a_rank, tmp_path / "two", (1, 1))
    for name, value in mine.items():
        assert value.isfinite().all()
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=0)


def leads_and_writes(folder):
    run = make_run(folder)
    run.file = folder / f"{dist.get_rank()}.pt"
    run.save()
    return run.file.exists()


def test_the_first_process_alone_writes(tmp_path):
    assert run_ranks(leads_and_writes, tmp_path) == [True, False]


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
        ("transformer_blocks.0.norm1.linear.weight", (48, 8)),
        ("condition_embedder.time_proj.weight", (48, 8)),
        ("blocks.0.attn1.to_q.bias", (8,)),
        ("encoder.norm_out.gamma", (8, 1, 1, 1)),
    ]:
        assert not is_hidden_matrix(name, nn.Parameter(torch.zeros(shape)))

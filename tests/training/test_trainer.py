"""A run's result is a function of its configuration and data: not of ranks, stops, kills or resumes."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_training
import torch
import torch.multiprocessing
from tiny_training import CPU, TinyBatches, TinyRecipe, config, make_trainer, train, train_rank

from loomvideo.training.distributed import Ranks, ranks_of_launch
from loomvideo.training.objective import flow_matching_loss
from loomvideo.training.trainer import TrainingError, rate_at


def losses(folder):
    """Of every step that log.jsonl tells of."""
    lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def validations(folder):
    lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if "validation/all" in line}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Folder and weights of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    _, weights = train(config(folder))
    return folder, weights


# --- a step


def test_a_steps_loss_is_the_published_one_over_all_of_its_groups(tmp_path):
    trainer = make_trainer(config(tmp_path, steps=1), Ranks(CPU))
    recipe = TinyRecipe()
    groups = [
        recipe.batch([draw._replace(seed=(0, *draw.seed)) for draw in group], CPU) for group in TinyBatches().next()
    ]
    model = recipe.build(None)
    expected = flow_matching_loss(model, groups)
    expected.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    step = trainer.do_step()
    assert step.loss == pytest.approx(expected.item(), rel=1e-5)
    assert step.gradient == pytest.approx(float(norm), rel=1e-4)
    assert step.samples == sum(len(group) for group in TinyBatches().next())


def test_accumulated_draws_are_one_larger_step(tmp_path):
    class Both(TinyBatches):
        def next(self):
            return super().next() + super().next()

    two = make_trainer(config(tmp_path / "two", optimizer={"accumulate": 2}), Ranks(CPU)).do_step()
    one = make_trainer(config(tmp_path / "one"), Ranks(CPU), Both()).do_step()
    assert two.loss == pytest.approx(one.loss, rel=1e-6)
    assert two.gradient == pytest.approx(one.gradient, rel=1e-5)


def test_gradient_checkpointing_changes_nothing(tmp_path):
    plain = make_trainer(config(tmp_path / "plain"), Ranks(CPU)).do_step()
    again = make_trainer(config(tmp_path / "again", model={"gradient_checkpointing": True}), Ranks(CPU)).do_step()
    assert again.gradient == pytest.approx(plain.gradient, rel=1e-6)


def test_a_rule_trains_what_it_names_and_leaves_the_rest(tmp_path):
    _, weights = train(config(tmp_path, steps=1, model={"trained": "attn1"}))
    names = {name for name, _ in TinyRecipe().build(None).named_parameters() if "attn1" in name}
    assert set(weights) == names


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [("constant", (0.25, 1, 1, 1)), ("linear", (0.25, 1, 0.5, 0)), ("cosine", (0.25, 1, 0.5, 0))],
)
def test_rates_warm_up_and_follow_the_schedule(tmp_path, schedule, shares):
    settings = config(tmp_path, optimizer={"schedule": schedule, "warmup_steps": 4}).optimizer
    assert [rate_at(settings, step, 104) for step in (0, 4, 54, 104)] == pytest.approx(shares)


def test_averages_follow_the_published_decay(tmp_path):
    """The k-th update's is min(decay, (1 + k) / (10 + k)), k from 0 (fact sheet 9)."""
    trainer = make_trainer(config(tmp_path, ema_decay=0.15), Ranks(CPU))
    name = "proj_out.weight"
    expected = trainer.parameters[name].detach().clone()
    for k in range(4):
        trainer.do_step()
        trainer.step += 1
        expected.lerp_(trainer.parameters[name].detach(), 1 - min(0.15, (1 + k) / (10 + k)))
    torch.testing.assert_close(trainer.averages[name], expected)


# --- losses that are no number


def spoiled(first, last):
    def spoil(index, item):
        return item | {"target": item["target"] * float("nan")} if first <= index < last else item

    return TinyBatches(spoil=spoil)


def test_a_loss_that_is_no_number_skips_the_update(tmp_path):
    trainer = make_trainer(config(tmp_path), Ranks(CPU), spoiled(3, 4))
    before = {name: value.detach().clone() for name, value in trainer.parameters.items()}
    trainer.do_step()
    assert all(torch.equal(before[name], value) for name, value in trainer.parameters.items())
    trainer.do_step()
    assert not all(torch.equal(before[name], value) for name, value in trainer.parameters.items())
    assert trainer.bad_steps == 0


def test_three_in_a_row_stop_the_run_and_name_the_samples(tmp_path):
    trainer = make_trainer(config(tmp_path), Ranks(CPU), spoiled(17, 40))
    with pytest.raises(TrainingError, match=r"3 steps in a row.*sample 3\d"):
        trainer.train()


# --- watching


def test_validation_is_of_the_averaged_weights_at_fixed_times_and_leaves_the_run_alone(tmp_path, unbroken):
    folder, _ = unbroken
    seen = validations(folder)
    assert set(seen) == {0, 3, 6}
    assert all(
        {"validation/all", "validation/low", "validation/mid", "validation/high"} <= set(line) for line in seen.values()
    )
    trainer = make_trainer(config(tmp_path, ema_decay=None), Ranks(CPU))
    before = {name: value.detach().clone() for name, value in trainer.parameters.items()}
    first = trainer.validate()
    assert trainer.validate() == first
    assert all(torch.equal(before[name], value) for name, value in trainer.parameters.items())
    trainer.averages = {name: torch.zeros_like(value) for name, value in before.items()}
    assert trainer.validate() != first
    assert all(torch.equal(before[name], value) for name, value in trainer.parameters.items())


def test_samples_of_half_precision_are_validated_in_bfloat16_as_in_float32(tmp_path):
    """CPUs do not stack float16 under autocast."""
    validated = [
        make_trainer(config(tmp_path / precision, model={"precision": precision}), Ranks(CPU)).validate()
        for precision in ("float32", "bfloat16")
    ]
    assert validated[0]["validation/all"] == pytest.approx(validated[1]["validation/all"], rel=0.02)
    assert validated[0] != validated[1]


def test_the_log_tells_speed_and_operations(unbroken):
    folder, _ = unbroken
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    told = next(line for line in lines if "loss" in line)
    assert told["tokens_per_second"] > 0
    assert 0 < told["utilisation"] < 1
    assert told["memory_gib"] > 0


# --- stopping and going on


def test_the_last_checkpoints_are_kept_and_nothing_half_written(tmp_path):
    train(config(tmp_path, steps=6, checkpoints={"every": 1, "keep": 2}))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-5", "step-6"]


def test_what_a_killed_run_left_half_written_is_never_read(tmp_path):
    train(config(tmp_path, steps=4))
    for name in ("step-9.writing", "step-2.removing"):
        (tmp_path / "checkpoints" / name).mkdir()
    trainer = make_trainer(config(tmp_path, steps=6), Ranks(CPU))
    assert trainer.step == 4
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-2", "step-4"}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_run_in_two_parts_is_the_run_in_one_to_the_bit(tmp_path, name):
    settings = {"optimizer": {"name": name}}
    _, whole = train(config(tmp_path / "whole", **settings))
    first = make_trainer(config(tmp_path / "parts", **settings), Ranks(CPU))
    for _ in range(3):
        first.do_step()
        first.step += 1
    first.save()
    _, parts = train(config(tmp_path / "parts", **settings))
    assert all(torch.equal(whole[name], value) for name, value in parts.items())


def test_another_model_in_the_same_folder_is_told(tmp_path):
    train(config(tmp_path, steps=2))
    with pytest.raises(ValueError, match=r"another model.*run_dir"):
        make_trainer(config(tmp_path, model={"trained": "attn1"}), Ranks(CPU))


RUN = """\
import sys, time
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(int(sys.argv[4]))
from tiny_training import TinyBatches, config, train

class Slow(TinyBatches):
    def next(self):
        time.sleep(0.05)
        return super().next()

train(config(sys.argv[2], steps=int(sys.argv[3]), checkpoints={"every": 1}), batches=Slow())
"""


def started(folder, steps):
    here = str(Path(tiny_training.__file__).parent)
    threads = torch.get_num_threads()  # whose number decides how sums are rounded
    command = [sys.executable, "-c", RUN, here, str(folder), str(steps), str(threads)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def wait_for(condition, process, seconds=60):
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_loses_nothing(tmp_path):
    """SIGKILL twice, at moments that nobody chose; the losses and weights are those of a run never killed, to the bit."""
    folder, steps = tmp_path / "killed", 12
    _, expected = train(config(tmp_path / "whole", steps=steps, checkpoints={"every": 100}))
    for least in (2, 6):
        process = started(folder, steps)
        wait_for(lambda: (folder / "checkpoints" / f"step-{least}").exists(), process)  # noqa: B023  waited for here
        process.send_signal(signal.SIGKILL)
        process.wait()
    trainer, weights = train(config(folder, steps=steps, checkpoints={"every": 1}))
    assert trainer.step == steps
    assert losses(folder) == losses(tmp_path / "whole")
    assert all(torch.equal(expected[name], value) for name, value in weights.items())


def test_sigterm_saves_and_leaves(tmp_path):
    process = started(tmp_path, 1000)
    wait_for(lambda: (tmp_path / "log.jsonl").exists(), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    last = max(losses(tmp_path))
    assert (tmp_path / "checkpoints" / f"step-{last}").is_dir()


# --- ranks


def launch(settings, world):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(train_rank, (world, port, settings), nprocs=world)  # pyright: ignore
    return torch.load(Path(settings.run_dir) / "weights.pt", weights_only=True)


def close(actual, expected):
    return all(torch.allclose(actual[name], value, rtol=1e-4, atol=1e-5) for name, value in expected.items())


@pytest.mark.slow
def test_two_ranks_have_the_loss_curve_of_one_and_one_goes_on_where_two_stopped(tmp_path, unbroken):
    """Steps 1 to 4 by two ranks, 5 and 6 by one; every loss and validation loss as by one alone."""
    folder, expected = unbroken
    launch(config(tmp_path, steps=4), 2)
    _, weights = train(config(tmp_path))
    alone = losses(folder)
    assert losses(tmp_path) == pytest.approx(alone, rel=1e-4)
    assert validations(tmp_path)[3]["validation/high"] == pytest.approx(
        validations(folder)[3]["validation/high"], rel=1e-4
    )
    assert close(weights, expected)


@pytest.mark.slow
def test_two_ranks_share_every_samples_tokens_where_one_stopped_and_muon_sees_whole_matrices(tmp_path):
    settings = {"optimizer": {"name": "muon"}, "watch": {"validation_every": 100}}
    sharing = {"distributed": {"reshard_after_forward": False, "sequence_parallel": 2}}
    train(config(tmp_path / "one", **settings))
    train(config(tmp_path / "two", steps=2, **settings))
    launch(config(tmp_path / "two", **settings, **sharing), 2)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def test_a_rank_without_samples_is_told():
    class First(Ranks):
        """Of two, the second of which has nothing."""

        def max(self, *values):
            return [max(value, 0.0) for value in values]

    with pytest.raises(ValueError, match=r"no samples.*data\.tokens"):
        list(First(CPU).even([[1]]))


def test_sequence_parallelism_that_does_not_divide_the_ranks_is_told(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="2 does not divide the 3"), ranks_of_launch(CPU, 2):
        pass

"""Post-training by reward: what is better than its group is learnt, what is worse unlearnt, and nothing else moves."""

import json
import os
import socket

import numpy as np
import pytest
import torch
import torch.multiprocessing
from tiny_training import CPU, TinyBatches, TinyRecipe, config, sample, trained_in_one_and_in_two_parts

from loomvideo.checkpoint import pipeline_class
from loomvideo.data.world.tasks import sample as world_sample
from loomvideo.evaluation.judge import Verdict
from loomvideo.sampling.euler import ShiftedEulerScheduler
from loomvideo.systems.plan import plan
from loomvideo.systems.request import ModelLimits, Request
from loomvideo.training import nft
from loomvideo.training.config import ConfigError, DistillConfig, ReinforceConfig, TrainConfig, from_mapping
from loomvideo.training.distill import DistillTrainer
from loomvideo.training.distributed import Ranks, ranks_of_launch
from loomvideo.training.launch import load_start, make_policy, run_training
from loomvideo.training.nft import NftTrainer, Rollout, Rollouts, nft_errors, optimality
from loomvideo.training.recipe import Draw
from loomvideo.training.rewards import WorldReward, make_reward, share_right

GOOD = 1.5  # the value of all latents of a good clip


def policies(size=6, beta=1.0, seed=0):
    torch.manual_seed(seed)
    shape = (size, 2, 1, 2, 2)
    target, old, new = torch.randn(3, *shape)
    return target, old, new, torch.rand(size), beta


# --- the loss


@pytest.mark.parametrize("beta", [0.1, 1.0, 2.0])
def test_the_loss_is_the_papers_on_its_implicit_policies(beta):
    target, old, new, r, _ = policies()
    weight = r[:, None, None, None, None]
    positive, negative = (1 - beta) * old + beta * new, (1 + beta) * old - beta * new
    expected = weight * (positive - target).square() + (1 - weight) * (negative - target).square()
    found = nft_errors((new - target).square(), (old - target).square(), (new - old).square(), r, beta)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def gradient(r, beta=1.0):
    """Of the loss at the old policy, with the direction from the old velocity to the target."""
    target, old, *_ = policies()
    new = old.clone().requires_grad_()
    errors = nft_errors(
        *((a - b).square() for a, b in ((new, target), (old, target), (new, old))), torch.full((6,), r), beta
    )
    errors.sum().backward()
    return new.grad, target - old


def test_equal_rewards_leave_the_old_policy_where_it_is():
    assert optimality([0.7, 0.7, 0.7]) == [0.5] * 3
    assert not gradient(0.5)[0].any()


@pytest.mark.parametrize("r", [0.0, 0.2, 0.8, 1.0])
def test_a_step_goes_towards_what_is_good_and_away_from_what_is_bad(r):
    found, towards = gradient(r)
    torch.testing.assert_close(-found, 2 * (2 * r - 1) * towards)


def test_the_optimum_is_the_old_velocity_moved_to_that_of_the_better_clips():
    """Of clips that share a noisy one: v_old + (2 / beta) E[r (v - v_old)]."""
    beta, targets = 0.5, torch.randn(4, 1, 1, 1, 1)
    r = torch.tensor(optimality([3.0, 1.0, 2.0, 2.0]))
    old = targets.mean(0, keepdim=True).expand_as(targets)
    best = old[:1] + (2 / beta) * (r[:, None, None, None, None] * (targets - old)).mean(0, keepdim=True)

    def loss(new):
        new = new.expand_as(targets)
        return nft_errors((new - targets).square(), (old - targets).square(), (new - old).square(), r, beta).mean()

    assert all(loss(best) < loss(best + step) for step in (-0.1, 0.1))


def test_optimality_lies_in_0_to_1_in_the_order_of_the_rewards_and_knows_no_scale():
    rewards = np.random.default_rng(0).normal(size=9).tolist()
    found = optimality(rewards)
    assert all(0 <= r <= 1 for r in found)
    assert [found[place] for place in np.argsort(rewards)] == sorted(found)
    assert optimality([5 - 3 * value for value in rewards]) == pytest.approx([1 - r for r in found])


def test_rewards_that_hardly_differ_teach_little_where_a_least_spread_says_so():
    hardly = [0.900, 0.901, 0.902]
    assert optimality(hardly) == pytest.approx(optimality([100 * value for value in hardly]))
    found = optimality(hardly, least_spread=0.1)
    assert found == sorted(found)
    assert max(abs(r - 0.5) for r in found) == pytest.approx(0.5 * 0.001 / 0.1)
    assert optimality([0.0, 1.0], least_spread=0.1) == [0.0, 1.0]


# --- a run, on latents that stand for frames


class OnePrompt:
    """The same prompt at every step, of another number."""

    def __init__(self):
        self.step = 0

    def next(self):
        self.step += 1
        return [[Draw(sample(0) | {"asked": None}, (self.step, number)) for number in range(2)]]

    def state_dict(self):
        return {"step": self.step}

    def load_state_dict(self, state):
        self.step = state["step"]


class EulerPolicy:
    """A few plain steps of the tiny denoiser."""

    def __init__(self, steps=4):
        self.model, self.steps = TinyRecipe().build(None).eval(), steps

    def become(self, weights):
        self.model.load_state_dict(weights, strict=False)

    @torch.no_grad()
    def __call__(self, draws):
        latents = torch.stack([draw.noise(CPU) for draw in draws])
        layers = [layer.expand(len(draws), -1, -1) for layer in draws[0].item["full"].float()[:, None]]
        conditions = self.model.prepare(layers, latent_shape=latents.shape)
        for time in torch.linspace(1, 0, self.steps + 1)[:-1]:
            latents = latents - self.model(latents, (1000 * time).expand(len(draws)), conditions) / self.steps
        return [Rollout(one, one.numpy()) for one in latents]


def nearness(asked, frames):
    return -float(np.square(frames - GOOD).mean())


def make(folder, reward=nearness, **settings):
    settings = {"optimizer": {"learning_rate": 5e-3, "warmup_steps": 1}, "ema_decay": 0.5} | settings
    reinforce = ReinforceConfig(group_size=6, times=2)
    policy = EulerPolicy()
    recipe = TinyRecipe()
    rollouts = Rollouts(OnePrompt(), policy, reward, reinforce)
    return NftTrainer(
        config(folder, **settings), recipe, recipe.build(None), rollouts, Ranks(CPU), become=policy.become, beta=1.0
    )


def rewards(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["reward/mean"] for line in lines if "reward/mean" in line]


def test_a_run_raises_its_mean_reward(tmp_path):
    make(tmp_path, steps=30).train()
    found = rewards(tmp_path)
    assert len(found) == 30
    assert np.mean(found[-5:]) > np.mean(found[:5]) + 0.3 * abs(np.mean(found[:5]))


def test_equal_rewards_move_no_weight(tmp_path):
    trainer = make(tmp_path, reward=lambda asked, frames: 1.0)
    before = {name: value.detach().clone() for name, value in trainer.parameters.items()}
    step = trainer.do_step()
    assert step.gradient == pytest.approx(0, abs=1e-6)
    assert step.loss > 0
    assert all(torch.allclose(before[name], value, atol=1e-6) for name, value in trainer.parameters.items())


@pytest.mark.parametrize("prediction", ["velocity", "clean"])
def test_errors_and_what_is_between_the_policies_are_weighted_alike(prediction, tmp_path, monkeypatch):
    """Old, new and target lie on a line in every number: what is between two of them is the third distance's rest."""
    seen = []
    monkeypatch.setattr(nft, "nft_errors", lambda *terms: seen.append(terms[:3]) or nft_errors(*terms))
    trainer = make(tmp_path)
    trainer.network.model.register_to_config(prediction=prediction)
    with torch.no_grad():
        trainer.parameters["proj_out.weight"].mul_(1.5)  # of the learnt policy alone
    trainer.do_step()
    for new, old, apart in seen:
        new, old, apart = new.detach().sqrt(), old.sqrt(), apart.detach().sqrt()
        rest = torch.minimum((apart - (new - old).abs()).abs(), (apart - (new + old)).abs())
        assert apart.max() > 0.01
        assert rest.max() < 1e-3


def test_every_clip_counts_by_the_root_of_its_error():
    errors = torch.rand(3, 2, 1, 4, 4) * torch.tensor([1e-4, 1.0, 100.0])[:, None, None, None, None]
    counted = (nft.adaptive_weights(errors) * errors).flatten(1).mean(1)
    torch.testing.assert_close(counted, errors.flatten(1).mean(1).sqrt())


def test_the_policy_that_draws_is_the_average_of_the_learnt_ones_and_the_result(tmp_path):
    trainer = make(tmp_path)
    drawing = []
    trainer.become = drawing.append
    trainer.do_step()
    trainer.step += 1
    averaged = {name: value.clone() for name, value in trainer.averages.items()}
    assert all(torch.equal(value, averaged[name]) for name, value in trainer.weights().items())
    assert not torch.equal(averaged["proj_out.weight"], trainer.parameters["proj_out.weight"])
    trainer.do_step()
    assert all(torch.equal(value, averaged[name]) for name, value in drawing[1].items())


def test_a_run_in_two_parts_is_the_run_in_one_to_the_bit(tmp_path):
    whole, parts = trained_in_one_and_in_two_parts(make, tmp_path)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], value) for name, value in parts.items())


def test_clips_are_drawn_anew_at_every_step_and_learnt_from_at_several_times(tmp_path):
    rollouts = make(tmp_path).batches
    first, second = rollouts.next(), rollouts.next()
    assert len(first) == 2 * 2  # prompts, times
    assert torch.equal(first[0][0].item["target"], first[1][0].item["target"])
    assert first[0][0].seed != first[1][0].seed
    drawn = [draw.item["target"] for groups in (first[::2], second[::2]) for group in groups for draw in group]
    assert len({tuple(latents.flatten().tolist()) for latents in drawn}) == len(drawn) == 24
    assert len(rollouts.rewards) == 12


# --- rewards


def test_the_worlds_reward_is_full_for_the_truth_and_less_for_what_lacks_a_fact():
    one = world_sample("edit_image", np.random.default_rng(3), num_frames=1, height=128, width=128)
    reward = WorldReward(CPU)
    truth = one.target_frames()
    wrong = truth[..., ::-1].copy()
    assert reward(one, truth) == pytest.approx(1, abs=0.02)
    assert reward(one, wrong) < reward(one, truth) - 0.2


def test_the_worlds_reward_counts_objects_and_leaves_out_what_is_not_required():
    objects = ({"colour": True, "shape": True}, {"colour": False, "shape": True})
    verdict = Verdict(facts={"count": True, "colour": False, "shape": True, "size": False}, objects=objects)
    assert share_right(verdict) == pytest.approx((1 + 0.5 + 1) / 3)
    assert share_right(Verdict(facts={"style": False}, psnr=10.0)) == pytest.approx((0 + 0.25) / 2)


def one_for_all(device):
    return lambda asked, frames: 1.0


@pytest.mark.parametrize("name", ["nothing", "nothing:here", "json:nothing"])
def test_a_reward_that_there_is_not_is_told(name):
    with pytest.raises(ConfigError, match=rf"reinforce.reward: {name}.*world, pickscore"):
        make_reward(name, CPU)


def test_a_reward_of_ones_own_is_named_by_its_module():
    assert make_reward("test_nft:one_for_all", CPU)(None, None) == 1.0


def test_pickscore_without_its_weights_says_where_they_are_had():
    with pytest.raises(ConfigError, match=r"PickScore.*hf download"):
        make_reward("pickscore", CPU)


# --- the command


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"ema_decay": None}, "ema_decay"),
        ({"data": {"shards": "somewhere"}}, r"data\.source"),
        ({"reinforce": {"group_size": 1}}, "group_size"),
        ({"reinforce": {"beta": 0}}, "beta"),
        ({"reinforce": {"flow_shift": 0}}, "flow_shift"),
        ({"reinforce": {"times": 0}}, r"reinforce\.times"),
        ({"distill": {}}, "one run"),
    ],
)
def test_a_configuration_that_cannot_be_reinforced_is_told(said, message):
    usual = {"run_dir": "run", "ema_decay": 0.9, "data": {"source": "world"}, "reinforce": {}}
    with pytest.raises(ConfigError, match=message):
        from_mapping(TrainConfig, usual | said)


def reinforcing(folder, system, run, **said):
    return {
        "run_dir": str(run),
        "system": system,
        "steps": 2,
        "ema_decay": 0.5,
        "model": {"start": str(folder), "lora": {"rank": 2, "targets": ["to_q"]}},
        "reinforce": {"group_size": 2, "times": 1, "num_inference_steps": 2},
    } | said


@pytest.mark.parametrize("system", ["loomvideo", "vino"])
def test_a_model_folder_is_reinforced_from_its_configuration(system, request, tmp_path):
    """A LoRA in two steps, drawn by the model itself and judged by the little world."""
    folder = request.getfixturevalue({"loomvideo": "tiny_model", "vino": "tiny_vino"}[system])
    data = tmp_path / "data.yaml"
    data.write_text("train:\n  pictures: {world: [t2i, edit_image], height: 64, width: 64, num_frames: 1}\n")
    said = reinforcing(folder, system, tmp_path / "run", data={"source": str(data), "tokens": 8, "workers": 1})
    made = run_training(from_mapping(TrainConfig, said), CPU)
    assert made is not None
    assert made.is_file()
    found = rewards(tmp_path / "run")
    assert len(found) == 2
    assert all(0 <= value <= 1 for value in found)


@pytest.mark.parametrize("system", ["loomvideo", "vino"])
def test_the_policy_draws_what_the_system_itself_makes_of_each_request(system, request, tmp_path):
    """Of Euler's steps without guidance; prepared samples are kept in float16."""
    folder = request.getfixturevalue({"loomvideo": "tiny_model", "vino": "tiny_vino"}[system])
    said = reinforcing(folder, system, tmp_path / "run", data={"source": "world"})
    said["model"]["precision"] = "float32"
    said = from_mapping(TrainConfig, said)
    start = load_start(said, CPU)
    asked = world_sample("edit_image", np.random.default_rng(3), num_frames=1, height=64, width=64)
    prepared = start.recipe.prepare([asked], np.random.default_rng(0))[0]
    draws = [Draw(prepared, (5, member)) for member in range(2)]
    drawn = make_policy(said, start, said.reinforce, CPU)(draws)

    pipeline = pipeline_class(system).from_pretrained(folder)
    scheduler = ShiftedEulerScheduler(said.reinforce.flow_shift, timestep_multiplier=start.recipe.last_timestep)
    scheduler.set_shift = lambda shift: None  # VINO's own would come between
    pipeline.register_modules(scheduler=scheduler)
    planned = plan(
        Request(
            prompt=asked.prompt,
            source=asked.source_frames()[0],
            height=64,
            width=64,
            guidance_scale=1.0,
            guidance_scale_visual=1.0,
            num_inference_steps=2,
        ),
        pipeline.limits,
    )
    for draw, one in zip(draws, drawn, strict=True):
        made = pipeline.generate(planned, latents=draw.noise(CPU)[None], output_type="latent")
        torch.testing.assert_close(one.latents, made.frames[0], rtol=0, atol=0.01)
        assert one.frames.shape == (1, 64, 64, 3)
    assert not torch.allclose(drawn[0].latents, drawn[1].latents, atol=0.1)


# --- ranks


class SharedPrompts(OnePrompt):
    def __init__(self, ranks):
        super().__init__()
        self.ranks = ranks

    def next(self):
        (group,) = super().next()
        return [[draw] for draw in group[self.ranks.data_rank :: self.ranks.data_ranks]]


def reinforce_rank(rank, world, port, folder):
    """What every process of a launch runs: two steps of reinforcement, then two of distillation."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with ranks_of_launch(CPU) as ranks:
        policy, recipe = EulerPolicy(2), TinyRecipe()
        rollouts = Rollouts(SharedPrompts(ranks), policy, nearness, ReinforceConfig(group_size=3, times=1))
        settings = config(folder / "nft", steps=2, ema_decay=0.5)
        trainers = {
            "nft": NftTrainer(settings, recipe, recipe.build(None), rollouts, ranks, become=policy.become, beta=1.0),
            "distill": DistillTrainer(
                config(folder / "distill", steps=2),
                recipe,
                recipe.build(None),
                TinyBatches(ranks.data_rank, ranks.data_ranks),
                ranks,
                teacher=recipe.build(None),
                limits=ModelLimits(fps=8, area=64 * 64, max_area=64 * 64, max_frames=1, default_frames=1),
                distill=DistillConfig(num_inference_steps=2, teacher_steps=1),
            ),
        }
        for name, trainer in trainers.items():
            trainer.train()
            weights = trainer.weights()
            if rank == 0:
                torch.save(weights, folder / f"{name}.pt")


@pytest.mark.slow
def test_two_ranks_post_train_as_one(tmp_path):
    """Rewards, old policy and teacher among them; weights of both runs as by one alone."""
    for world in (1, 2):
        (tmp_path / str(world)).mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torch.multiprocessing.spawn(reinforce_rank, (world, port, tmp_path / str(world)), nprocs=world)  # pyright: ignore
    assert rewards(tmp_path / "2" / "nft") == pytest.approx(rewards(tmp_path / "1" / "nft"), rel=1e-4)
    for name in ("nft", "distill"):
        alone, together = (torch.load(tmp_path / world / f"{name}.pt", weights_only=True) for world in ("1", "2"))
        assert all(torch.allclose(together[key], value, rtol=1e-4, atol=1e-4) for key, value in alone.items())

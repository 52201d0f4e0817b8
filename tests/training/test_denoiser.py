"""Prepared samples become batches of one layout; dropped conditions are those that sampling's weaker branches lack."""

import math

import numpy as np
import pytest
import torch
from tiny_training import CPU, TinyRecipe, sample

from loomvideo.training import denoiser, loomvideo
from loomvideo.training.denoiser import (
    NUM_SHOWN,
    SMALLEST_BATCH,
    Shards,
    importance,
    layout_of,
    loss_of,
    set_trained,
    stage_at,
    train_denoiser,
)
from loomvideo.training.loomvideo import (
    FLOW_SHIFT,
    LIMITS,
    STAGES,
    LoomVideoRecipe,
    build_denoiser,
    drop_conditions,
    make_group,
    prepare,
    unconditional_layers,
)
from loomvideo.training.recipe import BatchRules, Draw, Readers, Stage
from two_ranks import run

BLOCKS, WIDTH = 2, 8
UNCONDITIONAL = torch.zeros(BLOCKS, 3, WIDTH)


def item(length=5, frames=1, *, source=False, references=0, value=1.0):
    made = {
        "task": "test",
        "target": torch.full((4, frames, 4, 4), value).half(),
        "full": torch.full((BLOCKS, length, WIDTH), 1.0).half(),
        "references": [torch.ones(4, 1, 4, 4).half() for _ in range(references)],
    }
    if source:
        made |= {
            "source": torch.full((4, frames, 4, 4), 2.0).half(),
            "visual": torch.full((BLOCKS, length - 1, WIDTH), 0.5).half(),
        }
    return made


KEEP = BatchRules(all_dropout_rate=0.0, text_dropout_rate=0.0)
DROP_ALL = BatchRules(all_dropout_rate=1.0, text_dropout_rate=0.0)
DROP_TEXT = BatchRules(all_dropout_rate=0.0, text_dropout_rate=1.0)


def drop(one, rules):
    return drop_conditions([one], UNCONDITIONAL, [np.random.default_rng(0)], rules)


def group_of(items, rules=KEEP, seed=0):
    draws = [Draw(one, (seed, row)) for row, one in enumerate(items)]
    return make_group(draws, UNCONDITIONAL, torch.device("cpu"), rules)


def test_a_full_sample_keeps_its_words_and_its_source():
    layers, keeps = drop(item(source=True), KEEP)
    assert keeps == [True]
    assert layers[0].shape[1] == 5
    assert (layers[0] == 1).all()


def test_dropping_all_leaves_the_unconditional_chat_and_no_source():
    layers, keeps = drop(item(source=True), DROP_ALL)
    assert keeps == [False]
    assert layers[0] is UNCONDITIONAL


def test_dropping_the_text_leaves_what_is_seen():
    layers, keeps = drop(item(source=True), DROP_TEXT)
    assert keeps == [True]
    assert (layers[0] == 0.5).all()


def test_references_stay_when_all_is_drawn_to_be_dropped():
    layers, keeps = drop(item(source=True, references=1), DROP_ALL)
    assert keeps == [True]
    assert (layers[0] == 0.5).all()


def test_a_group_pads_and_masks_prompts_of_different_lengths():
    group = group_of([item(5), item(9)])
    assert group.layers[0].shape == (2, 9, WIDTH)
    assert group.context_mask.sum(1).tolist() == [5, 9]
    assert (group.layers[0][0, 5:] == 0).all()


def test_a_dropped_source_is_zeros_beside_a_kept_one():
    group = group_of([item(source=True)], DROP_ALL)
    assert (group.source == 0).all()
    group = group_of([item(source=True)])
    assert (group.source == 2).all()


def test_what_is_random_in_a_sample_does_not_depend_on_the_batch_it_stands_in():
    items = [item(source=True, value=float(row)) for row in range(6)]
    rules = BatchRules(all_dropout_rate=0.3, text_dropout_rate=0.3)
    draws = [Draw(one, (5, row)) for row, one in enumerate(items)]
    whole = make_group(draws, UNCONDITIONAL, torch.device("cpu"), rules)
    for parts in ((0, 2), (2, 6)):
        part = make_group(draws[slice(*parts)], UNCONDITIONAL, torch.device("cpu"), rules)
        for name in ("noise", "time", "source"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[slice(*parts)])
    assert len(set(whole.time.tolist())) == 6
    assert whole.noise.flatten(1).corrcoef().triu(1).abs().max() < 0.5


def test_conditions_are_dropped_as_often_as_told():
    rules = BatchRules(all_dropout_rate=0.1, text_dropout_rate=0.2)
    rngs = [np.random.default_rng((1, row)) for row in range(2000)]
    layers, keeps = drop_conditions([item(source=True)] * 2000, UNCONDITIONAL, rngs, rules)
    assert keeps.count(False) / 2000 == pytest.approx(0.1, abs=0.02)
    assert sum(bool((one == 0.5).all()) for one in layers) / 2000 == pytest.approx(0.2, abs=0.03)


@pytest.fixture
def recipe():
    return LoomVideoRecipe.__new__(LoomVideoRecipe)  # whose readers are not asked here


def test_shards_that_appear_later_are_taken_up_and_batches_have_one_layout(tmp_path, recipe):
    data = Shards(tmp_path, recipe, seed=0, tokens_a_batch=64)
    torch.save([item(), item(frames=3)], tmp_path / "000-000000.pt")
    data.refresh()
    assert len(data) == 2
    torch.save([item(source=True), item(references=2)], tmp_path / "000-000001.pt")
    data.looked = float("-inf")
    data.refresh()
    assert len(data) == 4
    for _ in range(20):
        assert (
            len({layout_of(one) for one in data.batch({"words picture": 0.5, "edit picture": 0.3, "words clip": 0.2})})
            == 1
        )


def test_reading_shards_takes_a_tenth_of_the_time_and_no_more(tmp_path, recipe, monkeypatch):
    """Shards that take a second each, a hundred of them: ten at once, and then one in ten seconds of training."""
    now = [0.0]
    monkeypatch.setattr(denoiser.time, "monotonic", lambda: now[0])
    read = torch.load

    def slowly(*args, **options):
        now[0] += 1.0
        return read(*args, **options)

    monkeypatch.setattr(denoiser.torch, "load", slowly)
    for number in range(100):
        torch.save([item()], tmp_path / f"000-{number:06d}.pt")
    data = Shards(tmp_path, recipe, seed=0, tokens_a_batch=64)
    data.batch({"words picture": 1.0})
    at_once = len(data)
    assert at_once in (10, 11, 12)
    for _ in range(400):
        now[0] += 0.5  # a step
        data.batch({"words picture": 1.0})
    assert len(data) - at_once == pytest.approx(0.1 * (now[0] - at_once), abs=2)
    assert now[0] < 0.12 * 200 + 200 + at_once


def test_clips_are_drawn_as_often_as_told(tmp_path, recipe):
    data = Shards(tmp_path, recipe, seed=0, tokens_a_batch=64)
    torch.save([item(), item(frames=3)], tmp_path / "000-000000.pt")
    clips = sum(layout_of(data.batch({"words picture": 0.75, "words clip": 0.25})[0])[0][1] > 1 for _ in range(400))
    assert 60 < clips < 140


def test_kinds_that_are_not_there_yet_are_left_out_of_the_draw(tmp_path, recipe):
    data = Shards(tmp_path, recipe, seed=0, tokens_a_batch=64)
    torch.save([item()], tmp_path / "000-000000.pt")
    assert all(recipe.kind(one) == "words picture" for one in data.batch({"words clip": 1.0}))
    assert all(recipe.kind(one) == "words picture" for one in data.batch({"words clip": 0.9, "words picture": 0.1}))


def test_a_batch_of_larger_samples_has_fewer_of_them(tmp_path, recipe):
    data = Shards(tmp_path, recipe, seed=0, tokens_a_batch=240)
    torch.save([item(), item(frames=3)], tmp_path / "000-000000.pt")
    assert len(data.batch({"words picture": 1.0})) == 60
    assert len(data.batch({"words clip": 1.0})) == 20


def test_of_a_kind_of_some_frames_batches_are_of_more_clips_and_say_which_frames_they_show(tmp_path, recipe):
    data = Shards(tmp_path, recipe, seed=0, tokens_a_batch=204)
    clip = item(frames=17, source=True)
    clip["target"] += torch.arange(17)[None, :, None, None]
    torch.save([clip], tmp_path / "000-000000.pt")
    whole = data.batch({"edit clip": 1.0})
    assert len(whole) == SMALLEST_BATCH
    assert all("shown" not in one for one in whole)
    drawn = set()
    for _ in range(20):
        some = data.batch({"edit clip, some frames": 1.0})
        assert len(some) == 204 // (4 * NUM_SHOWN)
        shown = some[0]["shown"]
        drawn.add(shown)
        assert shown.of == 17
        assert sorted(set(shown.frames)) == list(shown.frames)
        assert len(shown.frames) == NUM_SHOWN
        assert all(torch.equal(one["target"], clip["target"][:, list(shown.frames)]) for one in some)
        assert all(one["source"].shape == one["target"].shape for one in some)
        group = group_of(some)
        assert group.shown == shown
        assert group.source.shape == group.latents.shape == group.noise.shape
    assert len(drawn) > 10


def test_the_newest_samples_of_a_kind_and_layout_are_kept_as_many_as_their_size_allows(tmp_path, recipe, monkeypatch):
    monkeypatch.setattr(denoiser, "KEPT", 3 * item()["target"].numel())
    data = Shards(tmp_path, recipe, seed=0, tokens_a_batch=64)
    torch.save([item(value=float(number)) for number in range(3)] + [item(frames=3)], tmp_path / "000-000000.pt")
    data.refresh()
    assert len(data) == 4
    torch.save([item(value=10.0), item(value=11.0)], tmp_path / "000-000001.pt")
    data.looked = float("-inf")
    data.refresh()
    assert len(data) == 4
    drawn = {float(one["target"].flatten()[0]) for _ in range(20) for one in data.batch({"words picture": 1.0})}
    assert drawn == {2.0, 10.0, 11.0}


SHARES = {"words picture": 0.5, "words clip": 0.5}


def drawn_by_a_rank(folder):
    """The kinds of forty batches in turn, and the values of all their samples."""
    data = Shards(folder, LoomVideoRecipe.__new__(LoomVideoRecipe), seed=5, tokens_a_batch=64)
    batches = [data.batch(SHARES) for _ in range(40)]
    kinds = [data.recipe.kind(batch[0]) for batch in batches]
    return kinds, {float(one["target"].flatten()[0]) for batch in batches for one in batch}, len(data)


def test_two_ranks_draw_kinds_and_shards_of_their_own(tmp_path):
    """So a step is of several kinds, and none learns from what another has learnt from."""
    for number in range(16):
        torch.save([item(value=float(number)), item(frames=3, value=float(number))], tmp_path / f"000-{number:06d}.pt")
    (kinds, mine, count), (others_kinds, theirs, others_count) = run(drawn_by_a_rank, tmp_path)
    assert kinds != others_kinds
    assert set(kinds) == set(others_kinds) == set(SHARES)
    assert not mine & theirs
    assert mine | theirs == {float(number) for number in range(16)}
    assert count + others_count == 32


def test_a_kind_is_what_a_target_is_made_from_and_whether_it_moves(recipe):
    assert recipe.kind(item()) == "words picture"
    assert recipe.kind(item(frames=3)) == "words clip"
    assert recipe.kind(item(references=2, frames=3)) == "references clip"
    assert recipe.kind(item(source=True) | {"task": "edit_image"}) == "edit picture"
    assert recipe.kind(item(source=True, frames=3) | {"task": "style_video"}) == "style clip"


def test_the_shares_of_a_stage_are_of_one_whole():
    assert all(math.isclose(sum(stage.shares.values()), 1) for stage in STAGES)


@pytest.mark.parametrize(("progress", "stage"), [(0.0, 0), (0.199, 0), (0.2, 1), (0.6, 2), (0.99, 2), (1.0, 2)])
def test_a_stage_is_a_share_of_the_run(progress, stage):
    assert stage_at(STAGES, progress) is STAGES[stage]


def test_a_stage_trains_the_parameters_that_its_rule_names_and_no_others():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    set_trained(model, Stage(until=0.5, shares={}, trained="1."))
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    set_trained(model, Stage(until=1.0, shares={}))
    assert all(p.requires_grad for p in model.parameters())


GUIDED = {
    **LIMITS,
    "guidance_scale": 4.0,
    "guidance_scale_edit": 2.5,
    "guidance_scale_visual": 1.5,
}  # so that all branches run


@pytest.mark.parametrize(
    ("task", "plans"),
    [("t2i", False), ("t2i", True), ("edit_image", True), ("guided_edit", False), ("guided_edit", True)],
)
def test_prepared_features_are_what_the_pipeline_would_compute(task, plans, monkeypatch):
    """Latents and layers of a sample equal those of the same request at inference, up to half precision; of a model that
    plans, as think mode leaves it, and where its language model is asked what it is taught to say."""
    from diffusers import UniPCMultistepScheduler

    from loomvideo.data.world.plans import END
    from loomvideo.data.world.tasks import sample
    from loomvideo.systems.loomvideo import LoomVideoPipeline
    from loomvideo.systems.plan import plan
    from loomvideo.systems.request import Request
    from loomvideo.training.features import told
    from loomvideo.training.mllm import FRAME_RULE, IMAGE_BUDGET, VIDEO_BUDGET, build_mllm, build_tokenizer
    from loomvideo.training.vae import build_vae

    torch.manual_seed(0)
    tokenizer = build_tokenizer(texts=50)
    pipeline = LoomVideoPipeline(
        transformer=build_denoiser(),
        mllm=build_mllm(tokenizer).eval(),
        tokenizer=tokenizer,
        vae=build_vae().eval(),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT
        ),
        limits=GUIDED,
        item_end=END if plans else None,
        frame_rule=vars(FRAME_RULE),
        pixel_budgets={"image": vars(IMAGE_BUDGET), "video": vars(VIDEO_BUDGET)},
    )
    drawn = sample(task, np.random.default_rng(1), num_frames=1, height=64, width=64)
    readers = Readers(
        pipeline.vae,
        pipeline.mllm,
        tokenizer,
        plans=plans,
        item_end=pipeline.config["item_end"],
        num_blocks=pipeline.transformer.config["num_layers"],
    )
    monkeypatch.setattr(loomvideo, "_stated", lambda drawn, readers: [])
    (prepared,) = prepare([drawn], readers)
    source = drawn.source_frames()
    request = Request(
        prompt=told(drawn, readers),
        source=None if source is None else source[0],
        references=drawn.reference_pictures(),
        num_frames=1,
        height=64,
        width=64,
    )
    planned = plan(request, pipeline.limits)
    with torch.no_grad():
        encoded = None if source is None else pipeline.encode(planned.source)
        references = tuple(pipeline.encode(reference[None]) for reference in planned.references)
        branches, _ = pipeline.guidance_branches(planned, encoded, references)
    unconditional = unconditional_layers(readers)
    torch.testing.assert_close(torch.stack(branches[0].layers)[:, 0].half(), unconditional, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(torch.stack(branches[-1].layers)[:, 0].half(), prepared["full"], rtol=2e-3, atol=2e-3)
    if source is not None:
        torch.testing.assert_close(encoded[0].half(), prepared["source"], rtol=2e-3, atol=2e-3)
        assert ("visual" in prepared) == (not plans), "what is seen is in the plan"
        visual = prepared.get("visual", unconditional)
        torch.testing.assert_close(torch.stack(branches[1].layers)[:, 0].half(), visual, rtol=2e-3, atol=2e-3)
    for mine, prepared_reference in zip(references, prepared["references"], strict=True):
        torch.testing.assert_close(mine[0].half(), prepared_reference, rtol=2e-3, atol=2e-3)


@pytest.mark.usefixtures("steady_clock")
def test_a_step_learns_from_the_mean_of_several_batches(tmp_path, monkeypatch):
    """So that what one kind teaches is not undone by the next: batches of one step are drawn one by one."""
    torch.save([sample(index) for index in range(6)], tmp_path / "000-000000.pt")
    kinds, losses = [], []

    def known_loss(recipe, model, batch, items):
        kinds.append(recipe.kind(items[0]))
        return model.proj_out.bias.sum() * 0 + (1.0 if len(kinds) % 2 else 3.0), {kinds[-1]: 1.0}

    def watched(self, loss):
        losses.append(float(loss()[0].detach()))
        step(self, loss)

    step = denoiser.Run.step
    monkeypatch.setattr(denoiser, "loss_of", known_loss)
    monkeypatch.setattr(denoiser.Run, "step", watched)
    monkeypatch.setattr(denoiser, "BATCHES_A_STEP", 2)
    monkeypatch.setattr(TinyRecipe, "tokens_a_batch", {"cpu": 16})
    train_denoiser(tmp_path / "run", tmp_path, TinyRecipe(), minutes=0.2, slice_minutes=1.0, device=CPU)
    assert set(losses) == {2.0}
    assert len(set(kinds)) > 1


def test_the_loss_weighs_errors_and_the_log_says_what_they_are_of():
    recipe = TinyRecipe()
    items = [sample(1), sample(2)]
    model = recipe.build(None)
    batch = recipe.batch([Draw(one, (row,)) for row, one in enumerate(items)], CPU)
    loss, figures = loss_of(recipe, model, batch, items)
    with torch.no_grad():
        errors = recipe.squared_errors(model, batch)
    torch.testing.assert_close(loss.detach(), (errors * importance(batch.latents, batch.source)).mean())
    plain = float(errors.mean())
    assert figures["error"] == figures["test_picture"] == pytest.approx(plain)
    thirds = [figures[f"noise_{min(int(time * 3), 2)}"] for time in batch.time]
    assert sum(thirds) / 2 == pytest.approx(plain)

"""VINO's training: what is prepared is what the pipeline reads, gradients go where they should, stages."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from loomvideo.data.buckets import num_tokens
from loomvideo.data.world.plans import END, plan_of
from loomvideo.data.world.tasks import sample
from loomvideo.models.chat import tokenise
from loomvideo.models.connector import QueryConnector
from loomvideo.models.hunyuan import VinoTransformer3DModel
from loomvideo.models.qwen import query_features
from loomvideo.models.vino_chat import vino_chat
from loomvideo.systems.plan import plan
from loomvideo.systems.request import Request
from loomvideo.systems.thinking import rethought
from loomvideo.systems.vino import VinoPipeline
from loomvideo.training import denoiser, vino
from loomvideo.training.builtin import export
from loomvideo.training.denoiser import SOME_FRAMES, set_trained, train_denoiser
from loomvideo.training.features import told
from loomvideo.training.launch import load_readers
from loomvideo.training.loomvideo import LoomVideoRecipe, build_denoiser
from loomvideo.training.mllm import build_mllm, build_tokenizer, visuals_of
from loomvideo.training.objective import Shown
from loomvideo.training.query_objective import TIMESTEPS, VinoModel, ask, predict_velocity
from loomvideo.training.recipe import NO_DROPOUT, BatchRules, Draw, Readers
from loomvideo.training.vae import build_vae
from loomvideo.training.vino import (
    ALIGNMENT,
    BUCKETS,
    EVERYTHING,
    HEAD_TIMESTEP,
    MIXTURE,
    PICTURES,
    VinoRecipe,
    draw_as,
)
from loomvideo.training.vino_samples import drop_conditions

CPU = torch.device("cpu")
SIDE = 64


@pytest.fixture(scope="module")
def recipe():
    torch.manual_seed(0)
    tokenizer = build_tokenizer(texts=50)
    readers = Readers(build_vae().eval(), build_mllm(tokenizer).eval(), tokenizer, plans=True, item_end=END)
    return VinoRecipe(readers)


def make_model(head_dim=16, axes=(4, 6, 6), *, item_tracks=False):
    torch.manual_seed(0)
    transformer = VinoTransformer3DModel(
        in_channels=48,
        out_channels=48,
        num_attention_heads=2,
        attention_head_dim=head_dim,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=2,
        mlp_ratio=2.0,
        patch_size=2,
        text_embed_dim=24,
        pooled_projection_dim=8,
        rope_axes_dim=axes,
        absolute_places=True,
    )
    connector = QueryConnector(4, hidden_size=192, z_dim=24, hy_dim=2 * head_dim, item_tracks=item_tracks)
    return VinoModel(transformer, connector)


def tiny_model(*, item_tracks=False):
    """A model that is no longer at its start, where modulations of zero would keep gradients back."""
    model = make_model(item_tracks=item_tracks)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture
def tracking_model():
    """One that moves what is read of a clip's plan to the times of its frames."""
    return tiny_model(item_tracks=True)


def drawn_samples(task, count=2, seed=1, num_frames=1, **others):
    rng = np.random.default_rng(seed)
    sizes = {"height": SIDE, "width": SIDE, "num_frames": num_frames} | others
    drawn = [sample(task, rng, **sizes) for _ in range(20 * count)]
    most_common = Counter(len(one.reference_scenes) for one in drawn).most_common(1)[0][0]
    return [one for one in drawn if len(one.reference_scenes) == most_common][:count]


def prepared_samples(recipe, task, count=2, seed=1, num_frames=1, kind=None):
    items = recipe.prepare(drawn_samples(task, count, seed, num_frames), np.random.default_rng(seed))
    wanted = kind or recipe.kind(items[0])
    return [one for one in items if recipe.kind(one) == wanted]


def without_reduced(item):
    return {name: value for name, value in item.items() if name != "reduced"}


def group_of(recipe, items, name):
    """A batch of the guidance branch of that name."""
    rules = BatchRules(all_dropout_rate=float(name == "reduced"), text_dropout_rate=float(name == "silent"))
    return recipe.batch([Draw(item, (3, row)) for row, item in enumerate(items)], CPU, rules)


def guided_group(recipe, **others):
    return group_of(recipe, prepared_samples(recipe, "guided_edit", **others), "full")


# --- what is prepared


@pytest.mark.parametrize(("task", "num_frames"), [("t2i", 1), ("guided_edit", 1), ("edit_video", 5)])
def test_of_a_plan_the_denoiser_reads_the_ends_of_items_and_the_queries(recipe, model, task, num_frames):
    drawn = drawn_samples(task, num_frames=num_frames)
    items = prepared_samples(recipe, task, num_frames=num_frames)
    for one, item in zip(drawn, items, strict=False):
        tokens = recipe.readers.tokenizer.convert_ids_to_tokens(item["full"]["ids"][item["full"]["text_rows"].long()])
        assert tokens == [END] * plan_of(one).count(END)
        assert not len(item["silent"]["text_rows"])
    read = []
    model.connector.connector.register_forward_hook(lambda module, inputs, output: read.append(inputs[0].shape[1]))
    predict_velocity(model, recipe.readers.mllm, group_of(recipe, items[:2], "full"))
    assert read == [max(plan_of(one).count(END) for one in drawn) + len(model.connector.metaquery)]


@pytest.mark.parametrize(
    ("task", "num_frames", "asked"),
    [
        ("t2i", 1, {}),
        ("edit_image", 1, {}),
        ("guided_edit", 1, {}),
        ("mi2v", 1, {}),
        ("edit_video", 5, {}),
        ("guided_edit", 5, {}),
        ("i2v", 5, {"task": "i2v"}),
    ],
)
def test_training_predicts_what_the_pipelines_branches_predict(recipe, model, task, num_frames, asked, tmp_path):
    """Plan, chat, queries, markers, references, text and time of every guidance branch, up to half precision."""
    recipe.save(model, tmp_path)
    check_against_pipeline(recipe, model, recipe.pipeline(tmp_path), task, num_frames, asked)


@pytest.mark.parametrize(("task", "num_frames"), [("t2i", 1), ("t2v", 5), ("edit_video", 5), ("guided_edit", 5)])
def test_training_moves_items_to_the_frames_that_the_pipeline_moves_them_to(
    recipe, tracking_model, task, num_frames, tmp_path
):
    recipe.save(tracking_model, tmp_path)
    check_against_pipeline(recipe, tracking_model, recipe.pipeline(tmp_path), task, num_frames, {})


@torch.no_grad()
def test_branches_at_once_read_the_items_that_they_read_one_by_one(recipe, tracking_model, tmp_path):
    """One reads a plan, the other none: their texts are padded, their frames too."""
    recipe.save(tracking_model, tmp_path)
    pipeline = recipe.pipeline(tmp_path)
    request = Request(prompt="a red circle", num_frames=5, height=SIDE, width=SIDE, guidance_scale=2.0)
    planned = plan(request, pipeline.limits)
    (drawn,) = drawn_samples("t2v", 1, num_frames=5)
    planned = rethought(planned, told(drawn, recipe.readers), replaces=True)
    noise = torch.randn(1, 48, 2, SIDE // 8, SIDE // 8)
    said = []
    for at_once in (True, False):
        branches, _ = pipeline.condition(planned, noise.shape, posterior=None, batch_branches=at_once)
        said.append(torch.cat([branch(noise, torch.tensor(TIMESTEPS)) for branch in branches]))
    torch.testing.assert_close(said[0], said[1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_sample_of_a_batch_reads_its_own_plan_alone(recipe, tracking_model):
    """Plans of several lengths, hence padded at every frame."""
    items = prepared_samples(recipe, "t2v", 4, num_frames=5, kind="words clip")
    items = sorted(items, key=lambda item: len(item["full"]["text_rows"]))
    items = [items[0], items[-1]]
    assert len(items[0]["full"]["text_rows"]) < len(items[1]["full"]["text_rows"])
    both = group_of(recipe, items, "full")
    alone = group_of(recipe, items[:1], "full")
    said = [predict_velocity(tracking_model, recipe.readers.mllm, group) for group in (both, alone)]
    torch.testing.assert_close(said[0][:1], said[1], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_picture_reads_what_was_said_with_tracks_and_without(recipe, model, tracking_model):
    model.load_state_dict(tracking_model.state_dict(), strict=False)
    group = guided_group(recipe)
    with_tracks, without = (predict_velocity(one, recipe.readers.mllm, group) for one in (tracking_model, model))
    assert torch.equal(with_tracks, without)


@pytest.mark.parametrize(("task", "num_frames"), [("t2i", 1), ("edit_image", 1), ("edit_video", 5)])
def test_training_follows_what_a_models_folder_says_of_its_chats(tiny_vino, task, num_frames):
    """Its system turn, its negative prompt, how often and to what its pictures are resized, how many frames it sees."""
    recipe, pipeline = VinoRecipe(load_readers(tiny_vino, CPU)), VinoPipeline.from_pretrained(tiny_vino)
    assert pipeline.first_budgets is not None
    assert pipeline.config["generate_system"] is not None
    assert pipeline.limits.negative_prompt
    model = VinoModel(pipeline.transformer, pipeline.connector)
    check_against_pipeline(recipe, model, pipeline, task, num_frames, {})


def check_against_pipeline(recipe, model, pipeline, task, num_frames, asked):
    (drawn,) = drawn_samples(task, 1, num_frames=num_frames)
    source = drawn.source_frames()
    request = Request(
        prompt=drawn.prompt,
        source=source if source is None or num_frames > 1 else source[0],
        references=drawn.reference_pictures(),
        num_frames=num_frames,
        height=SIDE,
        width=SIDE,
        guidance_scale=2.0,
        guidance_scale_visual=2.0,
        **asked,
    )
    planned = plan(request, pipeline.limits)
    if planned.think:
        planned = rethought(planned, told(drawn, recipe.readers), replaces=True)
    (item,) = prepared_samples(recipe, task, 1, num_frames=num_frames)
    names = [name for name in ("reduced", "silent", "full") if name in item]
    with torch.no_grad():
        noise = torch.randn(1, *item["target"].shape)
        branches, _ = pipeline.condition(planned, noise.shape, posterior=None, batch_branches=False)
        for branch, name in zip(branches, names, strict=True):
            group = replace(group_of(recipe, [item], name), noise=noise, time=torch.ones(1))
            ours = predict_velocity(model, recipe.readers.mllm, group)
            torch.testing.assert_close(ours, branch(noise, torch.tensor(TIMESTEPS))[0], rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize(("task", "num_frames"), [("t2i", 1), ("mi2v", 1), ("edit_video", 5), ("guided_edit", 5)])
def test_chats_that_were_looked_at_before_say_what_whole_chats_say(recipe, model, task, num_frames):
    """Prompts of several lengths in one batch; the chat is read without gradients, the queries with them."""
    drawn = drawn_samples(task, 3, num_frames=num_frames)
    items = prepared_samples(recipe, task, 3, num_frames=num_frames)
    chats = group_of(recipe, items, "full").chats
    whole = [vino_chat(visuals_of(one), told(one, recipe.readers), None) for one in drawn]
    expected = query_features(recipe.readers.mllm, tokenise(recipe.readers.tokenizer, whole), model.connector.metaquery)
    said = ask(recipe.readers.mllm, chats, model.connector.metaquery)
    real = torch.cat([chats.mask, torch.ones(3, len(model.connector.metaquery))], dim=1).bool()
    torch.testing.assert_close(said[real], expected[real], rtol=1e-2, atol=1e-2)


def test_chats_of_published_vocabularies_are_kept_whole(recipe):
    (item,) = prepared_samples(recipe, "t2i", 1)
    assert torch.iinfo(item["full"]["ids"].dtype).max >= 151_936


@pytest.mark.parametrize("task", ["edit_image", "guided_edit", "mi2v"])
def test_what_a_sample_shows_is_a_sample_of_words_with_the_same_latents(recipe, task):
    items = recipe.prepare(drawn_samples(task), np.random.default_rng(0))
    asked = [one for one in items if one["task"] != "words"]
    shown = [latents for one in asked for latents in (*one["references"][-1:], one["target"])]
    described = [one for one in items if one["task"] == "words"]
    assert described
    assert all(not one["references"] for one in described)
    assert all(any(torch.equal(one["target"], latents) for latents in shown) for one in described)


def test_every_kind_that_a_stage_draws_is_prepared(recipe):
    kinds = set()
    for task, moving in sorted({(task, sizes["num_frames"] > 1) for task, sizes, _ in MIXTURE}):
        drawn = drawn_samples(task, 2, num_frames=5 if moving else 1)
        kinds |= {recipe.kind(one) for one in recipe.prepare(drawn, np.random.default_rng(0))}
    assert kinds == {kind.removesuffix(SOME_FRAMES) for kind in EVERYTHING}
    assert set(ALIGNMENT) < set(PICTURES) < kinds


@pytest.mark.parametrize("item_tracks", [False, True])
def test_some_frames_of_an_edit_are_predicted_at_their_own_times_beside_the_sources(recipe, item_tracks):
    model = tiny_model(item_tracks=item_tracks)
    items = prepared_samples(recipe, "edit_video", num_frames=5)
    whole = group_of(recipe, items, "full")
    some = group_of(recipe, [recipe.only(one, Shown((1, 3), 5)) for one in items], "full")
    every = group_of(recipe, [recipe.only(one, Shown(tuple(range(5)), 5)) for one in items], "full")
    late = replace(some, shown=Shown((3, 4), 5))
    assert torch.equal(some.latents, whole.latents[:, :, [1, 3]])
    assert torch.equal(some.references[-1], whole.references[-1][:, :, [1, 3]])
    with torch.no_grad():
        said = [predict_velocity(model, recipe.readers.mllm, each) for each in (whole, every, some, late)]
    assert torch.equal(said[0], said[1])
    assert said[2].shape == some.latents.shape
    assert not torch.allclose(said[2], said[3])


def test_all_sizes_are_of_buckets_of_about_as_many_tokens():
    for _, sizes, _ in MIXTURE:
        assert (sizes["height"], sizes["width"]) in BUCKETS["128"]
    tokens = {num_tokens(17, *size) for size in BUCKETS["128"]}
    assert max(tokens) / min(tokens) < 1.1


# --- dropped conditions


def test_the_text_is_dropped_for_samples_and_the_pictures_for_batches(recipe):
    items, rules = prepared_samples(recipe, "guided_edit") * 500, recipe.rules
    rngs = [np.random.default_rng(row) for row in range(len(items))]
    shares = Counter()
    for _ in range(400):
        branches = drop_conditions(items[:2], rngs[:2], rules)
        shown = {len(branch["references"]) for branch in branches}
        assert len(shown) == 1
        shares["without pictures"] += shown == {1}
    assert shares["without pictures"] / 400 == pytest.approx(rules.all_dropout_rate, abs=0.04)
    kept = drop_conditions(items, rngs, replace(rules, **NO_DROPOUT))
    assert all(any(branch is item["full"] for item in items[:2]) for branch in kept)
    silent = sum(
        branch is item["silent"]
        for branch, item in zip(
            drop_conditions([without_reduced(one) for one in items], rngs, rules),
            map(without_reduced, items),
            strict=True,
        )
    )
    assert silent / len(items) == pytest.approx(rules.text_dropout_rate, abs=0.03)


def test_without_its_pictures_a_guided_edit_still_sees_what_is_edited(recipe):
    (item,) = prepared_samples(recipe, "guided_edit", count=1)
    assert torch.equal(item["reduced"]["references"][0], item["references"][-1])
    assert torch.equal(item["silent"]["references"][0], item["references"][0])


# --- gradients


def test_one_batch_can_be_learnt_by_heart(recipe):
    """Forty steps take the loss of three guided edits, times and noise held, to a fiftieth of what it was."""
    model = make_model(head_dim=128, axes=(32, 48, 48))  # wide enough for the 192 numbers of a patch
    group = guided_group(recipe, count=3)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(40):
        loss = recipe.squared_errors(model, group).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    no_velocity = (group.noise - group.latents).square().sum()
    assert losses[0] == pytest.approx(float(no_velocity), rel=1e-4), "the output starts at zero"
    assert losses[-1] < no_velocity / 50


def backward(recipe, model, group):
    recipe.squared_errors(model, group).sum().backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


UNUSED = "transformer.time_text_embed.text_embedder."


def test_gradients_reach_everything_but_the_language_model_and_the_unused_embedder(recipe, model):
    group = guided_group(recipe)
    group = replace(group, references=[one.requires_grad_() for one in group.references])
    reached = backward(recipe, model, group)
    names = {name for name, _ in model.named_parameters()}
    assert reached == {name for name in names if not name.startswith(UNUSED)}
    assert all(model.get_parameter(name).grad.abs().max() > 0 for name in reached)
    assert (model.connector.metaquery.grad.abs().amax(dim=1) > 0).all(), "every query"
    assert all(one.grad.abs().max() > 0 for one in group.references), "the references, hence their embedding"
    assert all(parameter.grad is None for parameter in recipe.readers.mllm.parameters())


def test_tracks_learn_from_clips_alone(recipe, tracking_model):
    for task, num_frames, learn in (("t2i", 1, False), ("edit_video", 5, True)):
        tracking_model.zero_grad(set_to_none=True)
        items = prepared_samples(recipe, task, num_frames=num_frames)
        reached = backward(recipe, tracking_model, group_of(recipe, items, "full"))
        tracks = {f"connector.tracks.{name}" for name, _ in tracking_model.connector.tracks.named_parameters()}
        assert tracks & reached == (tracks if learn else set())


def test_new_tracks_are_taught_before_the_first_step(recipe, model, tracking_model, monkeypatch):
    taught = []
    monkeypatch.setattr(vino, "teach_tracks", lambda tracks, device: taught.append(tracks))
    recipe.teach(model, CPU)
    assert not taught
    recipe.teach(tracking_model, CPU)
    assert taught == [tracking_model.connector.tracks]
    assert recipe.build(None).connector.tracks is not None


def test_markers_learn_only_where_something_is_shown(recipe, model):
    group = group_of(recipe, prepared_samples(recipe, "t2i"), "full")
    reached = backward(recipe, model, group)
    assert not any(name.startswith("connector.connector_vae_branch") for name in reached)
    assert "connector.metaquery" in reached


def test_from_nothing_every_stage_trains_everything_and_from_given_weights_the_first_trains_the_connectors(
    recipe, model, tmp_path
):
    everything = {name for name, _ in model.named_parameters() if not name.startswith(UNUSED)}
    connectors = {name for name in everything if name.startswith("connector.")}
    (tmp_path / "connector").mkdir()  # of a model of this system; who has looked which stages follow looks no further
    group = guided_group(recipe)
    for start, expected in (
        (None, [everything, everything, everything]),
        (tmp_path, [connectors, everything, everything]),
    ):
        for stage, names in zip(recipe.stages(start), expected, strict=True):
            model.zero_grad(set_to_none=True)
            set_trained(model, stage)
            assert backward(recipe, model, group) == names


def drawing_denoiser(folder):
    """LoomVideo's, whose blocks add nothing to their tokens, as a new VINO's; saved."""
    torch.manual_seed(1)
    drawing = build_denoiser()
    for name, parameter in drawing.named_parameters():
        nn.init.normal_(parameter, std=0.05)
        if re.search(r"blocks\.\d+\.(attn\d\.to_out|ffn\.net\.2)", name):
            nn.init.zeros_(parameter)
    drawing.save_pretrained(folder / "loomvideo" / "transformer")
    return drawing


def test_a_run_may_begin_with_what_loomvideos_denoiser_knows_of_pixels(recipe, tmp_path):
    """Tokens that no block has changed become the same latents, of pictures from words and of edits."""
    drawing = drawing_denoiser(tmp_path)
    model = recipe.build(tmp_path)
    begun = model.transformer
    for name, moving in model.connector.tracks.state_dict().items():
        assert torch.equal(moving, drawing.tracks.state_dict()[name])
    noisy, source = torch.randn(2, 1, 48, 1, 4, 4)
    timestep = torch.tensor([HEAD_TIMESTEP])
    no_words = [torch.zeros(1, 1, 192)] * len(drawing.blocks)
    for given in (None, source):
        references, markers = ((), None) if given is None else ([given], torch.zeros(1, 1, 2, 256))
        told = begun.prepare(torch.zeros(1, 1, 192), latent_shape=noisy.shape, references=references, markers=markers)
        shown = drawing.prepare(no_words, latent_shape=noisy.shape, source=given)
        shown = replace(shown, source=torch.zeros(1, 1, 256))  # VINO's tokens of a source are its own
        with torch.no_grad():
            expected, velocity = drawing(noisy, timestep, shown), begun(noisy, timestep, told)
        torch.testing.assert_close(velocity, expected, rtol=1e-4, atol=1e-4)
    assert recipe.stages(tmp_path) == recipe.stages(None)


def test_a_denoiser_of_another_size_is_refused(model, tmp_path):
    drawing_denoiser(tmp_path)
    with pytest.raises(ValueError, match="of another size"):
        draw_as(model, tmp_path / "loomvideo" / "transformer")


def test_only_the_targets_noise_is_predicted(recipe, model):
    """The loss of a velocity of zero is the mean square of noise minus data, over the target's elements."""
    for layer in (model.transformer.proj_out, model.transformer.norm_out.linear):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    group = guided_group(recipe)
    expected = (group.noise - group.latents).square()
    torch.testing.assert_close(recipe.squared_errors(model, group), expected)


# --- the run


@pytest.fixture
def shards(recipe, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    torch.save(prepared_samples(recipe, "t2i", count=4), folder / "000-000000.pt")
    return folder


@pytest.mark.usefixtures("steady_clock")
def test_a_stopped_run_goes_on_and_writes_what_it_trained(recipe, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "build", lambda start: tiny_model(), raising=False)
    monkeypatch.setattr(VinoRecipe, "tokens_a_batch", {"cpu": 100})
    entered = []
    monkeypatch.setattr(denoiser, "set_trained", lambda model, stage: entered.append(stage.shares))
    folder = tmp_path / "denoiser"
    steps = []
    for slice_minutes in (0.01, 1.0):
        train_denoiser(folder, shards, recipe, minutes=0.05, slice_minutes=slice_minutes, device=CPU)
        steps.append(torch.load(folder / "state.pt", weights_only=True)["steps"])
    assert 0 < steps[0] < steps[1]
    assert entered[0] is ALIGNMENT
    assert entered[-1] is EVERYTHING
    trained = QueryConnector.from_pretrained(folder / "connector")
    assert not torch.equal(trained.metaquery, tiny_model().connector.metaquery)
    assert (folder / "transformer").is_dir()


def stored_bytes(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.fixture
def run_folder(recipe, tmp_path):
    recipe.readers.vae.save_pretrained(tmp_path / "vae" / "vae")
    recipe.readers.mllm.save_pretrained(tmp_path / "mllm" / "mllm")
    recipe.readers.tokenizer.save_pretrained(tmp_path / "mllm" / "tokenizer")
    for system, made in (("vino", VinoRecipe), ("loomvideo", LoomVideoRecipe)):
        one = made(recipe.readers)
        one.save(one.build(None), tmp_path / system / "denoiser")
    return tmp_path


def test_an_exported_system_makes_pictures_and_leaves_the_others_alone(run_folder):
    output = run_folder / "builtin"
    export(run_folder, output, "vino")
    export(run_folder, output, "loomvideo")
    assert {folder.name for folder in output.iterdir()} == {"vae", "mllm", "scheduler", "loomvideo", "vino"}
    assert stored_bytes(output / "vino") <= 10 * 2**20
    pipeline = VinoPipeline.from_pretrained(output / "vino")
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline("a red circle", num_frames=1, height=SIDE, width=SIDE, num_inference_steps=2, think=False)
    assert made.frames.shape == (1, SIDE, SIDE, 3)
    trained = VinoTransformer3DModel.from_pretrained(run_folder / "vino" / "denoiser" / "transformer")
    connector = QueryConnector.from_pretrained(run_folder / "vino" / "denoiser" / "connector")
    for exported, own in ((pipeline.transformer, trained), (pipeline.connector, connector)):
        for name, stored in exported.state_dict().items():
            torch.testing.assert_close(stored, own.state_dict()[name], rtol=0.07, atol=2e-3)


@pytest.mark.parametrize("component", ["transformer", "connector"])
def test_matrices_of_blocks_and_connectors_are_stored_in_one_byte_a_number_and_all_else_in_two(run_folder, component):
    export(run_folder, run_folder / "builtin", "vino")
    (file,) = (run_folder / "builtin" / "vino" / component).glob("*.safetensors")
    with safe_open(file, framework="pt") as stored:
        for name in stored.keys():  # noqa: SIM118  not a dict
            one = stored.get_slice(name)
            in_bytes = ("blocks." in name or component == "connector") and len(one.get_shape()) == 2
            in_bytes &= name != "metaquery"
            assert one.get_dtype() == ("F8_E4M3" if in_bytes else "F16"), name

"""Omni-Video's training: what is prepared is what the pipeline reads, who learns in which stage, batches that mix tasks."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from loomvideo.data.samples import DataError
from loomvideo.data.world.plans import END, codes_of
from loomvideo.data.world.tasks import sample
from loomvideo.models.context_rows import QueryTransformer, SourceTokenizer
from loomvideo.models.omnivideo import OmniVideoTransformer3DModel
from loomvideo.models.qwen import PixelBudget
from loomvideo.models.reader import QwenReader
from loomvideo.models.wan import LoomVideoTransformer3DModel
from loomvideo.systems.omnivideo import OmniVideoPipeline
from loomvideo.systems.plan import plan
from loomvideo.systems.request import Request
from loomvideo.systems.thinking import rethought
from loomvideo.training import denoiser, omnivideo
from loomvideo.training.builtin import export
from loomvideo.training.context_objective import level_table, level_weights
from loomvideo.training.denoiser import SOME_FRAMES, layout_of, set_trained, train_denoiser
from loomvideo.training.features import told
from loomvideo.training.loomvideo import NUM_BLOCKS, build_denoiser
from loomvideo.training.mllm import Sight, build_mllm, build_tokenizer
from loomvideo.training.objective import Shown
from loomvideo.training.omnivideo import GENERATION, HEADS, MIXED, MIXTURE, OmniVideoRecipe, build_model, draw_as
from loomvideo.training.omnivideo_objective import OmniVideoModel, predict_velocity, vision_rows
from loomvideo.training.omnivideo_samples import LEVEL_SHARES, drop_conditions, read, request_chat, sample_levels
from loomvideo.training.recipe import NO_DROPOUT, BatchRules, Draw, Readers
from loomvideo.training.vae import build_vae

CPU = torch.device("cpu")
SIDE = 64
KEEP = BatchRules(**NO_DROPOUT)
# of sampling's guidance branches, by how much of a sample each is told
BRANCHES = {
    "full": KEEP,
    "nothing": replace(KEEP, text_dropout_rate=1.0),
    "nothing, no source": replace(KEEP, all_dropout_rate=1.0),
}


def make_recipe(*, tied=True):
    torch.manual_seed(0)
    tokenizer = build_tokenizer(texts=50)
    mllm = build_mllm(tokenizer).eval()
    if not tied:
        mllm.config.tie_word_embeddings = False
        mllm.lm_head.weight = nn.Parameter(mllm.lm_head.weight.detach().clone())
    return OmniVideoRecipe(Readers(build_vae().eval(), mllm, tokenizer, plans=True, item_end=END))


@pytest.fixture(scope="module")
def recipe():
    return make_recipe()


def make_model(head_dim=12, lm_head=None, item_tracks=False):
    torch.manual_seed(0)
    transformer = OmniVideoTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=head_dim,
        in_channels=48,
        out_channels=48,
        text_dim=192,
        freq_dim=16,
        ffn_dim=4 * head_dim,
        num_layers=2,
        max_context_len=100,
        absolute_places=True,
        item_tracks=item_tracks,
    )
    head = QueryTransformer(192, 192, num_queries=4, num_heads=2, num_layers=1, ffn_dim=8)
    adapter = QueryTransformer(192, 192, num_queries=2, num_heads=2, num_layers=1, ffn_dim=8)
    return OmniVideoModel(transformer, head, adapter, SourceTokenizer(48, 24, 192, (1, 4, 4)), lm_head)


def tiny_model(lm_head=None, item_tracks=False):
    """A model that is no longer at its start, where an output of zero would keep gradients back."""
    model = make_model(lm_head=lm_head, item_tracks=item_tracks)
    for name, parameter in model.named_parameters():
        if "norm" not in name and "lm_head" not in name:
            nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture
def model():
    return tiny_model()


def drawn_samples(task, count=2, seed=1, num_frames=1):
    rng = np.random.default_rng(seed)
    return [sample(task, rng, height=SIDE, width=SIDE, num_frames=num_frames) for _ in range(count)]


def prepared_samples(recipe, task, count=2, num_frames=1, kind=None):
    items = recipe.prepare(drawn_samples(task, count, num_frames=num_frames), np.random.default_rng(1))
    return [one for one in items if recipe.kind(one) == (kind or recipe.kind(items[0]))]


def batch_of(recipe, items, rules=KEEP):
    return recipe.batch([Draw(item, (3, row)) for row, item in enumerate(items)], CPU, rules)


def mixed_items(recipe, num_frames=1):
    """A generation, an edit, another generation, of one layout."""
    names = ("t2i", "edit_image") if num_frames == 1 else ("t2v", "edit_video")
    first, third = prepared_samples(recipe, names[0], 2, num_frames)
    (second, *_) = prepared_samples(recipe, names[1], 1, num_frames)
    assert "edited" in second
    return [first, second, third]


# --- what is prepared


@pytest.mark.parametrize(("task", "num_frames"), [("t2i", 1), ("edit_image", 1), ("t2v", 5), ("edit_video", 5)])
def test_training_predicts_what_the_pipelines_branches_predict(recipe, model, task, num_frames, tmp_path):
    """Plan, chat, source, context and time of every guidance branch, up to half precision."""
    recipe.save(model, tmp_path)
    check_against_pipeline(recipe, model, recipe.pipeline(tmp_path), task, num_frames)


def test_training_moves_the_items_of_plans_as_the_pipeline_does(recipe, tmp_path):
    model = tiny_model(item_tracks=True)
    recipe.save(model, tmp_path)
    check_against_pipeline(recipe, model, recipe.pipeline(tmp_path), "edit_video", 5)


@pytest.mark.parametrize("task", ["t2i", "edit_image"])
def test_training_follows_what_a_models_folder_says_of_its_chats(recipe, model, task, tmp_path):
    """Its negative prompt, to what its pictures are resized, and that it carries out requests as they are."""
    budget = PixelBudget(32 * 32, 32 * 32)
    readers = replace(recipe.readers, sight=Sight(image=budget), negative_prompt="dull colours", plans=False)
    other = OmniVideoRecipe(readers)
    other.save(model, tmp_path)
    pipeline = other.pipeline(tmp_path)
    pipeline.pixel_budgets["image"] = budget
    check_against_pipeline(other, model, pipeline, task, 1)


def check_against_pipeline(recipe, model, pipeline, task, num_frames):
    (drawn,) = drawn_samples(task, 1, num_frames=num_frames)
    said = told(drawn, recipe.readers)
    source = drawn.source_frames()
    request = Request(
        prompt=drawn.prompt,
        negative_prompt=recipe.readers.negative_prompt,
        source=source if source is None or num_frames > 1 else source[0],
        num_frames=num_frames,
        height=SIDE,
        width=SIDE,
        guidance_scale=2.0,
        guidance_scale_visual=2.0,
    )
    item = prepared_samples(recipe, task, 1, num_frames)[0]
    if recipe.readers.plans:  # as its language model says it, in place of what that is taught to say
        item["plan"] = pipeline.item_rows(said)
    names = ["nothing", "full"] if source is None else ["nothing, no source", "nothing", "full"]
    with torch.no_grad():
        noise = torch.randn(1, *item["target"].shape)
        planned = plan(request, pipeline.limits)
        if recipe.readers.plans:
            planned = rethought(planned, said, replaces=True)
        branches, _ = pipeline.condition(planned, noise.shape, posterior=None, batch_branches=False)
        for branch, name in zip(branches, names, strict=True):
            batch = replace(batch_of(recipe, [item], BRANCHES[name]), noise=noise, time=torch.ones(1))
            ours = predict_velocity(model, batch)
            torch.testing.assert_close(ours, branch(noise, torch.tensor(1000.0))[0], rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize(("num_frames", "item_tracks"), [(1, False), (5, False), (5, True)])
def test_a_sample_among_others_is_predicted_as_by_itself(recipe, num_frames, item_tracks):
    """Chats of other lengths, with and without a source, with and without a plan, beside it: padding is never read."""
    model, items = tiny_model(item_tracks=item_tracks), mixed_items(recipe, num_frames)
    nothing = recipe.nothing["picture" if num_frames == 1 else "clip"]
    items.append({name: value for name, value in items[0].items() if name != "plan"} | nothing)
    with torch.no_grad():
        batch = batch_of(recipe, items)
        together = predict_velocity(model, batch)
        for row in range(len(items)):
            alone = replace(batch_of(recipe, items[row : row + 1]), noise=batch.noise[[row]], time=batch.time[[row]])
            velocity = predict_velocity(model, alone)
            torch.testing.assert_close(velocity[0], together[row], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("item_tracks", [False, True])
def test_some_frames_of_clips_are_predicted_at_their_own_times(recipe, item_tracks):
    model, items = tiny_model(item_tracks=item_tracks), mixed_items(recipe, 5)
    whole = batch_of(recipe, items)
    some = batch_of(recipe, [recipe.only(one, Shown((1, 3), 5)) for one in items])
    every = batch_of(recipe, [recipe.only(one, Shown(tuple(range(5)), 5)) for one in items])
    late = replace(some, shown=Shown((3, 4), 5))
    assert torch.equal(some.latents, whole.latents[:, :, [1, 3]])
    assert torch.equal(some.sources, whole.sources[:, :, [1, 3]])
    with torch.no_grad():
        said = [predict_velocity(model, each) for each in (whole, every, some, late)]
    assert torch.equal(said[0], said[1])
    assert not torch.allclose(said[2], said[3])


@pytest.fixture
def whole_folder(tmp_path):
    """Of a model of this system; who has looked which stages follow looks no further."""
    (tmp_path / "whole" / "omnivideo" / "vision_head").mkdir(parents=True)
    return tmp_path / "whole"


def test_every_kind_that_a_stage_draws_is_prepared_from_what_the_mixture_draws(recipe, whole_folder):
    kinds = set()
    for task, moving in sorted({(task, sizes["num_frames"] > 1) for task, sizes, _ in recipe.mixture}):
        drawn = drawn_samples(task, 1, num_frames=5 if moving else 1)
        kinds |= {recipe.kind(one) for one in recipe.prepare(drawn, np.random.default_rng(0))}
    for start in (None, whole_folder):
        wanted = {kind.removesuffix(SOME_FRAMES) for stage in recipe.stages(start) for kind in stage.shares}
        assert wanted - kinds == {"answer picture"}, "the text head of a shared language model is not trained"


def test_the_groups_of_mixed_batches_hold_generations_and_edits_of_one_layout(recipe):
    for num_frames in (1, 5):
        items = mixed_items(recipe, num_frames)
        assert len({recipe.kind(item) for item in items}) == 1
        assert len({layout_of(item) for item in items}) == 1
        assert [bool("edited" in item) for item in items] == [False, True, False]
        assert set(MIXED) >= {recipe.kind(item) for item in items}


def test_the_first_substage_draws_no_edits(recipe):
    for task in ("t2i", "edit_image"):
        for item in recipe.prepare(drawn_samples(task), np.random.default_rng(0)):
            assert not (recipe.kind(item) in GENERATION and "edited" in item)


def test_what_an_edit_shows_is_described_by_samples_of_the_same_latents(recipe):
    items = recipe.prepare(drawn_samples("edit_image", 2), np.random.default_rng(0))
    mixed = [item for item in items if recipe.kind(item) == "mixed picture"]
    edits = [item for item in mixed if "edited" in item]
    described = [item for item in mixed if "edited" not in item]
    assert len(described) >= len(edits) == 2
    shown = [latents for item in edits for latents in (item["edited"], item["target"])]
    assert all(any(torch.equal(item["target"], latents) for latents in shown) for item in described)


def test_reference_pictures_are_refused(recipe):
    with pytest.raises(DataError, match=r"guided_edit.*without reference pictures"):
        recipe.prepare(drawn_samples("guided_edit", 1), np.random.default_rng(0))


# --- levels and dropout


def test_levels_are_drawn_as_often_as_the_published_loss_weighs_them():
    """So that the plain mean over drawn levels is the weighted mean over even ones, whatever the errors are."""
    levels = level_table()
    errors = torch.rand(len(levels), dtype=torch.float64)
    published = (level_weights(levels).double() * errors).mean()
    assert float((torch.from_numpy(LEVEL_SHARES) * errors).sum()) == pytest.approx(float(published))
    drawn = sample_levels([np.random.default_rng(row) for row in range(4000)])
    assert set(drawn.tolist()) <= set(levels.tolist())
    assert float(drawn.mean()) == pytest.approx(float((level_weights(levels) * levels).mean()), abs=0.01)


def test_edits_are_trained_at_more_noise_than_generations_beside_them(recipe):
    """Which would betray what is to be (`BatchRules.source_shift_factor`)."""
    generation, edit, _ = mixed_items(recipe)
    batch = recipe.batch([Draw(item, (6, row)) for row in range(200) for item in (generation, edit)], CPU, KEEP)
    assert batch.source_places.tolist() == list(range(1, 400, 2))
    assert batch.time[1::2].mean() > batch.time[::2].mean() + 0.1


def test_words_and_states_are_dropped_together_and_the_source_stays(recipe):
    items, rngs = mixed_items(recipe)[1:2] * 2000, [np.random.default_rng(row) for row in range(2000)]
    told, sources = drop_conditions(items, recipe.nothing, rngs, replace(recipe.rules, text_dropout_rate=0.2))
    assert all(source is items[0]["edited"] for source in sources)
    share = sum(one is recipe.nothing["picture"] for one in told) / len(items)
    assert share == pytest.approx(0.2, abs=0.03)


def test_what_is_random_in_a_sample_does_not_depend_on_the_batch_it_stands_in(recipe):
    draws = [Draw(item, (5, row)) for row, item in enumerate(mixed_items(recipe) * 4)]
    rules = replace(recipe.rules, text_dropout_rate=0.4)
    whole, part = (recipe.batch(some, CPU, rules) for some in (draws, draws[3:]))
    for name in ("noise", "time"):
        assert torch.equal(getattr(whole, name)[3:], getattr(part, name))
    assert all(torch.equal(one.rows, same.rows) for one, same in zip(whole.prompts[3:], part.prompts, strict=True))
    assert len(set(whole.time.tolist())) > 6


# --- objectives


def test_the_error_of_flow_is_that_of_the_velocity(recipe, model):
    nn.init.zeros_(model.transformer.proj_out.weight)
    nn.init.zeros_(model.transformer.proj_out.bias)
    batch = batch_of(recipe, mixed_items(recipe))
    torch.testing.assert_close(recipe.squared_errors(model, batch), (batch.noise - batch.latents).square())


def test_a_vision_head_that_says_what_the_tower_sees_is_aligned(recipe, model):
    batch = batch_of(recipe, prepared_samples(recipe, "t2i", 3, kind="align picture"))
    said = model.vision_head(batch.states, batch.mask).mean(1)
    assert recipe.squared_errors(model, replace(batch, pooled=said)).mean() < 1e-5
    away = recipe.squared_errors(model, replace(batch, pooled=-said)).mean()
    assert away.item() == pytest.approx(2)


def test_a_prompt_s_rows_are_its_plan_s_states_or_its_tokens_embeddings(recipe):
    for one, item in zip(drawn_samples("t2i"), prepared_samples(recipe, "t2i"), strict=False):
        assert item["plan"].shape == (len(codes_of(one)), 192)
    other = OmniVideoRecipe(replace(recipe.readers, plans=False))
    for one, item in zip(drawn_samples("t2i"), prepared_samples(other, "t2i"), strict=False):
        embeddings = QwenReader(recipe.readers.mllm, recipe.readers.tokenizer).embeddings(one.prompt)
        assert torch.equal(item["text"], embeddings.half())


def test_chats_of_several_lengths_are_read_as_each_by_itself(recipe):
    chats = [request_chat(recipe.readers, said, [], still=True) for said in ("", "a red ball", "a ball")]
    for together, asked in zip(read(recipe.readers, chats), chats, strict=True):
        alone = QwenReader(recipe.readers.mllm, recipe.readers.tokenizer).hidden_states(asked)[0]
        torch.testing.assert_close(together.float(), alone, rtol=2e-3, atol=2e-3)


def test_an_adapter_in_text_space_has_the_mean_of_the_prompts_rows(recipe, model):
    batch = batch_of(recipe, prepared_samples(recipe, "t2i", 3, kind="space picture"))
    found = vision_rows(model, batch).mean(1)
    expected = (found - torch.stack([prompt.rows.mean(0) for prompt in batch.prompts])).square().mean()
    assert recipe.squared_errors(model, batch).mean().item() == pytest.approx(expected.item(), rel=1e-4)


def test_edits_are_compared_with_their_source_and_generations_with_their_median(recipe):
    batch = batch_of(recipe, mixed_items(recipe))
    given = recipe.given(batch)
    assert torch.equal(given[1], batch.sources[0])
    assert torch.equal(given[0, :, 0, 0, 0], batch.latents[0].flatten(1).median(dim=1).values)
    assert recipe.given(batch_of(recipe, mixed_items(recipe)[:1])) is None


def test_one_mixed_batch_can_be_learnt_by_heart(recipe):
    """Sixty steps take the loss of two generations and an edit, times and noise held, to a fiftieth of what it was."""
    model = make_model(head_dim=120)  # wide enough for the 192 numbers of a patch
    batch = batch_of(recipe, mixed_items(recipe))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(60):
        loss = recipe.squared_errors(model, batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    no_velocity = (batch.noise - batch.latents).square().mean()
    assert losses[0] == pytest.approx(float(no_velocity), rel=1e-4), "the output starts at zero"
    assert losses[-1] < no_velocity / 50


# --- who learns when


def reached(recipe, model, batch):
    """The parts that gradients reach, every parameter of each of them."""
    model.zero_grad(set_to_none=True)
    recipe.squared_errors(model, batch).mean().backward()
    parts = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert all(model.get_parameter(name).grad.abs().max() > 0 for name in parts), "a gradient of zero teaches nothing"
    whole = {name.split(".")[0] for name in parts}
    expected = {name for name, p in model.named_parameters() if name.split(".")[0] in whole and p.requires_grad}
    assert parts == expected
    return whole


TOGETHER = {"transformer", "vision_head", "adapter", "source_tokenizer"}
# The published table (10.2) and sub-stages (10.3): of every stage, the kinds of its batches and what learns from each.
FROM_WEIGHTS = [
    {"answer": {"lm_head"}, "align": {"vision_head"}},
    {"space": {"adapter"}},
    {"generation": {"adapter"}},
    {"mixed": {"adapter", "source_tokenizer"}},
    {"mixed": TOGETHER},
]
FROM_NOTHING = [FROM_WEIGHTS[0], {"generation": TOGETHER - {"source_tokenizer"}}, {"mixed": TOGETHER}]


@pytest.mark.parametrize(("whole", "table"), [(True, FROM_WEIGHTS), (False, FROM_NOTHING)])
def test_every_stage_trains_what_the_paper_trains_in_it(whole, table, whole_folder):
    start = whole_folder if whole else None
    recipe = make_recipe(tied=False)
    model = tiny_model(recipe.lm_head)
    items = mixed_items(recipe)
    batches = {"answer": batch_of(recipe, prepared_samples(recipe, "question", 2))}
    for name in ("align", "space", "generation"):
        batches[name] = batch_of(recipe, prepared_samples(recipe, "t2i", 2, kind=f"{name} picture"))
    batches["mixed"] = batch_of(recipe, items)
    for stage, expected in zip(recipe.stages(start), table, strict=True):
        assert {kind.split()[0] for kind in stage.shares} == set(expected)
        set_trained(model, stage)
        assert {name: reached(recipe, model, batches[name]) for name in expected} == expected
        assert all(
            p.grad is None for name, p in recipe.readers.mllm.named_parameters() if not name.startswith("lm_head")
        )


def test_a_text_head_is_trained_where_it_is_not_the_embedding_too(recipe, tmp_path):
    assert recipe.lm_head is None
    assert recipe.build(None).lm_head is None
    assert recipe.mixture == MIXTURE
    own = make_recipe(tied=False)
    assert {task for task, *_ in own.mixture} - {task for task, *_ in MIXTURE} == {"caption", "question"}
    model = own.build(None)
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    trained = model.lm_head.weight.detach().clone()
    own.save(model, tmp_path)
    own.lm_head.weight.data.zero_()
    torch.testing.assert_close(own.pipeline(tmp_path).mllm.lm_head.weight, trained)


def test_only_answers_are_learnt_from(recipe):
    own = make_recipe(tied=False)
    (drawn,) = drawn_samples("question", 1)
    (item,) = own.prepare([drawn], np.random.default_rng(0))
    learnt = item["labels"][item["labels"] >= 0].long()
    assert own.readers.tokenizer.decode(learnt) == f"{drawn.answer}<|im_end|>"
    batch = batch_of(own, [item])
    model = tiny_model(own.lm_head)
    loss = own.squared_errors(model, batch).mean()
    with torch.no_grad():
        logits = own.lm_head(batch.states)[0, -len(learnt) - 1 : -1]
    assert loss.item() == pytest.approx(nn.functional.cross_entropy(logits, learnt).item(), rel=1e-4)


# --- the run


def test_a_run_from_given_weights_begins_with_them(recipe, model, tmp_path):
    recipe.save(model, tmp_path / "omnivideo")
    begun = recipe.build(tmp_path).state_dict()
    assert begun.keys() == model.state_dict().keys()
    assert all(torch.equal(begun[name], value) for name, value in model.state_dict().items())


def test_a_run_may_begin_with_loomvideos_denoiser_and_learns_to_read_as_it_does(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(omnivideo, "READING_SAMPLES", 60)
    monkeypatch.setattr(omnivideo, "READING_STEPS", 100)
    torch.manual_seed(0)
    drawing = build_denoiser()
    drawing.save_pretrained(tmp_path / "loomvideo" / "transformer")
    begun = recipe.build(tmp_path).transformer.state_dict()
    taken = {name for name in begun if "text_embedder" not in name}
    assert taken == drawing.state_dict().keys() & taken
    assert all(torch.equal(begun[name], drawing.state_dict()[name]) for name in taken)
    assert recipe.stages(tmp_path) == recipe.stages(None)
    states = omnivideo.states_of_plans(192)
    embedder = recipe.build(tmp_path).transformer.condition_embedder.text_embedder
    with torch.no_grad():
        wanted, read = drawing.mllm_embedder(states), embedder(states)
    assert (read - wanted).square().mean() < 0.3 * wanted.var()


def test_a_denoiser_of_another_size_is_refused(model, tmp_path):
    build_denoiser().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="of another size"):
        draw_as(model.transformer, tmp_path)


@pytest.mark.parametrize("lacking", [{"item_tracks": False}, {"num_layers": NUM_BLOCKS + 1}])
def test_a_denoiser_without_tracks_or_of_more_blocks_is_refused(lacking, tmp_path):
    config = {name: value for name, value in build_denoiser().config.items() if not name.startswith("_")}
    LoomVideoTransformer3DModel(**{**config, **lacking}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="same number of blocks and with item_tracks"):
        draw_as(build_model().transformer, tmp_path)


def test_a_new_model_is_taught_where_the_items_of_plans_are(recipe, monkeypatch):
    taught = []
    monkeypatch.setattr(omnivideo, "teach_tracks", lambda tracks, device: taught.append(tracks))
    built = recipe.build(None)
    for one in (built, make_model()):
        recipe.teach(one, CPU)
    assert taught == [built.transformer.tracks]


@pytest.fixture
def shards(recipe, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    items = recipe.prepare(drawn_samples("t2i", 4), np.random.default_rng(0))
    items += recipe.prepare(drawn_samples("edit_image", 2), np.random.default_rng(0))
    torch.save(items, folder / "000-000000.pt")
    return folder


@pytest.mark.usefixtures("steady_clock")
def test_a_stopped_run_goes_on_through_all_stages_and_writes_what_it_trained(recipe, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "build", lambda start: tiny_model(), raising=False)
    monkeypatch.setattr(OmniVideoRecipe, "tokens_a_batch", {"cpu": 16})
    entered = []
    monkeypatch.setattr(denoiser, "set_trained", lambda model, stage: entered.append(stage.shares))
    folder = tmp_path / "denoiser"
    steps = []
    for slice_minutes in (0.01, 1.0):
        train_denoiser(folder, shards, recipe, start=shards, minutes=0.08, slice_minutes=slice_minutes, device=CPU)
        steps.append(torch.load(folder / "state.pt", weights_only=True)["steps"])
    assert 0 < steps[0] < steps[1]
    assert entered[0] is HEADS
    assert entered[-1] is MIXED
    trained = QueryTransformer.from_pretrained(folder / "adapter")
    assert not torch.equal(trained.decoder_query, tiny_model().adapter.decoder_query)
    assert {part.name for part in folder.iterdir() if part.is_dir()} == TOGETHER


@pytest.fixture(scope="module")
def run_folder(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    recipe.readers.vae.save_pretrained(folder / "vae" / "vae")
    recipe.readers.mllm.save_pretrained(folder / "mllm" / "mllm")
    recipe.readers.tokenizer.save_pretrained(folder / "mllm" / "tokenizer")
    recipe.save(recipe.build(None), folder / "omnivideo" / "denoiser")
    export(folder, folder / "builtin", "omnivideo")
    return folder


def test_an_exported_system_makes_and_edits_pictures_and_clips(run_folder):
    output = run_folder / "builtin" / "omnivideo"
    assert sum(file.stat().st_size for file in output.rglob("*") if file.is_file()) <= 10 * 2**20
    assert {folder.name for folder in output.parent.iterdir()} == {"vae", "mllm", "omnivideo"}
    pipeline = OmniVideoPipeline.from_pretrained(output)
    pipeline.set_progress_bar_config(disable=True)
    size = {"height": SIDE, "width": SIDE, "num_inference_steps": 2, "think": False}
    clip = np.zeros((5, SIDE, SIDE, 3), np.uint8)
    for frames, asked in ((1, {}), (5, {}), (1, {"source": clip[0]}), (5, {"source": clip})):
        made = pipeline("a red circle", num_frames=frames, **asked, **size)
        assert made.frames.shape == (frames, SIDE, SIDE, 3)
    trained = OmniVideoTransformer3DModel.from_pretrained(run_folder / "omnivideo" / "denoiser" / "transformer")
    for name, stored in pipeline.transformer.state_dict().items():
        torch.testing.assert_close(stored, trained.state_dict()[name], rtol=0.07, atol=2e-3)


def test_matrices_of_layers_are_stored_in_one_byte_a_number_and_all_else_in_two(run_folder):
    found = Counter()
    for part in ("transformer", "vision_head", "adapter", "source_tokenizer"):
        (file,) = (run_folder / "builtin" / "omnivideo" / part).glob("*.safetensors")
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118  not a dict
                one = stored.get_slice(name)
                in_layer = any(place in name for place in ("blocks.", ".layers.", "time_proj.", "tracks."))
                in_bytes = in_layer and len(one.get_shape()) == 2
                assert one.get_dtype() == ("F8_E4M3" if in_bytes else "F16"), name
                found[part, one.get_dtype()] += 1
    assert {part for part, kind in found if kind == "F8_E4M3"} == {"transformer", "vision_head", "adapter"}


def test_plans_and_sources_fit_into_the_built_in_context(recipe):
    model = recipe.build(None)
    rows = model.source_tokenizer.num_rows((48, 17, 8, 8))
    rows += model.vision_head.config["num_queries"] * model.adapter.config["num_queries"]
    items = max(len(codes_of(one)) for one in drawn_samples("t2v", 50, num_frames=17))
    assert rows + 2 * items <= model.transformer.config["max_context_len"]

"""What a trainer draws from: the same samples from shards as from pixels, on any number of ranks, workers and stops."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import AutoencoderKLWan
from hypothesis import given, settings
from hypothesis import strategies as st

from data_parts import ROWS, frames, write_jsonl, write_media
from loomvideo.data.bad import BadSamples
from loomvideo.data.config import load_sets
from loomvideo.data.order import Order, Pick
from loomvideo.data.samples import AS_WRITTEN, DataError, FrameSample, Layout
from loomvideo.data.world.tasks import sample
from loomvideo.models.wan import LoomVideoTransformer3DModel
from loomvideo.training.builtin import RECIPES
from loomvideo.training.loomvideo import LoomVideoRecipe
from loomvideo.training.mllm import build_mllm, build_tokenizer
from loomvideo.training.prepared import PreparedSamples, prepare_sets
from loomvideo.training.recipe import Draw, Readers
from loomvideo.training.source import BatchSource, from_pixels, from_shards

CPU = torch.device("cpu")
SMALL = {"height": 64, "width": 64}
BUDGETS = {"tokens_per_group": 48, "tokens_per_step": 128, "picks_per_round": 5}  # one pass a round


@pytest.fixture(scope="module")
def readers(tiny_model):
    torch.manual_seed(0)
    tokenizer = build_tokenizer(texts=50)
    vae = AutoencoderKLWan.from_pretrained(tiny_model / "vae").eval()
    return Readers(vae, build_mllm(tokenizer).eval(), tokenizer)


@pytest.fixture(scope="module")
def recipe(readers):
    return LoomVideoRecipe(readers)


@pytest.fixture
def sets(tmp_path):
    """Clips of 9 frames read as 5, so that their starts are drawn, pictures, and two samples of the world."""
    write_media(tmp_path / "clips")
    write_jsonl(tmp_path / "clips", ROWS[::2])
    config = {
        "num_frames": 5,
        "train": {
            "clips": {"folder": "clips", "sample_weight": 3},
            "world": {"sample_weight": 2, "world": ["t2i", "edit_image"], "num_samples": 2, **SMALL},
        },
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(config))
    return load_sets(tmp_path / "data.yaml")


def prepare_all(sets, recipe, folder, bad=None, **others):
    said = {"settings": {}, "seed": 3, "device": CPU, **others}
    return list(prepare_sets(sets, recipe, folder, bad=bad or BadSamples(), **said))


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return one == other


# --- shards and pixels


def test_training_from_shards_is_training_from_pixels(sets, recipe, tmp_path):
    """The same sample has the same features and, with the noise of its seed, the same loss."""
    torch.manual_seed(0)
    model = LoomVideoTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=4,
        freq_dim=16,
        ffn_dim=32,
        num_layers=6,
        mllm_dim=192,
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    prepare_all(sets, recipe, tmp_path / "shards")
    sources = [
        from_pixels(sets, recipe, CPU, seed=3, **BUDGETS),
        from_shards(tmp_path / "shards", recipe, seed=3, **BUDGETS),
    ]
    drawn: list[dict] = [{}, {}]
    for source, found in zip(sources, drawn, strict=True):
        while len(found) < 5:
            found |= {draw.seed: draw.item for group in source.next() for draw in group}
        source.close()
    assert drawn[0].keys() == drawn[1].keys()
    assert len(drawn[0]) == 5
    for seed, item in drawn[0].items():
        assert same(item, drawn[1][seed])
        losses = [
            recipe.squared_errors(model, recipe.batch([Draw(found[seed], seed)], CPU)).mean().item() for found in drawn
        ]
        assert losses[0] == losses[1] > 0


@pytest.fixture
def pictures(tmp_path):
    config = {
        "num_frames": 1,
        "train": {"a": {"world": "t2i", "num_samples": 3, **SMALL}, "b": {"world": "t2i", "num_samples": 2, **SMALL}},
    }
    (tmp_path / "pictures.yaml").write_text(yaml.safe_dump(config))
    return load_sets(tmp_path / "pictures.yaml")


def test_a_preparation_that_was_stopped_goes_on_and_gives_the_same_shards(pictures, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("loomvideo.training.prepared.SAMPLES_A_SHARD", 2)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    prepare_all(pictures, recipe, whole)
    steps = prepare_sets(pictures, recipe, stopped, settings={}, seed=3, device=CPU, bad=BadSamples())
    assert [next(steps), next(steps)] == [(2, 5), (3, 5)]
    steps.close()
    (stopped / "000-000001.json").unlink()  # killed between a shard and its list
    with pytest.raises(DataError, match="not there yet"):
        PreparedSamples(stopped)
    assert prepare_all(pictures, recipe, stopped)[-1] == (5, 5)
    mine, theirs = PreparedSamples(stopped), PreparedSamples(whole)
    assert mine.sizes == theirs.sizes == [3, 2]
    picks = [Pick(number, index, 0) for number, size in enumerate(mine.sizes) for index in range(size)]
    assert mine.layouts(picks) == theirs.layouts(picks)
    assert all(same(mine.fetch(pick), theirs.fetch(pick)) for pick in picks)


def test_a_folder_that_was_prepared_otherwise_is_refused(pictures, recipe, tmp_path):
    next(prepare_sets(pictures, recipe, tmp_path / "s", settings={"model": "a"}, seed=3, device=CPU, bad=BadSamples()))
    with pytest.raises(DataError, match="name another folder"):
        prepare_all(pictures, recipe, tmp_path / "s", settings={"model": "b"})
    with pytest.raises(DataError, match=r"sets\.json"):
        PreparedSamples(tmp_path)


def test_an_endless_set_is_not_prepared(recipe, tmp_path):
    with pytest.raises(DataError, match="num_samples"):
        prepare_all(load_sets(Path("world")), recipe, tmp_path / "s")


def test_bad_samples_are_left_out_of_shards_and_the_others_keep_their_seeds(recipe, tmp_path):
    write_media(tmp_path)
    rows = [{"file_name": name, "text": "x"} for name in ("a.png", "none.png", "b.png")]
    bad = BadSamples()
    sets = load_sets(write_jsonl(tmp_path, rows))
    prepare_all(sets, recipe, tmp_path / "s", bad)
    assert (bad.bad, bad.read) == (1, 3)
    samples = PreparedSamples(tmp_path / "s")
    draws = [samples.draw(pick, samples.fetch(pick), 3) for pick in (Pick(0, 0, 0), Pick(0, 1, 0))]
    assert [draw.seed for draw in draws] == [(3, 0, 0, 0), (3, 0, 2, 0)]


# --- recipes


@pytest.mark.parametrize("system", RECIPES)
@pytest.mark.parametrize("task", ["t2i", "t2v", "edit_image", "edit_video", "guided_edit", "mi2v"])
def test_a_sample_of_frames_is_prepared_as_the_worlds_sample_of_the_same_frames(readers, system, task):
    recipe = RECIPES[system](readers)
    drawn = sample(task, np.random.default_rng(5), height=64, width=64, num_frames=5)
    read = FrameSample(
        task=task,
        prompt=drawn.prompt,
        target=drawn.target_frames(),
        source=drawn.source_frames(),
        references=drawn.reference_pictures(),
    )
    if system == "omnivideo" and read.references:
        with pytest.raises(DataError, match="without reference pictures"):
            recipe.prepare([read], np.random.default_rng(0))
        return
    ours, worlds = (recipe.prepare([one], np.random.default_rng(0))[0] for one in (read, drawn))
    assert same(ours, worlds)


@pytest.mark.parametrize("system", RECIPES)
def test_words_as_written_and_references_of_other_sizes_are_prepared(readers, system):
    recipe = RECIPES[system](readers)
    clip = frames(5, 64, 64)
    written = FrameSample(task=AS_WRITTEN, prompt="Reconstruct this video: ", target=clip, source=clip)
    (item, *_) = recipe.prepare([written], np.random.default_rng(0))
    assert item["target"].shape[1:] == (2, 4, 4)
    if system == "omnivideo":  # which has none
        return
    shown = FrameSample(task="mi2v", prompt="x", target=clip, references=(frames(1, 64, 96)[0], frames(1, 96, 64)[0]))
    (item, *_) = recipe.prepare([shown], np.random.default_rng(0))
    assert [tuple(one.shape[1:]) for one in item["references"]] == [(1, 4, 6), (1, 6, 4)]


def test_a_task_that_a_system_does_not_learn_is_a_bad_sample(recipe):
    read = FrameSample(task="i2v", prompt="x", target=frames(5, 64, 64), references=(frames(1, 64, 64)[0],))
    with pytest.raises(DataError, match="task i2v: LoomVideo is not trained on it"):
        recipe.prepare([read], np.random.default_rng(0))


# --- ranks, workers, stops and bad samples, of samples that cost nothing


class Numbers:
    """Sample n is the number n; pictures and clips; every seventh one is bad where asked."""

    sizes, weights = [23, None], [2.0, 1.0]

    def __init__(self, bad=False, short=False):
        self.bad, self.short = bad, short

    def layouts(self, picks):
        return [Layout("clip", 20) if pick.index % 3 == 0 else Layout("picture", 4) for pick in picks]

    def fetch(self, pick):
        if self.bad and pick.index % 7 == 5:
            raise DataError(f"sample {pick.index} is damaged")
        return pick.index

    def draw(self, pick, fetched, seed):
        length = 2 if fetched % 3 == 0 and not (self.short and fetched % 2) else 1
        return Draw({"target": torch.zeros(1, length, 2, 2), "references": []}, (seed, *pick))


class ByLength:
    def kind(self, item):
        return item["target"].shape[1]


def numbers(rank=0, world_size=1, workers=1, counted=None, **others):
    samples = Numbers(**others)
    order = Order(
        samples.sizes,
        samples.weights,
        samples.layouts,
        seed=1,
        picks_per_round=40,
        tokens_per_group=40,
        tokens_per_step=100,
    )
    return BatchSource(
        samples, ByLength(), order, rank=rank, world_size=world_size, workers=workers, bad=counted or BadSamples(1.0)
    )


def steps_of(source, count):
    return [[[draw.seed for draw in group] for group in source.next()] for _ in range(count)]


def flat(step):
    return Counter(seed for group in step for seed in group)


@settings(max_examples=15, deadline=None)
@given(world_size=st.integers(1, 5), workers=st.integers(1, 3), killed=st.integers(0, 12), bad=st.booleans())
def test_every_step_is_the_same_whatever_the_ranks_the_workers_and_the_kills(world_size, workers, killed, bad):
    one = numbers(bad=bad)
    expected = [flat(step) for step in steps_of(one, 16)]
    one.close()
    found = [Counter() for _ in range(16)]
    for rank in range(world_size):
        begun = numbers(rank, world_size, workers, bad=bad)
        steps = steps_of(begun, killed)
        state = json.loads(json.dumps(begun.state_dict()))
        begun.close()
        resumed = numbers(rank, world_size, workers, bad=bad)
        resumed.load_state_dict(state)
        for number, step in enumerate(steps + steps_of(resumed, 16 - killed)):
            found[number] += flat(step)
        resumed.close()
    assert found == expected


def test_a_run_may_be_resumed_on_another_number_of_ranks():
    whole, begun = numbers(), numbers(0, 2)
    expected = [flat(step) for step in steps_of(whole, 9)]
    steps_of(begun, 4)
    resumed = [numbers(rank, 3) for rank in range(3)]
    for one in resumed:
        one.load_state_dict(begun.state_dict())
    parts = [steps_of(one, 5) for one in resumed]
    assert [sum(map(flat, step), Counter()) for step in zip(*parts, strict=True)] == expected[4:]
    for one in (whole, begun, *resumed):
        one.close()


def test_a_state_may_be_loaded_into_a_source_that_has_begun():
    source = numbers()
    state, expected = source.state_dict(), steps_of(source, 4)
    source.load_state_dict(state)
    assert steps_of(source, 4) == expected
    source.close()


def test_samples_that_are_shorter_than_promised_stand_in_groups_of_their_own():
    source = numbers(short=True)
    lengths = [[draw.item["target"].shape[1] for draw in group] for _ in range(8) for group in source.next()]
    assert all(len(set(group)) == 1 for group in lengths)
    assert {length for group in lengths for length in group} == {1, 2}
    source.close()


def test_bad_samples_are_counted_and_too_many_stop_the_training():
    bad = BadSamples(0.5)
    source = numbers(counted=bad, bad=True)
    steps_of(source, 10)
    assert 0 < bad.bad < bad.read
    source.close()
    strict = numbers(counted=BadSamples(0.05), bad=True)
    with pytest.raises(DataError, match=r"more than 5%.*data check"):
        steps_of(strict, 100)
    strict.close()

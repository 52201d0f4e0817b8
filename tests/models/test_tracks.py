"""What is read of a clip's plan is moved to the time of each frame; every token reads what is said of its own."""

import numpy as np
import pytest
import torch

from loomvideo.data.world.plans import CHANGING, codes_at, codes_of, item_facts
from loomvideo.data.world.scene import pose
from loomvideo.data.world.tasks import sample
from loomvideo.models.tracks import Tracks, frame_times, own_items
from loomvideo.models.wan import LoomVideoTransformer3DModel
from loomvideo.training import tracks as lessons
from loomvideo.training.tracks import lesson, teach_tracks

SHAPE = (4, 4, 4)  # latent frames, rows, columns
WIDTH, BLOCKS, ITEMS = 12, 2, 3


def make_denoiser(*, item_tracks=True):
    torch.manual_seed(0)
    denoiser = LoomVideoTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=16,
        ffn_dim=32,
        num_layers=BLOCKS,
        mllm_dim=WIDTH,
        item_tracks=item_tracks,
    )
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return denoiser.eval()


@pytest.fixture(scope="module")
def denoiser():
    return make_denoiser()


def layers_of(items=ITEMS, batch=1):
    return [torch.randn(batch, items, WIDTH) for _ in range(BLOCKS)]


@torch.no_grad()
def velocity(denoiser, noisy, layers, **conditions):
    prepared = denoiser.prepare(layers, latent_shape=noisy.shape, **conditions)
    return denoiser(noisy, torch.full((len(noisy),), 700.0), prepared)


def test_a_layer_that_all_blocks_read_is_moved_and_projected_once(denoiser):
    given = {"tracks": 0, "mllm_embedder": 0}

    def count(name):
        return lambda *_: given.__setitem__(name, given[name] + 1)

    handles = [getattr(denoiser, name).register_forward_hook(count(name)) for name in given]
    layer, noisy = layers_of()[0], torch.randn(1, 4, 3, 4, 4)
    once = velocity(denoiser, noisy, [layer] * BLOCKS)
    assert given == {"tracks": 1, "mllm_embedder": 1}
    torch.testing.assert_close(velocity(denoiser, noisy, [layer.clone() for _ in range(BLOCKS)]), once)
    assert given == {"tracks": 1 + BLOCKS, "mllm_embedder": 1 + BLOCKS}
    for handle in handles:
        handle.remove()


def test_new_tracks_move_nothing():
    tracks, states = Tracks(WIDTH), torch.randn(2, ITEMS, WIDTH)
    tracks.reset_parameters()
    moved = tracks(states, frame_times(5, None, states.device))
    normed = torch.nn.functional.rms_norm(states, (WIDTH,))
    assert torch.equal(moved, normed[:, None].expand(-1, 5, -1, -1))


def test_frames_that_are_shown_have_their_own_times(denoiser):
    states = torch.randn(1, ITEMS, WIDTH)
    whole = denoiser.tracks(states, frame_times(5, None, states.device))
    some = denoiser.tracks(states, frame_times(5, (0, 3), states.device))
    torch.testing.assert_close(some, whole[:, [0, 3]])
    assert not torch.allclose(whole[:, 0], whole[:, 3], atol=1e-3)


def test_tokens_read_the_items_of_their_own_part():
    own = own_items([2, 1], 3, torch.device("cpu"))
    assert own.tolist() == [[True] * 3 + [False] * 3] * 2 + [[False] * 3 + [True] * 3]


def test_a_picture_reads_what_was_said(denoiser):
    noisy, layers = torch.randn(1, 4, 1, 4, 4), layers_of()
    still = make_denoiser(item_tracks=False)
    still.load_state_dict(denoiser.state_dict(), strict=False)
    assert torch.equal(velocity(denoiser, noisy, layers), velocity(still, noisy, layers))


def test_new_tracks_leave_a_clip_as_it_was():
    noisy, layers = torch.randn(1, 4, *SHAPE), layers_of()
    references = [torch.randn(1, 4, 1, 4, 4)]
    moving, still = make_denoiser(), make_denoiser(item_tracks=False)
    still.load_state_dict(moving.state_dict(), strict=False)
    assert not torch.allclose(
        velocity(moving, noisy, layers, references=references), velocity(still, noisy, layers, references=references)
    )
    moving.tracks.reset_parameters()
    torch.testing.assert_close(
        velocity(moving, noisy, layers, references=references),
        velocity(still, noisy, layers, references=references),
        rtol=1e-4,
        atol=1e-5,
    )


def test_what_is_padded_is_read_at_no_frame(denoiser):
    noisy, layers = torch.randn(1, 4, *SHAPE), layers_of()
    padded = [torch.cat([layer, torch.randn(1, 2, WIDTH)], dim=1) for layer in layers]
    mask = torch.arange(ITEMS + 2)[None] < ITEMS
    torch.testing.assert_close(
        velocity(denoiser, noisy, padded, context_mask=mask), velocity(denoiser, noisy, layers), rtol=1e-4, atol=1e-5
    )


# --- what tracks are taught


def drawn(task, count=30, seed=0):
    rng = np.random.default_rng(seed)
    return [sample(task, rng, num_frames=17) for _ in range(count)]


@pytest.mark.parametrize("time", [0.0, 0.3, 1.0])
def test_at_a_time_an_items_code_is_that_of_a_picture_of_then(time):
    moving = 0
    for one in drawn("t2v"):
        objects = one.scene.objects
        places = [pose(item, time) for item in objects]
        for code, facts, item, at in zip(codes_at(one, time), item_facts(one), objects, places, strict=False):
            still = type(one)(
                task="t2i",
                prompt="",
                seed=0,
                height=0,
                width=0,
                num_frames=1,
                scene=type(one.scene)(
                    objects=(
                        type(item)(**{**vars(item), "motion": "stays still", "x": at.x, "y": at.y, "travel": 0.0}),
                    ),
                    background=one.scene.background,
                ),
            )
            if facts["motion"] in CHANGING:
                assert not np.array_equal(code, codes_of(still)[0])
                continue
            moving += facts["motion"] != "stays still"
            np.testing.assert_allclose(code, codes_of(still)[0], atol=1e-6)
    assert moving > 10


def test_what_has_no_place_says_the_same_at_all_times():
    for one in drawn("t2v"):
        before, after = codes_of(one), codes_at(one, 0.6)
        rows = [row for row, facts in enumerate(item_facts(one)) if "x" not in facts]
        assert rows
        assert np.array_equal(before[rows], after[rows])


def test_tracks_learn_where_things_are(monkeypatch):
    """A twelfth of the lessons: states of other clips come nearer to what they say later."""
    monkeypatch.setattr(lessons, "NUM_LESSONS", 6)
    monkeypatch.setattr(lessons, "SCENES", 24)
    monkeypatch.setattr(lessons, "STEPS", 150)
    torch.manual_seed(0)
    tracks = Tracks(192)
    tracks.reset_parameters()
    states, times, then = lesson(np.random.default_rng(99), 192)
    teach_tracks(tracks, torch.device("cpu"))
    with torch.no_grad():
        said = tracks(states[None], times)[0]
    off = (then - states).square().mean()
    assert off > 0.1
    assert (said - then).square().mean() < 0.7 * off

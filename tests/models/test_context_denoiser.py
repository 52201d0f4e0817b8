"""Laws of Omni-Video's denoiser."""

import pytest
import torch

from loomvideo.models.omnivideo import OmniVideoTransformer3DModel
from loomvideo.models.wan import LoomVideoTransformer3DModel

SHAPE = (3, 4, 6)  # latent frames, rows, columns
WIDTH, CHANNELS, ROWS = 8, 4, 40
SIZES = {
    "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": CHANNELS, "out_channels": CHANNELS,
    "text_dim": WIDTH, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    denoiser = OmniVideoTransformer3DModel(**SIZES, max_context_len=ROWS)
    for parameter in denoiser.parameters():  # nothing stays at zero, so that everything is seen
        torch.nn.init.normal_(parameter, std=0.3)
    return denoiser.eval()


def latents(batch=1):
    return torch.randn(batch, CHANNELS, *SHAPE)


def context(length=7):
    return torch.randn(length, WIDTH)


@torch.no_grad()
def velocity(denoiser, noisy, contexts, timestep=700.0, **conditions):
    prepared = denoiser.prepare(contexts, **{"latent_shape": noisy.shape, **conditions})
    return denoiser(noisy, torch.full((len(noisy),), timestep), prepared)


@pytest.mark.parametrize("length", [0, 1, 7, ROWS - 1, ROWS])
def test_padding_is_attended_to_as_if_all_its_rows_were_there(denoiser, length):
    noisy, rows = latents(), context(length)
    full = torch.cat([rows, torch.zeros(ROWS - length, WIDTH)])
    assert denoiser.prepare([full], latent_shape=SHAPE).context_bias is None
    torch.testing.assert_close(
        velocity(denoiser, noisy, [rows]), velocity(denoiser, noisy, [full]), rtol=1e-5, atol=1e-5
    )


def test_padding_belongs_to_the_function(denoiser):
    noisy, rows = latents(), context()
    longer = OmniVideoTransformer3DModel(**SIZES, max_context_len=2 * ROWS).eval()
    longer.load_state_dict(denoiser.state_dict())
    assert not torch.allclose(velocity(longer, noisy, [rows]), velocity(denoiser, noisy, [rows]), atol=1e-4)


def test_keys_are_as_many_as_the_longest_context_and_two_for_the_padding(denoiser):
    keys, _ = denoiser.prepare([context(3), context(5)], latent_shape=SHAPE).context[0]
    assert keys.shape[1] == 5 + 2


def test_a_batch_of_contexts_of_different_lengths_equals_singles(denoiser):
    noisy, contexts = latents(4), [context(3), context(0), context(ROWS), context(11)]
    batch = velocity(denoiser, noisy, contexts)
    singles = [velocity(denoiser, noisy[i : i + 1], [contexts[i]]) for i in range(4)]
    torch.testing.assert_close(batch, torch.cat(singles), rtol=1e-5, atol=1e-5)


def test_the_order_of_rows_does_not_matter(denoiser):
    noisy, rows = latents(), context()
    torch.testing.assert_close(
        velocity(denoiser, noisy, [rows]), velocity(denoiser, noisy, [rows.flip(0)]), rtol=1e-5, atol=1e-5
    )


def test_every_row_and_the_time_matter(denoiser):
    noisy, rows = latents(), context(3)
    plain = velocity(denoiser, noisy, [rows])
    for i in range(3):
        changed = rows.clone()
        changed[i] += 1
        assert not torch.allclose(velocity(denoiser, noisy, [changed]), plain, atol=1e-4)
    assert not torch.allclose(velocity(denoiser, noisy, [rows], 699.5), plain, atol=1e-6)


def test_every_sample_of_a_batch_has_its_own_time(denoiser):
    noisy, rows = latents().repeat(2, 1, 1, 1, 1), context()
    prepared = denoiser.prepare([rows, rows], latent_shape=SHAPE)
    with torch.no_grad():
        both = denoiser(noisy, torch.tensor([100.0, 900.0]), prepared)
    torch.testing.assert_close(both[1:], velocity(denoiser, noisy[1:], [rows], 900.0), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(both[0], both[1], atol=1e-3)


def test_gradients_flow_through_preparation_and_velocity_to_every_parameter(denoiser):
    denoiser.zero_grad()
    prepared = denoiser.prepare([context()], latent_shape=SHAPE)
    denoiser(latents(), torch.tensor([300.0]), prepared).square().sum().backward()
    without = [name for name, p in denoiser.named_parameters() if p.grad is None or not p.grad.any()]
    denoiser.zero_grad()
    assert without == []


def test_a_new_denoiser_predicts_no_velocity():
    new = OmniVideoTransformer3DModel(**SIZES)
    assert not velocity(new, latents(), [context()]).any()


def test_bfloat16_stays_near_float32(denoiser):
    noisy, rows = latents(), context(1)
    exact = velocity(denoiser, noisy, [rows])
    low = OmniVideoTransformer3DModel(**SIZES, max_context_len=ROWS).eval()
    low.load_state_dict(denoiser.state_dict())
    rounded = velocity(low.to(torch.bfloat16), noisy.bfloat16(), [rows.bfloat16()]).float()
    assert (rounded - exact).norm() <= 0.05 * exact.norm()


def test_both_wan_denoisers_have_the_same_blocks():
    ours = OmniVideoTransformer3DModel(**SIZES).state_dict()
    theirs = LoomVideoTransformer3DModel(**SIZES, mllm_dim=WIDTH).state_dict()
    own = {name.split(".")[0] for name in set(theirs) - set(ours)}
    assert own == {"mllm_embedder", "source_patch_embedding"}
    assert all(theirs[name].shape == tensor.shape for name, tensor in ours.items())


def test_a_saved_denoiser_is_loaded_with_its_configuration_and_weights(denoiser, tmp_path):
    denoiser.save_pretrained(tmp_path)
    loaded = OmniVideoTransformer3DModel.from_pretrained(tmp_path)
    assert loaded.config["max_context_len"] == ROWS
    noisy, rows = latents(), context()
    torch.testing.assert_close(velocity(loaded, noisy, [rows]), velocity(denoiser, noisy, [rows]), rtol=1e-5, atol=1e-5)


def test_conditions_that_do_not_fit_are_refused(denoiser):
    with pytest.raises(ValueError, match=f"a context of {ROWS + 1} rows: this model takes {ROWS}"):
        denoiser.prepare([context(ROWS + 1)], latent_shape=SHAPE)
    with pytest.raises(ValueError, match="do not fit patches"):
        denoiser.prepare([context()], latent_shape=(3, 5, 6))


def test_a_wan_model_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"\{'qk_norm': None\}.*text-to-video"):
        OmniVideoTransformer3DModel(**SIZES, qk_norm=None)


# --- plans, whose items are moved to the times of frames


@pytest.fixture(scope="module")
def moving():
    torch.manual_seed(1)
    moving = OmniVideoTransformer3DModel(**SIZES, max_context_len=ROWS, item_tracks=True)
    for parameter in moving.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return moving.eval()


def untracked(moving):
    still = OmniVideoTransformer3DModel(**SIZES, max_context_len=ROWS)
    still.load_state_dict({name: value for name, value in moving.state_dict().items() if "tracks" not in name})
    return still.eval()


def plan_items(count=3):
    """Of a mean square of one, as they are read."""
    return torch.nn.functional.rms_norm(torch.randn(count, WIDTH), (WIDTH,))


@pytest.mark.parametrize("frames", [1, 3])
def test_without_tracks_items_are_the_last_rows_of_a_context(denoiser, frames):
    noisy, rows, items = torch.randn(1, CHANNELS, frames, 4, 6), context(), plan_items()
    assert torch.equal(
        velocity(denoiser, noisy, [rows], items=[items]), velocity(denoiser, noisy, [torch.cat([rows, items])])
    )


def test_a_picture_is_the_same_with_tracks_and_without(moving):
    noisy, rows, items = torch.randn(1, CHANNELS, 1, 4, 6), [context()], [plan_items()]
    assert torch.equal(
        velocity(moving, noisy, rows, items=items), velocity(untracked(moving), noisy, rows, items=items)
    )


@pytest.mark.parametrize("others", [0, 7, ROWS - 3])
def test_new_tracks_leave_a_clip_and_its_padding_as_they_were(others):
    torch.manual_seed(2)
    new = OmniVideoTransformer3DModel(**SIZES, max_context_len=ROWS, item_tracks=True)
    for parameter in new.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    noisy, rows, items = latents(), [context(others)], [plan_items()]
    still = velocity(untracked(new), noisy, rows, items=items)
    assert not torch.allclose(velocity(new, noisy, rows, items=items), still, atol=1e-3)
    new.tracks.reset_parameters()
    torch.testing.assert_close(velocity(new.eval(), noisy, rows, items=items), still, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_token_reads_the_context_and_the_items_of_its_own_frame(moving):
    """What any other frame's items say does not change what its cross-attention finds."""
    frames, per_frame, count = SHAPE[0], SHAPE[1] * SHAPE[2] // 4, 3
    rows, states = context(), plan_items(count)
    prepared = moving.prepare([rows], latent_shape=SHAPE, items=[states])
    keys, values = prepared.context[0]
    bias = prepared.context_bias
    assert bias.shape == (1, 1, frames * per_frame, len(rows) + 2 + frames * count)
    x, cross = torch.randn(1, frames * per_frame, 24), moving.blocks[0].attn2
    plain = cross(x, (keys, values), bias).unflatten(1, (frames, per_frame))
    for frame in range(frames):
        start = len(rows) + 2 + frame * count
        other = values.clone()
        other[:, start : start + count] += 1
        found = cross(x, (keys, other), bias).unflatten(1, (frames, per_frame))
        same = [torch.equal(found[:, at], plain[:, at]) for at in range(frames)]
        assert same == [at != frame for at in range(frames)]
    shared = values.clone()
    shared[:, : len(rows) + 2] += 1
    assert not (cross(x, (keys, shared), bias).unflatten(1, (frames, per_frame)) == plain).all(-1).any()


@torch.no_grad()
def test_frames_that_are_shown_read_items_at_the_times_of_the_whole_clip(moving):
    rows, states = [context()], [plan_items()]
    whole, some = (
        moving.prepare(rows, latent_shape=SHAPE, items=states, shown=shown).context[0] for shown in (None, (0, 2))
    )
    shared = len(rows[0]) + 2
    for every, few in zip(whole, some, strict=True):
        by_frame = every[:, shared:].unflatten(1, (SHAPE[0], -1))
        torch.testing.assert_close(few[:, shared:].unflatten(1, (2, -1)), by_frame[:, [0, 2]], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(by_frame[:, 0], by_frame[:, 2], atol=1e-3)


def test_samples_with_a_plan_and_without_one_are_each_predicted_as_by_themselves(moving):
    contexts = [context(5), context(0), context(ROWS), context(11), context(ROWS - 2)]
    items = [plan_items(3), plan_items(4), None, None, plan_items(2)]
    noisy = latents(len(items))
    together = velocity(moving, noisy, contexts, items=items)
    singles = [velocity(moving, noisy[[i]], [contexts[i]], items=[items[i]]) for i in range(len(items))]
    torch.testing.assert_close(together, torch.cat(singles), rtol=1e-4, atol=1e-5)
    words = velocity(untracked(moving), noisy[2:4], contexts[2:4])
    torch.testing.assert_close(together[2:4], words, rtol=1e-4, atol=1e-5)


def test_items_count_among_the_rows_that_a_context_has_room_for(moving):
    with pytest.raises(ValueError, match=f"a context of {ROWS + 1} rows: this model takes {ROWS}"):
        moving.prepare([context(ROWS - 2)], latent_shape=SHAPE, items=[plan_items(3)])

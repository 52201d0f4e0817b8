"""Where an edit leaves the source alone, its pixels are the source's."""

import numpy as np
import pytest
import torch

from loomvideo.systems.kept import CHANGED, SAME, KeptSource
from loomvideo.systems.plan import plan
from loomvideo.systems.request import Request, RequestError

SIDE, CELL = 64, 16  # pixels of a frame and of a place
STRIDE = 4  # frames a latent frame, of most VAEs


def source_of(num_frames):
    return np.random.default_rng(0).integers(0, 255, (num_frames, SIDE, SIDE, 3), dtype=np.uint8)


def latents_of(num_frames, stride=STRIDE):
    return torch.randn(1, 4, (num_frames - 1) // stride + 1, SIDE // CELL, SIDE // CELL)


def changed_at(latents, frame, row, column, by=1.0):
    changed = latents.clone()
    changed[:, :, frame, row, column] += by
    return changed


def shown(source, latents, edited, made, stride=STRIDE):
    kept = KeptSource(source, stride)
    kept.compare(edited, latents)
    return kept.into(made)


@pytest.mark.parametrize("num_frames", [1, 9])
def test_an_edit_that_changes_nothing_is_the_source(num_frames):
    source, latents = source_of(num_frames), latents_of(num_frames)
    found = shown(source, latents, latents, torch.rand(num_frames, SIDE, SIDE, 3))
    torch.testing.assert_close(found, torch.from_numpy(source).float() / 255, rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_frames", [1, 9])
def test_an_edit_that_changes_everything_is_what_was_made(num_frames):
    latents, made = latents_of(num_frames), torch.rand(num_frames, SIDE, SIDE, 3)
    torch.testing.assert_close(shown(source_of(num_frames), latents, latents + 1, made), made, rtol=0, atol=0)


def test_of_a_picture_the_changed_place_is_made_and_what_lies_farther_than_one_place_is_kept():
    source, latents, made = source_of(1), latents_of(1), torch.full((1, SIDE, SIDE, 3), 0.5)
    found = shown(source, latents, changed_at(latents, 0, 0, 0), made)
    assert (found[0, : CELL // 2, : CELL // 2] == 0.5).all()  # the middle of a place and what is nearer to the rim
    torch.testing.assert_close(
        found[0, 2 * CELL :, 2 * CELL :], torch.from_numpy(source[0, 2 * CELL :, 2 * CELL :]) / 255
    )


def test_of_a_clip_places_beside_and_the_frames_up_to_the_next_latents_are_made_too():
    """What moves may be seen there in the frames between."""
    source, latents, made = source_of(17), latents_of(17), torch.full((17, SIDE, SIDE, 3), 0.5)
    found = shown(source, latents, changed_at(latents, 1, 0, 0), made)
    corner, far = found[:, : CELL // 2, : CELL + CELL // 2], found[:, 3 * CELL :, 3 * CELL :]
    is_made = (corner == 0.5).flatten(1).all(1).tolist()
    assert is_made == [False] + 8 * [True] + 8 * [False]  # of latent frame 1 (frames 1 to 4) and of 2
    torch.testing.assert_close(far, torch.from_numpy(source[:, 3 * CELL :, 3 * CELL :]) / 255)


def test_of_a_clip_with_latents_for_every_frame_the_changed_place_of_the_changed_frame_alone_is_made():
    """Nothing moves unseen there."""
    source, latents, made = source_of(9), latents_of(9, 1), torch.full((9, SIDE, SIDE, 3), 0.5)
    found = shown(source, latents, changed_at(latents, 3, 0, 0), made, stride=1)
    picture = shown(source[3:4], latents[:, :, 3:4], changed_at(latents, 3, 0, 0)[:, :, 3:4], made[:1], stride=1)
    torch.testing.assert_close(found[3:4], picture)
    others = [0, 1, 2, 4, 5, 6, 7, 8]
    torch.testing.assert_close(found[others], torch.from_numpy(source[others]) / 255)


def test_small_differences_are_none_and_the_share_falls_from_there():
    source, latents, made = source_of(1), latents_of(1), torch.full((1, SIDE, SIDE, 3), 0.5)
    truth = torch.from_numpy(source).float() / 255
    kept = []
    for distance in (0.9 * SAME, SAME + 0.25 * (CHANGED - SAME), SAME + 0.75 * (CHANGED - SAME), 1.1 * CHANGED):
        found = shown(source, latents, latents + distance, made)
        kept.append(float(((found - made) / (truth - made)).median()))
    assert kept == pytest.approx([1.0, 0.75, 0.25, 0.0], abs=1e-3)


@pytest.mark.parametrize(("stride", "parts"), [(4, (5,)), (4, (1, 4)), (4, (2, 1, 2)), (1, (9, 8)), (1, (1, 4, 12))])
@pytest.mark.parametrize("chunk", [1, 3, 17])
def test_parts_of_any_length_give_what_the_whole_gives(stride, parts, chunk):
    source, latents, made = source_of(17), latents_of(17, stride), torch.rand(17, SIDE, SIDE, 3)
    edited = changed_at(changed_at(latents, 1, 0, 0), 3, 2, 2)
    whole = shown(source, latents, edited, made, stride)
    kept = KeptSource(source, stride)
    for part, of_source in zip(edited.split(parts, dim=2), latents.split(parts, dim=2), strict=True):
        kept.compare(part, of_source)
    found = torch.cat([kept.into(frames) for frames in made.split(chunk)])
    torch.testing.assert_close(found, whole, rtol=0, atol=0)


@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("system", ["loomvideo", "vino", "omnivideo"])
def test_a_pipeline_streams_what_it_generates(system, window, small_pipeline):
    pipe = small_pipeline(system)
    clip = np.random.default_rng(1).integers(0, 255, (13, 32, 32, 3), dtype=np.uint8)
    request = Request(prompt="x", source=clip, num_frames=13, window=window, num_inference_steps=2, keep_source=True)
    planned = plan(request, pipe.limits)
    generated = pipe.generate(planned).frames
    streamed = np.concatenate(list(pipe.stream(planned)))
    assert planned.keep_source
    assert np.abs(np.round(generated * 255) - streamed).max() <= 1


def test_frames_are_the_source_where_the_denoiser_gives_its_latents_back(small_pipeline, monkeypatch):
    pipe = small_pipeline("loomvideo")
    picture = np.random.default_rng(1).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    request = Request(prompt="x", source=picture, num_inference_steps=2, keep_source=True)
    planned = plan(request, pipe.limits)
    source = pipe.encode(planned.source)
    monkeypatch.setattr("loomvideo.systems.pipeline.sample", lambda *given, **others: source)
    kept, lost = (pipe.generate(one).frames for one in (planned, plan(_without(request), pipe.limits)))
    np.testing.assert_allclose(kept, planned.source / 255, atol=1e-6)
    assert np.abs(lost - planned.source / 255).max() > 0.05  # what the VAE makes of it


def _without(request):
    return Request(**{**vars(request), "keep_source": False})


def test_it_is_the_models_own_choice_where_nothing_is_said(small_pipeline):
    limits = small_pipeline("loomvideo").limits
    picture = np.zeros((32, 32, 3), dtype=np.uint8)
    assert not plan(Request(prompt="x", source=picture), limits).keep_source
    assert plan(Request(prompt="x", source=picture, keep_source=True), limits).keep_source


@pytest.mark.parametrize(
    ("value", "message"),
    [(True, "keep_source: there is no source to keep"), (1, "keep_source=1: must be true or false")],
)
def test_what_cannot_be_kept_is_refused(value, message, small_pipeline):
    with pytest.raises(RequestError, match=message):
        plan(Request(prompt="x", keep_source=value), small_pipeline("loomvideo").limits)

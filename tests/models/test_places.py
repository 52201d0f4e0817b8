"""Absolute places: what tells a denoiser's target tokens where in the clip they lie."""

import math

import numpy as np
import pytest
import torch

from loomvideo.models.places import NUM_FEATURES, place_features
from loomvideo.systems.plan import plan
from loomvideo.systems.request import Request
from loomvideo.training.loomvideo import build_denoiser

SYSTEMS = ["loomvideo", "vino", "omnivideo"]
TIME, ROW, COLUMN = (slice(17 * axis, 17 * axis + 17) for axis in range(3))


@pytest.fixture(params=SYSTEMS)
def pipe(request, small_pipeline):
    return small_pipeline(request.param)


def fields_of(denoiser):
    return {name: value for name, value in denoiser.config.items() if not name.startswith("_")}


def told_places(pipe):
    """The pipeline with its denoiser's weights in one that knows places."""
    denoiser = type(pipe.transformer)(**{**fields_of(pipe.transformer), "absolute_places": True})
    denoiser.load_state_dict(pipe.transformer.state_dict(), strict=False)
    pipe.register_modules(transformer=denoiser.eval())
    return pipe


@torch.no_grad()
def said(pipe, noisy, request):
    """The velocity (1, c, f, y, x) that the only branch of a request gives."""
    (branch,), _ = pipe.condition(plan(request, pipe.limits), noisy.shape, posterior=None, batch_branches=True)
    return branch(noisy, torch.tensor(500.0)).flatten(0, 1)


def noise_of(pipe, request):
    return pipe.draw_noise(plan(request, pipe.limits), torch.Generator().manual_seed(0))


def request_of(**fields):
    return Request(prompt="x", guidance_scale=1.0, guidance_scale_visual=1.0, **fields)


def test_a_picture_has_features_of_its_own_at_every_place():
    features = place_features((1, 3, 4))
    assert features.shape == (1, 12, NUM_FEATURES)
    assert NUM_FEATURES == 52
    assert len(features[0].unique(dim=0)) == 12


def test_relative_places_have_the_same_features_at_every_size():
    small = place_features((1, 2, 4)).view(2, 4, -1)
    large = place_features((1, 6, 12)).view(6, 12, -1)
    torch.testing.assert_close(large[1::3, 1::3], small)


def test_time_goes_from_the_first_frame_to_the_last_and_a_picture_lies_between():
    time = place_features((3, 1, 1))[0, :, TIME]
    assert time[:, 0].tolist() == [-1, 0, 1]
    assert time[0].tolist() == [-1, *[0] * 8, *[1] * 8]
    torch.testing.assert_close(place_features((1, 1, 1))[0, 0, TIME], time[1])


def test_each_axis_has_a_part_and_the_shape_of_the_frame_one():
    features = place_features((2, 3, 6)).view(2, 3, 6, -1)
    assert (features[..., TIME] == features[:, :1, :1, TIME]).all()
    assert (features[..., ROW] == features[:1, :, :1, ROW]).all()
    assert (features[..., COLUMN] == features[:1, :1, :, COLUMN]).all()
    assert (features[..., -1] == 1).all()
    assert place_features((1, 4, 2))[0, 0, -1] == -1
    torch.testing.assert_close(features[0, 0, 0, ROW][1], torch.tensor(math.sin(math.pi / 12)))


def test_published_denoisers_know_none(pipe):
    assert not pipe.transformer.config["absolute_places"]
    assert not [name for name in pipe.transformer.state_dict() if "place_embedding" in name]


def test_with_places_of_no_weight_the_velocity_is_the_one_without(pipe):
    request = request_of(num_frames=1)
    noisy = noise_of(pipe, request)
    before = said(pipe, noisy, request)
    torch.nn.init.zeros_(told_places(pipe).transformer.place_embedding.weight)
    torch.testing.assert_close(said(pipe, noisy, request), before)  # sums of another layout round differently


def test_the_same_noise_everywhere_does_not_look_the_same_everywhere(pipe):
    """Rotary positions alone cannot tell equal tokens apart: attention's values are the same at all of them. Only VINO's
    text, which stands at place 0, gives a little of it away."""
    request = request_of(num_frames=1)
    noisy = noise_of(pipe, request)
    noisy = noisy[..., :1, :1].expand_as(noisy).contiguous()
    patch = tuple(pipe.transformer.patch_size[1:])

    def apart(velocity):
        return (velocity[..., : patch[0], : patch[1]] - velocity[..., -patch[0] :, -patch[1] :]).abs().max().item()

    alone, told = apart(said(pipe, noisy, request)), apart(said(told_places(pipe), noisy, request))
    assert alone < (0.05 if pipe.system == "vino" else 1e-4)
    assert told > 0.1


def test_some_frames_of_a_clip_lie_where_they_lie_in_the_whole():
    whole = place_features((5, 2, 3)).view(5, 2, 3, -1)
    assert torch.equal(place_features((5, 2, 3), shown=[1, 4]).view(2, 2, 3, -1), whole[[1, 4]])


def test_only_the_target_is_told(pipe):
    """A reference is the same picture wherever the target's tokens lie."""
    picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    request = request_of(num_frames=1, references=[picture]) if pipe.system != "omnivideo" else request_of(num_frames=1)
    denoiser = told_places(pipe).transformer
    noisy = noise_of(pipe, request)
    told = []
    prepare = denoiser.prepare
    denoiser.prepare = lambda *given, **named: told.append(prepare(*given, **named)) or told[0]
    assert said(pipe, noisy, request).isfinite().all()
    assert told[0].places.shape[:2] == (1, math.prod(noisy.shape[-2:]) // math.prod(denoiser.patch_size))
    if pipe.system != "omnivideo":
        assert told[0].references.shape[1] > 0


def test_a_new_embedding_of_places_is_about_as_large_as_an_embedded_patch():
    torch.manual_seed(0)
    built_in = build_denoiser()
    denoiser = type(built_in)(**{**fields_of(built_in), "absolute_places": True})
    patches = denoiser.patch_embedding(torch.randn(1, 48, 1, 6, 6))
    places = denoiser.place_embedding.tokens((1, 6, 6), torch.device("cpu"))
    assert 0.3 < (places.std() / patches.std()).item() < 3

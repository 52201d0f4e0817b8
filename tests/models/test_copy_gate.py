"""The gate through which a denoiser's head copies the source of an edit."""

import numpy as np
import pytest
import torch
from accelerate import cpu_offload

from loomvideo.models.prediction import CopyGate, copied_from
from loomvideo.systems.plan import plan
from loomvideo.systems.request import Request

SYSTEMS = ["loomvideo", "vino", "omnivideo"]
SHUT, OPEN = -40.0, 40.0


def gated(pipe, logit):
    """The pipeline with a denoiser whose gate says the same of every number; the denoiser itself stays as it is."""
    plain = pipe.transformer
    fields = {name: value for name, value in plain.config.items() if not name.startswith("_")}
    denoiser = type(plain)(**{**fields, "prediction": "clean", "copies_source": True})
    denoiser.load_state_dict(plain.state_dict(), strict=False)
    torch.nn.init.constant_(denoiser.copy_gate.bias, logit)
    torch.nn.init.constant_(denoiser.copy_gate.sharpness, SHUT)  # distances have no part
    pipe.register_modules(transformer=denoiser.eval())
    return pipe


@torch.no_grad()
def clean(pipe, noisy, request):
    """The clean latents (1, c, f, y, x) that the only branch of a request predicts."""
    (branch,), _ = pipe.condition(plan(request, pipe.limits), noisy.shape, posterior=None, batch_branches=True)
    return noisy - branch(noisy, torch.tensor(500.0)).flatten(0, 1) * 0.5


@pytest.fixture(params=SYSTEMS)
def pipe(request, small_pipeline):
    pipe = small_pipeline(request.param)
    if pipe.system == "omnivideo":  # whose source is else among the context's rows alone
        pipe.register_to_config(use_visual_as_input=True)
    return pipe


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)


@pytest.fixture
def noisy_of():
    def draw(pipe, request):
        return pipe.draw_noise(plan(request, pipe.limits), torch.Generator().manual_seed(0))

    return draw


def edit_of(picture):
    return Request(prompt="x", source=picture, guidance_scale=1.0, guidance_scale_visual=1.0)


def test_wide_open_it_gives_the_source_back(pipe, picture, noisy_of):
    pipe, request = gated(pipe, OPEN), edit_of(picture)
    planned = plan(request, pipe.limits)
    source = pipe.encode(planned.source).detach()
    found = clean(pipe, noisy_of(pipe, request), request)
    torch.testing.assert_close(found, source, rtol=1e-3, atol=1e-3)


def test_shut_it_changes_nothing(pipe, picture, noisy_of):
    request = edit_of(picture)
    pipe.transformer.register_to_config(prediction="clean")
    noisy = noisy_of(pipe, request)
    expected = clean(pipe, noisy, request)
    torch.testing.assert_close(clean(gated(pipe, SHUT), noisy, request), expected, rtol=1e-4, atol=1e-4)


def test_without_a_source_there_is_nothing_to_copy(pipe, noisy_of):
    request = Request(prompt="x", num_frames=1, guidance_scale=1.0)
    pipe.transformer.register_to_config(prediction="clean")
    noisy = noisy_of(pipe, request)
    expected = clean(pipe, noisy, request)
    torch.testing.assert_close(clean(gated(pipe, OPEN), noisy, request), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def gate():
    return CopyGate(8, 4)


def mixed(gate, said, source):
    """What a gate that has learnt nothing from tokens makes of predicted numbers."""
    copied = copied_from(source)
    assert copied is not None
    tokens = torch.zeros(len(said), said[0, 0].numel(), 8)
    return gate(tokens, said, copied, places_of(said)).detach()


def places_of(latents):
    return lambda tokens: tokens.transpose(1, 2).unflatten(2, latents.shape[2:])


@torch.no_grad()
def test_it_works_where_its_weights_wait_elsewhere(pipe, picture, noisy_of):
    request = edit_of(picture)
    pipe = gated(pipe, 0.0)
    noisy = noisy_of(pipe, request)
    expected = clean(pipe, noisy, request)
    cpu_offload(pipe.transformer, execution_device=torch.device("cpu"))
    torch.testing.assert_close(clean(pipe, noisy, request), expected)


def test_zeros_beside_a_source_are_no_source(gate):
    source = torch.randn(2, 4, 1, 3, 3)
    source[1] = 0
    said = source + 0.01
    found = mixed(gate, said, source)
    assert (found[0] != said[0]).all()
    torch.testing.assert_close(found[1], said[1], rtol=0, atol=0)


def test_a_new_gate_copies_where_the_prediction_is_near_and_leaves_what_is_far(gate):
    source = torch.randn(1, 4, 1, 1, 2)
    said = source + torch.tensor([0.05, 1.0])  # two places
    kept = ((mixed(gate, said, source) - source) / (said - source))[0, :, 0, 0]
    assert (kept[:, 0] < 0.2).all()
    assert (kept[:, 1] > 0.99).all()


def test_a_place_is_copied_as_one(gate):
    """One number that is far, of four, says that the place has changed, and the near ones count as changed, too."""
    source = torch.zeros(1, 4, 1, 1, 1) + 1
    near = mixed(gate, source + torch.tensor([0.1, 0.1, 0.1, 0.1])[None, :, None, None, None], source)
    far = mixed(gate, source + torch.tensor([0.1, 0.1, 0.1, 2.0])[None, :, None, None, None], source)
    assert (far[0, :3] > near[0, :3]).all()


def test_gradients_reach_all_of_it(gate):
    source, tokens = torch.randn(1, 4, 1, 2, 2), torch.randn(1, 4, 8)
    said = (source + 0.2 * torch.randn(1, 4, 1, 2, 2)).requires_grad_()
    copied = copied_from(source)
    assert copied is not None
    gate(tokens, said, copied, places_of(said)).square().sum().backward()
    for reached in (said, gate.weight, gate.bias, gate.sharpness):
        assert reached.grad is not None
        assert reached.grad.abs().sum() > 0


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_velocity_holds_no_source_to_be_copied(system, small_pipeline):
    denoiser = small_pipeline(system).transformer
    fields = {name: value for name, value in denoiser.config.items() if not name.startswith("_")}
    with pytest.raises(
        ValueError, match="copies_source and prediction='velocity': only clean latents hold a source; use \"clean\""
    ):
        type(denoiser)(**{**fields, "copies_source": True})

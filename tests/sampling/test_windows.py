"""Laws of windows over a long clip."""

from itertools import pairwise

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from loomvideo.sampling.sampler import sample
from loomvideo.sampling.windows import Seam, windows


def unipc():
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)


@pytest.mark.parametrize("size", [3, 5, 8, 21])
@pytest.mark.parametrize("total", [1, 3, 5, 6, 7, 9, 22, 151])
def test_windows_make_every_frame_once_and_share_at_least_one_with_the_window_before(total, size):
    places = windows(total, size)
    assert [frame for place in places for frame in range(place.first, place.last)] == list(range(total))
    for before, place in pairwise(places):
        assert place.stop - place.start == size
        assert 1 <= place.shared == before.stop - place.first
        assert place.first == place.start + 1  # its first frame stands for one frame of pixels


def test_a_window_of_the_whole_clip_is_the_clip():
    assert [(place.start, place.stop, place.shared) for place in windows(5, 9)] == [(0, 5, 0)]


def test_windows_too_small_to_share_are_refused():
    with pytest.raises(ValueError, match="windows of 2 latent frames"):
        windows(9, 2)


def in_windows(branch_of, noise, size, scheduler, steps=6):
    places = windows(noise.shape[2], size)
    seam, made = Seam(places), []
    for number, place in enumerate(places):
        seam.begin(number)
        part = slice(place.start, place.stop)
        latents = sample(
            [branch_of(part)], [], scheduler=scheduler, noise=noise[:, :, part], num_inference_steps=steps,
            on_velocity=seam,
        )  # fmt: skip
        made.append(latents[:, :, place.made])
    return torch.cat(made, dim=2)


@pytest.mark.parametrize("scheduler", [unipc(), FlowMatchEulerDiscreteScheduler()], ids=["unipc", "euler"])
@pytest.mark.parametrize("size", [3, 5, 8])
def test_an_exact_denoiser_makes_the_same_clip_in_windows_as_at_once(size, scheduler):
    data, noise = torch.randn(2, 1, 4, 17, 2, 2)
    clip = in_windows(lambda part: lambda x, t: (noise - data)[None, :, :, part], noise, size, scheduler)
    torch.testing.assert_close(clip, data, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scheduler", [unipc(), FlowMatchEulerDiscreteScheduler()], ids=["unipc", "euler"])
def test_windows_that_disagree_pass_into_each_other_without_a_step(scheduler):
    """Every window drifts to a value of its own: without the blend, all of the difference would fall on one frame."""
    noise = torch.zeros(1, 1, 27, 1, 1)

    def of_its_own(part):
        return lambda x, t: torch.full_like(x, float(part.start))[None]

    size = 16
    clip = in_windows(of_its_own, noise, size, scheduler).flatten()
    first, second = windows(27, size)[:2]
    whole = abs(clip[-1] - clip[0])
    assert whole > 1
    assert clip.diff().abs().max() < 1.5 * whole / (second.shared + 1)
    assert (clip[: second.first] == clip[0]).all()  # what is made is not changed by what follows
    assert first.last == second.first


def test_what_a_seam_keeps_does_not_grow_with_the_clip():
    def kept(total):
        places = windows(total, 5)
        seam = Seam(places)
        for number in range(len(places)):
            seam.begin(number)
            for step in range(3):
                seam(step, torch.zeros(1, 4, 5, 2, 2))
            held = sum(tensor.numel() for tensor in [*seam.left, *seam.leaving])
        return held

    assert kept(14) == kept(62) > 0

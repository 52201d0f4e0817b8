"""Clips longer than a model makes: every system edits them in windows, within the memory of one window."""

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from loomvideo import LoomVideoPipeline
from loomvideo.models.vae import frames_a_latent, latent_grid
from loomvideo.sampling.windows import windows
from loomvideo.systems.plan import plan
from loomvideo.systems.request import Request, RequestError
from loomvideo.systems.thinking import rethought

CLIP = np.random.default_rng(0).integers(0, 256, (40, 40, 56, 3), dtype=np.uint8)
SYSTEMS = ("loomvideo", "vino", "omnivideo", "omnivideo2")


@pytest.fixture(scope="module", params=[*SYSTEMS, "a latent for every frame"])
def pipe(request, small_pipeline):
    if request.param in SYSTEMS:
        return small_pipeline(request.param)
    pipeline = small_pipeline("loomvideo")
    settings = dict(pipeline.vae.config) | {
        "dim_mult": [1], "temperal_downsample": [], "in_channels": 768, "out_channels": 768, "patch_size": 16,
        "scale_factor_temporal": 1,
    }  # fmt: skip
    pipeline.register_modules(vae=AutoencoderKLWan.from_config(settings).eval())
    return pipeline


def edit(pipe, frames, **options):
    return plan(Request(prompt="x", source=frames, num_inference_steps=2, **options), pipe.limits)


def test_more_frames_than_a_model_makes_are_made_in_windows(pipe):
    decided = edit(pipe, CLIP, num_frames=13)
    assert (decided.window, decided.num_frames) == (9, 13)
    assert any("13 frames are made 9 at a time" in note for note in decided.notes)
    frames = np.concatenate(list(pipe.stream(decided)))
    assert frames.shape == (13, decided.output_height, decided.output_width, 3)
    whole = pipe.generate(decided).frames
    assert np.abs(frames / 255 - whole).max() <= 0.5 / 255 + 1e-4  # the same clip, in turn and at once


def test_the_first_window_is_the_edit_of_the_first_frames(pipe):
    decided = edit(pipe, CLIP, num_frames=13)
    long = pipe.generate(decided, output_type="latent").frames
    size = latent_grid(pipe.vae, decided.window, 0, 0)[0]
    noise = pipe.draw_noise(decided, torch.Generator().manual_seed(0))[:, :, :size]
    first = pipe.generate(decided.part(0, 9), latents=noise, output_type="latent").frames
    made = windows(long.shape[2], size)[0].made
    torch.testing.assert_close(long[:, :, made], first[:, :, made], rtol=1e-4, atol=1e-4)


def test_a_window_edits_the_whole_source_unless_a_length_is_said(tiny_model):
    limits = LoomVideoPipeline.from_pretrained(tiny_model).limits
    request = Request(prompt="x", source=CLIP, window=9)
    assert plan(request, limits).num_frames == 37  # 1 + 4n of 40
    assert plan(replace(request, num_frames=13), limits).num_frames == 13
    assert plan(replace(request, source=CLIP[:5]), limits).window is None
    assert plan(replace(request, window=None), limits).num_frames == limits.max_frames


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 4}, "window=4: must be a whole number of frames from 9 to 9"),
        ({"window": 13}, "window=13: must be a whole number of frames from 9 to 9"),
        ({"window": 9, "source": None}, "window=9: a clip that is edited is made in windows; give a source"),
        ({"num_frames": 20_001}, "num_frames=20001: must be a whole number of frames, from 1 to 20000"),
    ],
)
def test_what_cannot_be_made_in_windows_is_refused(tiny_model, options, message):
    limits = LoomVideoPipeline.from_pretrained(tiny_model).limits
    with pytest.raises(RequestError, match=message):
        plan(Request(**{"prompt": "x", "source": CLIP, **options}), limits)


def test_the_tensors_of_a_longer_clip_are_not_more(pipe):
    """Bytes of all tensors alive at the last step of a clip of six windows and of nine."""

    def alive(num_frames):
        decided, steps, held = edit(pipe, CLIP, num_frames=num_frames), [], []
        noise = pipe.draw_noise(decided, torch.Generator())  # of the whole clip: the one thing that grows
        size = latent_grid(pipe.vae, decided.window, 0, 0)[0]
        last = decided.num_inference_steps * len(windows(noise.shape[2], size))

        def on_step(*_):
            steps.append(None)
            if len(steps) == last:
                gc.collect()
                tensors = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter)]
                storages = {
                    tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors
                }
                held.append(sum(storages.values()) - 2 * noise.nbytes)
            return {}

        for _ in pipe.stream(decided, callback_on_step_end=on_step):
            pass
        return held[0]

    assert alive(37) <= 1.001 * alive(25)


@pytest.mark.slow
def test_seams_do_not_show_in_an_edit_by_the_built_in_model():
    """Neighbouring frames differ no more where one window gives way to the next than at the same place of a clip that is made
    in one piece, by themselves and beside other borders between latent frames, at which the VAE jumps a little."""
    pipe = LoomVideoPipeline.from_pretrained("builtin")
    pipe.set_progress_bar_config(disable=True)
    rows, columns = np.mgrid[:128, :128]
    inside = [(rows - 64) ** 2 + (columns - 24 - 2 * time) ** 2 < 18**2 for time in range(41)]
    clip = np.where(np.stack(inside)[..., None], (220, 30, 30), (40, 60, 160)).astype(np.uint8)
    request = Request(prompt="turn the circle green", source=clip, window=17, num_inference_steps=6)
    decided = plan(request, pipe.limits)
    differences = np.abs(np.diff(np.concatenate(list(pipe.stream(decided))).astype(float), axis=0)).mean((1, 2, 3))
    stride = frames_a_latent(pipe.vae)
    places = windows((decided.num_frames - 1) // stride + 1, (decided.window - 1) // stride + 1)
    seams = [stride * (place.first - 1) for place in places[1:]]
    assert len(seams) >= 2
    others = sorted(set(range(0, len(differences), stride)) - set(seams))
    pipe.limits = replace(pipe.limits, max_frames=len(clip))
    whole = pipe.generate(plan(replace(request, window=None, num_frames=len(clip)), pipe.limits)).frames
    at_once = np.abs(np.diff(255 * whole, axis=0)).mean((1, 2, 3))
    assert (differences[seams] <= 1.1 * at_once[seams]).all()
    # of other borders, as far as those of the whole clip are alike themselves
    more, more_at_once = (found[seams].mean() / found[others].mean() for found in (differences, at_once))
    assert more <= 1.1 * more_at_once


def test_every_window_is_thought_about_with_its_own_frames_where_plans_say_where_things_are(monkeypatch):
    pipe = LoomVideoPipeline.from_pretrained("builtin")
    pipe.set_progress_bar_config(disable=True)
    clip = np.repeat(np.arange(41, dtype=np.uint8)[:, None, None, None], 3, axis=3).repeat(64, 1).repeat(64, 2)
    seen = []

    def think(decided):
        seen.append((decided.prompt, len(decided.source), int(decided.source[0, 0, 0, 0])))
        return rethought(decided, "darker;", replaces=True)

    monkeypatch.setattr(pipe, "think", think)
    asked = Request(prompt="make it darker", source=clip, window=17, num_inference_steps=1, think=True)
    decided = plan(asked, pipe.limits)
    assert sum(map(len, pipe.stream(decided))) == 41
    assert {prompt for prompt, _, _ in seen} == {"make it darker"}
    assert [length for _, length, _ in seen[1:]] == [17] * (len(seen) - 1)
    starts = [start for _, _, start in seen]
    assert len(starts) >= 3
    assert starts == sorted(set(starts))

    seen.clear()
    pipe.limits = replace(pipe.limits, think=False)  # what is said then replaces no window's instruction
    list(pipe.stream(decided))
    assert len(seen) == 1

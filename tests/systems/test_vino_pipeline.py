"""VINO's pipeline on tiny random weights: what a person who calls it can rely on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from PIL import Image

from loomvideo import VinoPipeline
from loomvideo.media.letterbox import box_size
from loomvideo.models.qwen import FrameRule
from loomvideo.sampling.euler import ShiftedEulerScheduler
from loomvideo.systems.plan import plan
from loomvideo.systems.request import Request, RequestError
from loomvideo.systems.vino import ROLES, references_of, with_role
from vino_parts import SMALL_LIMITS, vino_pipeline

CLIP = np.random.default_rng(0).integers(0, 256, (9, 40, 56, 3), dtype=np.uint8)
PICTURE = Image.fromarray(CLIP[0])
WIDE = Image.fromarray(CLIP[1, :20])
REQUESTS = {
    "t2v": {},
    "t2i": {"num_frames": 1},
    "i2v": {"task": "i2v", "references": [PICTURE]},
    "mi2v": {"references": [PICTURE, WIDE]},
    "mi2v of one frame": {"references": [PICTURE, WIDE], "num_frames": 1},
    "edit of a picture": {"source": PICTURE},
    "edit of a picture with a reference": {"source": PICTURE, "references": [WIDE]},
    "edit of a clip": {"source": CLIP},
    "edit of a clip with a reference": {"source": CLIP, "references": [WIDE]},
    "clone": {"task": "clone", "source": CLIP, "references": [PICTURE]},
    "camera_clone": {"task": "camera_clone", "source": CLIP, "references": [PICTURE]},
}
every_request = pytest.mark.parametrize("request_of", REQUESTS.values(), ids=REQUESTS)


@pytest.fixture(scope="module")
def pipe(tiny_vino):
    pipe = VinoPipeline.from_pretrained(tiny_vino)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def decided(pipe, **request):
    return plan(Request(**{"prompt": "a red kite", **request}), pipe.limits)


def latents_of(pipe, prompt="x", **request):
    return pipe(prompt, **request, output_type="latent").frames


# --- every task


@every_request
def test_every_task_gives_the_frames_that_its_plan_says(pipe, request_of):
    output = pipe("a red kite", **request_of)
    made = output.plan
    assert output.frames.shape == (made.output_frames, made.output_height, made.output_width, 3)
    assert 0 <= output.frames.min() <= output.frames.max() <= 1


@every_request
def test_branches_in_one_batch_give_the_same_as_in_turn(pipe, request_of):
    together, in_turn = (latents_of(pipe, **request_of, batch_branches=batched) for batched in (True, False))
    torch.testing.assert_close(together, in_turn, rtol=1e-4, atol=1e-4)


@every_request
def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(pipe, request_of):
    first, second, other = (latents_of(pipe, **request_of, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["first_budgets", "whole_source_frames", "reference_area"])
@pytest.mark.parametrize("request_of", [{"source": CLIP, "references": [WIDE]}, {"source": PICTURE}])
def test_what_a_small_model_has_no_use_for_may_be_left_out(tiny_model, name, request_of):
    """Visuals straight to the language model's grid; the edited frames alone; references of the target's size."""
    settings = {"first_budgets": None} if name == "first_budgets" else {"limits": {**SMALL_LIMITS, name: None}}
    torch.manual_seed(0)
    pipe = vino_pipeline(tiny_model, **settings)
    pipe.set_progress_bar_config(disable=True)
    output = pipe("a red kite", **request_of)
    assert np.isfinite(output.frames).all()
    sizes = {reference.shape[:2] for reference in output.plan.references}
    assert name != "reference_area" or sizes <= {(output.plan.height, output.plan.width)}


# --- what is shown, and in which order


def seen_by_denoiser(pipe, **request):
    """The reference latents of the full branch, its chat and the shape of the target, without sampling."""
    from loomvideo.systems import vino

    made = decided(pipe, **request)
    noise = pipe.draw_noise(made, torch.Generator())
    caught = []

    def catch(transformer, branches, *_, **__):
        caught.extend(branches)
        return []

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(vino, "denoisers", catch)
        _, scales = pipe.condition(made, noise.shape, posterior=None, batch_branches=True)
    return made, caught, scales, noise.shape


def test_references_come_first_and_what_is_edited_comes_last(pipe):
    red, blue = (np.full((48, 64, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    for source, last in ((blue, "image"), (CLIP, "video")):
        made, branches, _, _ = seen_by_denoiser(pipe, source=source, references=[red, PICTURE])
        kinds = [visual.kind for visual in branches[-1].chat.visuals]
        assert kinds == ["image", "image", last]
        expected = [pipe.encode(frames) for frames in (red[None], made.references[1][None], made.source)]
        for latents, same in zip(branches[-1].references, expected, strict=True):
            torch.testing.assert_close(latents, same)


def test_the_order_of_the_references_counts(pipe):
    orders = [PICTURE, WIDE], [WIDE, PICTURE]
    one, other = (latents_of(pipe, references=pictures, height=48, width=48) for pictures in orders)
    assert not torch.allclose(one, other, atol=1e-3)


def test_references_keep_their_own_ratio_and_all_of_their_pixels(pipe):
    made = decided(pipe, references=[WIDE, PICTURE])
    for reference, picture in zip(made.references, (WIDE, PICTURE), strict=True):
        assert reference.shape[:2] == box_size(picture.height, picture.width, SMALL_LIMITS["reference_area"], 16)
        white = (reference == 255).all(axis=2)
        assert white.all(axis=0).any() or white.all(axis=1).any()  # besides it, or above and below
    assert made.references[0].shape != made.references[1].shape


def test_the_edited_picture_is_the_base_that_image_guidance_keeps(pipe):
    _, branches, scales, _ = seen_by_denoiser(pipe, source=PICTURE, references=[WIDE], guidance_scale_visual=3.0)
    assert [len(branch.references) for branch in branches] == [1, 2, 2]
    assert torch.equal(branches[0].references[0], branches[2].references[1])
    assert scales == [3.0, 4.0]


def test_a_picture_that_is_edited_alone_is_hidden_by_image_guidance(pipe):
    """As published: it is no base where there is nothing besides it."""
    _, branches, _, _ = seen_by_denoiser(pipe, source=PICTURE, guidance_scale_visual=3.0)
    assert [len(branch.references) for branch in branches] == [0, 1, 1]


def test_image_guidance_hides_pictures_and_never_the_clip(pipe):
    _, branches, _, _ = seen_by_denoiser(pipe, source=CLIP, references=[WIDE])
    assert [len(branch.references) for branch in branches] == [1, 2, 2]
    assert branches[0].chat.visuals[0].kind == "video"


def test_the_first_frame_of_a_video_is_as_large_as_the_video_itself(pipe):
    made, branches, _, target = seen_by_denoiser(pipe, task="i2v", references=[WIDE], num_frames=5)
    assert made.width > 2 * made.height
    assert branches[-1].references[0].shape[3:] == target[3:]
    lying_on_it = made.cut(made.references[0][None])[0]
    assert lying_on_it.shape == (made.output_height, made.output_width, 3)


# --- the whole clip, for the language model alone


def test_the_language_model_sees_frames_of_the_whole_clip_and_the_vae_those_that_are_edited(pipe):
    long = np.zeros((41, 40, 56, 3), np.uint8)
    long[-1] = 255
    made = decided(pipe, source=long)
    assert len(made.source) == pipe.limits.max_frames
    assert made.whole_source.shape == (4, 40, 56, 3)
    assert made.whole_source[-1].min() == 255
    assert made.source.max() == 0
    (visual,) = pipe.visuals(made)
    assert visual.rows.max() > 0.9
    assert visual.timestamps == ("<0.0 seconds>", "<0.1 seconds>")


def test_one_frame_of_a_clip_is_a_picture_to_both(pipe):
    made = decided(pipe, source=CLIP, num_frames=1)
    assert made.whole_source is None
    assert references_of(made.references, made.source)[1] is None
    (visual,) = pipe.visuals(made)
    assert visual.kind == "image"


def test_a_clip_is_cut_from_its_centre(pipe):
    frames = np.zeros((5, 64, 90, 3), np.uint8)
    frames[:, :, 45] = 255
    made = decided(pipe, source=frames, height=64, width=80)
    assert made.source[0].sum(axis=(0, 2)).argmax() == 40


# --- words


@pytest.mark.parametrize("task", ROLES)
def test_a_task_tells_in_words_what_its_reference_is_for(pipe, task):
    source = {} if task == "i2v" else {"source": CLIP}
    _, branches, _, _ = seen_by_denoiser(pipe, task=task, references=[PICTURE], prompt="she waves", **source)
    assert branches[-1].chat.text.split("<|im_end|>")[1].endswith(f"{ROLES[task]}she waves")
    assert "she waves" not in branches[0].chat.text


def test_a_prompt_that_names_the_picture_is_left_as_it_is():
    for prompt in ("start from Image 1", "start from image_1", "@Image 1 waves"):
        assert with_role("i2v", prompt) == prompt
    assert with_role("t2v", "she waves") == "she waves"


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
@pytest.mark.parametrize("mark", ["<|image_pad|>", "<|vision_start|>", "<|im_end|>"])
def test_a_mark_of_the_language_model_is_refused_with_its_name(pipe, name, mark):
    with pytest.raises(RequestError, match=rf"^{name} holds .*{mark.replace('|', '.')}") as refused:
        pipe(**{"prompt": "x", name: f"a {mark} kite"}, references=[PICTURE])
    assert "\n" not in str(refused.value)


def test_markers_stay_where_they_are_whatever_a_prompt_says_of_vision(pipe):
    made, branches, _, _ = seen_by_denoiser(pipe, references=[PICTURE], prompt="vision_start, vision_end, Image 1")
    reading = pipe.read(branches[-1].chat)
    assert reading.markers.shape[1] == len(made.references)


def test_queries_stand_behind_the_chat(pipe):
    _, branches, _, _ = seen_by_denoiser(pipe, prompt="a")
    text = branches[-1].chat.text
    ids = pipe.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert pipe.read(branches[-1].chat).text.shape[1] == len(ids) + pipe.connector.config["num_queries"]


def test_the_shift_follows_the_number_of_frames_that_are_made(pipe):
    shifts = []
    for frames in (1, 5):
        pipe("x", num_frames=frames, output_type="latent")
        shifts.append(pipe.scheduler.shift)
    assert shifts == [pipe.config["shift_image"], pipe.config["shift_video"]]
    assert pipe.scheduler.config["shift"] == ShiftedEulerScheduler().config["shift"]


def test_what_no_step_changes_is_computed_once_however_many_steps(pipe):
    counts = {"language model": 0, "connector": 0, "references": 0}

    def count(name):
        return lambda *_: counts.__setitem__(name, counts[name] + 1)

    handles = [
        pipe.mllm.model.language_model.register_forward_hook(count("language model")),
        pipe.connector.register_forward_hook(count("connector")),
        pipe.vae.encoder.register_forward_hook(count("references")),
    ]
    seen = []
    for steps in (1, 4):
        latents_of(pipe, source=CLIP, references=[PICTURE, WIDE], num_inference_steps=steps)
        seen.append(dict(counts))
        counts.update(dict.fromkeys(counts, 0))
    for handle in handles:
        handle.remove()
    assert seen[0] == seen[1] == {"language model": 3, "connector": 3, "references": 3}


def test_sampling_the_posterior_is_an_option_and_repeatable(pipe):
    mode, first, second = (latents_of(pipe, source=CLIP, sample_posterior=sampled) for sampled in (False, True, True))
    assert torch.equal(first, second)
    assert not torch.equal(mode, first)


# --- the language model by itself


def test_think_mode_leaves_what_is_edited_in_the_prompt_and_keeps_every_picture(pipe):
    made = replace(decided(pipe, source=CLIP, prompt="make it blue"), think=True)
    thought = pipe.think(made)
    assert not thought.think
    assert thought.prompt.startswith("make it blue")
    assert any(note.startswith("think: ") for note in thought.notes)
    assert pipe.generate(made, output_type="latent").plan.prompt == thought.prompt


def test_think_mode_asks_with_the_published_system_turn_where_the_model_has_one(pipe, tiny_model):
    made = decided(pipe, references=[PICTURE], prompt="Image 1 flies")
    assert pipe.thinking_chat(made).text.startswith("<|im_start|>user")
    asked = vino_pipeline(tiny_model, caption_system="Say it.", thinking="{prompt}").thinking_chat(made).text
    assert asked.startswith("<|im_start|>system\nSay it.<|im_end|>\n<|im_start|>user\nImage 1: <|vision_start|>")
    assert asked.endswith("Image 1 flies<|im_end|>\n<|im_start|>assistant\n")


def test_it_describes_pictures_and_whole_clips(pipe):
    from loomvideo.models.reader import Decoding

    for shown in (PICTURE, CLIP):
        answer = pipe.describe(shown, "what is there?", decoding=Decoding(temperature=0, max_new_tokens=3))
        assert isinstance("".join(answer), str)
        assert 1 <= len(answer.ids) <= 3


# --- as a model folder


def test_a_saved_pipeline_is_loaded_whole(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    loaded = VinoPipeline.from_pretrained(tmp_path / "model")
    loaded.set_progress_bar_config(disable=True)
    assert (loaded.limits, loaded.pixel_budgets, loaded.first_budgets) == (
        pipe.limits,
        pipe.pixel_budgets,
        pipe.first_budgets,
    )
    assert loaded.frame_rule == FrameRule(factor=9, min_frames=2, sampled_frames=4)
    request = {"source": CLIP, "references": [WIDE]}
    torch.testing.assert_close(latents_of(loaded, **request), latents_of(pipe, **request), rtol=1e-4, atol=1e-4)


def test_a_pipeline_in_bfloat16_stays_near_the_one_in_float32(pipe, tiny_vino):
    half = VinoPipeline.from_pretrained(tiny_vino, dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    assert half.transformer.transformer_blocks[0].attn.to_q.weight.dtype == torch.bfloat16
    exact, rough = (latents_of(one, source=CLIP, references=[WIDE], guidance_scale=1.0) for one in (pipe, half))
    assert rough.dtype == torch.float32  # the solver's precision is the noise's
    assert (rough - exact).norm() < 0.05 * exact.norm()


def test_offloaded_weights_are_fetched_wherever_they_are_used(tiny_vino):
    """Sequential offloading leaves no weight in its place: each way into a component has to fetch it."""
    pipe = VinoPipeline.from_pretrained(tiny_vino)
    pipe.set_progress_bar_config(disable=True)
    request = {"source": CLIP, "references": [WIDE]}
    before = latents_of(pipe, **request)
    for name in pipe.model_cpu_offload_seq.split("->"):
        cpu_offload(getattr(pipe, name), "cpu", offload_buffers=True)
    assert all(parameter.is_meta for parameter in pipe.connector.parameters())
    assert torch.equal(latents_of(pipe, **request), before)
    assert np.isfinite(pipe("x", **request).frames).all()


def test_a_pipeline_without_its_configuration_is_refused(pipe):
    with pytest.raises(ValueError, match=r"model_index\.json"):
        VinoPipeline(**pipe.components)

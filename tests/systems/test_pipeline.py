"""The pipeline on tiny random weights: what a person who calls it can rely on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from loomvideo import LoomVideoPipeline, LoomVideoTransformer3DModel
from loomvideo.models.chat import chat, tokenise
from loomvideo.sampling.sampler import NotFiniteError
from loomvideo.systems.loomvideo import batch_contexts
from loomvideo.systems.plan import plan
from loomvideo.systems.request import Request

WIDTH, LAYERS, CHANNELS = 16, 4, 4
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
LIMITS = {
    "fps": 8.0,
    "area": 32 * 32,
    "max_area": 64 * 64,
    "max_frames": 9,
    "default_frames": 5,
    "num_inference_steps": 2,
    "negative_prompt": "blurry",
}
CLIP = np.random.default_rng(0).integers(0, 256, (5, 40, 56, 3), dtype=np.uint8)
PICTURE = Image.fromarray(CLIP[0])
REQUESTS = {
    "t2v": {},
    "t2i": {"num_frames": 1},
    "edit_video": {"source": CLIP},
    "edit_image": {"source": PICTURE},
    "ref_edit": {"source": CLIP, "references": [PICTURE]},
    "ref_edit_image": {"source": PICTURE, "references": [PICTURE]},
    "mi2v": {"references": [PICTURE, PICTURE.rotate(90)]},
}


def make_tokenizer():
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokens = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="<|endoftext|>")
    fast.add_special_tokens({"additional_special_tokens": SPECIAL})
    return fast


def make_mllm(tokenizer):
    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(SPECIAL), strict=True))
    text = {
        "vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": LAYERS,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "out_hidden_size": WIDTH, "depth": 3, "num_heads": 2, "intermediate_size": 32,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            text_config=text,
            vision_config=vision,
            image_token_id=ids["<|image_pad|>"],
            video_token_id=ids["<|video_pad|>"],
            vision_start_token_id=ids["<|vision_start|>"],
            vision_end_token_id=ids["<|vision_end|>"],
        )
    ).eval()


def make_transformer():
    transformer = LoomVideoTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=CHANNELS, out_channels=CHANNELS, text_dim=8,
        freq_dim=16, ffn_dim=32, num_layers=LAYERS - 1, mllm_dim=WIDTH,
    )  # fmt: skip
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return transformer.eval()


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    vae = AutoencoderKLWan(
        base_dim=2, decoder_base_dim=2, z_dim=CHANNELS, dim_mult=[1, 1, 1, 1], num_res_blocks=1, in_channels=12,
        out_channels=12, patch_size=2, is_residual=True, scale_factor_spatial=16, scale_factor_temporal=4,
        temperal_downsample=[False, True, True], latents_mean=[0.1] * CHANNELS, latents_std=[0.9] * CHANNELS,
    )  # fmt: skip
    pipe = LoomVideoPipeline(
        make_transformer(),
        make_mllm(tokenizer),
        tokenizer,
        vae.eval(),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0),
        limits=LIMITS,
        frame_rule={"factor": 15, "min_frames": 2},
        pixel_budgets={"image": {"smallest": 1024, "largest": 4096}, "video": {"smallest": 1024, "largest": 16384}},
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("request_of", REQUESTS.values(), ids=REQUESTS)
def test_every_task_gives_the_frames_that_its_plan_says(pipe, request_of):
    output = pipe("x", **request_of)
    size = (output.plan.output_frames, output.plan.output_height, output.plan.output_width, 3)
    assert output.frames.shape == size
    assert output.frames.dtype == np.float32
    assert 0 <= output.frames.min() <= output.frames.max() <= 1
    assert output.fps == LIMITS["fps"]


@pytest.mark.parametrize("request_of", REQUESTS.values(), ids=REQUESTS)
def test_branches_in_one_batch_give_the_same_as_in_turn(pipe, request_of):
    together = pipe("x", **request_of, output_type="latent").frames
    in_turn = pipe("x", **request_of, output_type="latent", batch_branches=False).frames
    torch.testing.assert_close(together, in_turn, rtol=1e-4, atol=1e-4)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(pipe):
    first, second, other = (pipe("x", seed=seed, output_type="latent").frames for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_noise_is_drawn_on_the_cpu_in_float32_from_the_seed(pipe):
    decided = plan(Request(prompt="x", seed=5), pipe.limits)
    expected = torch.randn(1, CHANNELS, 2, 2, 2, generator=torch.Generator().manual_seed(5))
    assert torch.equal(pipe.draw_noise(decided, torch.Generator().manual_seed(5)), expected)
    given = pipe("x", latents=expected, output_type="latent").frames
    assert torch.equal(given, pipe("x", seed=5, output_type="latent").frames)


def test_what_no_step_changes_is_computed_once_however_many_steps(pipe):
    counts = {"projector": 0, "language model": 0, "source": 0}

    def count(name):
        return lambda *_: counts.__setitem__(name, counts[name] + 1)

    handles = [
        pipe.transformer.mllm_embedder.register_forward_hook(count("projector")),
        pipe.mllm.model.language_model.register_forward_hook(count("language model")),
        pipe.transformer.source_patch_embedding.register_forward_hook(count("source")),
    ]
    seen = []
    for steps in (1, 4):
        pipe("x", source=CLIP, references=[PICTURE], num_inference_steps=steps, output_type="latent")
        seen.append(dict(counts))
        counts.update(dict.fromkeys(counts, 0))
    for handle in handles:
        handle.remove()
    layouts, blocks = 2, LAYERS - 1  # visual-only and full have references, unconditional has none
    assert seen[0] == seen[1] == {"projector": layouts * blocks, "language model": 3, "source": layouts}


def test_guidance_off_runs_the_full_branch_alone(pipe):
    runs = []
    handle = pipe.transformer.register_forward_pre_hook(lambda _, args: runs.append(len(args[0])))
    pipe("x", source=CLIP, guidance_scale=1.0, guidance_scale_visual=1.0, output_type="latent")
    pipe("x", guidance_scale=1.0, output_type="latent")  # the visual scale has no part without visuals
    handle.remove()
    assert set(runs) == {1}


def test_a_size_that_the_model_cannot_take_is_generated_larger_and_cut(pipe):
    output = pipe("x", height=36, width=50, num_frames=3)
    assert output.frames.shape == (3, 36, 50, 3)
    assert (output.plan.height, output.plan.width, output.plan.num_frames) == (64, 64, 5)


def test_output_types_show_the_same_frames(pipe):
    frames = pipe("x").frames
    np.testing.assert_array_equal(pipe("x", output_type="pt").frames.permute(0, 2, 3, 1).numpy(), frames)
    pictures = pipe("x", output_type="pil").frames
    np.testing.assert_allclose(np.stack(pictures) / 255, frames, atol=0.5 / 255 + 1e-6)


def test_the_step_callback_follows_the_convention_of_diffusers(pipe):
    seen = []

    def callback(pipeline, step, timestep, tensors):
        seen.append((pipeline is pipe, step, int(timestep)))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 2 else {}

    latents = pipe("x", num_inference_steps=3, callback_on_step_end=callback, output_type="latent").frames
    assert [step for _, step, _ in seen] == [0, 1, 2]
    assert all(same for same, _, _ in seen)
    assert not latents.any()


def test_stages_are_told_in_order(pipe):
    stages = []
    pipe("x", callback_on_stage=stages.append)
    assert stages == ["read", "sample", "decode"]


def test_sampling_the_posterior_is_an_option_and_repeatable(pipe):
    mode, first, second = (
        pipe("x", source=CLIP, sample_posterior=sampled, output_type="latent").frames for sampled in (False, True, True)
    )
    assert torch.equal(first, second)
    assert not torch.equal(mode, first)


def test_weights_that_are_nan_stop_the_run_and_name_the_step(pipe):
    broken = make_transformer()
    torch.nn.init.constant_(broken.proj_out.bias, float("nan"))
    components = {**pipe.components, "transformer": broken}
    config = {name: pipe.config[name] for name in ("limits", "frame_rule", "pixel_budgets")}
    with pytest.raises(NotFiniteError, match="velocity of step 1 of 2"):
        LoomVideoPipeline(**components, **config)("x")


def test_a_saved_pipeline_is_loaded_whole(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    loaded = LoomVideoPipeline.from_pretrained(tmp_path / "model")
    loaded.set_progress_bar_config(disable=True)
    assert loaded.limits == pipe.limits
    assert loaded.frame_rule == pipe.frame_rule
    assert loaded.pixel_budgets == pipe.pixel_budgets
    request = {"source": CLIP, "references": [PICTURE], "output_type": "latent"}
    torch.testing.assert_close(loaded("x", **request).frames, pipe("x", **request).frames, rtol=1e-4, atol=1e-4)


def test_a_pipeline_in_bfloat16_stays_near_the_one_in_float32(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    half = LoomVideoPipeline.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    assert half.transformer.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert half.transformer.scale_shift_table.dtype == torch.float32
    request = {"source": CLIP, "references": [PICTURE], "guidance_scale": 1.0, "guidance_scale_visual": 1.0}
    exact, rough = (one("x", **request, output_type="latent").frames for one in (pipe, half))
    assert rough.dtype == torch.float32  # the solver's precision is the noise's
    assert (rough - exact).norm() < 0.05 * exact.norm()


def test_rounded_rotary_tables_are_an_option_of_the_denoiser_and_reach_the_language_model(pipe):
    exact = pipe("x", source=CLIP, output_type="latent").frames
    pipe.transformer.register_to_config(rounded_rotary_tables=True)
    rounded = pipe("x", source=CLIP, output_type="latent").frames
    frequencies = pipe.mllm.model.language_model.rotary_emb.inv_freq
    pipe.transformer.register_to_config(rounded_rotary_tables=False)
    assert torch.equal(frequencies, frequencies.bfloat16().float())
    assert not torch.equal(exact, rounded)
    assert torch.equal(exact, pipe("x", source=CLIP, output_type="latent").frames)


def test_a_pipeline_without_its_configuration_is_refused(pipe):
    with pytest.raises(ValueError, match=r"model_index\.json"):
        LoomVideoPipeline(**pipe.components)


def test_contexts_of_one_length_have_no_mask_and_others_are_padded_behind_one(pipe):
    with torch.no_grad():
        short, long = (pipe.read(chat([text])) for text in ("a", "abcd"))
    assert batch_contexts([short, short])[1] is None
    layers, mask = batch_contexts([short, long])
    lengths = [tokenise(pipe.tokenizer, [chat([text])]).input_ids.shape[1] for text in ("a", "abcd")]
    assert mask.sum(1).tolist() == lengths
    torch.testing.assert_close(layers[0][0, : lengths[0]], short[0][0])


def test_one_plan_may_be_carried_out_with_another_seed(pipe):
    decided = plan(Request(prompt="x", seed=1), pipe.limits)
    again = pipe.generate(replace(decided, seed=2), output_type="latent").frames
    assert torch.equal(again, pipe("x", seed=2, output_type="latent").frames)

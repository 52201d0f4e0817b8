"""What tests of several folders share."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may wait for a network

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
LATENT_CHANNELS = 4
MLLM_WIDTH = 32


def pytest_collection_modifyitems(items):
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A model folder with random weights, small enough that a request of two steps takes a second.

    It makes 5 frames of 64x64 by default, at 8 fps, and at most 9 frames of 96x96.
    """
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_vino(tiny_model, tmp_path_factory) -> Path:
    """The same of VINO, with 16 as its size's multiple and references of its own."""
    import torch

    from vino_parts import vino_pipeline

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny_vino"
    vino_pipeline(tiny_model).save_pretrained(folder)
    return folder


def tiny_pipeline():
    from diffusers import UniPCMultistepScheduler

    from loomvideo import LoomVideoPipeline

    tokenizer = tiny_tokenizer()
    return LoomVideoPipeline(
        transformer=tiny_denoiser(),
        mllm=tiny_mllm(tokenizer),
        tokenizer=tokenizer,
        vae=tiny_vae(),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0, num_train_timesteps=1000
        ),
        limits={
            "fps": 8,
            "area": 64 * 64,
            "max_area": 96 * 96,
            "max_frames": 9,
            "default_frames": 5,
            "num_inference_steps": 2,
        },
        frame_rule={"factor": 4, "min_frames": 2, "sampled_frames": 4},
        pixel_budgets={
            "image": {"smallest": 32 * 32, "largest": 64 * 64},
            "video": {"smallest": 32 * 32, "largest": 4 * 64 * 64},
        },
    )


def tiny_denoiser():
    import torch

    from loomvideo import LoomVideoTransformer3DModel

    denoiser = LoomVideoTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=8,
        freq_dim=16,
        ffn_dim=64,
        num_layers=2,
        mllm_dim=MLLM_WIDTH,
    )
    for parameter in denoiser.parameters():  # none at zero, so that prompt, source and seed all show in the output
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return denoiser


def tiny_mllm(tokenizer):
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    def token(name):
        return tokenizer.convert_tokens_to_ids(name)

    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": MLLM_WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]},
        "pad_token_id": token("<|endoftext|>"),
    }
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": MLLM_WIDTH,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            text_config=text,
            vision_config=vision,
            image_token_id=token("<|image_pad|>"),
            video_token_id=token("<|video_pad|>"),
            vision_start_token_id=token("<|vision_start|>"),
            vision_end_token_id=token("<|vision_end|>"),
        )
    ).eval()


def tiny_tokenizer():
    """One token a byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: index for index, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
    )


@pytest.fixture(scope="session")
def small_pipeline(tiny_model, tiny_vino):
    """Makes a new small pipeline of a system, or of Omni-Video's second release, by its name."""
    from loomvideo import LoomVideoPipeline, VinoPipeline
    from omnivideo_parts import first_release, second_release

    def make(name: str):
        makers = {
            "loomvideo": lambda: LoomVideoPipeline.from_pretrained(tiny_model),
            "vino": lambda: VinoPipeline.from_pretrained(tiny_vino),
            "omnivideo": lambda: first_release(tiny_model),
            "omnivideo2": lambda: second_release(tiny_model),
        }
        pipeline = makers[name]()
        if name == "omnivideo2":
            pipeline.say = lambda chat: "a caption"  # random weights would talk to the end of their limit
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return make


def tiny_vae():
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        scale_factor_temporal=4,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
    ).eval()

"""VINO in small: a pipeline of random weights on the tiny model's language model, and the published files of one."""

import json
from pathlib import Path

SMALL_LIMITS = {
    "fps": 8,
    "area": 64 * 64,
    "max_area": 96 * 96,
    "max_frames": 9,
    "default_frames": 5,
    "size_multiple": 16,
    "reference_area": 48 * 64,
    "whole_source_frames": 4,
    "num_inference_steps": 2,
    "guidance_scale": 4.0,
    "guidance_scale_edit": 4.0,
    "guidance_scale_visual": 1.0,
    "negative_prompt": "blurry",
    "tasks": ["t2i", "t2v", "edit", "ref_edit", "mi2v", "i2v", "clone", "camera_clone"],
    "task_defaults": {"ref_edit": {"guidance_scale_visual": 3.0}, "camera_clone": {"negative_prompt": "static"}},
}
NUM_QUERIES = 256  # as published: the one number that no configuration of the published repositories states


def vino_pipeline(tiny_model: Path, **settings):
    """With the published kind of VAE and resizing; `settings` replace those of its configuration."""
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

    from loomvideo import VinoPipeline
    from loomvideo.models.connector import QueryConnector
    from loomvideo.sampling.euler import ShiftedEulerScheduler

    mllm = Qwen3VLForConditionalGeneration.from_pretrained(tiny_model / "mllm").eval()
    transformer = small_denoiser()
    dim = transformer.config["num_attention_heads"] * transformer.config["attention_head_dim"]
    width = mllm.config.text_config.hidden_size
    for parameter in transformer.parameters():  # none at zero, so that prompt, source and seed all show in the output
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return VinoPipeline(
        transformer=transformer.eval(),
        connector=QueryConnector(NUM_QUERIES, width, z_dim=transformer.config["text_embed_dim"], hy_dim=dim).eval(),
        mllm=mllm,
        tokenizer=PreTrainedTokenizerFast.from_pretrained(tiny_model / "tokenizer"),
        vae=small_vae(),
        scheduler=ShiftedEulerScheduler(),
        **{
            "limits": SMALL_LIMITS,
            "frame_rule": {"factor": 9, "min_frames": 2, "sampled_frames": 4},
            "pixel_budgets": {
                "image": {"smallest": 32 * 32, "largest": 64 * 64},
                "video": {"smallest": 32 * 32, "largest": 4 * 64 * 64},
            },
            "first_budgets": {
                "image": {"smallest": 28 * 28, "largest": 84 * 84},
                "video": {"smallest": 28 * 28, "largest": 84 * 84},
            },
            **settings,
        },
    )


def small_denoiser():
    from loomvideo import VinoTransformer3DModel

    return VinoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=20,
        pooled_projection_dim=8,
        rope_axes_dim=(4, 4, 4),
    )


def small_vae():
    from diffusers import AutoencoderKLHunyuanVideo

    return AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=2
    ).eval()


def published_vino(pipeline, folder: Path) -> Path:
    """Write `folder`/vino.ckpt and, as the published repositories are laid out, `folder`/hunyuan and `folder`/qwen-4b.

    Returns the checkpoint.
    """
    import torch

    base, mllm = folder / "hunyuan", folder / "qwen-4b"
    pipeline.vae.save_pretrained(base / "vae")
    (base / "transformer").mkdir()
    fields = {name: value for name, value in pipeline.transformer.config.items() if not name.startswith("_")}
    config = {"_class_name": "HunyuanVideoTransformer3DModel", **fields}
    (base / "transformer" / "config.json").write_text(json.dumps(config))
    for never_read in ("transformer/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        (base / never_read).parent.mkdir(exist_ok=True)
        (base / never_read).write_bytes(b"never read")
    pipeline.mllm.save_pretrained(mllm)
    pipeline.tokenizer.save_pretrained(mllm)
    tensors = {f"transformer.{name}": tensor for name, tensor in pipeline.transformer.state_dict().items()}
    tensors |= {f"mm_encoder.{name}": tensor for name, tensor in pipeline.connector.state_dict().items()}
    torch.save(tensors, folder / "vino.ckpt")
    return folder / "vino.ckpt"

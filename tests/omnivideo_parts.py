"""Omni-Video in small: both releases with random weights on the tiny model's language model, and their published folders."""

import json
import pickle
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration, UMT5Config, UMT5EncoderModel

from loomvideo.models.context_rows import FixedRows, QueryTransformer, SourceTokenizer, StateProjection
from loomvideo.models.omnivideo import OmniVideoTransformer3DModel
from loomvideo.sampling.schedulers import WanUniPCScheduler
from loomvideo.systems.omnivideo import OmniVideoPipeline

CHANNELS, MLLM_WIDTH, TEXT_DIM, VISION_DIM, HEAD_DIM, ROWS = 16, 32, 24, 16, 128, 2000
STORED = {"null_text_rows": 3, "state_dim": MLLM_WIDTH, "null_states": 5}
LIMITS = {
    "fps": 8,
    "area": 64 * 64,
    "max_area": 96 * 96,
    "max_frames": 9,
    "default_frames": 5,
    "size_multiple": 16,
    "max_references": 1,
    "num_inference_steps": 2,
    "guidance_scale_visual": 1.0,
    "negative_prompt": "blurry",
    "tasks": ["t2i", "t2v", "edit", "mi2v", "i2v"],
}
SETTINGS = {
    "limits": LIMITS,
    "frame_rule": {"factor": 4, "min_frames": 2, "sampled_frames": 4},
    "pixel_budgets": {
        "image": {"smallest": 32 * 32, "largest": 64 * 64},
        "video": {"smallest": 32 * 32, "largest": 4 * 64 * 64},
    },
}


def first_release(tiny_model: Path, *, text_encoder=True, stored=False, **settings) -> OmniVideoPipeline:
    """The paper's system; without a text encoder its rows are the language model's token embeddings.

    `stored` rows are those that published weights come with.
    """
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_model / "tokenizer")
    text_dim = TEXT_DIM if text_encoder else MLLM_WIDTH
    return OmniVideoPipeline(
        transformer=tiny_denoiser(text_dim),
        source_tokenizer=filled(SourceTokenizer(in_channels=CHANNELS, dim=8, text_dim=text_dim)),
        vision_head=filled(tiny_queries(MLLM_WIDTH, VISION_DIM, 4)),
        adapter=filled(tiny_queries(VISION_DIM, text_dim, 3)),
        fixed_rows=filled(FixedRows(text_dim=text_dim, **(STORED if stored else {}))),
        text_encoder=tiny_text_encoder(len(tokenizer)) if text_encoder else None,
        text_tokenizer=tokenizer if text_encoder else None,
        **shared(tiny_model, tokenizer),
        **{**SETTINGS, **settings},
    )


def second_release(tiny_model: Path, *, experts=2, **settings) -> OmniVideoPipeline:
    torch.manual_seed(1)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_model / "tokenizer")
    parts = {}
    for suffix in ("", "_2")[:experts]:
        parts[f"transformer{suffix}"] = tiny_denoiser(TEXT_DIM)
        parts[f"source_tokenizer{suffix}"] = filled(SourceTokenizer(in_channels=CHANNELS, dim=8, text_dim=TEXT_DIM))
        parts[f"state_projection{suffix}"] = filled(StateProjection(in_dim=MLLM_WIDTH, text_dim=TEXT_DIM))
    limits = {**LIMITS, "tasks": ["t2i", "t2v", "edit"]}
    return OmniVideoPipeline(
        **parts,
        fixed_rows=filled(FixedRows(("<img_st>", "<img_ed>", "<prp_st>", "<prp_ed>"), text_dim=TEXT_DIM)),
        text_encoder=tiny_text_encoder(len(tokenizer)),
        text_tokenizer=tokenizer,
        **shared(tiny_model, tokenizer),
        **{**SETTINGS, "limits": limits, **settings},
    )


def shared(tiny_model, tokenizer):
    return {
        "mllm": Qwen3VLForConditionalGeneration.from_pretrained(tiny_model / "mllm").eval(),
        "tokenizer": tokenizer,
        "vae": tiny_vae(),
        "scheduler": WanUniPCScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0),
    }


def tiny_denoiser(text_dim):
    return filled(
        OmniVideoTransformer3DModel(
            num_attention_heads=1,
            attention_head_dim=HEAD_DIM,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            text_dim=text_dim,
            freq_dim=16,
            ffn_dim=32,
            num_layers=1,
            max_context_len=ROWS,
        )
    )


def tiny_queries(in_dim, dim, num_queries):
    return QueryTransformer(in_dim=in_dim, dim=dim, num_queries=num_queries, num_heads=8, num_layers=1, ffn_dim=16)


def tiny_vae():
    return AutoencoderKLWan(base_dim=4, z_dim=CHANNELS, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()


def tiny_text_encoder(vocabulary):
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=vocabulary,
            d_model=TEXT_DIM,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    ).eval()


def filled(module):
    """None at zero, so that every part of a request shows in what is made."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return module.eval()


# --- as published

GOLDEN = Path(__file__).parent / "golden" / "omnivideo"


def published_names(network: str) -> dict[str, str]:
    """Our names of a network to the published ones, from the golden set's own tables."""
    maps = json.loads((GOLDEN / "key_maps.json").read_text())
    [table] = [table for name, table in maps.items() if name.startswith(network)]
    return {ours: theirs for theirs, ours in table.items()}


def unified(pipe, suffix="") -> dict:
    """A release's whole model: denoiser and what makes its contexts, under the published names."""
    denoiser = published_names("dit")
    state = {
        f"wan_model.{denoiser[name]}": value
        for name, value in getattr(pipe, f"transformer{suffix}").state_dict().items()
    }
    for part, prefix, transformer in (
        ("vision_head", "ar_vision_head.", "visionHeadAdapter."),
        ("adapter", "adapter.", "adapter."),
        (f"source_tokenizer{suffix}", "visual_context_adapter.", ""),
        (f"state_projection{suffix}", "", ""),
    ):
        if getattr(pipe, part) is not None:
            for name, value in getattr(pipe, part).state_dict().items():
                inner = transformer if name.startswith(("encoder.", "decoder.")) else ""
                state[prefix + inner + name] = value
    return state


def release_first(pipe, folder: Path) -> Path:
    """The first release's folder, its pickles plain ones."""
    fixed = pipe.fixed_rows
    save(unified(pipe), folder / "transformer/model.pt")
    dump({name: rows.data.clone() for name, rows in fixed.boundaries.items()}, folder / "special_tokens/tokens.pkl")
    null = {"text_emb": [fixed.uncond_context.data], "vlm_last_hidden_states": fixed.uncond_ar_vision.data}
    dump(null, folder / "unconditioned_context/context.pkl")
    return folder


def release_second(pipe, folder: Path) -> Path:
    """The second release's folder: of two experts, or of one model."""
    if pipe.transformer_2 is None:
        save({"module": unified(pipe)}, folder / "transformer/pytorch_model.pt")
    else:
        save({"module": unified(pipe)}, folder / "high_noise_model/model.pt")
        save({"model": unified(pipe, "_2")}, folder / "low_noise_model/model.pt")
    boundaries = {name: rows.data.clone() for name, rows in pipe.fixed_rows.boundaries.items()}
    dump(boundaries, folder / "special_tokens.pkl")
    return folder


def save(content, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, file)


def dump(content, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(content))


def base_of(pipe, folder: Path) -> Path:
    """VAE, text encoder and its tokenizer as Wan's repository for diffusers holds them."""
    pipe.vae.save_pretrained(folder / "vae")
    pipe.text_encoder.save_pretrained(folder / "text_encoder")
    pipe.text_tokenizer.save_pretrained(folder / "tokenizer")
    return folder


def wan_base_of(pipe, folder: Path) -> tuple[AutoencoderKLWan, UMT5EncoderModel]:
    """VAE, text encoder and its tokenizer in Wan's own layout and names; gives back the networks whose tensors they hold."""
    torch.manual_seed(2)
    vae, encoder = AutoencoderKLWan(base_dim=4, z_dim=CHANNELS), tiny_text_encoder(len(pipe.text_tokenizer))
    names = {"vae": published_names("vae"), "t5": published_names("t5")}
    save({names["vae"][name]: value for name, value in vae.state_dict().items()}, folder / "Wan2.1_VAE.pth")
    tied = "encoder.embed_tokens.weight"
    state = {names["t5"][name]: value for name, value in encoder.state_dict().items() if name != tied}
    save(state, folder / "models_t5_umt5-xxl-enc-bf16.pth")
    pipe.text_tokenizer.save_pretrained(folder / "google/umt5-xxl")
    return vae, encoder


def mllm_of(pipe, folder: Path) -> Path:
    pipe.mllm.save_pretrained(folder)
    pipe.tokenizer.save_pretrained(folder)
    return folder

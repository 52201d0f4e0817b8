"""A published checkpoint's base repositories in small, made from the tiny model's parts."""

import json
import shutil
from pathlib import Path


def published_parts(tiny_model: Path, folder: Path) -> dict:
    """Write ``folder``/base and ``folder``/mllm as the published repositories are laid out; returns the configuration
    that names them, with values of its own where the published one has some."""
    base, mllm = folder / "base", folder / "mllm"
    for part in ("vae", "scheduler"):
        shutil.copytree(tiny_model / part, base / part)
    denoiser = json.loads((tiny_model / "transformer" / "config.json").read_text())
    ours = {"mllm_dim", "use_source_embedding", "rounded_rotary_tables"}
    (base / "transformer").mkdir()
    wan = {name: value for name, value in denoiser.items() if name not in ours}
    (base / "transformer" / "config.json").write_text(json.dumps(wan))
    shutil.copytree(tiny_model / "mllm", mllm)
    shutil.copytree(tiny_model / "tokenizer", mllm, dirs_exist_ok=True)
    return {
        "model": {
            "trainable_modules": {"gen_model": "all"},
            "gradient_checkpointing": True,
            "und": {"pretrained_model_path": str(mllm), "only_last_hidden_states": False, "add_source_video": True},
            "gen": {"pretrained_model_path": str(base), "base_timestep_shift": 1.0, "use_source_embedding": True},
        },
        "data": {"und_temporal_downsample_factor": 4},
        "generation": {
            "negative_prompt": "Generate an image: grey",
            "guidance_scale": 4.0,
            "guidance_scale_edit": 2.0,
            "guidance_scale_visual": 1.25,
        },
    }

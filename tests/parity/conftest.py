"""The published parts of the golden set, loaded from its own configurations."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
from golden_set import find_golden_root, require
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from loomvideo.models.qwen import PixelBudget
from loomvideo.models.wan import LoomVideoTransformer3DModel


@pytest.fixture(autouse=True)
def exact_arithmetic():
    """Float32 throughout: no reduced-precision products on any device."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="session")
def golden_root() -> Path:
    return find_golden_root()


@pytest.fixture(scope="session")
def loomvideo_set(golden_root) -> Path:
    return golden_root / "loomvideo"


@pytest.fixture(scope="session")
def make_transformer(loomvideo_set):
    """Builds the set's denoiser, with options of its configuration."""
    config = json.loads(require(loomvideo_set / "transformer" / "config.json").read_text())
    fields = {name: value for name, value in config.items() if not name.startswith("_")}
    text = json.loads(require(loomvideo_set / "mllm" / "config.json").read_text())["text_config"]
    weights = load_file(require(loomvideo_set / "transformer" / "gen_model.safetensors"))

    def make(**options) -> LoomVideoTransformer3DModel:
        mllm_dim = text["num_attention_heads"] * text["head_dim"]
        transformer = LoomVideoTransformer3DModel(**{**fields, "mllm_dim": mllm_dim, **options})
        transformer.load_state_dict(weights, strict=True)
        return transformer.eval()

    return make


@pytest.fixture(scope="session")
def transformer(make_transformer) -> LoomVideoTransformer3DModel:
    return make_transformer()


@pytest.fixture(scope="session")
def mllm(loomvideo_set) -> Qwen3VLForConditionalGeneration:
    require(loomvideo_set / "mllm" / "model.safetensors")
    return Qwen3VLForConditionalGeneration.from_pretrained(loomvideo_set / "mllm", dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def tokenizer(loomvideo_set) -> PreTrainedTokenizerFast:
    require(loomvideo_set / "tokenizer" / "tokenizer.json")
    return PreTrainedTokenizerFast.from_pretrained(loomvideo_set / "tokenizer")


@pytest.fixture(scope="session")
def pixel_budgets(loomvideo_set) -> dict[str, PixelBudget]:
    settings = json.loads(require(loomvideo_set / "tokenizer" / "processor_settings.json").read_text())
    sizes = {kind: settings[kind]["size"] for kind in ("image", "video")}
    return {kind: PixelBudget(size["shortest_edge"], size["longest_edge"]) for kind, size in sizes.items()}


@pytest.fixture(scope="session")
def vae(loomvideo_set) -> AutoencoderKLWan:
    require(loomvideo_set / "vae" / "diffusion_pytorch_model.safetensors")
    return AutoencoderKLWan.from_pretrained(loomvideo_set / "vae").eval()


@pytest.fixture
def scheduler(loomvideo_set) -> UniPCMultistepScheduler:
    require(loomvideo_set / "scheduler" / "scheduler_config.json")
    return UniPCMultistepScheduler.from_pretrained(loomvideo_set / "scheduler")

"""The published parts of the golden set, loaded from its own configurations."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo, AutoencoderKLWan, UniPCMultistepScheduler
from golden_set import find_golden_root, golden_cases, require
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from loomvideo.models.connector import QueryConnector
from loomvideo.models.hunyuan import VinoTransformer3DModel
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


# --- VINO


@pytest.fixture(scope="session")
def vino_set(golden_root) -> Path:
    return golden_root / "vino"


@pytest.fixture(scope="session")
def vino_inputs() -> dict[str, Tensor]:
    """Pictures, clips and noise that the set's cases start from, each under its own name."""
    return {
        name: tensor for case in golden_cases("vino") if case.group == "inputs" for name, tensor in case.load().items()
    }


@pytest.fixture(scope="session")
def vino_transformer(vino_set) -> VinoTransformer3DModel:
    config = json.loads(require(vino_set / "transformer" / "config.json").read_text())
    transformer = VinoTransformer3DModel(**{name: value for name, value in config.items() if not name.startswith("_")})
    weights = load_file(require(vino_set / "transformer" / "diffusion_pytorch_model.safetensors"))
    transformer.load_state_dict(weights, strict=True)
    return transformer.eval()


@pytest.fixture(scope="session")
def vino_connector(vino_set) -> QueryConnector:
    config = json.loads(require(vino_set / "vino_config.json").read_text())
    widths = {name: config["connector"][name] for name in ("hidden_size", "z_dim", "hy_dim")}
    connector = QueryConnector(num_queries=config["num_queries"], **widths)
    weights = load_file(require(vino_set / "mm_encoder" / "vino_mm_encoder.safetensors"))
    connector.load_state_dict({name.removeprefix("mm_encoder."): tensor for name, tensor in weights.items()})
    return connector.eval()


@pytest.fixture(scope="session")
def vino_mllm(vino_set) -> Qwen3VLForConditionalGeneration:
    require(vino_set / "mllm" / "model.safetensors")
    return Qwen3VLForConditionalGeneration.from_pretrained(vino_set / "mllm", dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def vino_tokenizer(vino_set) -> PreTrainedTokenizerFast:
    require(vino_set / "mllm" / "tokenizer.json")
    return PreTrainedTokenizerFast.from_pretrained(vino_set / "mllm")


@pytest.fixture(scope="session")
def vino_budgets(vino_set) -> dict[str, PixelBudget]:
    files = {"image": "preprocessor_config.json", "video": "video_preprocessor_config.json"}
    sizes = {kind: json.loads(require(vino_set / "mllm" / name).read_text())["size"] for kind, name in files.items()}
    return {kind: PixelBudget(size["shortest_edge"], size["longest_edge"]) for kind, size in sizes.items()}


@pytest.fixture(scope="session")
def vino_vae(vino_set) -> AutoencoderKLHunyuanVideo:
    require(vino_set / "vae" / "diffusion_pytorch_model.safetensors")
    return AutoencoderKLHunyuanVideo.from_pretrained(vino_set / "vae").eval()


@pytest.fixture(scope="session")
def vino_parts(vino_transformer, vino_mllm, vino_tokenizer, vino_connector, vino_vae, vino_budgets):
    return {
        "transformer": vino_transformer,
        "mllm": vino_mllm,
        "tokenizer": vino_tokenizer,
        "connector": vino_connector,
        "vae": vino_vae,
        "budgets": vino_budgets,
    }

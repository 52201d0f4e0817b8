"""Omni-Video's golden set: its cases, and the published parts built from its own configurations."""

import fnmatch
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from diffusers import AutoencoderKLWan
from golden_set import assert_same, find_golden_root, require
from safetensors.torch import load_file
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from loomvideo.models.context_rows import QueryTransformer, SourceTokenizer, StateProjection
from loomvideo.models.key_maps import (
    ADAPTER,
    TEXT_ENCODER,
    VAE_BLOCKS,
    VAE_PARTS,
    VISION_HEAD,
    WAN_DENOISER,
    rename,
    split_unified,
)
from loomvideo.models.omnivideo import OmniVideoTransformer3DModel

SYSTEM = "omnivideo"
BOUNDARY = "special "  # before the name of a boundary embedding among a case's inputs


def folder() -> Path:
    return find_golden_root() / SYSTEM


@cache
def index() -> dict[str, Any]:
    file = folder() / "cases.json"
    return json.loads(file.read_text()) if file.is_file() else {"cases": [], "configs": {}, "tables": {}, "files": {}}


@cache
def tensors(file: str) -> dict[str, Tensor]:
    return load_file(require(folder() / file))


@dataclass(frozen=True)
class OmniCase:
    entry: dict[str, Any]

    @property
    def name(self) -> str:
        return self.entry["id"]

    @property
    def params(self) -> dict[str, Any]:
        return self.entry["params"]

    def inputs(self) -> dict[str, Tensor]:
        return self._tensors("inputs")

    def outputs(self) -> dict[str, Tensor]:
        return self._tensors("outputs")

    def boundaries(self) -> dict[str, Tensor] | None:
        """The boundary embeddings among the inputs, or those of the set where a case only says that it has some."""
        given = {name.removeprefix(BOUNDARY): row for name, row in self.inputs().items() if name.startswith(BOUNDARY)}
        if given or not self.params.get("special_tokens"):
            return given or None
        constants = tensors("v1_condition_constants.safetensors")
        return {name: row for name, row in constants.items() if name.startswith("<")}

    def check(self, computed: dict[str, Tensor], expected: dict[str, Tensor] | None = None) -> None:
        """Every output of the case was computed, and is the same within the case's own tolerance."""
        expected = self.outputs() if expected is None else expected
        missing = set(expected) - set(computed)
        assert not missing, f"not compared: {sorted(missing)}"
        for name, tensor in expected.items():
            assert_same(name, computed[name], tensor, allowed=self.allowed(tensor))

    def allowed(self, expected: Tensor) -> float:
        """`atol` is meant for numbers around one; of smaller ones it is that part of the largest."""
        largest = expected.double().abs().max().item()
        tolerance = self.entry["tolerance"]
        return tolerance["atol"] * min(largest, 1) + tolerance["rtol"] * largest

    def _tensors(self, kind: str) -> dict[str, Tensor]:
        loaded = {}
        for name, where in self.entry[kind].items():
            loaded[name] = tensors(where["file"])[where["key"]]
            found = (list(loaded[name].shape), str(loaded[name].dtype).removeprefix("torch."))
            assert found == (where["shape"], where["dtype"]), f"{where['file']} does not hold the {name} of cases.json"
        return loaded


def cases(*patterns: str) -> list[OmniCase]:
    return [
        OmniCase(entry)
        for entry in index()["cases"]
        if any(fnmatch.fnmatchcase(entry["id"], pattern) for pattern in patterns)
    ]


def each_case(*patterns: str) -> pytest.MarkDecorator:
    """Parametrise a test by the cases of some groups, with ids like "omnivideo-v1_dit/ragged_batch"."""
    chosen = cases(*patterns)
    return pytest.mark.parametrize("case", chosen, ids=[f"{SYSTEM}-{case.name}" for case in chosen])


def config(name: str) -> dict[str, Any]:
    return index()["configs"][name]


@cache
def denoiser() -> OmniVideoTransformer3DModel:
    return load(make_denoiser(), rename(tensors("v1_dit.safetensors"), WAN_DENOISER))


def make_denoiser(**options: Any) -> OmniVideoTransformer3DModel:
    dit = config("dit")
    fields = {
        "patch_size": dit["patch_size"],
        "num_attention_heads": dit["num_heads"],
        "attention_head_dim": dit["head_dim"],
        "in_channels": dit["in_dim"],
        "out_channels": dit["out_dim"],
        "text_dim": dit["text_dim"],
        "freq_dim": dit["freq_dim"],
        "ffn_dim": dit["ffn_dim"],
        "num_layers": dit["num_layers"],
        "eps": dit["eps"],
        "max_context_len": dit["text_len"],
    }
    return OmniVideoTransformer3DModel(**{**fields, **options})


@cache
def vision_head() -> QueryTransformer:
    sizes = config("vision_head")
    head = make_query_transformer(sizes, sizes["llm_hidden"], sizes["hidden"])
    return load(head, rename(tensors("v1_vision_head.safetensors"), VISION_HEAD))


@cache
def adapter() -> QueryTransformer:
    sizes = config("adapter")
    made = make_query_transformer(sizes, sizes["in_channels"], sizes["out_channels"])
    return load(made, rename(tensors("v1_adapter.safetensors"), ADAPTER))


def make_query_transformer(sizes: dict[str, Any], in_dim: int, dim: int) -> QueryTransformer:
    assert sizes["encoder_layers"] == sizes["decoder_layers"]
    return QueryTransformer(
        in_dim=in_dim,
        dim=dim,
        num_queries=sizes["n_query"],
        num_heads=sizes["heads"],
        num_layers=sizes["encoder_layers"],
        ffn_dim=sizes["ffn"],
    )


def make_source_tokenizer() -> SourceTokenizer:
    sizes = config("visual_context_adapter")
    return SourceTokenizer(
        in_channels=sizes["in_channels"],
        dim=sizes["hidden"],
        text_dim=sizes["out"],
        patch_size=sizes["patch_size"],
        eps=sizes["eps"],
    )


@cache
def source_tokenizer() -> SourceTokenizer:
    return load(make_source_tokenizer(), tensors("v1_visual_context_adapter.safetensors"))


@dataclass(frozen=True)
class Expert:
    """One whole model of the second release."""

    transformer: OmniVideoTransformer3DModel
    projection: StateProjection
    source_tokenizer: SourceTokenizer


@cache
def expert(file: str) -> Expert:
    parts = split_unified(tensors(file))
    sizes = config("v2")
    projection = StateProjection(in_dim=sizes["vlm_in_dim"], text_dim=config("dit")["text_dim"])
    return Expert(
        load(make_denoiser(num_layers=sizes["dit_layers"]), parts.pop("transformer")),
        load(projection, parts.pop("state_projection")),
        load(make_source_tokenizer(), parts.pop("source_tokenizer")),
    )


@cache
def vae() -> AutoencoderKLWan:
    sizes = config("vae")
    made = AutoencoderKLWan(base_dim=sizes["dim"], z_dim=sizes["z_dim"])
    return load(made, rename(tensors("vae.safetensors"), VAE_BLOCKS, VAE_PARTS))


@cache
def text_encoder() -> UMT5EncoderModel:
    sizes = config("t5")
    made = UMT5EncoderModel(
        UMT5Config(
            vocab_size=sizes["vocab"],
            d_model=sizes["dim"],
            d_kv=sizes["dim_attn"] // sizes["num_heads"],
            d_ff=sizes["dim_ffn"],
            num_layers=sizes["num_layers"],
            num_heads=sizes["num_heads"],
            relative_attention_num_buckets=sizes["num_buckets"],
            relative_attention_max_distance=128,
            feed_forward_proj="gated-gelu",
        )
    )
    state = rename(tensors("t5.safetensors"), TEXT_ENCODER)
    return load(made, {**state, "encoder.embed_tokens.weight": state["shared.weight"]})  # tied


def load(module, state):
    module.load_state_dict(state, strict=True)
    return module.eval()

"""Laws of the maps between published names and ours."""

import pytest
import torch
from transformers import UMT5Config, UMT5EncoderModel

from loomvideo.models.context_rows import QueryTransformer, SourceTokenizer, StateProjection
from loomvideo.models.key_maps import ADAPTER, TEXT_ENCODER, VISION_HEAD, WAN_DENOISER, rename, split_unified
from loomvideo.models.omnivideo import OmniVideoTransformer3DModel

TINY = {"num_attention_heads": 1, "attention_head_dim": 12, "text_dim": 8, "freq_dim": 16, "ffn_dim": 8}


def published_block(i):
    attention = [f"{part}.{end}" for part in "qkvo" for end in ("weight", "bias")] + ["norm_q.weight", "norm_k.weight"]
    names = [f"{kind}_attn.{name}" for kind in ("self", "cross") for name in attention]
    names += [f"{part}.{end}" for part in ("norm3", "ffn.0", "ffn.2") for end in ("weight", "bias")]
    return [f"blocks.{i}.{name}" for name in [*names, "modulation"]]


@pytest.mark.parametrize("num_layers", [1, 12])
def test_every_parameter_of_a_denoiser_of_any_depth_has_one_published_name(num_layers):
    outside = [f"text_embedding.{i}" for i in (0, 2)] + [f"time_embedding.{i}" for i in (0, 2)]
    outside += ["patch_embedding", "time_projection.1", "head.head"]
    published = [f"{name}.{end}" for name in outside for end in ("weight", "bias")] + ["head.modulation"]
    published += [name for i in range(num_layers) for name in published_block(i)]
    with torch.device("meta"):
        ours = OmniVideoTransformer3DModel(**TINY, num_layers=num_layers).state_dict()
    assert sorted(rename(dict.fromkeys(published), WAN_DENOISER)) == sorted(ours)


@pytest.mark.parametrize(("prefix", "rules"), [("visionHeadAdapter.", VISION_HEAD), ("adapter.", ADAPTER)])
def test_every_parameter_of_a_query_transformer_has_one_published_name(prefix, rules):
    with torch.device("meta"):
        ours = list(QueryTransformer(in_dim=4, dim=8, num_heads=2, num_layers=7, ffn_dim=8).state_dict())
    published = [name if name.startswith(("fc.", "decoder_query")) else prefix + name for name in ours]
    assert list(rename(dict.fromkeys(published), rules)) == ours


def test_the_text_encoder_lacks_only_what_is_tied():
    sizes = UMT5Config(
        vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=3, num_heads=2, feed_forward_proj="gated-gelu"
    )
    with torch.device("meta"):
        encoder = UMT5EncoderModel(sizes)
    block = ["norm1", "norm2", "attn.q", "attn.k", "attn.v", "attn.o", "ffn.gate.0", "ffn.fc1", "ffn.fc2"]
    block += ["pos_embedding.embedding"]
    published = ["token_embedding.weight", "norm.weight"]
    published += [f"blocks.{i}.{name}.weight" for i in range(3) for name in block]
    missing = set(encoder.state_dict()) ^ set(rename(dict.fromkeys(published), TEXT_ENCODER))
    assert missing == {"encoder.embed_tokens.weight"}


def test_a_unified_checkpoint_falls_into_its_components():
    with torch.device("meta"):
        parts = {
            "transformer": ["head.modulation", "blocks.0.modulation"],
            "vision_head": ["decoder_query", "visionHeadAdapter.encoder.norm.weight"],
            "adapter": ["decoder_query", "adapter.encoder.norm.weight"],
            "source_tokenizer": list(SourceTokenizer(dim=1, text_dim=1).state_dict()),
            "state_projection": list(StateProjection(in_dim=1, text_dim=1).state_dict()),
        }
    prefixes = ("wan_model.", "ar_vision_head.", "adapter.", "visual_context_adapter.", "")
    unified = {
        prefix + name: (part, name)
        for prefix, (part, names) in zip(prefixes, parts.items(), strict=True)
        for name in names
    }
    found = split_unified(unified)
    assert {part: [name for _, name in values.values()] for part, values in found.items()} == parts
    assert list(found["transformer"]) == ["scale_shift_table", "blocks.0.scale_shift_table"]
    assert list(found["adapter"]) == ["decoder_query", "encoder.norm.weight"]


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"blocks\.0\.surprise is no published name"):
        rename({"blocks.0.surprise": 0}, WAN_DENOISER)
    with pytest.raises(ValueError, match=r"optimizer\.step is of none of a unified model's parts"):
        split_unified({"optimizer.step": 0})


def test_names_that_fall_together_are_refused():
    with pytest.raises(ValueError, match="2 published names become 1"):
        rename({"adapter.encoder.x": 0, "adapter.encoder.y": 0}, ((r"adapter\.encoder\..", "encoder"),))

"""Omni-Video's published parameter names and ours, by rule, for networks of any depth (fact sheet 2.4, 3, 6, 7 and 9.2)."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

Value = TypeVar("Value")
Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]  # pattern of a whole name, and what it becomes

SAME: Rules = ((r"(.+)", r"\1"),)

# Wan's own names to diffusers' WanTransformer3DModel. The norm before the cross-attention is Wan's third, diffusers' second.
WAN_DENOISER: Rules = (
    (r"(patch_embedding\..+)", r"\1"),
    (r"text_embedding\.0\.(.+)", r"condition_embedder.text_embedder.linear_1.\1"),
    (r"text_embedding\.2\.(.+)", r"condition_embedder.text_embedder.linear_2.\1"),
    (r"time_embedding\.0\.(.+)", r"condition_embedder.time_embedder.linear_1.\1"),
    (r"time_embedding\.2\.(.+)", r"condition_embedder.time_embedder.linear_2.\1"),
    (r"time_projection\.1\.(.+)", r"condition_embedder.time_proj.\1"),
    (r"(blocks\.\d+)\.modulation", r"\1.scale_shift_table"),
    (r"(blocks\.\d+)\.norm3\.(.+)", r"\1.norm2.\2"),
    (r"(blocks\.\d+)\.self_attn\.([qkv])\.(.+)", r"\1.attn1.to_\2.\3"),
    (r"(blocks\.\d+)\.self_attn\.o\.(.+)", r"\1.attn1.to_out.0.\2"),
    (r"(blocks\.\d+)\.self_attn\.(norm_[qk]\..+)", r"\1.attn1.\2"),
    (r"(blocks\.\d+)\.cross_attn\.([qkv])\.(.+)", r"\1.attn2.to_\2.\3"),
    (r"(blocks\.\d+)\.cross_attn\.o\.(.+)", r"\1.attn2.to_out.0.\2"),
    (r"(blocks\.\d+)\.cross_attn\.(norm_[qk]\..+)", r"\1.attn2.\2"),
    (r"(blocks\.\d+)\.ffn\.0\.(.+)", r"\1.ffn.net.0.proj.\2"),
    (r"(blocks\.\d+)\.ffn\.2\.(.+)", r"\1.ffn.net.2.\2"),
    (r"head\.modulation", "scale_shift_table"),
    (r"head\.head\.(.+)", r"proj_out.\1"),
)

VISION_HEAD: Rules = (
    (r"(decoder_query|fc\..+)", r"\1"),
    (r"visionHeadAdapter\.(.+)", r"\1"),
)
ADAPTER: Rules = (
    (r"(decoder_query|fc\..+)", r"\1"),
    (r"adapter\.(.+)", r"\1"),
)

# A unified checkpoint of either release: where a component's names are, and the component's own rules.
COMPONENTS: Mapping[str, tuple[str, Rules]] = {
    "transformer": (r"wan_model\.(.+)", WAN_DENOISER),
    "vision_head": (r"ar_vision_head\.(.+)", VISION_HEAD),
    "adapter": (r"adapter\.(.+)", ADAPTER),
    "source_tokenizer": (r"visual_context_adapter\.(.+)", SAME),
    "state_projection": (r"(vlm_(?:norm|proj)\..+)", SAME),
}

RESIDUAL = {"0": "norm1", "2": "conv1", "3": "norm2", "6": "conv2"}  # places in a residual block's sequence
MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
STAGES_A_LEVEL = 4  # of the decoder: three residual blocks and, but for the last level, an upsampler


def _residual(match: re.Match[str]) -> str:
    return f"{match['before']}.{RESIDUAL[match['place']]}.{match['end']}"


def _middle(match: re.Match[str]) -> str:
    return f"{match['part']}.mid_block.{MIDDLE[match['index']]}.{match['end']}"


def _up_block(match: re.Match[str]) -> str:
    level, stage = divmod(int(match["index"]), STAGES_A_LEVEL)
    place = "upsamplers.0" if stage == STAGES_A_LEVEL - 1 else f"resnets.{stage}"
    return f"decoder.up_blocks.{level}.{place}.{match['end']}"


# Wan2.1's autoencoder to diffusers' AutoencoderKLWan, in two passes: the places of blocks, then the parts of residual blocks.
VAE_BLOCKS: Rules = (
    (r"conv1\.(.+)", r"quant_conv.\1"),
    (r"conv2\.(.+)", r"post_quant_conv.\1"),
    (r"(encoder|decoder)\.conv1\.(.+)", r"\1.conv_in.\2"),
    (r"(encoder|decoder)\.head\.0\.(.+)", r"\1.norm_out.\2"),
    (r"(encoder|decoder)\.head\.2\.(.+)", r"\1.conv_out.\2"),
    (r"(?P<part>encoder|decoder)\.middle\.(?P<index>\d)\.(?P<end>.+)", _middle),
    (r"encoder\.downsamples\.(.+)", r"encoder.down_blocks.\1"),
    (r"decoder\.upsamples\.(?P<index>\d+)\.(?P<end>.+)", _up_block),
)
VAE_PARTS: Rules = (
    (r"(?P<before>.+)\.residual\.(?P<place>\d)\.(?P<end>.+)", _residual),
    (r"(.+)\.shortcut\.(.+)", r"\1.conv_shortcut.\2"),
    *SAME,
)

# Wan's umT5 to transformers' UMT5EncoderModel, whose `encoder.embed_tokens.weight` is tied to `shared.weight`.
TEXT_ENCODER: Rules = (
    (r"token_embedding\.(.+)", r"shared.\1"),
    (r"norm\.(.+)", r"encoder.final_layer_norm.\1"),
    (r"blocks\.(\d+)\.norm1\.(.+)", r"encoder.block.\1.layer.0.layer_norm.\2"),
    (r"blocks\.(\d+)\.norm2\.(.+)", r"encoder.block.\1.layer.1.layer_norm.\2"),
    (r"blocks\.(\d+)\.attn\.([qkvo]\..+)", r"encoder.block.\1.layer.0.SelfAttention.\2"),
    (
        r"blocks\.(\d+)\.pos_embedding\.embedding\.(.+)",
        r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.\2",
    ),
    (r"blocks\.(\d+)\.ffn\.gate\.0\.(.+)", r"encoder.block.\1.layer.1.DenseReluDense.wi_0.\2"),
    (r"blocks\.(\d+)\.ffn\.fc1\.(.+)", r"encoder.block.\1.layer.1.DenseReluDense.wi_1.\2"),
    (r"blocks\.(\d+)\.ffn\.fc2\.(.+)", r"encoder.block.\1.layer.1.DenseReluDense.wo.\2"),
)


def rename(state: Mapping[str, Value], *passes: Rules) -> dict[str, Value]:
    """A state dict under our names, by one or more passes of rules.

    Raises ValueError for a name that no rule knows, and for two names that become one.
    """
    for rules in passes:
        renamed = {_renamed(name, rules): value for name, value in state.items()}
        if len(renamed) != len(state):
            raise ValueError(f"{len(state)} published names become {len(renamed)}: these are not the expected weights")
        state = renamed
    return dict(state)


def split_unified(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A unified model's state dict as those of its components, under our names.

    Raises ValueError for a name that is of no component.
    """
    parts: dict[str, dict[str, Any]] = {}
    for name, value in state.items():
        found = [(part, match[1]) for part, (place, _) in COMPONENTS.items() if (match := re.fullmatch(place, name))]
        if not found:
            raise ValueError(f"{name} is of none of a unified model's parts, {', '.join(COMPONENTS)}")
        part, own_name = found[0]
        parts.setdefault(part, {})[own_name] = value
    return {part: rename(own, COMPONENTS[part][1]) for part, own in parts.items()}


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        if match := re.fullmatch(pattern, name):
            return replacement(match) if callable(replacement) else match.expand(replacement)
    raise ValueError(f"{name} is no published name of this network")

"""The Wan transformer: what its denoisers share, and LoomVideo's, which reads a language model layer by layer (fact sheet 4).

b batch   n target tokens   r reference tokens   m context tokens   c latent channels   d width   h heads   k head width
dm width of the language model   (f, y, x) latent grid
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import PixArtAlphaTextProjection, TimestepEmbedding, get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import FP32LayerNorm
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from loomvideo.conditioning.references import modulate_segments, reference_time
from loomvideo.conditioning.source import add_source
from loomvideo.models.attention import AttentionFunction, attention
from loomvideo.models.places import PlaceEmbedding
from loomvideo.models.prediction import Copied, CopyGate, Palette, check_prediction, copied_from, velocity_of
from loomvideo.models.tracks import Tracks, frame_times, own_items

ROPE_THETA = 10_000.0
Sizes = tuple[int, int, int]  # along time, rows and columns


@dataclass(frozen=True)
class Conditions:
    """All that the denoiser needs to know of a request (or a training batch) and that no step changes."""

    context: tuple[tuple[Tensor, Tensor], ...]  # keys and values (b, m, h, k) of every block's cross-attention
    context_mask: Tensor | None  # (b, 1, 1 or n + r, m), True at tokens that are read
    source: Tensor | None  # (b, n, d), or (1, 1, d) where there is no source
    places: Tensor | None  # (1, n, d), where the target's tokens lie
    copied: Copied | None  # what the head may copy
    references: Tensor | None  # (b, r, d)
    rope: Tensor  # complex64 (n + r, 1, k / 2)


def patchify(convolution: nn.Module, latents: Tensor) -> Tensor:
    """(b, c, f, y, x) -> (b, n, d): tokens in the order time, row, column."""
    return convolution(latents).flatten(2).transpose(1, 2)


def unpatchify(tokens: Tensor, grid: Sizes, patch_size: Sizes) -> Tensor:
    """(b, n, patch and channel) -> (b, c, f, y, x); a token's vector is laid out patch first, channel last."""
    patches = tokens.unflatten(2, (*patch_size, -1)).unflatten(1, grid)  # (b, gf, gy, gx, pf, py, px, c)
    latents = patches.permute(0, 7, 1, 4, 2, 5, 3, 6)
    return latents.flatten(6, 7).flatten(4, 5).flatten(2, 3)


def token_numbers(latents: Tensor, grid: Sizes, patch_size: Sizes) -> Tensor:
    """(b, c, f, y, x) -> (b, n, patch and channel): `unpatchify` backwards."""
    f, y, x = patch_size
    patches = latents.unflatten(4, (grid[2], x)).unflatten(3, (grid[1], y)).unflatten(2, (grid[0], f))
    return patches.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4).flatten(1, 3)


def rope_table(positions: Tensor, axis_dims: Sizes, *, rounded: bool, fresh_time: bool) -> Tensor:
    """Rotations (n, k / 2) of integer positions (n, 3): complex64 of cosine and sine, from float64 angles.

    `rounded` stores cosines and sines as bfloat16 would, as the published program does; it computes the time part of a
    reference anew in float32, which `fresh_time` says (fact sheet 4.10).
    """
    angles = []
    for axis, dim in enumerate(axis_dims):
        steps = torch.arange(0, dim, 2, dtype=torch.float64)
        angles.append(positions[:, axis, None].double() * ROPE_THETA ** (-steps / dim))
    angles = torch.cat(angles, dim=1)
    cos, sin = angles.cos().float(), angles.sin().float()
    if rounded:
        first = axis_dims[0] // 2 if fresh_time else 0
        for part in (cos, sin):
            part[:, first:] = part[:, first:].bfloat16().float()
    return torch.complex(cos, sin)


def grid_positions(grid: Sizes, time: int | None, shown: Sequence[int] | None = None) -> Tensor:
    """Positions (n, 3) of a token grid, or of its frames `shown`; `time` puts every frame at the same temporal position."""
    frames, rows, columns = (torch.arange(size) for size in grid)
    if time is not None:
        frames = torch.full_like(frames, time)
    if shown is not None:
        frames = frames[list(shown)]
    return torch.stack(torch.meshgrid(frames, rows, columns, indexing="ij"), dim=-1).flatten(0, 2)


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Turn every pair (2i, 2i + 1) of (b, n, h, k) by its token's angle i; as complex numbers: one fast product."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rope).flatten(-2).type_as(x)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LN(x) * (1 + scale) + shift in float32, given back in x's own precision."""
    normed = F.layer_norm(x.float(), x.shape[-1:], eps=eps)
    return torch.addcmul(shift, normed, 1 + scale).type_as(x)


def gated_residual(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    return torch.addcmul(x.float(), update.float(), gate).type_as(x)


class LayerProjector(nn.Module):
    """RMS norm and a two-layer perceptron from a language-model layer to the denoiser's width, shared by all blocks."""

    def __init__(self, mllm_dim: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(mllm_dim, eps=1e-6)
        self.linear_1 = nn.Linear(mllm_dim, 4 * dim)
        self.linear_2 = nn.Linear(4 * dim, dim)

    def forward(self, layer: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(self.norm(layer)), approximate="tanh"))


class ConditionEmbedder(nn.Module):
    """The timestep's embedding and its six modulation rows.

    `text_embedder` takes rows of a text encoder's space to the denoiser's width. LoomVideo's denoiser reads none; it keeps
    the published tensors so that the names stay complete.
    """

    def __init__(self, dim: int, freq_dim: int, text_dim: int) -> None:
        super().__init__()
        self.freq_dim = freq_dim
        self.time_embedder = TimestepEmbedding(freq_dim, dim)
        self.time_proj = nn.Linear(dim, 6 * dim)
        self.text_embedder = PixArtAlphaTextProjection(text_dim, dim, act_fn="gelu_tanh")

    def forward(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """timestep (b,) in 0..1000 -> embedding (b, 1, d) and modulation (b, 6, d), both float32."""
        sinusoid = get_timestep_embedding(timestep, self.freq_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        embedding = self.time_embedder(sinusoid.to(self.time_embedder.linear_1.weight.dtype))
        modulation = self.time_proj(F.silu(embedding).to(self.time_proj.weight.dtype))
        return embedding.float().unsqueeze(1), modulation.float().unflatten(-1, (6, -1))


class Attention(nn.Module):
    """Weights of one attention; queries and keys are RMS-normalised over all heads together."""

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.norm_q = nn.RMSNorm(dim, eps=eps)
        self.norm_k = nn.RMSNorm(dim, eps=eps)

    def split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1))  # (b, n, d) -> (b, n, h, k)


class SelfAttention(Attention):
    attend: AttentionFunction = staticmethod(attention)  # another one where the tokens lie on several devices

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        q = rotate(self.split_heads(self.norm_q(self.to_q(x))), rope)
        k = rotate(self.split_heads(self.norm_k(self.to_k(x))), rope)
        v = self.split_heads(self.to_v(x))
        return self.to_out[0](self.attend(q, k, v, None).flatten(2))


class CrossAttention(Attention):
    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """(b, m, d) -> keys and values (b, m, h, k): they do not depend on the step."""
        return self.split_heads(self.norm_k(self.to_k(context))), self.split_heads(self.to_v(context))

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        q = self.split_heads(self.norm_q(self.to_q(x)))
        return self.to_out[0](attention(q, *keys_values, mask).flatten(2))


class Block(nn.Module):
    """Self-attention, cross-attention, feed-forward; the first and the last are modulated by time (fact sheet 4.7)."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.attn1 = SelfAttention(dim, num_heads, eps)
        self.attn2 = CrossAttention(dim, num_heads, eps)
        self.norm2 = FP32LayerNorm(dim, eps)
        self.ffn = FeedForward(dim, inner_dim=ffn_dim, activation_fn="gelu-approximate")
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        num_target: int,
        rope: Tensor,
        context: tuple[Tensor, Tensor],
        context_mask: Tensor | None,
    ) -> Tensor:
        """x (b, n + r, d), modulation (b, 6, d) of the first `num_target` tokens -> (b, n + r, d)."""
        table = self.scale_shift_table.float()
        target = (table + modulation).chunk(
            6, dim=1
        )  # shift, scale, gate of self-attention; the same of the feed-forward
        reference = table.chunk(6, dim=1)

        def norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            return modulated_norm(x, shift, scale, self.eps)

        attended = self.attn1(modulate_segments(norm, (x,), num_target, target[0:2], reference[0:2]), rope)
        x = modulate_segments(gated_residual, (x, attended), num_target, target[2:3], reference[2:3])
        x = x + self.attn2(self.norm2(x), context, context_mask)
        fed = self.ffn(modulate_segments(norm, (x,), num_target, target[3:5], reference[3:5]))
        return modulate_segments(gated_residual, (x, fed), num_target, target[5:6], reference[5:6])


class WanTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Patches, time, blocks and head of a Wan denoiser. A denoiser adds what conditions it: `prepare` and `forward`.

    Its final classes declare diffusers' Wan configuration with fields of their own; the constructor here reads it.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = ["Block"]
    _repeated_blocks: ClassVar = ["Block"]
    _keep_in_fp32_modules: ClassVar = ["time_embedder", "scale_shift_table", "norm2"]
    _skip_layerwise_casting_patterns: ClassVar = ["patch_embedding", "place_embedding", "condition_embedder", "norm"]

    def __init__(self) -> None:
        super().__init__()
        config = self.config
        _check_wan_fields(config)
        check_prediction(config["prediction"], copies_source=config["copies_source"])
        self.patch_size: Sizes = tuple(config["patch_size"])
        head_dim, eps = config["attention_head_dim"], config["eps"]
        spatial_dim = 2 * (head_dim // 6)
        self.axis_dims = (head_dim - 2 * spatial_dim, spatial_dim, spatial_dim)  # time, row, column
        dim = config["num_attention_heads"] * head_dim

        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.patch_embedding = nn.Conv3d(config["in_channels"], dim, self.patch_size, stride=self.patch_size)
        self.place_embedding = PlaceEmbedding(dim) if config["absolute_places"] else None
        self.condition_embedder = ConditionEmbedder(dim, config["freq_dim"], config["text_dim"])
        self.blocks = nn.ModuleList(
            Block(dim, config["num_attention_heads"], config["ffn_dim"], eps) for _ in range(config["num_layers"])
        )
        numbers = config["out_channels"] * math.prod(self.patch_size)
        self.proj_out = nn.Linear(dim, numbers)
        self.palette = Palette(dim, numbers, config["palette_size"]) if config["palette_size"] else None
        self.copy_gate = CopyGate(dim, numbers) if config["copies_source"] else None
        self.gradient_checkpointing = False

    def reset_parameters(self) -> None:
        """Xavier everywhere, small time embeddings; what is predicted starts at zero."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv3d)):
                nn.init.xavier_uniform_(module.weight.flatten(1))  # a view: fills the weight itself
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for linear in (self.condition_embedder.time_embedder.linear_1, self.condition_embedder.time_embedder.linear_2):
            nn.init.normal_(linear.weight, std=0.02)
        nn.init.zeros_(self.proj_out.weight)
        for module in (self.place_embedding, self.palette, self.copy_gate):
            if module is not None:
                module.reset_parameters()

    def run_block(self, block: nn.Module, *arguments: object) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, *arguments)  # pyright: ignore[reportOptionalCall]
        return block(*arguments)

    def place_tokens(self, grid: Sizes, device: torch.device, shown: Sequence[int] | None = None) -> Tensor | None:
        """(1, n, d), what is added to the target's tokens; None for a denoiser without absolute places."""
        return None if self.place_embedding is None else self.place_embedding.tokens(grid, device, shown)

    def head(self, x: Tensor, embedding: Tensor, grid: Sizes, copied: Copied | None) -> Tensor:
        """Target tokens (b, n, d) and the time's embedding (b, 1, d) -> what is predicted (b, c, f, y, x)."""
        shift, scale = (self.scale_shift_table.float() + embedding).chunk(2, dim=1)
        x = modulated_norm(x, shift, scale, self.config["eps"])
        arrange = partial(unpatchify, grid=grid, patch_size=self.patch_size)
        said = self.proj_out(x)
        if self.palette is not None:
            shown = None if copied is None else token_numbers(copied[0], grid, self.patch_size)
            said = said + self.palette(x, math.prod(self.patch_size), shown)
        said = arrange(said)
        return said if self.copy_gate is None or copied is None else self.copy_gate(x, said, copied, arrange)

    def grid(self, latent_shape: Sequence[int]) -> Sizes:
        """Tokens along time, rows and columns; ValueError where the patches do not fit."""
        sizes = latent_shape[-3:]
        frames, rows, columns = (size // patch for size, patch in zip(sizes, self.patch_size, strict=True))
        if any(size % patch for size, patch in zip(sizes, self.patch_size, strict=True)):
            raise ValueError(
                f"latents of {tuple(sizes)} (frames, rows, columns) do not fit patches of {self.patch_size}: "
                "every size must be a multiple of its patch"
            )
        return frames, rows, columns


class LoomVideoTransformer3DModel(WanTransformer):
    """The LoomVideo denoiser with the published parameter names (fact sheet 4.1 and 4.2).

    `prepare` computes what no step changes, `forward` one velocity; training and inference call these two. The fields
    are those of diffusers' Wan configuration and `mllm_dim`, the width of the language model's layers;
    `use_source_embedding`, off in the published first training stage; `rounded_rotary_tables`, on for weights that were
    trained with bfloat16 tables (fact sheet 4.10); `prediction`, "velocity" as published or "clean", and `copies_source`,
    whether its head may copy the source's numbers (models.prediction); `absolute_places`, off in the published ones,
    whether tokens know where in the clip they lie (models.places); `palette_size`, how many flat colours a token may have,
    0 as published (models.prediction); `item_tracks`, whether what is read of a clip's plan is moved to the time of each
    frame (models.tracks).
    """

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 24,
        attention_head_dim: int = 128,
        in_channels: int = 48,
        out_channels: int = 48,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 14336,
        num_layers: int = 30,
        cross_attn_norm: bool = True,
        qk_norm: str = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        mllm_dim: int = 4096,
        use_source_embedding: bool = True,
        rounded_rotary_tables: bool = False,
        prediction: str = "velocity",
        copies_source: bool = False,
        absolute_places: bool = False,
        palette_size: int = 0,
        item_tracks: bool = False,
    ) -> None:
        super().__init__()
        dim = num_attention_heads * attention_head_dim
        self.tracks = Tracks(mllm_dim) if item_tracks else None
        self.mllm_embedder = LayerProjector(mllm_dim, dim)
        self.source_patch_embedding = None
        if use_source_embedding:
            self.source_patch_embedding = nn.Conv3d(in_channels, dim, self.patch_size, stride=self.patch_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As in every Wan denoiser; the language model's projector and the source start at zero, too."""
        super().reset_parameters()
        if self.tracks is not None:
            self.tracks.reset_parameters()
        for module in (self.mllm_embedder.linear_2, self.source_patch_embedding):
            if module is not None:
                nn.init.zeros_(module.weight)

    @apply_forward_hook  # offloaded weights are fetched for this, too
    def prepare(
        self,
        layers: Sequence[Tensor],
        *,
        latent_shape: Sequence[int],
        shown: Sequence[int] | None = None,
        source: Tensor | None = None,
        references: Sequence[Tensor] = (),
        context_mask: Tensor | None = None,
    ) -> Conditions:
        """Compute once what no step changes.

        Args:
            layers: the language model's layer (b, m, dm) of each block, in the blocks' order.
            latent_shape: shape of the whole target's latents; its last three numbers (f, y, x) count.
            shown: which of its latent frames the latents and the source will hold; None: all of them.
            source: normalised latents (b, c, f, y, x) of the target's shape. Zeros and None mean: no source.
            references: normalised latents (b, c, f', y', x') of each reference, of any size, in the request's order.
            context_mask: bool (b, m), True at real tokens, for padded contexts; None when nothing is padded.

        Raises:
            ValueError: not one layer for every block, or a source of another shape than the target.
        """
        grid = self._check_conditions(layers, latent_shape, shown, source)
        reference_grids = [self.grid(latents.shape) for latents in references]
        mask = None if context_mask is None else context_mask.bool()[:, None, None, :]
        if self.tracks is not None and grid[0] > 1:
            layers, mask = self._move_items(layers, mask, grid, shown, sum(map(math.prod, reference_grids)))
        return Conditions(
            context=self._read(layers),
            context_mask=mask,
            source=self._source_tokens(source, layers[0]),
            places=self.place_tokens(grid, layers[0].device, shown),
            copied=None if self.source_patch_embedding is None else copied_from(source),
            references=self._reference_tokens(references),
            rope=self._rope(grid, shown, reference_grids).to(layers[0].device),
        )

    def forward(self, latents: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """Velocity (b, c, f, y, x) of noisy latents (b, c, f, y, x) at timestep (b,) in 0..1000."""
        embedding, modulation = self.condition_embedder(timestep)
        x = patchify(self.patch_embedding, latents)  # (b, n, d)
        num_target = x.shape[1]
        if conditions.source is not None:
            x = add_source(x, conditions.source, timestep)
        if conditions.places is not None:
            x = x + conditions.places
        if conditions.references is not None:
            x = torch.cat([x, conditions.references], dim=1)  # (b, n + r, d)
        for block, context in zip(self.blocks, conditions.context, strict=True):
            x = self.run_block(block, x, modulation, num_target, conditions.rope, context, conditions.context_mask)
        said = self.head(x[:, :num_target], embedding, self.grid(latents.shape), conditions.copied)
        return velocity_of(said, self.config["prediction"], latents, timestep)

    def _move_items(
        self,
        layers: Sequence[Tensor],
        mask: Tensor | None,
        grid: Sizes,
        shown: Sequence[int] | None,
        num_reference_tokens: int,
    ) -> tuple[list[Tensor], Tensor]:
        """Layers (b, m, dm) and mask (b, 1, 1, m) -> those of all frames, one behind the other, and who reads which.

        Tokens of a frame read its own; references read what the language model said.
        """
        tracks = self.tracks
        assert tracks is not None
        num_items = layers[0].shape[1]
        times = frame_times(grid[0], shown, layers[0].device)
        num_tokens = [grid[1] * grid[2]] * len(times)
        behind = [num_reference_tokens] if num_reference_tokens else []
        num_tokens += behind

        moved: list[Tensor] = []
        for number, layer in enumerate(layers):
            if number and layer is layers[number - 1]:  # all blocks may read one layer
                moved.append(moved[-1])
                continue
            of_frames = tracks(layer, times).flatten(1, 2)
            moved.append(torch.cat([of_frames, layer], dim=1) if behind else of_frames)
        own = own_items(num_tokens, num_items, layers[0].device)[None, None]
        return moved, own if mask is None else own & mask.repeat(1, 1, 1, len(num_tokens))

    def _read(self, layers: Sequence[Tensor]) -> tuple[tuple[Tensor, Tensor], ...]:
        """Keys and values (b, m, h, k) of every block's cross-attention; a layer that follows itself is projected once."""
        context: list[tuple[Tensor, Tensor]] = []
        before, read = None, layers[0]
        for block, layer in zip(cast("Sequence[Block]", self.blocks), layers, strict=True):
            if layer is not before:
                before = read = layer  # the last projection is let go before there is another
                read = self.mllm_embedder(layer)
            context.append(block.attn2.keys_values(read))
        return tuple(context)

    def _source_tokens(self, source: Tensor | None, near: Tensor) -> Tensor | None:
        if self.source_patch_embedding is None:
            return None
        if source is None:  # one patch of zeros stands for all of them
            weight = self.source_patch_embedding.weight  # lies elsewhere than its input where it is offloaded
            source = torch.zeros(1, *weight.shape[1:], dtype=weight.dtype, device=near.device)
        return patchify(self.source_patch_embedding, source)

    def _reference_tokens(self, references: Sequence[Tensor]) -> Tensor | None:
        if not references:
            return None
        return torch.cat([patchify(self.patch_embedding, latents) for latents in references], dim=1)

    def _rope(self, grid: Sizes, shown: Sequence[int] | None, reference_grids: Sequence[Sizes]) -> Tensor:
        """Rotations (n + r, 1, k / 2): the target's from frame 0, each reference's at its one negative time."""
        times = [None, *(reference_time(i) for i in range(len(reference_grids)))]
        tables = [
            rope_table(
                grid_positions(part, time, shown if time is None else None),
                self.axis_dims,
                rounded=self.config["rounded_rotary_tables"],
                fresh_time=time is not None,
            )
            for part, time in zip([grid, *reference_grids], times, strict=True)
        ]
        return torch.cat(tables).unsqueeze(1)

    def _check_conditions(
        self,
        layers: Sequence[Tensor],
        latent_shape: Sequence[int],
        shown: Sequence[int] | None,
        source: Tensor | None,
    ) -> Sizes:
        if len(layers) != len(self.blocks):
            raise ValueError(
                f"{len(layers)} layers for {len(self.blocks)} blocks: give each block one MLLM layer, "
                "as conditioning.deepstack.layers_for_blocks picks them"
            )
        frames, rows, columns = latent_shape[-3:]
        target = (frames if shown is None else len(shown), rows, columns)
        if source is not None and tuple(source.shape[-3:]) != target:
            raise ValueError(
                f"source latents of {tuple(source.shape[-3:])} for a target of {target} (frames, rows, columns): "
                "both must be equal, so resize and cut the source to the target"
            )
        return self.grid(latent_shape)


def _check_wan_fields(config: Mapping[str, Any]) -> None:
    needed = {"cross_attn_norm": True, "qk_norm": "rms_norm_across_heads"}
    needed |= dict.fromkeys(("image_dim", "added_kv_proj_dim", "pos_embed_seq_len"))
    wrong = {name: config[name] for name, value in needed.items() if config[name] != value}
    if wrong:
        raise ValueError(
            f"{wrong} in a configuration: this denoiser is the text-to-video Wan2.2 or Wan2.1, which has "
            f"{ {name: needed[name] for name in wrong} }"
        )

"""VINO's denoiser: a HunyuanVideo transformer that sees clean references before its target (fact sheet 4).

b batch   n target tokens   r reference tokens, markers included   v = r + n visual tokens   m text tokens
c latent channels   d width   z width of the text tokens   h heads   k head width   (f, y, x) latent grid
"""

import math
from collections.abc import Sequence
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
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from loomvideo.conditioning.markers import bounded_positions, bounded_tokens
from loomvideo.models.attention import AttentionFunction, attention
from loomvideo.models.connector import EVERY_FRAME
from loomvideo.models.places import PlaceEmbedding
from loomvideo.models.prediction import Copied, CopyGate, Palette, check_prediction, copied_from, velocity_of
from loomvideo.models.wan import Sizes, gated_residual, modulated_norm, patchify, rotate, token_numbers, unpatchify

FREQ_DIM = 256  # of the sinusoids of time and guidance
EMBEDDED_GUIDANCE = 1000.0  # a distillation value of 1.0, times 1000: the weights were given no other
EPS = 1e-6


@dataclass(frozen=True)
class Conditions:
    """All that the denoiser needs to know of a request (or a training batch) and that no step changes."""

    context: Tensor  # (b, m, d): text tokens at the refiner's width
    attended: Tensor  # (b, m, d): attention of the refiner's first block
    pooled: Tensor  # (b, d): the mean text token's part of the refiner's modulation
    context_mask: Tensor | None  # (b, 1, 1 or m, m), True at tokens that are read
    joint_mask: Tensor | None  # (b, 1, 1 or v + m, v + m), the same where visual tokens stand before the text
    guidance: Tensor  # (1, d): embedding of the constant guidance
    places: Tensor | None  # (1, n, d), where the target's tokens lie
    copied: Copied | None  # what the head may copy
    references: Tensor | None  # (b, r, d)
    rope: Tensor  # complex64 (v + m, 1, k / 2); text is not turned


def rope_table(positions: Tensor, axis_dims: Sequence[int], theta: float) -> Tensor:
    """Rotations (v, k / 2) of integer positions (v, 3): complex64 of cosine and sine, from float64 angles."""
    angles = []
    for axis, dim in enumerate(axis_dims):
        steps = torch.arange(0, dim, 2, dtype=torch.float64)
        angles.append(positions[:, axis, None].double() * theta ** (-steps / dim))
    angles = torch.cat(angles, dim=1)
    return torch.complex(angles.cos().float(), angles.sin().float())


def embed_number(embedder: nn.Module, number: Tensor) -> Tensor:
    """The sinusoid of a number (b,), through a two-layer perceptron -> float32 (b, d)."""
    sinusoid = get_timestep_embedding(number, FREQ_DIM, flip_sin_to_cos=True, downscale_freq_shift=0)
    return embedder(sinusoid.to(next(embedder.parameters()).dtype)).float()


class TimeGuidanceEmbedder(nn.Module):
    """What modulates every block: the timestep, and a guidance that is always the same.

    `text_embedder` belongs to the published checkpoint and is used by nothing: kept so that the names stay complete.
    """

    def __init__(self, dim: int, pooled_dim: int) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedding(FREQ_DIM, dim)
        self.guidance_embedder = TimestepEmbedding(FREQ_DIM, dim)
        self.text_embedder = PixArtAlphaTextProjection(pooled_dim, dim, act_fn="silu")


class TimeTextEmbedder(nn.Module):
    """What modulates the refiner: the timestep and the mean text token."""

    def __init__(self, dim: int, text_dim: int) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedding(FREQ_DIM, dim)
        self.text_embedder = PixArtAlphaTextProjection(text_dim, dim, act_fn="silu")

    def pool(self, text: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens (b, m, z), real where mask (b, 1, 1, m) is True -> float32 (b, d): their embedded mean."""
        text = text.float()
        weights = torch.ones_like(text[..., :1]) if mask is None else mask.flatten(1)[..., None]  # (b, m, 1)
        mean = (text * weights).sum(dim=1) / weights.sum(dim=1)
        return self.text_embedder(mean.to(self.text_embedder.linear_1.weight.dtype)).float()


class Modulation(nn.Module):
    """A linear layer that turns an embedding (b, d) into rows (b, 1, d) of float32."""

    def __init__(self, dim: int, num_rows: int) -> None:
        super().__init__()
        self.num_rows = num_rows
        self.linear = nn.Linear(dim, num_rows * dim)

    def forward(self, embedding: Tensor) -> tuple[Tensor, ...]:
        rows = self.linear(F.silu(embedding).to(self.linear.weight.dtype)).float()
        return rows.unsqueeze(1).chunk(self.num_rows, dim=-1)


class RefinerAttention(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (linear(x).unflatten(-1, (self.num_heads, -1)) for linear in (self.to_q, self.to_k, self.to_v))
        return self.to_out[0](attention(q, k, v, mask).flatten(2))


class RefinerBlock(nn.Module):
    """Self-attention and feed-forward of the text tokens, both gated by time (fact sheet 4.3)."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = RefinerAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.ff = FeedForward(dim, inner_dim=ffn_dim, activation_fn="linear-silu")
        self.norm_out = Modulation(dim, 2)

    def attended(self, context: Tensor, mask: Tensor | None) -> Tensor:
        """What is added to (b, m, d), before its gate: time has no part in it."""
        return self.attn(self.norm1(context), mask)

    def forward(self, context: Tensor, attended: Tensor, embedding: Tensor) -> Tensor:
        attention_gate, ffn_gate = self.norm_out(embedding)
        context = gated_residual(context, attended, attention_gate)
        return gated_residual(context, self.ff(self.norm2(context)), ffn_gate)


class TokenRefiner(nn.Module):
    """From the connector's text tokens to the denoiser's, under the timestep (fact sheet 4.3)."""

    def __init__(self, text_dim: int, dim: int, num_heads: int, ffn_dim: int, num_layers: int) -> None:
        super().__init__()
        self.time_text_embed = TimeTextEmbedder(dim, text_dim)
        self.proj_in = nn.Linear(text_dim, dim)
        blocks = nn.ModuleList(RefinerBlock(dim, num_heads, ffn_dim) for _ in range(num_layers))
        self.token_refiner = nn.ModuleDict({"refiner_blocks": blocks})

    @property
    def blocks(self) -> Sequence[RefinerBlock]:
        return cast("Sequence[RefinerBlock]", self.token_refiner["refiner_blocks"])

    def prepare(self, text: Tensor, real: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Text tokens (b, m, z) projected, what the first block attends to, both (b, m, d), and the mean's (b, d).

        Tokens are `real` (b, 1, 1, m), and read by others where `mask` (b, 1, 1 or m, m) is True.
        """
        context = self.proj_in(text.to(self.proj_in.weight.dtype))
        return context, self.blocks[0].attended(context, mask), self.time_text_embed.pool(text, real)

    def forward(self, timestep: Tensor, conditions: Conditions) -> Tensor:
        """Text tokens (b, m, d) at timestep (b,)."""
        embedding = embed_number(self.time_text_embed.timestep_embedder, timestep) + conditions.pooled
        first, *others = self.blocks
        context = first(conditions.context, conditions.attended, embedding)
        for block in others:
            context = block(context, block.attended(context, conditions.context_mask), embedding)
        return context


class Attention(nn.Module):
    """Weights of one stream; queries and keys are RMS-normalised in every head."""

    attend: AttentionFunction = staticmethod(attention)  # another one where the tokens lie on several devices

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_q = nn.RMSNorm(dim // num_heads, eps=EPS)
        self.norm_k = nn.RMSNorm(dim // num_heads, eps=EPS)
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)

    def split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1))  # (b, n, d) -> (b, n, h, k)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(b, n, d) -> queries, keys and values (b, n, h, k)."""
        q, k, v = (self.split_heads(linear(x)) for linear in (self.to_q, self.to_k, self.to_v))
        return self.norm_q(q), self.norm_k(k), v


class SelfAttention(Attention):
    def forward(self, x: Tensor, rope: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.project(x)
        return self.attend(rotate(q, rope), rotate(k, rope), v, mask).flatten(2)


class JointAttention(Attention):
    """One attention over visual and text tokens, each with weights of their own."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, num_heads)
        self.add_q_proj = nn.Linear(dim, dim)
        self.add_k_proj = nn.Linear(dim, dim)
        self.add_v_proj = nn.Linear(dim, dim)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.to_add_out = nn.Linear(dim, dim)
        self.norm_added_q = nn.RMSNorm(dim // num_heads, eps=EPS)
        self.norm_added_k = nn.RMSNorm(dim // num_heads, eps=EPS)

    def project_text(self, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (self.split_heads(linear(text)) for linear in (self.add_q_proj, self.add_k_proj, self.add_v_proj))
        return self.norm_added_q(q), self.norm_added_k(k), v

    def forward(self, x: Tensor, text: Tensor, rope: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        streams = zip(self.project(x), self.project_text(text), strict=True)
        q, k, v = (torch.cat(pair, dim=1) for pair in streams)  # (b, v + m, h, k)
        attended = self.attend(rotate(q, rope), rotate(k, rope), v, mask).flatten(2)
        visual, textual = attended.split([x.shape[1], text.shape[1]], dim=1)
        return self.to_out[0](visual), self.to_add_out(textual)


class DoubleBlock(nn.Module):
    """Visual and text tokens meet in attention and are fed forward apart (fact sheet 4.4)."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.norm1 = Modulation(dim, 6)
        self.norm1_context = Modulation(dim, 6)
        self.attn = JointAttention(dim, num_heads)
        self.ff = FeedForward(dim, inner_dim=ffn_dim, activation_fn="gelu-approximate")
        self.ff_context = FeedForward(dim, inner_dim=ffn_dim, activation_fn="gelu-approximate")

    def forward(
        self, x: Tensor, text: Tensor, embedding: Tensor, rope: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Visual tokens (b, v, d) and text tokens (b, m, d), modulated by embedding (b, d) -> the same."""
        shift, scale, gate, ff_shift, ff_scale, ff_gate = self.norm1(embedding)
        text_shift, text_scale, text_gate, text_ff_shift, text_ff_scale, text_ff_gate = self.norm1_context(embedding)
        normed, text_normed = modulated_norm(x, shift, scale, EPS), modulated_norm(text, text_shift, text_scale, EPS)
        attended, text_attended = self.attn(normed, text_normed, rope, mask)
        x, text = gated_residual(x, attended, gate), gated_residual(text, text_attended, text_gate)
        fed = self.ff(modulated_norm(x, ff_shift, ff_scale, EPS))
        text_fed = self.ff_context(modulated_norm(text, text_ff_shift, text_ff_scale, EPS))
        return gated_residual(x, fed, ff_gate), gated_residual(text, text_fed, text_ff_gate)


class SingleBlock(nn.Module):
    """Attention and perceptron side by side, over visual and text tokens as one sequence (fact sheet 4.5)."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.attn = SelfAttention(dim, num_heads)
        self.norm = Modulation(dim, 3)
        self.proj_mlp = nn.Linear(dim, ffn_dim)
        self.proj_out = nn.Linear(dim + ffn_dim, dim)

    def forward(self, x: Tensor, embedding: Tensor, rope: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens (b, v + m, d), modulated by embedding (b, d) -> the same."""
        shift, scale, gate = self.norm(embedding)
        normed = modulated_norm(x, shift, scale, EPS)
        fed = F.gelu(self.proj_mlp(normed), approximate="tanh")
        return gated_residual(x, self.proj_out(torch.cat([self.attn(normed, rope, mask), fed], dim=-1)), gate)


class VinoTransformer3DModel(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """The VINO denoiser with the parameter names and configuration fields of diffusers' HunyuanVideo (fact sheet 1, 2).

    `prepare` computes what no step changes, `forward` one velocity; training and inference call these two. Fields of
    its own are `prediction`, `copies_source`, `absolute_places` and `palette_size`, as LoomVideo's denoiser has them.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = ["DoubleBlock", "SingleBlock", "TokenRefiner"]
    _repeated_blocks: ClassVar = ["DoubleBlock", "SingleBlock"]
    _keep_in_fp32_modules: ClassVar = ["time_text_embed"]
    _skip_layerwise_casting_patterns: ClassVar = [
        "x_embedder",
        "place_embedding",
        "context_embedder",
        "time_text_embed",
        "norm",
    ]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        out_channels: int = 16,
        num_attention_heads: int = 24,
        attention_head_dim: int = 128,
        num_layers: int = 20,
        num_single_layers: int = 40,
        num_refiner_layers: int = 2,
        mlp_ratio: float = 4.0,
        patch_size: int = 2,
        patch_size_t: int = 1,
        qk_norm: str = "rms_norm",
        guidance_embeds: bool = True,
        text_embed_dim: int = 4096,
        pooled_projection_dim: int = 768,
        rope_theta: float = 256.0,
        rope_axes_dim: tuple[int, ...] = (16, 56, 56),
        image_condition_type: str | None = None,
        prediction: str = "velocity",
        copies_source: bool = False,
        absolute_places: bool = False,
        palette_size: int = 0,
    ) -> None:
        super().__init__()
        _check_fields(qk_norm, guidance_embeds, image_condition_type, num_refiner_layers)
        check_prediction(prediction, copies_source=copies_source)
        self.patch_size = (patch_size_t, patch_size, patch_size)
        dim = num_attention_heads * attention_head_dim
        ffn_dim = int(dim * mlp_ratio)

        self.x_embedder = nn.ModuleDict({"proj": nn.Conv3d(in_channels, dim, self.patch_size, stride=self.patch_size)})
        self.place_embedding = PlaceEmbedding(dim) if absolute_places else None
        self.context_embedder = TokenRefiner(text_embed_dim, dim, num_attention_heads, ffn_dim, num_refiner_layers)
        self.time_text_embed = TimeGuidanceEmbedder(dim, pooled_projection_dim)
        self.transformer_blocks = nn.ModuleList(
            DoubleBlock(dim, num_attention_heads, ffn_dim) for _ in range(num_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            SingleBlock(dim, num_attention_heads, ffn_dim) for _ in range(num_single_layers)
        )
        self.norm_out = Modulation(dim, 2)
        numbers = out_channels * patch_size_t * patch_size**2
        self.proj_out = nn.Linear(dim, numbers)
        self.palette = Palette(dim, numbers, palette_size) if palette_size else None
        self.copy_gate = CopyGate(dim, numbers) if copies_source else None
        self.gradient_checkpointing = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier everywhere; every modulation and the velocity start at zero, so that each block starts as nothing."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv3d)):
                nn.init.xavier_uniform_(module.weight.flatten(1))  # a view: fills the weight itself
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        zero = [module.linear for module in self.modules() if isinstance(module, Modulation)]
        for linear in (*zero, self.proj_out):
            nn.init.zeros_(linear.weight)
        for module in (self.place_embedding, self.palette, self.copy_gate):
            if module is not None:
                module.reset_parameters()

    @apply_forward_hook  # offloaded weights are fetched for this, too
    def prepare(
        self,
        text: Tensor,
        *,
        latent_shape: Sequence[int],
        shown: Sequence[int] | None = None,
        references: Sequence[Tensor] = (),
        markers: Tensor | None = None,
        context_mask: Tensor | None = None,
        text_frames: Tensor | None = None,
    ) -> Conditions:
        """Compute once what no step changes.

        Args:
            text: the connector's text tokens (b, m, z).
            latent_shape: shape of the whole target's latents; its last three numbers (f, y, x) count.
            shown: which of its latent frames the latents, and a source of its size, will hold; None: all of them.
            references: normalised latents (b, c, f', y', x') of each reference, of any size: pictures, then the video.
            markers: (b, references, 2, d), the tokens before and behind each reference; not needed without references.
            context_mask: bool (b, m), True at real tokens, for padded texts; None when nothing is padded.
            text_frames: (b, m), for a clip whose items are moved to its frames (models.connector): of which of the
                latents' frames a text token is, -1 for one of every frame. None when every token is.

        Raises:
            ValueError: not one pair of markers for every reference, or latents that do not fit the patches.
        """
        frames, rows, columns = latent_shape[-3:]
        source = edited(references, (frames if shown is None else len(shown), rows, columns))
        target = self._grid((frames, rows, columns))
        grids = [target if one is source else self._grid(one.shape[-3:]) for one in references]
        positions = bounded_positions(grids, target, shown)
        real = None if context_mask is None else context_mask.bool()[:, None, None, :]
        joint_mask = None if real is None else F.pad(real, (len(positions), 0), value=True)
        text_mask = real
        if text_frames is not None:
            own = own_frames(self._visual_frames(target, shown, num_visual=len(positions)).to(text.device), text_frames)
            joint_mask = own if joint_mask is None else own & joint_mask
            text_mask = joint_mask[..., len(positions) :, len(positions) :]
        context, attended, pooled = self.context_embedder.prepare(text, real, text_mask)
        return Conditions(
            context=context,
            attended=attended,
            pooled=pooled,
            context_mask=text_mask,
            joint_mask=joint_mask,
            guidance=embed_number(
                self.time_text_embed.guidance_embedder, torch.tensor([EMBEDDED_GUIDANCE], device=text.device)
            ),
            places=None if self.place_embedding is None else self.place_embedding.tokens(target, text.device, shown),
            copied=copied_from(source),
            references=self._reference_tokens(references, markers),
            rope=self._rope(positions, num_text=text.shape[1]).to(text.device),
        )

    def forward(self, latents: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """Velocity (b, c, f, y, x) of noisy latents (b, c, f, y, x) at timestep (b,), which is 999 times the time."""
        embedding = embed_number(self.time_text_embed.timestep_embedder, timestep) + conditions.guidance  # (b, d)
        text = self.context_embedder(timestep, conditions)  # (b, m, d)
        x = patchify(self.x_embedder["proj"], latents)  # (b, n, d)
        if conditions.places is not None:
            x = x + conditions.places
        num_target = x.shape[1]
        if conditions.references is not None:
            x = torch.cat([conditions.references, x], dim=1)  # (b, v, d)
        num_visual = x.shape[1]
        shared = (embedding, conditions.rope, conditions.joint_mask)
        for block in self.transformer_blocks:
            x, text = self._run(block, x, text, *shared)
        x = torch.cat([x, text], dim=1)  # (b, v + m, d)
        for block in self.single_transformer_blocks:
            x = self._run(block, x, *shared)
        scale, shift = self.norm_out(embedding)
        x = modulated_norm(x[:, num_visual - num_target : num_visual], shift, scale, EPS)
        arrange = partial(self._latents, latent_shape=latents.shape)
        said = arrange(self.proj_out(x))
        if self.palette is not None:
            grid = self._grid(latents.shape[-3:])
            shown = None if conditions.copied is None else token_numbers(conditions.copied[0], grid, self.patch_size)
            painted = self.palette(x, math.prod(self.patch_size), shown)
            said = said + unpatchify(painted, grid, self.patch_size)
        if self.copy_gate is not None and conditions.copied is not None:
            said = self.copy_gate(x, said, conditions.copied, arrange)
        return velocity_of(said, self.config["prediction"], latents, timestep)

    def _visual_frames(self, target: Sizes, shown: Sequence[int] | None, num_visual: int) -> Tensor:
        """(v,), of which of the frames that are shown each visual token is.

        References, the source of an edit too, are of every frame and read the items of all: a picture has no time, and a
        clip that lends its motion has not the target's frames.
        """
        frames, rows, columns = target
        of_target = torch.arange(frames if shown is None else len(shown)).repeat_interleave(rows * columns)
        return F.pad(of_target, (num_visual - len(of_target), 0), value=EVERY_FRAME)

    def _latents(self, x: Tensor, latent_shape: Sequence[int]) -> Tensor:
        """Vectors (b, n, channel and patch) -> (b, c, f, y, x)."""
        x = x.unflatten(2, (self.config["out_channels"], -1)).transpose(2, 3).flatten(2)  # channel last in every patch
        return unpatchify(x, self._grid(latent_shape[-3:]), self.patch_size)

    def _run(self, block: nn.Module, *arguments: object) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, *arguments)  # pyright: ignore[reportOptionalCall]
        return block(*arguments)

    def _reference_tokens(self, references: Sequence[Tensor], markers: Tensor | None) -> Tensor | None:
        num_markers = 0 if markers is None else markers.shape[1]
        if num_markers != len(references):
            raise ValueError(
                f"{num_markers} pairs of markers for {len(references)} references: each reference stands between two "
                "tokens of the language model, as conditioning.markers.boundary_rows picks them"
            )
        if markers is None or not references:
            return None
        tokens = [patchify(self.x_embedder["proj"], latents) for latents in references]
        return bounded_tokens(tokens, markers.to(tokens[0].dtype))

    def _rope(self, positions: Tensor, num_text: int) -> Tensor:
        """Rotations (v + m, 1, k / 2): the visual tokens', and none for the text."""
        turned = rope_table(positions, self.config["rope_axes_dim"], self.config["rope_theta"])
        unturned = torch.ones(num_text, turned.shape[1], dtype=turned.dtype)
        return torch.cat([turned, unturned]).unsqueeze(1)

    def _grid(self, latent_shape: Sequence[int]) -> Sizes:
        """Tokens along time, rows and columns; ValueError where the patches do not fit."""
        frames, rows, columns = (size // patch for size, patch in zip(latent_shape, self.patch_size, strict=True))
        if any(size % patch for size, patch in zip(latent_shape, self.patch_size, strict=True)):
            raise ValueError(
                f"latents of {tuple(latent_shape)} (frames, rows, columns) do not fit patches of {self.patch_size}: "
                "every size must be a multiple of its patch"
            )
        return frames, rows, columns


def own_frames(visual_frames: Tensor, text_frames: Tensor) -> Tensor:
    """Which tokens read which, bool (b, 1, v + m, v + m): a text token of one frame and any token of another do not meet.

    The frames are those of the visual tokens (v,) and of the text tokens (b, m), -1 for tokens of every frame.
    """
    frames = torch.cat([visual_frames.expand(len(text_frames), -1), text_frames], dim=1)  # (b, v + m)
    one, other = frames[:, None, :, None], frames[:, None, None, :]
    meet = (one == other) | (one == EVERY_FRAME) | (other == EVERY_FRAME)
    num_visual = len(visual_frames)
    meet[..., :num_visual, :num_visual] = True
    return meet


def edited(references: Sequence[Tensor], latent_shape: Sequence[int]) -> Tensor | None:
    """The last reference (b, c, f, y, x) where it is of the target's size: behind the pictures an edit's source stands."""
    last = references[-1] if references else None
    return None if last is None or last.shape[-3:] != tuple(latent_shape[-3:]) else last


def _check_fields(
    qk_norm: str, guidance_embeds: bool, image_condition_type: str | None, num_refiner_layers: int
) -> None:
    if qk_norm != "rms_norm" or not guidance_embeds or image_condition_type is not None or num_refiner_layers < 1:
        raise ValueError(
            f"qk_norm={qk_norm!r}, guidance_embeds={guidance_embeds}, image_condition_type={image_condition_type!r}, "
            f"num_refiner_layers={num_refiner_layers}: this denoiser is the text-to-video HunyuanVideo with 'rms_norm', "
            "True, None and at least 1"
        )

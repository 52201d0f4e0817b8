"""Omni-Video's denoiser: a Wan transformer whose every block attends to the same context rows (fact sheet 6).

b batch   n latent tokens   m context rows   r items of a plan   c latent channels   h heads   k head width
dt width of a context row   (f, y, x) latent grid
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  a pipeline finds out from it how to load this module
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from loomvideo.conditioning.context import pad_context
from loomvideo.models.prediction import Copied, copied_from, velocity_of
from loomvideo.models.tracks import Tracks, frame_times, own_items
from loomvideo.models.wan import Block, Sizes, WanTransformer, grid_positions, patchify, rope_table


@dataclass(frozen=True)
class ContextConditions:
    """All that the denoiser needs to know of a request (or a training batch) and that no step changes."""

    context: tuple[tuple[Tensor, Tensor], ...]  # keys and values (b, m, h, k) of every block's cross-attention
    context_bias: Tensor | None  # (b, 1, 1 or n, m), what is added to the logits of the rows
    rope: Tensor  # complex64 (n, 1, k / 2)
    added: Tensor | None  # (b, c, f, y, x), what is added to the noisy latents before they become tokens
    places: Tensor | None  # (1, n, d), where the tokens lie
    copied: Copied | None  # the same, as what the head may copy


class OmniVideoTransformer3DModel(WanTransformer):
    """Wan2.1-T2V with the names of diffusers, conditioned through its text rows alone (fact sheet 5 and 6).

    `prepare` computes what no step changes, `forward` one velocity; training and inference call these two. The fields
    are those of diffusers' Wan configuration and `max_context_len`, the number of rows to which every context is padded:
    padding is attended to, so that number belongs to the weights; `prediction`, `copies_source`, `absolute_places`,
    `palette_size` and `item_tracks` are LoomVideo's. The second release's experts are of this class, too.
    """

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 12,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 8960,
        num_layers: int = 30,
        cross_attn_norm: bool = True,
        qk_norm: str = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        max_context_len: int = 2560,
        prediction: str = "velocity",
        copies_source: bool = False,
        absolute_places: bool = False,
        palette_size: int = 0,
        item_tracks: bool = False,
    ) -> None:
        super().__init__()
        self.tracks = Tracks(text_dim) if item_tracks else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As in every Wan denoiser; the text embedding starts as small as the time's."""
        super().reset_parameters()
        if self.tracks is not None:
            self.tracks.reset_parameters()
        text = self.condition_embedder.text_embedder
        for linear in (text.linear_1, text.linear_2):
            nn.init.normal_(linear.weight, std=0.02)

    @apply_forward_hook  # offloaded weights are fetched for this, too
    def prepare(
        self,
        contexts: Sequence[Tensor],
        *,
        latent_shape: Sequence[int],
        items: Sequence[Tensor | None] = (),
        shown: Sequence[int] | None = None,
        added: Tensor | None = None,
    ) -> ContextConditions:
        """Compute once what no step changes.

        Args:
            contexts: rows (m, dt) of each sample, of different lengths or equal ones, without padding.
            items: states (r, dt) of the items of each sample's plan, the last rows of its context, which models with
                tracks move to the times of a clip's frames; None for a sample without a plan.
            latent_shape: shape of the whole latents; its last three numbers (f, y, x) count.
            shown: which of its latent frames the latents and the sources will hold; None: all of them.
            added: normalised sources (b, c, f, y, x), zeros where there is none, of models that are shown them so, too.

        Raises:
            ValueError: more rows than `max_context_len`, or latents that the patches do not fit.
        """
        grid = self.grid(latent_shape)
        positions = grid_positions(grid, None, shown)
        text_embedder = self.condition_embedder.text_embedder
        dtype = text_embedder.linear_1.weight.dtype
        contexts = [context.to(dtype) for context in contexts]
        if self.tracks is not None and grid[0] > 1 and any(one is not None for one in items):
            rows, bias = self._move_items(contexts, items, grid, shown)
        else:
            wholes = [
                context if one is None else torch.cat([context, one.to(context)])
                for context, one in zip(contexts, items or [None] * len(contexts), strict=True)
            ]
            rows, bias = pad_context(wholes, self.config["max_context_len"])
        embedded = text_embedder(rows)  # (b, m, d)
        return ContextConditions(
            context=tuple(block.attn2.keys_values(embedded) for block in cast("Sequence[Block]", self.blocks)),
            context_bias=bias,
            rope=rope_table(positions, self.axis_dims, rounded=False, fresh_time=False).unsqueeze(1).to(rows.device),
            added=None if added is None else added.to(dtype),
            places=self.place_tokens(grid, rows.device, shown),
            copied=copied_from(added),
        )

    def forward(self, latents: Tensor, timestep: Tensor, conditions: ContextConditions) -> Tensor:
        """Velocity (b, c, f, y, x) of noisy latents (b, c, f, y, x) at timestep (b,) in 0..1000."""
        embedding, modulation = self.condition_embedder(timestep)
        shown = latents if conditions.added is None else latents + conditions.added
        x = patchify(self.patch_embedding, shown)  # (b, n, d)
        if conditions.places is not None:
            x = x + conditions.places
        num_target = x.shape[1]
        for block, context in zip(self.blocks, conditions.context, strict=True):
            x = self.run_block(block, x, modulation, num_target, conditions.rope, context, conditions.context_bias)
        said = self.head(x, embedding, self.grid(latents.shape), conditions.copied)
        return velocity_of(said, self.config["prediction"], latents, timestep)

    def _move_items(
        self, contexts: Sequence[Tensor], items: Sequence[Tensor | None], grid: Sizes, shown: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        """Rows (b, m, dt) of the contexts and behind them of every frame's items, and their bias (b, 1, n, m).

        Tokens of a frame read the contexts, their padding and the items of their own frame: as many rows as without tracks.
        """
        assert self.tracks is not None
        states = [context[:0] if one is None else one.to(context) for context, one in zip(contexts, items, strict=True)]
        counts = [len(one) for one in states]
        rows, bias = pad_context(contexts, self.config["max_context_len"], counts)
        times = frame_times(grid[0], shown, rows.device)
        moved = self.tracks(pad_sequence(states, batch_first=True), times).flatten(1, 2)  # (b, f r, dt)
        own = own_items([grid[1] * grid[2]] * len(times), max(counts), rows.device)  # (n, f r)
        real = torch.arange(max(counts)) < torch.tensor(counts)[:, None]  # (b, r)
        read = own & real.to(own.device).repeat(1, len(times))[:, None, None, :]  # (b, 1, n, f r)
        if bias is None:
            bias = rows.new_zeros(len(rows), 1, 1, rows.shape[1])
        own_bias = torch.zeros_like(read, dtype=bias.dtype).masked_fill(~read, -torch.inf)
        return torch.cat([rows, moved], dim=1), torch.cat([bias.expand(-1, -1, len(own), -1), own_bias], dim=3)

"""What becomes rows of Omni-Video's context: hidden states, source latents and fixed rows (fact sheet 2.4, 3, 4, 5 and 9.1).

b batch   m hidden states   q queries   r context rows   d width   dm width of the language model   dt width of a row
c latent channels   (f, y, x) latent grid
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class QueryTransformer(ModelMixin, ConfigMixin):
    """Learned queries that read a sequence through an encoder and a decoder without masks or positions.

    With the language model's hidden states it is the vision head, with the vision head's tokens the adapter. The names
    are those of torch's transformer; `initialisation` is that of the published constructors, "torch" for the vision
    head and "xavier" for the adapter (fact sheet 2.4 and 3).
    """

    @register_to_config
    def __init__(
        self,
        in_dim: int = 4096,
        dim: int = 1152,
        num_queries: int = 4,
        num_heads: int = 8,
        num_layers: int = 4,
        ffn_dim: int = 4608,
        initialisation: Literal["torch", "xavier"] = "torch",
    ) -> None:
        super().__init__()
        self.decoder_query = nn.Parameter(torch.randn(1, num_queries, dim))
        self.fc = nn.Sequential(nn.Linear(in_dim, dim), nn.GELU(), nn.Linear(dim, dim))
        layer = {"d_model": dim, "nhead": num_heads, "dim_feedforward": ffn_dim, "dropout": 0.0}
        layer |= {"batch_first": True, "norm_first": True}
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(**layer), num_layers, norm=nn.LayerNorm(dim), enable_nested_tensor=False
        )
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**layer), num_layers, norm=nn.LayerNorm(dim))
        self.reset_parameters(initialisation)

    def reset_parameters(self, initialisation: str) -> None:
        """Matrices of the transformer by Xavier, for the stacks hold copies of one layer; then as `initialisation` says."""
        for stack in (self.encoder, self.decoder):
            for parameter in stack.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)
        if initialisation == "xavier":
            nn.init.normal_(self.decoder_query, std=0.02)
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
                    nn.init.zeros_(module.bias)

    def forward(self, sequence: Tensor, mask: Tensor | None = None) -> Tensor:
        """(b, m, in_dim) -> (b, q, d). Where sequences are padded, `mask` (b, m) is true at what is to be read."""
        padding = None if mask is None else ~mask
        memory = self.encoder(self.fc(sequence.to(self.decoder_query.dtype)), src_key_padding_mask=padding)
        queries = self.decoder_query.expand(len(sequence), -1, -1)
        return self.decoder(queries, memory, memory_key_padding_mask=padding)

    def each(self, tokens: Tensor) -> Tensor:
        """Every token read by itself: (b, m, in_dim) -> (b, m * q, d), the rows of the first token first."""
        return self(tokens.flatten(0, 1)[:, None]).unflatten(0, tokens.shape[:2]).flatten(1, 2)


class SourceTokenizer(ModelMixin, ConfigMixin):
    """Source latents as context rows, one for each patch (fact sheet 4). Rows and columns beyond the last patch are dropped."""

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        dim: int = 1536,
        text_dim: int = 4096,
        patch_size: tuple[int, int, int] = (1, 4, 4),
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        patch = (patch_size[0], patch_size[1], patch_size[2])
        self.patch_embedding = nn.Conv3d(in_channels, dim, patch, stride=patch)
        self.projection = nn.Linear(dim, text_dim)
        for module in (self.patch_embedding, self.projection):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, latents: Tensor) -> Tensor:
        """(b, c, f, y, x) -> (b, r, dt) in the order frame, row, column."""
        patches = self.patch_embedding(latents.to(self.projection.weight.dtype)).flatten(2).transpose(1, 2)
        return self._norm(self.projection(self._norm(patches)))

    def _norm(self, rows: Tensor) -> Tensor:
        return F.layer_norm(rows, rows.shape[-1:], eps=self.config["eps"])

    def num_rows(self, latent_shape: tuple[int, ...]) -> int:
        """How many rows latents (..., f, y, x) become."""
        frames, rows, columns = (
            size // patch for size, patch in zip(latent_shape[-3:], self.config["patch_size"], strict=True)
        )
        return frames * rows * columns


class StateProjection(ModelMixin, ConfigMixin):
    """The second release's way from hidden states to rows, in place of vision head and adapter (fact sheet 9.1)."""

    _keep_in_fp32_modules: ClassVar = ["vlm_norm"]

    @register_to_config
    def __init__(self, in_dim: int = 2048, text_dim: int = 4096, eps: float = 1e-6) -> None:
        super().__init__()
        self.vlm_norm = nn.RMSNorm(in_dim, eps=eps)
        self.vlm_proj = nn.Linear(in_dim, text_dim)

    def forward(self, states: Tensor) -> Tensor:
        """(b, m, dm) -> (b, m, dt)."""
        weight = self.vlm_norm.weight.float()  # the norm is float32 in any precision
        normed = F.rms_norm(states.float(), weight.shape, weight, self.vlm_norm.eps)
        return self.vlm_proj(normed.to(self.vlm_proj.weight.dtype))

    def null_states(self) -> Tensor:
        """What stands for the hidden states where the request is dropped: two rows (1, 2, dm) of 1e-6."""
        return torch.full((1, 2, self.config["in_dim"]), 1e-6)


class FixedRows(ModelMixin, ConfigMixin):
    """Rows that come with a checkpoint and are not trained (fact sheet 5 and 8).

    `boundaries` are (boundary_rows, text_dim) each. The text rows of the unconditional branch, `uncond_context`, and its
    hidden states, `uncond_ar_vision`, are there where their number is above zero.
    """

    @register_to_config
    def __init__(
        self,
        boundary_names: tuple[str, ...] = ("<img_st>", "<img_ed>", "<ipl_st>", "<ipl_ed>", "<prp_st>", "<prp_ed>"),
        boundary_rows: int = 1,
        text_dim: int = 4096,
        null_text_rows: int = 0,
        state_dim: int = 4096,
        null_states: int = 0,
    ) -> None:
        super().__init__()
        self.boundaries = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(boundary_rows, text_dim), requires_grad=False) for name in boundary_names}
        )
        self.uncond_context = self.uncond_ar_vision = None
        if null_text_rows:
            self.uncond_context = nn.Parameter(torch.zeros(null_text_rows, text_dim), requires_grad=False)
        if null_states:
            self.uncond_ar_vision = nn.Parameter(torch.zeros(1, null_states, state_dim), requires_grad=False)

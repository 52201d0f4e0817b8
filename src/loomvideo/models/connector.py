"""Learnable queries and the two connectors from the language model to VINO's denoiser (fact sheet 3.3 and 3.5).

b batch   m tokens of chat and queries   f frames   dm width of the language model
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from loomvideo.models.tracks import Tracks, frame_times

EVERY_FRAME = -1  # what is said in `text_frames` of tokens that are of no frame alone


class Connector(nn.Module):
    """RMS norm and a two-layer perceptron, four times as wide inside as its output."""

    def __init__(self, mllm_dim: int, dim: int) -> None:
        super().__init__()
        self.norm_qwen = nn.RMSNorm(mllm_dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(mllm_dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))

    def forward(self, features: Tensor) -> Tensor:
        return self.mlp(self.norm_qwen(features))


class QueryConnector(ModelMixin, ConfigMixin):
    """What is learned between the frozen language model and the denoiser, with the published parameter names.

    The fields are those of the published configuration: `num_queries` learnable vectors of the language model's width
    `hidden_size`, the width `z_dim` of the denoiser's text tokens and its own width `hy_dim`, which markers have; not
    published is `item_tracks`, whether what is read of a clip's plan is moved to the time of each frame (models.tracks).
    """

    @register_to_config
    def __init__(
        self,
        num_queries: int = 256,
        hidden_size: int = 2560,
        z_dim: int = 4096,
        hy_dim: int = 3072,
        item_tracks: bool = False,
    ) -> None:
        super().__init__()
        self.metaquery = nn.Parameter(torch.randn(num_queries, hidden_size) / hidden_size**0.5)
        self.connector = Connector(hidden_size, z_dim)
        self.connector_vae_branch = Connector(hidden_size, hy_dim)
        self.tracks = None
        if item_tracks:
            self.tracks = Tracks(hidden_size)
            self.tracks.reset_parameters()

    def item_times(self, num_frames: int, shown: Sequence[int] | None = None) -> Tensor | None:
        """When a clip's latent frames, or those ``shown``, are (f,), for `forward`; None where items are not moved: in
        pictures, and by connectors without tracks."""
        return None if self.tracks is None or num_frames == 1 else frame_times(num_frames, shown, torch.device("cpu"))

    def text_frames(self, num_tokens: int, times: Tensor | None) -> Tensor | None:
        """Of which frame, counted as in ``times``, each of so many text tokens is (num_tokens,); None as in `item_times`."""
        if times is None:
            return None
        num_queries = len(self.metaquery)
        frames = torch.arange(len(times)).repeat_interleave((num_tokens - num_queries) // len(times))
        return F.pad(frames, (0, num_queries), value=EVERY_FRAME)

    def forward(
        self,
        features: Tensor,
        marker_rows: Tensor,
        text_rows: Tensor | None = None,
        times: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Text tokens and boundary markers of what the language model says.

        Args:
            features: (b, m, dm), as models.qwen.query_features gives them.
            marker_rows: (references, 2), or (b, references, 2), as conditioning.markers.boundary_rows gives them.
            text_rows: (b, r), the features that become text tokens, the queries' last; None, as published, for all of them.
            times: (f,), as `item_times` gives them.

        Returns:
            The denoiser's text tokens (b, m or r, z_dim), of chat and queries alike, and markers (b, references, 2, hy_dim).
            With times all that stands before the q queries is there once for each frame: (b, f (r - q) + q, z_dim).
        """
        features = features.to(self.metaquery.dtype)
        rows = marker_rows.expand(len(features), *marker_rows.shape[-2:])
        samples = torch.arange(len(features), device=features.device)[:, None, None]
        text = features if text_rows is None else features[samples[:, 0], text_rows]
        if self.tracks is not None and times is not None:
            queries = len(self.metaquery)
            items, asked = text.split([text.shape[1] - queries, queries], dim=1)
            text = torch.cat([self.tracks(items, times).flatten(1, 2), asked], dim=1)
        return self.connector(text), self.connector_vae_branch(features[samples, rows])

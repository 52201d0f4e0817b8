"""LoomVideo's denoiser run the published way, to be measured against: diffusers' Wan transformer, one timestep row a token,
and the language model's layers projected anew at every step and branch (fact sheet 4; its known weaknesses).

b batch   n target tokens   m context tokens   c latent channels   dm width of the language model   (f, y, x) latent grid
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from loomvideo.conditioning.source import add_source
from loomvideo.models.wan import LoomVideoTransformer3DModel, patchify

OWN_FIELDS = (
    "mllm_dim",
    "use_source_embedding",
    "rounded_rotary_tables",
    "prediction",
    "copies_source",
    "absolute_places",
    "palette_size",
    "item_tracks",
)


class PublishedWay:
    """The same weights in diffusers' network; what LoomVideo adds to it comes by hooks."""

    def __init__(self, denoiser: LoomVideoTransformer3DModel) -> None:
        fields = {name: value for name, value in denoiser.config.items() if name not in OWN_FIELDS and name[0] != "_"}
        with torch.device("meta"):
            self.network = WanTransformer3DModel(**fields)
        shared = {name: tensor for name, tensor in denoiser.state_dict().items() if name in self.network.state_dict()}
        self.network.load_state_dict(shared, assign=True)
        self.network.rope = type(self.network.rope)(  # its tables are no weights
            denoiser.config["attention_head_dim"], denoiser.patch_size, denoiser.config["rope_max_seq_len"]
        )
        self.network.eval()
        self.denoiser = denoiser
        self.layers: Sequence[Tensor] = ()  # (b, m, dm) of the branch at work
        self.source: Tensor | None = None  # (b, c, f, y, x)
        self.timestep = torch.zeros(0)  # (b,)
        self.network.patch_embedding.register_forward_hook(self._add_source)
        for block, layer in zip(self.network.blocks, range(len(self.network.blocks)), strict=True):
            block.register_forward_pre_hook(self._give_layer(layer))

    def __call__(self, latents: Tensor, timestep: Tensor, layers: Sequence[Tensor], source: Tensor | None) -> Tensor:
        """Velocity (b, c, f, y, x) of noisy latents (b, c, f, y, x) at timestep (b,), told layers and a source."""
        self.layers, self.source, self.timestep = layers, source, timestep
        tokens = latents[0, 0].numel() // torch.tensor(self.denoiser.patch_size).prod().item()
        unread = latents.new_zeros(len(latents), 1, self.denoiser.config["text_dim"])
        rows = timestep[:, None].expand(-1, int(tokens))
        return self.network(latents, rows, unread, return_dict=False)[0]

    def _add_source(self, module: nn.Module, given: Any, embedded: Tensor) -> Tensor:
        convolution = self.denoiser.source_patch_embedding
        source = torch.zeros_like(given[0]) if self.source is None else self.source
        assert convolution is not None
        tokens = add_source(embedded.flatten(2).transpose(1, 2), patchify(convolution, source), self.timestep)
        return tokens.transpose(1, 2).unflatten(2, embedded.shape[2:])

    def _give_layer(self, number: int) -> Any:
        def give(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            hidden_states, _, *others = given
            return hidden_states, self.denoiser.mllm_embedder(self.layers[number]), *others

        return give

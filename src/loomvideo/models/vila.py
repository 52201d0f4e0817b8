"""What is published of VILA, the released Omni-Video's language model: projector, chat and frame rule (fact sheet 2).

b batch   p patches (a square of them)   m tokens   mm width of the vision tower
"""

import math
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

TURNS = (
    "{system}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{query}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
END = "<|end_of_text|>"
IMAGE = "<image>\n"  # the place of one picture or frame


class DownsampleProjector(ModelMixin, ConfigMixin):
    """Patch features of the vision tower to the language model's width, four neighbours to a token (fact sheet 2.2)."""

    @register_to_config
    def __init__(self, mm_dim: int = 1152, dim: int = 4096) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            StackNeighbours(), nn.LayerNorm(4 * mm_dim), nn.Linear(4 * mm_dim, dim), nn.GELU(), nn.Linear(dim, dim)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(b, p, mm) -> (b, m, d)."""
        return self.layers(features)


class StackNeighbours(nn.Module):
    """Channels of 2 x 2 patches side by side; an odd grid ends in zeros. The tokens' slow axis is the column."""

    def forward(self, features: Tensor) -> Tensor:
        side = math.isqrt(features.shape[1])
        odd = side % 2
        grid = F.pad(features.unflatten(1, (side, side)), (0, 0, 0, odd, 0, odd))
        blocks = grid.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (b, rows, 2, columns, 2, mm)
        return blocks.permute(0, 3, 1, 2, 4, 5).flatten(3).flatten(1, 2)


@dataclass(frozen=True)
class Form:
    """How a task is put to the language model, and the answer that it is given."""

    prefix: str
    answer: str
    num_images: int  # as published: of a clip, too, only the first frame reaches the language model


FORMS = {
    "t2v": Form("Generate a video about:\n", "[GEN_VID]", 0),
    "t2i": Form("Generate an image about:\n", "[GEN_IMG]", 0),
    "i2i": Form("", "[GEN_IMG]", 1),
    "v2v": Form("<video>\n", "[GEN_VID]", 1),
}


def generation_chat(task: str, prompt: str, *, system: str, num_images: int | None = None) -> str:
    """The chat whose states condition the denoiser, answer included (fact sheet 2.3).

    `num_images` puts another number of pictures before the prompt than published, such as all frames of a clip.
    """
    form = FORMS[task]
    images = IMAGE * (form.num_images if num_images is None else num_images)
    return TURNS.format(system=system, query=images + form.prefix + prompt) + form.answer + END


def question_chat(prompt: str, *, system: str, num_images: int) -> str:
    """The chat that the language model answers, one placeholder for every picture or frame (fact sheet 2.6)."""
    return TURNS.format(system=system, query=IMAGE * num_images + prompt)


def shown_frames(num_frames: int, count: int = 8) -> list[int]:
    """Which frames of a clip the language model sees; the very last one is never among them."""
    return np.linspace(0, max(num_frames - 2, 0), count).astype(int).tolist()

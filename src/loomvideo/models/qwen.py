"""What a Qwen3-VL says, layer by layer, and how pictures and frames are put before it (fact sheet 3).

b batch   m tokens   dm width of the language model   p patches   (t, h, w) patch grid of a picture or video
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionRotaryEmbedding

from loomvideo.conditioning.queries import positions_with_queries

PATCH_SIZE = 16
MERGE_SIZE = 2  # the tower merges 2 x 2 patches into one token
TEMPORAL_PATCH_SIZE = 2  # frames of one patch; a picture is doubled
SIZE_MULTIPLE = PATCH_SIZE * MERGE_SIZE
LIST_FPS = 24  # a list of frames without times is taken as video of this rate ...
SAMPLED_FPS = 2  # ... and sampled again at this one


@dataclass(frozen=True)
class FrameRule:
    """Which frames of a clip reach the language model; part of a model's configuration.

    A clip of more than `factor` frames keeps one frame in `factor`, but at least `min_frames`. The published program
    has min_frames 1, with which its own frame processor fails on 16 to 29 frames, so published weights take 2.
    That processor then samples again, to no fewer than `sampled_frames`.
    """

    factor: int = 15
    min_frames: int = 2
    sampled_frames: int = 4


@dataclass(frozen=True)
class PixelBudget:
    """Pixels of a resized picture, or of all frames of a video together."""

    smallest: int
    largest: int


@dataclass(frozen=True)
class Visual:
    """One picture or video, cut into the rows that the vision tower reads."""

    kind: Literal["image", "video"]
    rows: Tensor  # float32 (p, 3 * 2 * 16 * 16)
    grid: tuple[int, int, int]  # patches along time, height and width
    timestamps: tuple[str, ...] = ()  # one for each temporal patch of a video

    @property
    def tokens_per_frame(self) -> int:
        return self.grid[1] * self.grid[2] // MERGE_SIZE**2


@dataclass(frozen=True)
class ChatInputs:
    """What the language model is given: ids, and the pixels that replace the placeholders among them."""

    input_ids: Tensor  # (b, m)
    attention_mask: Tensor | None = None  # (b, m), 1 at real tokens; padding stands on the right
    pixel_values: Tensor | None = None  # (p, 1536) of all pictures, in order
    image_grid_thw: Tensor | None = None  # (pictures, 3)
    pixel_values_videos: Tensor | None = None
    video_grid_thw: Tensor | None = None

    def to(self, device: torch.device) -> "ChatInputs":
        moved: dict[str, Any] = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return ChatInputs(**moved)


def layer_features(mllm: PreTrainedModel, inputs: ChatInputs) -> list[Tensor]:
    """The output (b, m, dm) of every text layer, after DeepStack's visual addition and before the final norm.

    `mllm` is a Qwen3VLForConditionalGeneration or a Qwen3VLModel; the language-model head is not run. A layer's output
    is caught where the next one (or the final norm) reads it, hence with what DeepStack added to it in between.
    """
    base: Any = mllm.base_model  # transformers assembles it, so types do not know its parts
    text_model = base.language_model
    features: list[Tensor] = []
    readers = [*text_model.layers[1:], text_model.norm]
    handles = [reader.register_forward_pre_hook(lambda _, args: features.append(args[0])) for reader in readers]
    try:
        base(**model_arguments(mllm, inputs), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return features


def query_features(mllm: PreTrainedModel, inputs: ChatInputs, queries: Tensor) -> Tensor:
    """What the last text layer would read, (b, m + q, dm), with learnable queries (q, dm) behind the chat.

    That is the output of the last layer but one, before the final norm (fact sheet 3.3 and 3.4): last layer, norm and
    head are not run. Gradients reach the queries.
    """
    base: Any = mllm.base_model
    text_model = base.language_model
    handle = text_model.register_forward_pre_hook(partial(_append_queries, queries), with_kwargs=True)
    try:
        with up_to_last_layer(text_model):
            return base(**model_arguments(mllm, inputs), use_cache=False).last_hidden_state
    finally:
        handle.remove()


@contextmanager
def up_to_last_layer(text_model: Any) -> Iterator[None]:
    """A text model whose output is what its last layer would read: that layer and the norm are set aside meanwhile."""
    layers, norm = text_model.layers, text_model.norm
    text_model.layers, text_model.norm = layers[:-1], torch.nn.Identity()
    try:
        yield
    finally:
        text_model.layers, text_model.norm = layers, norm


def _append_queries(
    queries: Tensor, _: Any, arguments: tuple, keywords: dict[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    """The text model's arguments as if its chat went on with the queries, which are neither text nor visual."""
    embeds, positions = keywords["inputs_embeds"], keywords["position_ids"]
    mask, visual = keywords.get("attention_mask"), keywords.get("visual_pos_masks")
    batch, length = embeds.shape[:2]
    if positions is None:  # transformers leaves a chat without visuals to be counted
        positions = torch.arange(length, device=embeds.device).expand(3, batch, -1)
    appended = {
        "inputs_embeds": torch.cat([embeds, queries.to(embeds).expand(batch, -1, -1)], dim=1),
        "position_ids": positions_with_queries(positions, len(queries), mask),
        "attention_mask": None if mask is None else F.pad(mask, (0, len(queries)), value=1),
        "visual_pos_masks": None if visual is None else F.pad(visual, (0, len(queries)), value=False),
    }
    return arguments, {**keywords, **appended}


def model_arguments(mllm: PreTrainedModel, inputs: ChatInputs) -> dict[str, Tensor]:
    """The arguments of transformers' forward: the given tensors and which tokens are pictures (1) and videos (2)."""
    ids = inputs.input_ids
    kinds = (ids == mllm.config.image_token_id).long() + 2 * (ids == mllm.config.video_token_id).long()
    given = {name: value for name, value in vars(inputs).items() if value is not None}
    return {**given, "mm_token_type_ids": kinds}


class RoundedVisionRotaryEmbedding(Qwen3VLVisionRotaryEmbedding):
    """The vision tower's rotary table as bfloat16 buffers make it: frequencies, angles, cosines and sines are rounded."""

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids[..., None].bfloat16() * self.inv_freq.bfloat16()  # (p, 2, k / 4): row and column
        angles = angles.flatten(1).repeat(1, 2)
        return angles.cos().float(), angles.sin().float()


def set_rotary_tables(mllm: PreTrainedModel, *, rounded: bool) -> None:
    """Give text model and vision tower exact rotary tables, or those that bfloat16 buffers make (fact sheet 4.10).

    To be called after every change of the model's precision, which rounds the frequencies in passing.
    """
    base: Any = mllm.base_model
    text, tower = base.language_model.rotary_emb, base.visual
    device = text.inv_freq.device
    exact = type(text)(text.config).inv_freq.to(device)
    text.inv_freq = exact.bfloat16().float() if rounded else exact
    vision_class = RoundedVisionRotaryEmbedding if rounded else Qwen3VLVisionRotaryEmbedding
    tower.rotary_pos_emb = vision_class(tower.config).to(device)


def subsample(num_frames: int, rule: FrameRule) -> list[int]:
    """Which frames of a clip are handed to the processor (fact sheet 3.6, first step)."""
    if num_frames <= rule.factor:
        return list(range(num_frames))
    kept = min(max(num_frames // rule.factor, rule.min_frames), num_frames)
    return [int(index) for index in np.linspace(0, num_frames - 1, kept)]


def processor_frames(num_frames: int, sampled_frames: int = 4) -> list[int]:
    """Which of the frames handed over the published processor keeps: a second subsampling, usually down to four."""
    if num_frames < TEMPORAL_PATCH_SIZE:
        raise ValueError(
            f"{num_frames} video frame: a video needs at least {TEMPORAL_PATCH_SIZE}; give it as a picture"
        )
    wanted = int(num_frames / LIST_FPS * SAMPLED_FPS)
    kept = min(max(wanted, sampled_frames), num_frames)
    return [int(index) for index in np.linspace(0, num_frames - 1, kept).round()]


def timestamps(indices: Sequence[int]) -> tuple[str, ...]:
    """The text before each pair of kept frames: the pair's mean time were the list a 24 fps video."""
    padded = [*indices, *indices[-1:]] if len(indices) % TEMPORAL_PATCH_SIZE else list(indices)
    pairs = zip(padded[0::2], padded[1::2], strict=True)
    return tuple(f"<{(first + second) / 2 / LIST_FPS:.1f} seconds>" for first, second in pairs)


def fitted_size(
    height: int, width: int, budget: PixelBudget, num_frames: int = 1, multiple: int = SIZE_MULTIPLE
) -> tuple[int, int]:
    """Multiples near (height, width), of about the same ratio, whose frames together stay inside the budget."""
    fitted = [max(multiple, round(size / multiple) * multiple) for size in (height, width)]
    pixels = math.ceil(num_frames / TEMPORAL_PATCH_SIZE) * TEMPORAL_PATCH_SIZE * fitted[0] * fitted[1]
    if num_frames == 1:
        pixels = fitted[0] * fitted[1]
    if pixels > budget.largest:
        ratio = math.sqrt(num_frames * height * width / budget.largest)
        fitted = [max(multiple, math.floor(s / ratio / multiple) * multiple) for s in (height, width)]
    elif pixels < budget.smallest:
        ratio = math.sqrt(budget.smallest / (num_frames * height * width))
        fitted = [math.ceil(s * ratio / multiple) * multiple for s in (height, width)]
    return fitted[0], fitted[1]


def patchify(frames: np.ndarray) -> Tensor:
    """uint8 frames (2t, 16h, 16w, 3) -> rows (t * h * w, 3 * 2 * 16 * 16) in -1..1, ordered by 2 x 2 merge blocks."""
    num_frames, height, width, _ = frames.shape
    pixels = (torch.from_numpy(np.array(frames)).float() / 255 - 0.5) / 0.5
    blocks = pixels.reshape(
        num_frames // TEMPORAL_PATCH_SIZE, TEMPORAL_PATCH_SIZE,
        height // SIZE_MULTIPLE, MERGE_SIZE, PATCH_SIZE,
        width // SIZE_MULTIPLE, MERGE_SIZE, PATCH_SIZE,
        3,
    )  # fmt: skip
    return blocks.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).flatten(5).flatten(0, 4)


def picture(pixels: np.ndarray, budget: PixelBudget) -> Visual:
    """A picture uint8 (y, x, 3) as the vision tower reads it."""
    height, width = fitted_size(pixels.shape[0], pixels.shape[1], budget)
    frame = _resize(pixels, height, width)
    return Visual(
        "image", patchify(np.stack([frame] * TEMPORAL_PATCH_SIZE)), (1, height // PATCH_SIZE, width // PATCH_SIZE)
    )


def video(frames: np.ndarray, rule: FrameRule, budget: PixelBudget) -> Visual:
    """A clip uint8 (t, y, x, 3) as the vision tower reads it: twice subsampled, with timestamps."""
    handed = [frames[index] for index in subsample(len(frames), rule)]
    indices = processor_frames(len(handed), rule.sampled_frames)
    kept = [handed[index] for index in indices]
    height, width = fitted_size(frames.shape[1], frames.shape[2], budget, num_frames=len(kept))
    kept += kept[-1:] * (len(kept) % TEMPORAL_PATCH_SIZE)
    resized = np.stack([_resize(frame, height, width) for frame in kept])
    grid = (len(kept) // TEMPORAL_PATCH_SIZE, height // PATCH_SIZE, width // PATCH_SIZE)
    return Visual("video", patchify(resized), grid, timestamps(indices))


def _resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def gather_visuals(visuals: Iterable[Visual]) -> dict[str, Tensor]:
    """Rows and grids of all pictures and of all videos, under transformers' names."""
    gathered: dict[str, Tensor] = {}
    names = {"image": ("pixel_values", "image_grid_thw"), "video": ("pixel_values_videos", "video_grid_thw")}
    by_kind = {kind: [visual for visual in visuals if visual.kind == kind] for kind in names}
    for kind, (rows, grids) in names.items():
        if by_kind[kind]:
            gathered[rows] = torch.cat([visual.rows for visual in by_kind[kind]])
            gathered[grids] = torch.tensor([visual.grid for visual in by_kind[kind]])
    return gathered

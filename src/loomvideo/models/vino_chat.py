"""The chat that VINO's language model reads, and how pictures and frames are put before it (fact sheet 3.1, 3.2, 6.6)."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from loomvideo.media.frames import even_frames
from loomvideo.models import chat
from loomvideo.models.chat import PLACEHOLDER, SYSTEM_TURN, Chat
from loomvideo.models.qwen import (
    PATCH_SIZE,
    TEMPORAL_PATCH_SIZE,
    PixelBudget,
    Visual,
    fitted_size,
    patchify,
    timestamps,
)

GENERATE = "You are a helpful assistant aimed at generating an output video caption."  # for pictures, too
CAPTION = (
    f"{GENERATE} Based on the user's input command, provide a caption describing the video and output it directly. "
)
NAMES = {"image": "Image", "video": "Video"}
Kind = Literal["image", "video"]

# What the published program asks to avoid where a request does not say, for one frame and for several.
NEGATIVE_PROMPT_IMAGE = (
    "low quality, blurry, low resolution, jpeg artifacts, noisy, bad anatomy, bad proportions, deformed face, extra limbs, "
    "extra fingers, fused fingers, malformed hands, unnatural pose, distorted eyes, poor lighting, overexposed, "
    "underexposed, bad composition, cropped, duplicate, ghosting, motion blur, watermark, logo, text, nsfw"
)
NEGATIVE_PROMPT_VIDEO = (
    "low quality, blurry, flickering, temporal inconsistency, ghosting, motion blur, jitter, unstable structure, distorted "
    "anatomy, extra limbs, extra fingers, malformed hands, warped face, inconsistent identity, poor lighting, overexposed, "
    "underexposed, bad composition, cropped, duplicate frames, color flicker, watermark, logo, text, nsfw"
)

FRAMES = 8  # of a clip of any length and rate
FIRST_MULTIPLE = 28  # the published program fits every visual to the grid of an older tower first ...
FIRST_BUDGETS = {
    "image": PixelBudget(4 * FIRST_MULTIPLE**2, 16384 * FIRST_MULTIPLE**2),
    "video": PixelBudget(256 * 32**2, 768 * FIRST_MULTIPLE**2),  # ... a video's frames one by one
}
MAX_RATIO = 200  # of the longer side to the shorter


def vino_chat(visuals: Sequence[Visual], prompt: str, system: str | None = GENERATE) -> Chat:
    """References by name, pictures before the video, then the prompt; nothing stands between them.

    `system` is what the system turn says; None leaves it out.

    Raises ValueError for a prompt that holds a placeholder, which would be taken for a picture.
    """
    for placeholder in PLACEHOLDER.values():
        if placeholder in prompt:
            raise ValueError(
                f"the prompt holds {placeholder!r}, which stands for a picture: leave it out, and name a reference by "
                "its number, as in 'Image 1'"
            )
    counts, parts = Counter(), []
    for visual in visuals:
        counts[visual.kind] += 1
        parts += [f"{NAMES[visual.kind]} {counts[visual.kind]}: ", visual]
    user = chat.chat([*parts, prompt])
    opening = "" if system is None else SYSTEM_TURN.format(system)
    return Chat(opening + user.text, user.visuals)


def first_size(height: int, width: int, budget: PixelBudget) -> tuple[int, int]:
    """The size that a picture or each frame of a clip is first resized to (fact sheet 3.2 A)."""
    if max(height, width) > MAX_RATIO * min(height, width):
        raise ValueError(
            f"{width}x{height}: one side is more than {MAX_RATIO} times the other, so cut a part out of it"
        )
    return fitted_size(height, width, budget, multiple=FIRST_MULTIPLE)


def picture(pixels: np.ndarray, budget: PixelBudget, first: PixelBudget = FIRST_BUDGETS["image"]) -> Visual:
    """A picture uint8 (y, x, 3) as VINO's language model reads it: resized twice, to `first_size` and to the budget."""
    height, width = first_size(pixels.shape[0], pixels.shape[1], first)
    resized = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
    frames = torch.from_numpy(np.array(resized))[None].permute(0, 3, 1, 2)
    return _visual("image", frames.expand(TEMPORAL_PATCH_SIZE, -1, -1, -1), fitted_size(height, width, budget))


def video(
    frames: np.ndarray, budget: PixelBudget, num_frames: int = FRAMES, first: PixelBudget = FIRST_BUDGETS["video"]
) -> Visual:
    """A clip uint8 (t, y, x, 3) as VINO's language model reads it: an even number of frames spread over the whole of it.

    The times told are those of so many frames in a row at 24 a second, however long the clip.
    """
    chosen = torch.from_numpy(frames[even_frames(len(frames), num_frames)]).permute(0, 3, 1, 2).float()
    height, width = first_size(frames.shape[1], frames.shape[2], first)
    resized = _resize(chosen, height, width).clamp(0, 255).round()
    return _visual("video", resized, fitted_size(height, width, budget, num_frames), timestamps(range(num_frames)))


def _visual(kind: Kind, frames: Tensor, size: tuple[int, int], stamps: tuple[str, ...] = ()) -> Visual:
    """Frames (t, 3, y, x) resized once more, and cut into patches."""
    rows = patchify(_resize(frames, *size).permute(0, 2, 3, 1).numpy())
    grid = (len(frames) // TEMPORAL_PATCH_SIZE, size[0] // PATCH_SIZE, size[1] // PATCH_SIZE)
    return Visual(kind, rows, grid, stamps)


def _resize(frames: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(frames, (height, width), mode="bicubic", antialias=True)

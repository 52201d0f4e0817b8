"""VINO's chat and what its language model sees."""

import numpy as np
import pytest
import torch

from loomvideo.models.qwen import PixelBudget, Visual
from loomvideo.models.vino_chat import picture, video, vino_chat

BUDGET = PixelBudget(32 * 32, 8 * 128 * 128)


def visual(kind, frames=1):
    stamps = tuple(f"<{i}.0 seconds>" for i in range(frames)) if kind == "video" else ()
    return Visual(kind, torch.zeros(0), (frames, 2, 2), stamps)


def user_turn(chat):
    return chat.text.split("<|im_start|>user\n")[1].split("<|im_end|>")[0]


def test_pictures_and_videos_are_counted_apart_and_nothing_stands_between_the_parts():
    turn = user_turn(vino_chat([visual("image"), visual("image"), visual("video", 2)], "make it snow"))
    span = "<|vision_start|><|{}_pad|><|vision_end|>"
    image, frame = span.format("image"), span.format("video")
    assert turn == f"Image 1: {image}Image 2: {image}Video 1: <0.0 seconds>{frame}<1.0 seconds>{frame}make it snow"


def test_a_prompt_alone_may_be_empty_and_follows_the_system_turn():
    chat = vino_chat([], "")
    assert chat.text.startswith("<|im_start|>system\n")
    assert chat.text.endswith("<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n")
    assert chat.visuals == ()


@pytest.mark.parametrize("placeholder", ["<|image_pad|>", "<|video_pad|>"])
def test_a_prompt_that_holds_a_placeholder_is_refused(placeholder):
    with pytest.raises(ValueError, match="stands for a picture"):
        vino_chat([visual("image")], f"replace {placeholder}")


@pytest.mark.parametrize("length", [1, 5, 8, 21, 200])
def test_a_clip_of_any_length_is_shown_as_so_many_frames_with_the_same_times(length):
    shown = video(np.zeros((length, 40, 56, 3), np.uint8), BUDGET)
    assert shown.grid[0] == 4
    assert shown.timestamps == ("<0.0 seconds>", "<0.1 seconds>", "<0.2 seconds>", "<0.3 seconds>")
    assert len(shown.rows) == np.prod(shown.grid)


def test_the_first_and_the_last_frame_of_a_clip_are_seen():
    frames = np.zeros((33, 32, 32, 3), np.uint8)
    frames[0], frames[-1] = 255, 128
    rows = video(frames, BUDGET).rows.unflatten(0, (4, -1)).unflatten(-1, (3, 2, -1))  # frame pairs, patches, colour
    for pair, frame, value in ((0, 0, 255), (0, 1, 0), (1, 0, 0), (2, 1, 0), (3, 0, 0), (3, 1, 128)):
        seen = rows[pair, :, :, frame]
        torch.testing.assert_close(seen, torch.full_like(seen, value / 127.5 - 1), rtol=0, atol=1e-3)


def test_fewer_frames_may_be_asked_for():
    assert video(np.zeros((17, 32, 32, 3), np.uint8), BUDGET, num_frames=4).grid[0] == 2


def test_a_strip_is_refused_with_the_ratio_that_is_allowed():
    with pytest.raises(ValueError, match="200 times"):
        picture(np.zeros((1, 201, 3), np.uint8), BUDGET)

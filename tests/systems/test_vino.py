"""Guidance branches of VINO: what each is told and shown."""

import pytest
import torch

from loomvideo.models.qwen import Visual
from loomvideo.systems.vino import guidance_branches, pad_texts

PICTURE = Visual("image", torch.zeros(0), (1, 2, 2))
CLIP = Visual("video", torch.zeros(0), (2, 2, 2), ("<0.0 seconds>", "<0.1 seconds>"))


def branches(*visuals, text=5.0, image=1.0, has_base=False):
    """Of every branch, its prompt and the places of its references; and the scales."""
    latents = [torch.full((1,), float(i)) for i in range(len(visuals))]
    made, scales = guidance_branches(
        visuals,
        latents,
        prompt="make it snow",
        negative_prompt="blurry",
        guidance_scale=text,
        guidance_scale_image=image,
        has_base=has_base,
    )
    for branch in made:
        assert len(branch.chat.visuals) == len(branch.references)
    told = ["make it snow" if "make it snow" in branch.chat.text else "blurry" for branch in made]
    shown = [[int(latent) for latent in branch.references] for branch in made]
    return told, shown, scales


def test_without_guidance_there_is_one_branch():
    assert branches(PICTURE, text=1.0) == (["make it snow"], [[0]], [])


def test_text_guidance_shows_every_reference_to_both_branches():
    assert branches(PICTURE, CLIP) == (["blurry", "make it snow"], [[0, 1], [0, 1]], [5.0])


def test_image_guidance_hides_the_pictures_and_keeps_the_video():
    told, shown, scales = branches(PICTURE, PICTURE, CLIP, image=3.0)
    assert told == ["blurry", "blurry", "make it snow"]
    assert shown == [[2], [0, 1, 2], [0, 1, 2]]
    assert scales == [3.0, 5.0]


def test_the_picture_to_edit_is_the_last_and_is_kept():
    assert branches(PICTURE, PICTURE, PICTURE, image=3.0, has_base=True)[1][0] == [2]


def test_the_picture_that_is_kept_is_image_1_of_its_own_chat():
    made, _ = guidance_branches(
        [PICTURE, PICTURE],
        [torch.zeros(1)] * 2,
        prompt="",
        negative_prompt="",
        guidance_scale=5.0,
        guidance_scale_image=3.0,
        has_base=True,
    )
    assert "Image 2" in made[1].chat.text
    assert "Image 1" in made[0].chat.text
    assert "Image 2" not in made[0].chat.text


@pytest.mark.parametrize(
    ("visuals", "has_base"), [((), False), ((CLIP,), False), ((PICTURE,), True)], ids=["text", "video", "base alone"]
)
def test_image_guidance_that_would_hide_nothing_costs_no_branch(visuals, has_base):
    assert branches(*visuals, image=3.0, has_base=has_base) == branches(*visuals, image=1.0)


def test_image_guidance_works_without_text_guidance():
    told, _, scales = branches(PICTURE, text=1.0, image=2.0)
    assert told == ["blurry", "blurry", "make it snow"]
    assert scales == [2.0, 1.0]


def test_texts_of_one_length_need_no_mask_and_others_are_padded_behind():
    same, mask = pad_texts([torch.ones(1, 3, 2), torch.zeros(1, 3, 2)])
    assert mask is None
    assert same.shape == (2, 3, 2)
    padded, mask = pad_texts([torch.ones(1, 3, 2), torch.ones(1, 5, 2)])
    assert padded[0, 3:].eq(0).all()
    assert mask.tolist() == [[True] * 3 + [False] * 2, [True] * 5]

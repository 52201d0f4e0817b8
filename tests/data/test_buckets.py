"""Sizes of published training."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomvideo.data.buckets import IMAGE_BUCKETS, VIDEO_BUCKETS, closest_resolution, num_tokens

BUCKETS = pytest.mark.parametrize("buckets", [IMAGE_BUCKETS, VIDEO_BUCKETS], ids=["image", "video"])


@BUCKETS
def test_every_size_is_a_multiple_of_32_and_has_its_transpose(buckets):
    for sizes in buckets.values():
        assert all(height % 32 == 0 and width % 32 == 0 for height, width in sizes)
        assert {(width, height) for height, width in sizes} == set(sizes)


@BUCKETS
def test_a_bucket_s_own_size_is_its_closest_resolution(buckets):
    for group, sizes in buckets.items():
        assert [closest_resolution(*size, buckets, [group]) for size in sizes] == list(sizes)


@given(height=st.integers(1, 4000), width=st.integers(1, 4000), group=st.sampled_from(sorted(IMAGE_BUCKETS)))
def test_no_other_size_of_the_group_has_a_nearer_ratio(height, width, group):
    chosen = closest_resolution(height, width, IMAGE_BUCKETS, [group])
    distances = [abs(w / h - width / height) for h, w in IMAGE_BUCKETS[group]]
    assert abs(chosen[1] / chosen[0] - width / height) == min(distances)


@pytest.mark.parametrize("allowed", [[], ["512"]])
def test_a_group_that_does_not_exist_is_an_error_that_names_those_that_do(allowed):
    with pytest.raises(ValueError, match="256, 640, 960"):
        closest_resolution(480, 832, IMAGE_BUCKETS, allowed)


def test_a_clip_s_tokens_are_its_latent_frames_times_a_picture_s_tokens():
    assert num_tokens(17, 128, 128) == 5 * num_tokens(1, 128, 128) == 80

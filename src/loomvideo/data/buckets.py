"""The sizes that published training used, and how many tokens a clip takes (fact sheet 8.3)."""

from collections.abc import Mapping, Sequence

Size = tuple[int, int]  # height, width

# Every group holds shapes of about key * key pixels.
IMAGE_BUCKETS: Mapping[str, Sequence[Size]] = {
    "256": ((256, 256), (224, 288), (288, 224), (224, 320), (320, 224), (192, 352), (352, 192), (160, 384), (384, 160)),
    "640": ((640, 640), (544, 704), (704, 544), (512, 768), (768, 512), (480, 832), (832, 480), (416, 960), (960, 416)),
    "960": (
        *((960, 960), (864, 1088), (1088, 864), (800, 1152), (1152, 800)),
        *((704, 1280), (1280, 704), (608, 1472), (1472, 608)),
    ),
}
VIDEO_BUCKETS: Mapping[str, Sequence[Size]] = {
    **IMAGE_BUCKETS,
    "960": (*IMAGE_BUCKETS["960"][:7], (704, 960), (960, 704), *IMAGE_BUCKETS["960"][7:]),
}


def closest_resolution(
    height: int, width: int, buckets: Mapping[str, Sequence[Size]], allowed: Sequence[str] | None = None
) -> Size:
    """The group of the nearest area, and in it the size of the nearest width / height; the first wins a tie.

    `allowed` names the groups to choose among, None means all. Raises ValueError for one that the buckets do not have.
    """
    groups = list(buckets if allowed is None else allowed)
    if not groups or not set(groups) <= set(buckets):
        raise ValueError(f"resolution_buckets={groups}: name one or more of {', '.join(buckets)}")
    group = min(groups, key=lambda key: abs(int(key) ** 2 - height * width))
    return min(buckets[group], key=lambda size: abs(size[1] / size[0] - width / height))


def num_tokens(num_frames: int, height: int, width: int) -> int:
    """Denoiser tokens of a clip: the VAE's 4x16x16 and patches of 1x2x2."""
    return ((num_frames - 1) // 4 + 1) * (height // 32) * (width // 32)

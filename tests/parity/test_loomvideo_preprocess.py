"""Pictures are resized and cropped as the published program does it."""

import torch
from golden_set import assert_same, each_case

from loomvideo.media.resize import cover_crop


@each_case("loomvideo", "preprocess")
def test_cover_resize_and_centre_crop(case):
    golden = case.load()
    height, width = golden["output_u8"].shape[:2]
    cropped = cover_crop(golden["input_u8"].numpy(), height, width)
    assert_same("output_u8", torch.from_numpy(cropped.copy()), golden["output_u8"])

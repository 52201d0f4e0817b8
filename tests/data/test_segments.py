"""Records of the published datasets become text, pictures and clips in the order a model reads them."""

import pytest

from loomvideo.data.segments import PROCESSORS, MediaKind, MediaSegment, RecordError, TextSegment, references, segments

RECORD = {
    "caption": "a red circle",
    "text": "a red circle moves",
    "path": "clips/1.mp4",
    "image_path": "pictures/1.png",
    "instruction": "make it blue",
    "reference_image_paths": ["r/1.png", "r/2.png"],
    "target_image_path": "t/1.png",
    "target_video_path": "t/1.mp4",
    "source_image_path": "s/1.png",
    "source_video_path": "s/1.mp4",
    "save_path": "out/1.mp4",
    "_data_index": 7,
}


@pytest.mark.parametrize("processor", PROCESSORS)
def test_every_sample_has_one_target_or_one_name_to_save_its_result_under(processor):
    found = segments(processor, RECORD)
    targets = [segment for segment in found if isinstance(segment, MediaSegment) and segment.is_target]
    saved = [segment for segment in found if segment.save_path]
    assert (len(targets), len(saved)) in {(1, 0), (0, 1)}


@pytest.mark.parametrize("processor", PROCESSORS)
def test_only_a_target_is_a_plain_video(processor):
    videos = [s for s in segments(processor, RECORD) if isinstance(s, MediaSegment) and s.kind == MediaKind.VIDEO]
    assert all(video.is_target for video in videos)


WITH_REFERENCES = [name for name, parts in PROCESSORS.items() if references in parts]


@pytest.mark.parametrize("processor", WITH_REFERENCES)
def test_references_keep_the_record_s_order(processor):
    found = segments(processor, RECORD)
    images = [s.path for s in found if isinstance(s, MediaSegment) and s.kind == MediaKind.IMAGE and not s.is_target]
    assert images == RECORD["reference_image_paths"]


def test_a_benchmark_record_without_a_source_begins_with_its_references():
    found = segments("process_fashionvideobench_data", {**RECORD, "source_video_path": ""})
    assert found[0] == MediaSegment(MediaKind.IMAGE, "r/1.png")
    assert found[-1] == TextSegment("make it blue", save_path="out/1.mp4")


def test_an_unknown_processor_is_named_together_with_the_known_ones():
    with pytest.raises(RecordError, match=r"process_nothing.*process_t2v_data"):
        segments("process_nothing", RECORD)


def test_a_missing_key_is_named_together_with_the_processor_that_reads_it():
    with pytest.raises(RecordError, match=r"'text'.*process_t2v_data"):
        segments("process_t2v_data", {"caption": "a red circle"})

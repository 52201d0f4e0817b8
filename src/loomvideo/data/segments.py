"""What one record of the published datasets means: text, pictures and clips in the order a model reads them.

A dataset names one of the published processors; each is one line of `PROCESSORS` (fact sheet 8.2). Nothing is read or
resized here: a record goes in, segments come out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

from loomvideo.data.samples import DataError

GENERATE_IMAGE = "Generate an image: "
GENERATE_IMAGE_WITH_REFERENCES = "Generate an image with reference images: "
RECONSTRUCT_IMAGE = "Reconstruct this image: "
EDIT_IMAGE = "Edit this image: "
GENERATE_VIDEO = "Generate a video: "
GENERATE_VIDEO_WITH_REFERENCES = "Generate a video with reference images: "
RECONSTRUCT_VIDEO = "Reconstruct this video: "
EDIT_VIDEO = "Edit this video: "
EDIT_VIDEO_WITH_REFERENCES = "Edit this video with reference images: "


class RecordError(DataError):
    """A record or a processor's name that the published formats do not know."""


class MediaKind(StrEnum):
    IMAGE = "image"  # a reference, unless it is the target
    VIDEO = "video"  # only ever a target
    SOURCE_IMAGE = "source_image"
    SOURCE_VIDEO = "source_video"


@dataclass(frozen=True)
class TextSegment:
    content: str
    save_path: str | None = None  # the sample is to be generated, and kept under this name


@dataclass(frozen=True)
class MediaSegment:
    kind: MediaKind
    path: str  # relative to the dataset's root
    is_target: bool = False
    save_path: str | None = None


Segment = TextSegment | MediaSegment
Record = Mapping[str, Any]
Part = Callable[[Record], list[Segment]]


def segments(processor: str, record: Record) -> list[Segment]:
    """Segments of a record, in order.

    Args:
        processor: published name (`process_func_name`), a key of `PROCESSORS`.
        record: the sample's JSON; `_data_index` is its number in the dataset, which two processors put in output names.

    Raises:
        RecordError: an unknown processor, or a record without a key that the processor reads.
    """
    if processor not in PROCESSORS:
        raise RecordError(f"process_func_name {processor!r} is unknown: use one of {', '.join(PROCESSORS)}")
    try:
        return [segment for part in PROCESSORS[processor] for segment in part(record)]
    except KeyError as missing:
        raise RecordError(f"the record has no {missing}, which {processor} reads; it has {', '.join(record)}") from None


def text(prefix: str = "", key: str | None = None, *, save: bool = False) -> Part:
    """A prefix, followed by the record's text under `key`."""

    def part(record: Record) -> list[Segment]:
        content = prefix + (record[key] if key else "")
        return [TextSegment(content, save_path=record["save_path"] if save else None)]

    return part


def media(kind: MediaKind, key: str, *, is_target: bool = False) -> Part:
    def part(record: Record) -> list[Segment]:
        return [MediaSegment(kind, record[key], is_target=is_target)]

    return part


def saved_source(kind: MediaKind, key: str, *, numbered: bool) -> Part:
    """A source whose result is saved under the source's own path; `numbered` puts the record's index before the name."""

    def part(record: Record) -> list[Segment]:
        path = PurePosixPath(record[key])
        name = f"{record['_data_index']:04d}_{path.name}" if numbered else path.name
        return [MediaSegment(kind, record[key], save_path=str(path.with_name(name)))]

    return part


def references(record: Record) -> list[Segment]:
    return [MediaSegment(MediaKind.IMAGE, path) for path in record["reference_image_paths"]]


def source_video_if_any(record: Record) -> list[Segment]:
    return SOURCE_VIDEO(record) if record.get("source_video_path") else []


SOURCE_IMAGE = media(MediaKind.SOURCE_IMAGE, "source_image_path")
SOURCE_VIDEO = media(MediaKind.SOURCE_VIDEO, "source_video_path")
TARGET_IMAGE = media(MediaKind.IMAGE, "target_image_path", is_target=True)
TARGET_VIDEO = media(MediaKind.VIDEO, "target_video_path", is_target=True)
INSTRUCTION = text(key="instruction")

PROCESSORS: dict[str, Sequence[Part]] = {
    # Training on pictures
    "process_t2i_data": (
        text(GENERATE_IMAGE, "caption"),
        media(MediaKind.IMAGE, "image_path", is_target=True),
    ),
    "process_t2i_data_withref": (text(GENERATE_IMAGE_WITH_REFERENCES, "instruction"), references, TARGET_IMAGE),
    "process_t2i_data_withref_wo_prefix": (INSTRUCTION, references, TARGET_IMAGE),
    "process_image_edit_data": (text(EDIT_IMAGE), SOURCE_IMAGE, INSTRUCTION, TARGET_IMAGE),
    "process_image_edit_data_wo_prefix": (SOURCE_IMAGE, INSTRUCTION, TARGET_IMAGE),
    "process_image_edit_data_wo_prefix_source_as_ref": (
        INSTRUCTION,
        media(MediaKind.IMAGE, "source_image_path"),
        TARGET_IMAGE,
    ),
    "process_image_reconstruction_data": (
        text(RECONSTRUCT_IMAGE),
        media(MediaKind.SOURCE_IMAGE, "image_path"),
        media(MediaKind.IMAGE, "image_path", is_target=True),
    ),
    # Training on videos
    "process_t2v_data": (text(GENERATE_VIDEO, "text"), media(MediaKind.VIDEO, "path", is_target=True)),
    "process_t2v_data_withref": (text(GENERATE_VIDEO_WITH_REFERENCES, "instruction"), references, TARGET_VIDEO),
    "process_t2v_data_withref_wo_prefix": (INSTRUCTION, references, TARGET_VIDEO),
    "process_video_edit_data": (text(EDIT_VIDEO), SOURCE_VIDEO, INSTRUCTION, TARGET_VIDEO),
    "process_video_edit_data_wo_prefix": (SOURCE_VIDEO, INSTRUCTION, TARGET_VIDEO),
    "process_video_edit_data_withref": (
        text(EDIT_VIDEO_WITH_REFERENCES),
        SOURCE_VIDEO,
        references,
        INSTRUCTION,
        TARGET_VIDEO,
    ),
    "process_video_edit_data_withref_wo_prefix": (SOURCE_VIDEO, references, INSTRUCTION, TARGET_VIDEO),
    "process_video_reconstruction_data": (
        text(RECONSTRUCT_VIDEO),
        media(MediaKind.SOURCE_VIDEO, "path"),
        media(MediaKind.VIDEO, "path", is_target=True),
    ),
    # Benchmarks: there is nothing to learn from, and the result is saved
    "process_only_text_data": (text(GENERATE_IMAGE, "caption", save=True),),
    "process_only_text_for_video_data": (text(GENERATE_VIDEO, "caption", save=True),),
    "process_only_source_image_data": (
        text(EDIT_IMAGE),
        saved_source(MediaKind.SOURCE_IMAGE, "source_image_path", numbered=True),
        INSTRUCTION,
    ),
    "process_only_source_video_data": (
        text(EDIT_VIDEO),
        saved_source(MediaKind.SOURCE_VIDEO, "source_video_path", numbered=False),
        INSTRUCTION,
    ),
    "process_source_video_with_ref_image_data": (
        text(EDIT_VIDEO),
        saved_source(MediaKind.SOURCE_VIDEO, "source_video_path", numbered=False),
        references,
        INSTRUCTION,
    ),
    "process_refvie_data": (
        text(EDIT_VIDEO),
        saved_source(MediaKind.SOURCE_VIDEO, "source_video_path", numbered=True),
        references,
        INSTRUCTION,
    ),
    "process_intelligent_vbench_si2v_data": (
        text(GENERATE_VIDEO_WITH_REFERENCES, save=True),
        references,
        INSTRUCTION,
    ),
    "process_fashionvideobench_data": (
        source_video_if_any,
        references,
        text(key="instruction", save=True),
    ),
}

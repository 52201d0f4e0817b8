"""Video files, with PyAV: streamed decoding of untrusted files, reproducible encoding."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from loomvideo.media.limits import MAX_PIXELS, MediaError, check_size

if TYPE_CHECKING:
    from av import AudioStream, VideoFrame, VideoStream
    from av.container import InputContainer, OutputContainer

FALLBACK_FPS = 25.0  # for streams that carry no clock
SAMPLE_RATE = 48_000
SOUND_CHUNK = 960  # samples: a frame size that both AAC's and Opus' encoders are fed without rest at 48 kHz


@dataclass(frozen=True)
class Codec:
    video: str
    sound: str
    options: dict[str, str]  # near-lossless; a fixed number of threads, since the bytes depend on it
    container: dict[str, str]


# cpu-independent: with its AVX-512 routines x264 writes other bytes from one time to the next
H264 = {"crf": "16", "preset": "medium", "threads": "4", "x264-params": "cpu-independent=1"}
MP4 = Codec("libx264", "aac", H264, {"movflags": "+faststart"})
CODECS = {
    ".mp4": MP4,
    ".m4v": MP4,
    ".mov": MP4,
    ".mkv": Codec("libx264", "aac", H264, {"fflags": "+bitexact"}),
    ".webm": Codec(
        "libvpx-vp9", "libopus", {"crf": "18", "b": "0", "row-mt": "0", "threads": "4"}, {"fflags": "+bitexact"}
    ),
}


@dataclass(frozen=True)
class VideoHeader:
    """Width and height as shown, after rotation and with square pixels; num_frames is what the header says, or 0."""

    width: int
    height: int
    fps: float
    num_frames: int
    has_sound: bool
    comment: str | None


def read_header(path: Path) -> VideoHeader:
    """Reads the header and decodes one frame, which alone carries the rotation."""
    with _opened(path) as (container, stream):
        _, first = next(_decoded(path, container, stream))
        width, height = _shown_size(first)
        if first.frame.rotation % 180:
            width, height = height, width
        return VideoHeader(
            width=width,
            height=height,
            fps=_frame_rate(stream),
            num_frames=_declared_frames(container, stream),
            has_sound=bool(container.streams.audio),
            comment=container.metadata.get("comment") or container.metadata.get("COMMENT"),
        )


@dataclass(frozen=True)
class EncodedFrame:
    """A decoded frame that is not yet in RGB: most frames of a source are passed over and never converted."""

    path: Path
    index: int
    frame: "VideoFrame"
    pixel_aspect: float

    def to_rgb(self) -> np.ndarray:
        """uint8 (y, x, 3), upright and with square pixels."""
        if self.frame.is_corrupt:
            raise MediaError(f"{self.path}: frame {self.index} is damaged; cut it out or export the file again")
        width, height = _shown_size(self)
        check_size(f"{self.path}, frame {self.index}", width, height)
        picture = self.frame.to_ndarray(format="rgb24", width=width, height=height)
        return np.rot90(picture, k=round(self.frame.rotation / 90))


def decode_frames(path: Path) -> Iterator[tuple[float | None, EncodedFrame]]:
    """Every frame in the order shown, with its second where the file has a clock. Stop reading to stop decoding."""
    with _opened(path) as (container, stream):
        yield from _decoded(path, container, stream)


def save_video(path: Path, frames: np.ndarray, fps: float, comment: str, sound: np.ndarray | None) -> None:
    """Encode uint8 (t, y, x, 3) with even sides; ``sound`` is float32 (2, samples) at 48 kHz."""
    import av

    codec = CODECS[path.suffix.lower()]
    with av.open(str(path), "w", options=codec.container) as container:
        if comment:
            container.metadata["comment"] = comment
        picture_stream = _add_picture_stream(container, codec, frames.shape[2], frames.shape[1], fps)
        sound_packets = [] if sound is None else _encode_sound(container, codec.sound, sound)
        for packet in _encode_pictures(picture_stream, frames):
            while sound_packets and sound_packets[0].pts * sound_packets[0].time_base <= packet.pts * packet.time_base:
                container.mux(sound_packets.pop(0))
            container.mux(packet)
        container.mux(sound_packets)


def read_sound(path: Path, seconds: float) -> np.ndarray | None:
    """The first ``seconds`` of a file's sound as float32 (2, samples) at 48 kHz, in step with its first frame.

    None for a file without sound. A part that cannot be decoded is left out with a warning.
    """
    from av.error import FFmpegError

    with _opened(path) as (container, stream):
        if not container.streams.audio:
            return None
        origin = float((stream.start_time or 0) * (stream.time_base or 0))
        samples = np.zeros((2, round(seconds * SAMPLE_RATE)), np.float32)
        end = 0
        try:
            for at, chunk in _decoded_sound(container, container.streams.audio[0]):
                start = round((at - origin) * SAMPLE_RATE)
                if start >= samples.shape[1]:
                    break
                part = chunk[:, max(0, -start) : samples.shape[1] - start]
                samples[:, max(0, start) : max(0, start) + part.shape[1]] = part
                end = max(end, max(0, start) + part.shape[1])
        except FFmpegError as error:
            warnings.warn(f"{path}: its sound is kept up to {end / SAMPLE_RATE:.1f} s only ({error})", stacklevel=2)
        return samples[:, :end] if end else None


@contextmanager
def _opened(path: Path) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    """A local file and its first video stream, within the size limits. Playlists cannot lead elsewhere."""
    import av
    from av.error import FFmpegError

    try:
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except FFmpegError as error:
        raise MediaError(
            f"{path}: this is no video or picture that FFmpeg reads ({error.strerror}); it may be cut off or of "
            "another kind, so export it again as mp4 or png"
        ) from error
    with container:
        if container.format.name == "tty":
            raise MediaError(f"{path}: this is text; give a video or a picture")
        yield container, _video_stream(path, container)


def _video_stream(path: Path, container: "InputContainer") -> "VideoStream":
    from av.stream import Disposition

    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise MediaError(f"{path}: there is no video stream in it; give a file with moving pictures")
    stream = streams[0]
    check_size(path, stream.codec_context.width, stream.codec_context.height)
    _check_whole(path, stream)
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # a stream may change its size on the way
    stream.thread_type = "AUTO"
    return stream


def _check_whole(path: Path, stream: "VideoStream") -> None:
    """Files that tell where their last byte lies are known to be cut off before they are decoded."""
    entries = stream.index_entries  # mp4 and mov: every frame; others: what has been met so far
    last_frame = entries[-1].pos + entries[-1].size if len(entries) else 0
    if max(last_frame, _matroska_size(path)) > path.stat().st_size:
        raise MediaError(f"{path}: the file is cut off before its last frame; copy or export it again")


def _matroska_size(path: Path) -> int:
    """Where the one segment of a Matroska or WebM file ends, by its own header (RFC 8794); 0 where it does not tell."""
    with path.open("rb") as file:
        start = file.read(256)
    if not start.startswith(b"\x1a\x45\xdf\xa3"):
        return 0
    header_size, header_start = _variable_int(start, 4)
    segment = header_start + (header_size or 0)
    if start[segment : segment + 4] != b"\x18\x53\x80\x67" or len(start) < segment + 12:
        return 0
    segment_size, segment_start = _variable_int(start, segment + 4)
    return segment_start + segment_size if segment_size else 0


def _variable_int(data: bytes, at: int) -> tuple[int | None, int]:
    """An EBML number, None for the reserved "unknown", and where it ends."""
    length = 9 - data[at].bit_length()
    all_ones = (1 << 7 * length) - 1
    value = int.from_bytes(data[at : at + length]) & all_ones
    return None if value == all_ones else value, at + length


def _decoded(
    path: Path, container: "InputContainer", stream: "VideoStream"
) -> Iterator[tuple[float | None, EncodedFrame]]:
    from av.error import FFmpegError

    pixel_aspect = float(stream.sample_aspect_ratio or 1)
    frames = container.decode(stream)
    index = 0
    while True:
        try:
            frame = next(frames, None)
        except FFmpegError as error:
            raise MediaError(
                f"{path}: frame {index} cannot be decoded ({error.strerror}); cut it out or export the file again"
            ) from error
        if frame is None:
            break
        yield frame.time, EncodedFrame(path, index, frame, pixel_aspect)
        index += 1
    if index == 0:
        raise MediaError(f"{path}: its video stream holds no frame; export it again")


def _shown_size(encoded: EncodedFrame) -> tuple[int, int]:
    return round(encoded.frame.width * encoded.pixel_aspect), encoded.frame.height


def _frame_rate(stream: "VideoStream") -> float:
    rate = float(stream.average_rate or stream.guessed_rate or stream.base_rate or 0)
    return rate if rate > 0 else FALLBACK_FPS


def _declared_frames(container: "InputContainer", stream: "VideoStream") -> int:
    if stream.frames:
        return stream.frames
    microseconds = container.duration or 0
    return round(microseconds / 1_000_000 * _frame_rate(stream))


def _add_picture_stream(
    container: "OutputContainer", codec: Codec, width: int, height: int, fps: float
) -> "VideoStream":
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    rate = Fraction(fps).limit_denominator(1001)
    stream = cast("VideoStream", container.add_stream(codec.video, rate=rate, options=dict(codec.options)))
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context  # players guess the colours of untagged files by their size
    context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    return stream


def _encode_pictures(stream: "VideoStream", frames: np.ndarray) -> Iterator:
    from av import VideoFrame
    from av.video.reformatter import ColorRange, Colorspace

    for picture in frames:
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        yield from stream.encode(
            frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
        )
    yield from stream.encode()


def _encode_sound(container: "OutputContainer", codec: str, sound: np.ndarray) -> list:
    from av import AudioFrame

    stream = cast("AudioStream", container.add_stream(codec, rate=SAMPLE_RATE, options={"b": "192000"}))
    stream.layout = "stereo"
    packets = []
    for start in range(0, sound.shape[1], SOUND_CHUNK):
        chunk = np.ascontiguousarray(sound[:, start : start + SOUND_CHUNK])
        frame = AudioFrame.from_ndarray(chunk, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
        packets += stream.encode(frame)
    return packets + stream.encode()


def _decoded_sound(container: "InputContainer", stream: "AudioStream") -> Iterator[tuple[float, np.ndarray]]:
    """Second and float32 (2, samples) of each piece, resampled to 48 kHz stereo."""
    from av import AudioResampler

    resampler = AudioResampler(format="fltp", layout="stereo", rate=SAMPLE_RATE)
    for frame in container.decode(stream):
        for piece in resampler.resample(frame):
            yield piece.time or 0.0, piece.to_ndarray()

"""Which frames of a clip are read: index rules, pure functions (fact sheet 7.3 and 8.3)."""

import numpy as np

FRAME_STRIDE = 4  # the VAE is causal and takes 1 + 4n frames


def whole_stride(num_frames: int) -> int:
    """The largest 1 + 4n that is not above ``num_frames`` (at least 1)."""
    return num_frames - (num_frames - 1) % FRAME_STRIDE


def reading_stride(num_frames: int, wanted: int, stride: int, *, skip: int = 0) -> int:
    """The largest stride, at most ``stride``, at which a clip has ``wanted`` frames behind its first ``skip``.

    (Fact sheet of Omni-Video, 8.) Raises ValueError where even every single frame is too few.
    """
    fitting = min(stride, (num_frames - skip) // wanted)
    if fitting < 1:
        raise ValueError(
            f"{num_frames} frames, {skip} of them skipped, for {wanted} wanted: skip fewer or ask for fewer"
        )
    return fitting


def select_frames(
    video_fps: float, num_frames: int, *, target_fps: float, max_frames: int, clip_start_ratio: float = 0.0
) -> list[int]:
    """Indices that play a clip of ``num_frames`` at ``video_fps`` as at most ``max_frames`` at ``target_fps``.

    The rule the published weights were trained and are used with (fact sheet 7.3, tables ``load_video_indices`` and
    ``training_read_video_indices``): positions add up in floating point and are rounded half to even, a slower clip
    repeats frames, and the count is cut to 1 + 4n. ``clip_start_ratio`` in 0..1 moves the start between the first
    frame and the last at which the wanted length still fits.
    """
    if num_frames < 1 or max_frames < 1 or not (video_fps > 0 and target_fps > 0):
        raise ValueError(
            f"num_frames={num_frames}, max_frames={max_frames}, video_fps={video_fps}, target_fps={target_fps}: "
            "all must be positive"
        )
    frames_in_range = min(int(video_fps * ((max_frames - 1) / target_fps)) + 1, num_frames)
    start = round(clip_start_ratio * (num_frames - frames_in_range))
    return _walk(start, frames_in_range, step=video_fps / target_fps, max_frames=max_frames)


def frames_to_read(video_fps: float, num_frames: int, *, target_fps: float, max_frames: int) -> list[int]:
    """``select_frames`` from the first frame, without its loss where rounding ends the range one frame early.

    A clip of 29.97 frames a second, read as 121 frames at 24, has the 121st at position 149.85: the published rule
    counts 150 frames in range, rounds to 150, stops at 120 frames and cuts to 117. This gives all 121.
    """
    return _walk(0, num_frames, step=video_fps / target_fps, max_frames=max_frames)


def _walk(start: int, frames_in_range: int, *, step: float, max_frames: int) -> list[int]:
    indices: list[int] = []
    position = 0.0
    while len(indices) < max_frames and (index := round(start + position)) < start + frames_in_range:
        indices.append(index)
        position += step
    return indices[: whole_stride(len(indices))]


def even_frames(num_frames: int, count: int) -> list[int]:
    """``count`` indices spread evenly over a whole clip, first and last frame among them (fact sheet of VINO, 3.2).

    Rounded half to even; a clip of fewer frames repeats some.
    """
    return [int(index) for index in np.linspace(0, num_frames - 1, count).round()]


def leading_frames(num_frames: int, max_frames: int, step: float = 1.0) -> list[int]:
    """A clip's first 1 + 4n frames, at most ``max_frames``: each, or about one in ``step`` (fact sheet of VINO, 6.3).

    Frames are left out only as far as enough remain. The published rule rounds that bound up, too, and then runs past
    the end.
    """
    count = whole_stride(min(num_frames, max_frames))
    stride = max(1, min(round(step), (num_frames - 1) // max(1, count - 1)))
    return list(range(0, count * stride, stride))

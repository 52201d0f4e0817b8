"""Clips and pictures through files: what goes in comes out, and what cannot be read says why in one line."""

import os
import resource
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from zlib import crc32

import av
import numpy as np
import pytest
from PIL import Image

from loomvideo.media import video
from loomvideo.media.clip import (
    Clip,
    MediaError,
    check_output,
    probe,
    read_clip,
    read_metadata,
    read_picture,
    read_spread,
    write_clip,
    write_picture,
)

REAL_CLIPS = Path(__file__).parents[3] / "shared" / "media"
RECIPE = {"prompt": "ein roter Kreis, 红色 🔴", "seed": 3, "steps": 20}


def four_quarters(num_frames=9, height=48, width=64):
    """Red, green over blue, and a grey that counts the frames by tens."""
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    frames[:, : height // 2, : width // 2] = (255, 0, 0)
    frames[:, : height // 2, width // 2 :] = (0, 255, 0)
    frames[:, height // 2 :, : width // 2] = (0, 0, 255)
    frames[:, height // 2 :, width // 2 :] = 10 * np.arange(num_frames)[:, None, None, None]
    return frames


def frame_numbers(frames):
    """What ``four_quarters`` counts in the middle of its lower right quarter."""
    *_, height, width, _ = frames.shape
    return np.round(frames[:, height * 3 // 4, width * 3 // 4].mean(axis=-1) / 10).astype(int).tolist()


def encode(path, frames, *, codec="libx264", pix_fmt="yuv420p", rate=8, rotation=0, times=None, aspect=None):
    """A file as another program would write it. ``times`` are in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def encode_tone(path, seconds, frames=None):
    """A file with a 440 Hz tone, and a picture stream if ``frames`` are given."""
    with av.open(str(path), "w") as container:
        video = None if frames is None else container.add_stream("libx264", rate=8)
        if video:
            video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
        audio = container.add_stream("aac", rate=44100, layout="mono")
        for picture in [] if frames is None else frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if video:
            container.mux(video.encode())
        wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(44100 * seconds)) / 44100, dtype=np.float32)
        for start in range(0, len(wave), 1024):
            sound = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 44100, start
            container.mux(audio.encode(sound))
        container.mux(audio.encode())
    return path


# --- round trips


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".m4v", ".mkv", ".webm", ".gif"])
def test_a_written_clip_is_read_back(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    frames = four_quarters()
    write_clip(path, Clip(frames, 10.0), metadata=RECIPE)
    back = read_clip(path, fps=10, max_frames=9)
    assert back.frames.shape == frames.shape
    assert frame_numbers(back.frames) == list(range(9))
    flat = [(12, 16), (12, 48), (36, 16)]
    for y, x in flat:
        np.testing.assert_allclose(back.frames[:, y, x].astype(int), frames[:, y, x].astype(int), atol=8)
    assert probe(path).fps == pytest.approx(10)
    assert read_metadata(path) == RECIPE


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp"])
def test_a_written_picture_is_read_back(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    picture = four_quarters()[8]
    write_picture(path, picture, metadata=RECIPE)
    np.testing.assert_allclose(
        read_picture(path).astype(int), picture.astype(int), atol=8 if suffix.startswith(".j") else 0
    )
    assert probe(path).kind == "image"
    assert read_metadata(path) == RECIPE


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.webm", "out.gif"])
def test_the_same_clip_gives_the_same_bytes(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (17, 128, 128, 3), np.uint8)
    (tmp_path / "again").mkdir()
    for folder in (tmp_path, tmp_path / "again"):
        write_clip(folder / name, Clip(noise, 8.0), metadata=RECIPE)
    assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_long_prompt_fits_into_every_file(tmp_path):
    recipe = {"prompt": "圆" * 10_000, "negative_prompt": "方" * 10_000}
    write_clip(tmp_path / "a.mp4", Clip(four_quarters(1), 8.0), metadata=recipe)
    assert read_metadata(tmp_path / "a.mp4") == recipe
    for suffix in (".png", ".jpg", ".webp"):
        write_picture(tmp_path / f"a{suffix}", four_quarters()[0], metadata=recipe)
        assert read_metadata(tmp_path / f"a{suffix}") == recipe


def test_a_file_without_recipe_says_so(tmp_path):
    write_clip(tmp_path / "plain.mp4", Clip(four_quarters(), 8.0))
    write_picture(tmp_path / "plain.png", four_quarters()[0])
    for name in ("plain.mp4", "plain.png"):
        with pytest.raises(MediaError, match=f"{name}: carries no recipe"):
            read_metadata(tmp_path / name)


# --- reading clips


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("in.mp4", "mpeg4", "yuv420p"),
        ("in.avi", "mjpeg", "yuvj420p"),
        ("in.mkv", "ffv1", "bgr0"),
        ("in.mp4", "libx265", "yuv420p10le"),
        ("in.webm", "libvpx", "yuv420p"),
        ("in.ts", "libx264", "yuv444p"),
        ("in.h264", "libx264", "yuv420p"),
    ],
)
def test_other_programs_files_are_read(tmp_path, name, codec, pix_fmt):
    path = encode(tmp_path / name, four_quarters(), codec=codec, pix_fmt=pix_fmt)
    info = probe(path)
    assert (info.kind, info.width, info.height) == ("video", 64, 48)
    back = read_clip(path, fps=info.fps, max_frames=9)
    assert frame_numbers(back.frames) == list(range(9))


def test_odd_sizes_are_read_whole(tmp_path):
    path = encode(tmp_path / "odd.mp4", four_quarters(5, height=47, width=65), pix_fmt="yuv444p")
    assert read_clip(path, fps=8, max_frames=5).frames.shape == (5, 47, 65, 3)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_rotation_flag_is_honoured(tmp_path, rotation):
    path = encode(tmp_path / "in.mp4", four_quarters(), rotation=rotation)
    upright = np.rot90(four_quarters(), k=rotation // 90, axes=(1, 2))
    info = probe(path)
    assert (info.height, info.width) == upright.shape[1:3]
    back = read_clip(path, fps=8, max_frames=9).frames
    assert np.abs(back.astype(int) - upright).mean() < 4


def test_pixels_that_are_not_square_become_so(tmp_path):
    path = encode(tmp_path / "in.mp4", four_quarters(), aspect=Fraction(3, 2))
    assert (probe(path).width, probe(path).height) == (96, 48)
    assert read_clip(path, fps=8, max_frames=1).frames.shape == (1, 48, 96, 3)


def test_a_clip_is_read_at_the_rate_asked_for_and_no_further_than_needed(tmp_path):
    path = encode(tmp_path / "in.mp4", four_quarters(24), rate=24)
    assert frame_numbers(read_clip(path, fps=8, max_frames=5).frames) == [0, 3, 6, 9, 12]
    assert frame_numbers(read_clip(path, fps=48, max_frames=5).frames) == [0, 0, 1, 2, 2]
    assert len(read_clip(path, fps=24, max_frames=100).frames) == 21


def test_a_clip_of_variable_rate_plays_at_the_speed_of_its_clock(tmp_path):
    times = [0, 100, 200, 300, 400, 1200, 1300, 1400, 1500]
    path = encode(tmp_path / "in.mkv", four_quarters(9), times=times, rate=10)
    shown = frame_numbers(read_clip(path, fps=10, max_frames=17).frames)
    assert shown[:5] == [0, 1, 2, 3, 4]
    assert shown[4:12] == [4] * 8
    assert shown[12] == 5


def test_frames_are_resized_as_they_are_read(tmp_path):
    path = encode(tmp_path / "in.mp4", four_quarters())
    assert read_clip(path, fps=8, max_frames=9, size=(32, 32)).frames.shape == (9, 32, 32, 3)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".gif"])
@pytest.mark.parametrize(("num_frames", "wanted"), [(9, [0, 3, 5, 8]), (3, [0, 1, 1, 2]), (1, [0, 0, 0, 0])])
def test_spread_frames_reach_from_a_clips_first_to_its_last(tmp_path, suffix, num_frames, wanted):
    path = tmp_path / f"out{suffix}"
    write_clip(path, Clip(four_quarters(num_frames), 8))
    spread = read_spread(path, 4)
    assert spread.shape == (4, 48, 64, 3)
    assert frame_numbers(spread) == wanted


@pytest.mark.parametrize("promised", [0, 9])
def test_a_header_that_promises_more_frames_than_there_are_is_not_believed(tmp_path, monkeypatch, promised):
    path = tmp_path / "out.mp4"
    write_clip(path, Clip(four_quarters(5), 8))
    monkeypatch.setattr(video, "_declared_frames", lambda *_: promised)
    assert frame_numbers(read_spread(path, 4)) == [0, 1, 3, 4]


def test_a_picture_and_a_clip_of_one_frame_are_clips_of_one_frame(tmp_path):
    write_picture(tmp_path / "in.png", four_quarters()[0])
    encode(tmp_path / "in.mp4", four_quarters(1))
    for name in ("in.png", "in.mp4"):
        assert read_clip(tmp_path / name, fps=8, max_frames=17).frames.shape == (1, 48, 64, 3)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animated_pictures_are_clips(tmp_path, suffix):
    path = tmp_path / f"in{suffix}"
    first, *rest = [Image.fromarray(frame) for frame in four_quarters()]
    first.save(path, save_all=True, append_images=rest, duration=120, loop=0)
    info = probe(path)
    assert (info.kind, info.num_frames, info.fps) == ("video", 9, pytest.approx(1 / 0.12))
    assert frame_numbers(read_clip(path, fps=1 / 0.12, max_frames=9).frames) == list(range(9))


@pytest.mark.parametrize("name", ["tennis_478p.mp4", "florist_480p.mp4"])
def test_real_clips_are_read_at_their_size_and_the_models_rate(name):
    path = REAL_CLIPS / name
    if not path.exists():
        pytest.skip(f"{name} is not in shared/media beside the repository")
    info = probe(path)
    assert info.height in (478, 480)
    back = read_clip(path, fps=8, max_frames=17)
    assert back.frames.shape == (17, info.height, info.width, 3)
    assert 40 < back.frames.mean() < 215
    # Decoded without FFmpeg's clock: the frames at 2 s of 24 or 15 frames a second.
    with av.open(str(path)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    np.testing.assert_array_equal(back.frames[16], decoded[round(2 * info.fps)])


# --- sound


def sound_of(path):
    with av.open(str(path)) as container:
        pieces = [frame.to_ndarray() for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    return np.concatenate(pieces, axis=1), rate


@pytest.mark.parametrize("name", ["out.mp4", "out.webm", "out.mkv"])
def test_the_sources_sound_is_kept_and_cut_to_the_clip(tmp_path, name):
    source = encode_tone(tmp_path / "in.mp4", seconds=3, frames=four_quarters(24))
    assert probe(source).has_sound
    write_clip(tmp_path / name, Clip(four_quarters(9), 8.0), sound_from=source)
    assert probe(tmp_path / name).has_sound
    sound, rate = sound_of(tmp_path / name)
    assert sound.shape[1] / rate == pytest.approx(9 / 8, abs=0.06)
    spectrum = np.abs(np.fft.rfft(sound[0, rate // 4 : rate // 4 + rate // 2]))
    assert 2 * spectrum.argmax() == pytest.approx(440, abs=4)


def test_a_silent_source_gives_a_silent_clip(tmp_path):
    source = encode(tmp_path / "in.mp4", four_quarters())
    write_clip(tmp_path / "out.mp4", Clip(four_quarters(), 8.0), sound_from=source)
    assert not probe(tmp_path / "out.mp4").has_sound


def test_sound_shorter_than_the_clip_ends_before_it(tmp_path):
    source = encode_tone(tmp_path / "in.mp4", seconds=0.5, frames=four_quarters(4))
    write_clip(tmp_path / "out.mp4", Clip(four_quarters(17), 8.0), sound_from=source)
    sound, rate = sound_of(tmp_path / "out.mp4")
    assert sound.shape[1] / rate == pytest.approx(0.5, abs=0.1)
    assert len(read_clip(tmp_path / "out.mp4", fps=8, max_frames=17).frames) == 17


# --- pictures


def test_a_sideways_photograph_is_turned_upright(tmp_path):
    upright = four_quarters()[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be turned a quarter clockwise
    Image.fromarray(np.rot90(upright)).save(tmp_path / "in.png", exif=exif)
    assert (probe(tmp_path / "in.png").width, probe(tmp_path / "in.png").height) == (64, 48)
    np.testing.assert_array_equal(read_picture(tmp_path / "in.png"), upright)


def test_sixteen_bits_a_channel_become_eight(tmp_path):
    levels = (np.arange(32 * 32).reshape(32, 32) * 64).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "grey.png")[..., 1], levels // 257)


@pytest.mark.parametrize("mode", ["P", "L", "1", "CMYK", "RGBA", "LA", "PA"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    image = Image.fromarray(four_quarters()[0])
    path = tmp_path / ("in.tiff" if mode in ("CMYK", "PA") else "in.png")
    if mode == "PA":
        image = image.convert("P")
        path = path.with_suffix(".png")
    else:
        image = image.convert(mode)
    image.save(path)
    picture = read_picture(path)
    assert (picture.shape, picture.dtype) == ((48, 64, 3), np.uint8)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparency_lies_on_white(tmp_path, mode):
    clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    (clear if mode == "RGBA" else clear.quantize(2)).save(tmp_path / "in.png")
    assert (read_picture(tmp_path / "in.png") == 255).all()


def test_a_video_is_no_picture(tmp_path):
    path = encode(tmp_path / "in.mp4", four_quarters())
    with pytest.raises(MediaError, match=r"in\.mp4: this is a video and a picture is needed"):
        read_picture(path)


# --- files that are refused


def png_header(width, height):
    """The first bytes of a PNG of any size: what a decompression bomb starts with."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + bytes(64)
    chunks = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", crc32(chunk)) for chunk in (header, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def cut_off(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def bad_file(tmp_path, kind):
    path = tmp_path / "bad.mp4"
    match kind:
        case "missing":
            pass
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
        case "text named mp4":
            path.write_text("once upon a time\n" * 100)
        case "text":
            path = path.with_suffix(".txt")
            path.write_text("once upon a time\n" * 100)
        case "random bytes":
            path.write_bytes(np.random.default_rng(0).bytes(5000))
        case "cut off, index last":
            encode(path, np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), np.uint8))
            cut_off(path, 0.6)
        case "cut off, index first":
            write_clip(path, Clip(np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), np.uint8), 8.0))
            cut_off(path, 0.6)
        case "cut off mkv":
            path = path.with_suffix(".mkv")
            write_clip(path, Clip(np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), np.uint8), 8.0))
            cut_off(path, 0.6)
        case "sound only":
            encode_tone(path, seconds=1)
        case "playlist":
            encode(tmp_path / "secret.mp4", four_quarters())
            path.write_text("ffconcat version 1.0\nfile /etc/hostname\n")
        case "cut off png":
            path = path.with_suffix(".png")
            write_picture(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
            cut_off(path, 0.6)
        case "1x1 png":
            path = path.with_suffix(".png")
            Image.new("RGB", (1, 1)).save(path)
        case "60000x60000 png":
            path = path.with_suffix(".png")
            path.write_bytes(png_header(60_000, 60_000))
        case "12000x12000 png":
            path = path.with_suffix(".png")
            path.write_bytes(png_header(12_000, 12_000))
        case "8x8 video":
            encode(path, four_quarters(3, height=8, width=8))
    return path


BAD_FILES = {
    "missing": "there is no such file",
    "empty": r"empty \(0 bytes\)",
    "folder": "folder",
    "text named mp4": "no video or picture that FFmpeg reads",
    "text": "this is text",
    "random bytes": "no video or picture|no video stream",
    "cut off, index last": "no video or picture .* cut off",
    "cut off, index first": "cut off before its last frame",
    "cut off mkv": "cut off",
    "sound only": "no video stream",
    "playlist": "no video or picture",
    "1x1 png": "1x1 pixels; sides must be 16 to 16384",
    "60000x60000 png": "60000x60000 pixels; sides must be",
    "12000x12000 png": "12000x12000 pixels; .* area at most",
    "8x8 video": "8x8 pixels; sides must be 16 to 16384",
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_refused_by_its_header_with_its_name_and_the_reason(tmp_path, kind):
    path = bad_file(tmp_path, kind)
    for read in (probe, lambda path: read_clip(path, fps=8, max_frames=17), read_picture):
        with pytest.raises(MediaError, match=BAD_FILES[kind]) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_picture_cut_off_is_refused_when_it_is_decoded(tmp_path):
    path = bad_file(tmp_path, "cut off png")
    with pytest.raises(MediaError, match=r"bad\.png: this picture cannot be decoded"):
        read_picture(path)


@pytest.mark.parametrize("filler", [b"\x00", b"\xa5"])
def test_a_damaged_frame_is_named(tmp_path, filler):
    path = tmp_path / "in.mp4"
    encode(path, np.random.default_rng(0).integers(0, 256, (17, 64, 64, 3), np.uint8))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 6000] = filler * 6000
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"in\.mp4: frame \d+ (is damaged|cannot be decoded)"):
        read_clip(path, fps=8, max_frames=17)


def test_damaged_sound_costs_the_sound_and_not_the_clip(tmp_path):
    source = encode_tone(tmp_path / "in.mp4", seconds=3, frames=four_quarters(4))
    data = bytearray(source.read_bytes())
    index = data.index(b"moov")
    data[index - 12_000 : index - 8] = np.random.default_rng(0).bytes(12_000 - 8)
    source.write_bytes(data)
    with pytest.warns(UserWarning, match=r"in\.mp4: its sound is kept up to \d\.\d s only"):
        write_clip(tmp_path / "out.mp4", Clip(four_quarters(17), 8.0), sound_from=source)
    assert len(read_clip(tmp_path / "out.mp4", fps=8, max_frames=17).frames) == 17


# --- files that cannot be written


def left_behind(folder):
    return [entry.name for entry in folder.iterdir()]


@pytest.mark.parametrize("name", ["out", "out.txt", "out.png"])
def test_a_suffix_that_is_no_clip_names_those_that_are(tmp_path, name):
    with pytest.raises(MediaError, match=r"use \.mp4, \.m4v, \.mov, \.mkv, \.webm, \.gif"):
        write_clip(tmp_path / name, Clip(four_quarters(), 8.0))
    assert left_behind(tmp_path) == []


def test_odd_sides_cannot_be_written_as_video(tmp_path):
    with pytest.raises(MediaError, match="47x33 pixels; video needs even sides"):
        write_clip(tmp_path / "out.mp4", Clip(four_quarters(5, height=33, width=47), 8.0))


@pytest.mark.parametrize("name", ["out.mp4", "out.webm", "out.gif", "out.png"])
def test_a_full_disk_is_named_and_leaves_the_old_file_and_no_half_of_a_new_one(tmp_path, name):
    path = tmp_path / name
    path.write_text("old")
    noise = np.random.default_rng(0).integers(0, 256, (9, 128, 128, 3), np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # Python turns the signal into an error
    try:
        with pytest.raises(MediaError, match=rf"{name}: cannot be written \(.+\); choose another folder"):
            write_picture(path, noise[0]) if name == "out.png" else write_clip(path, Clip(noise, 8.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert left_behind(tmp_path) == [name]
    assert path.read_text() == "old"


def test_an_output_folder_that_is_a_file_is_named_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    for write in (check_output, lambda path: write_clip(path, Clip(four_quarters(), 8.0))):
        with pytest.raises(MediaError, match=r"out\.mp4: cannot be written"):
            write(tmp_path / "file" / "out.mp4")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(MediaError, match="Permission denied"):
        check_output(tmp_path / "out.mp4")


def test_an_output_that_is_a_folder_is_named_before_the_work(tmp_path):
    (tmp_path / "out.mp4").mkdir()
    with pytest.raises(MediaError, match=r"out\.mp4: this is a folder"):
        check_output(tmp_path / "out.mp4")


def test_a_missing_output_folder_is_made_and_a_check_leaves_nothing_in_it(tmp_path):
    check_output(tmp_path / "new" / "out.mp4")
    assert left_behind(tmp_path / "new") == []


def test_the_package_can_be_imported_where_there_is_no_ffmpeg():
    program = "import sys; sys.modules['av'] = None; import loomvideo.systems.plan"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_the_same_frames_are_the_same_bytes_whatever_memory_held_before(tmp_path, suffix):
    rng = np.random.default_rng(0)
    frames = np.asarray(rng.normal(size=(5, 64, 64, 3)).cumsum(axis=1) * 20 + 128).clip(0, 255).astype(np.uint8)
    seen = set()
    for size in (3_000, 30_000, 200_000, 1_000_000) * 3:
        junk = rng.bytes(size)
        write_clip(tmp_path / f"again{suffix}", Clip(frames, 8))
        del junk
        seen.add((tmp_path / f"again{suffix}").read_bytes())
    assert len(seen) == 1

"""Pictures and animated pictures, with Pillow: GIF, WebP and PNG animations are clips, anything else is one picture."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from loomvideo.media.limits import MediaError, check_size, size_error

# Formats that show what they are in their first bytes. Pillow's text, vector and video formats are left out.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
ANIMATED = ("GIF", "WEBP", "PNG")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
DEFAULT_FRAME_SECONDS = 0.1  # what browsers show a frame for when a file says less than 10 ms
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


@dataclass(frozen=True)
class PictureHeader:
    """What is known before a pixel is decoded; width and height as shown, after EXIF orientation."""

    width: int
    height: int
    num_frames: int
    fps: float  # by how long the first frame is shown; 0 for a picture
    comment: str | None


def read_header(path: Path) -> PictureHeader | None:
    """The header of a picture file, or None for a file that is no picture."""
    with _opened(path) as image:
        if image is None:
            return None
        num_frames = getattr(image, "n_frames", 1) if image.format in ANIMATED else 1
        if num_frames > 1:
            image.load()  # only then a WebP knows its first frame's duration
            return PictureHeader(*image.size, num_frames, 1 / frame_seconds(image), _comment(image))
        sideways = image.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS
        width, height = image.size[::-1] if sideways else image.size
        return PictureHeader(width, height, 1, 0.0, _comment(image))


def read_picture(path: Path) -> np.ndarray:
    """uint8 (y, x, 3): upright, 8 bit, on white."""
    with _opened(path) as image:
        if image is None:
            raise MediaError(f"{path}: this is no picture; give a png, jpg or webp file")
        return to_rgb(ImageOps.exif_transpose(image))


def decode_animation(path: Path) -> Iterator[tuple[float, np.ndarray]]:
    """Every frame of an animated picture: the second at which it appears, and uint8 (y, x, 3)."""
    seconds = 0.0
    with _opened(path) as image:
        if image is None:
            raise MediaError(f"{path}: this is no animated picture; give a gif, webp or png animation")
        for index in range(getattr(image, "n_frames", 1)):
            try:
                image.seek(index)
                frame = to_rgb(image)
            except Exception as error:
                raise MediaError(f"{path}: frame {index} cannot be decoded ({error}); export it again") from error
            yield seconds, frame
            seconds += frame_seconds(image)


def frame_seconds(image: Image.Image) -> float:
    """How long the current frame of an animated picture is shown."""
    milliseconds = float(image.info.get("duration") or 0)
    return milliseconds / 1000 if milliseconds >= 10 else DEFAULT_FRAME_SECONDS


def to_rgb(image: Image.Image) -> np.ndarray:
    """uint8 (y, x, 3) of any mode: 16 bits to 8, palettes and greys to colours, transparency onto white."""
    if image.mode.startswith("I"):  # 16-bit greys; Pillow opens some of them as 32-bit integers
        levels = np.asarray(image).astype(np.int64)
        image = Image.fromarray((levels.clip(0, 65_535) // 257).astype(np.uint8))
    elif image.mode == "F":
        image = Image.fromarray((np.nan_to_num(np.asarray(image)).clip(0, 1) * 255).round().astype(np.uint8))
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return np.asarray(image.convert("RGB")).copy()


def save_picture(path: Path, picture: np.ndarray, comment: str) -> None:
    """Write uint8 (y, x, 3) as png, jpg or webp by suffix; ``comment`` (may be empty) goes into its metadata."""
    image = Image.fromarray(picture)
    match path.suffix.lower():
        case ".png":
            chunks = PngImagePlugin.PngInfo()
            if comment:
                chunks.add_itxt("comment", comment)
            image.save(path, pnginfo=chunks)
        case ".webp":
            exif = Image.Exif()
            if comment:
                exif[ExifTags.Base.ImageDescription] = comment.encode()
            image.save(path, lossless=True, exif=exif)
        case _:
            image.save(path, quality=95, subsampling=0, comment=comment.encode() or None)


def save_animation(path: Path, frames: np.ndarray, fps: float, comment: str) -> None:
    """Write uint8 (t, y, x, 3) as a looping GIF; its clock counts hundredths of a second."""
    ticks = [round(100 * index / fps) for index in range(len(frames) + 1)]
    durations = [10 * max(1, after - before) for before, after in pairwise(ticks)]
    first, *rest = [Image.fromarray(frame) for frame in frames]
    first.save(
        path, save_all=True, append_images=rest, duration=durations, loop=0, comment=comment.encode(), optimize=False
    )


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image | None]:
    """The picture, its size checked and nothing of it decoded; None for another kind of file. Names every failure."""
    step = "opened"
    try:
        with path.open("rb") as file:
            image = _identified(file, str(path))
            if image is not None:
                check_size(path, *image.size)
            step = "decoded"
            yield image
    except MediaError:
        raise
    except Image.DecompressionBombError as error:  # WebP's and GIF's readers check by themselves, and tell no sides
        raise size_error(path, "too many pixels") from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged data
        raise MediaError(f"{path}: this picture cannot be {step} ({error}); export it again") from error


def _identified(file: IO[bytes], name: str) -> Image.Image | None:
    """The picture, of which the header is read; None for another kind of file.

    As Image.open does it, but for its limit on pixels, which holds for the whole process and does not tell the sides of
    what it refuses: check_size is stricter.
    """
    Image.init()
    prefix = file.read(16)
    for make, accepts in (Image.OPEN[kind] for kind in FORMATS if kind in Image.OPEN):
        if accepts is None or accepts(prefix) is True:
            file.seek(0)
            try:
                return make(file, name)
            except (SyntaxError, IndexError, TypeError, struct.error):  # what readers say to what is not theirs
                continue
    return None


def _comment(image: Image.Image) -> str | None:
    if description := image.getexif().get(ExifTags.Base.ImageDescription):
        return description.encode("latin-1", "replace").decode(errors="replace")
    comment = image.info.get("comment")
    return comment.decode(errors="replace") if isinstance(comment, bytes) else comment

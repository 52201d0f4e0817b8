"""What a clip or picture may be. Files are untrusted: they are held to these limits before anything is decoded."""

from pathlib import Path

MIN_SIDE = 16
MAX_SIDE = 16_384
MAX_PIXELS = 16_384 * 8_192  # 400 MB once decoded


class MediaError(ValueError):
    """A clip or picture cannot be read or written: its name, the rule and the way out, in one line."""


def check_file(path: Path) -> None:
    """Raise MediaError unless ``path`` is a readable file that holds something."""
    if not path.exists():
        raise MediaError(f"{path}: there is no such file; check the path")
    if not path.is_file():
        raise MediaError(f"{path}: this is no file but a folder or device; name one clip or picture in it")
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except OSError as error:
        raise MediaError(f"{path}: cannot be opened ({error.strerror}); check who may read it") from error
    if not first:
        raise MediaError(f"{path}: the file is empty (0 bytes); copy or export it again")


def check_size(name: object, width: int, height: int) -> None:
    """Raise MediaError unless a clip or picture, called ``name`` in the message, is of a size that is decoded."""
    if not (MIN_SIDE <= width <= MAX_SIDE and MIN_SIDE <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise size_error(name, f"{width}x{height} pixels")


def size_error(name: object, size: str) -> MediaError:
    return MediaError(
        f"{name}: {size}; sides must be {MIN_SIDE} to {MAX_SIDE} pixels and the area at most {MAX_PIXELS:,}, "
        "so scale it first"
    )

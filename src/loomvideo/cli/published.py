"""Published weights as they are, on a command line: a model folder is made of them once and kept in the cache."""

import argparse
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from loomvideo.cli import published_loomvideo, published_omnivideo, published_vino
from loomvideo.cli.options import UsageError
from loomvideo.cli.progress import Progress


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the published programs' weights as they are")
    group.add_argument(
        "--checkpoint",
        "--ckpt_path",
        "--ckpt_dir",
        type=Path,
        metavar="FILE",
        help="gen_model.pth, or with --system vino vino.ckpt, or a folder that holds it; with --system omnivideo its folder",
    )
    published_loomvideo.add_options(group)
    published_vino.add_options(group)
    published_omnivideo.add_options(group)


def with_model(arguments: argparse.Namespace, options: Mapping[str, Any], progress: Progress) -> dict:
    """The options with the model that --checkpoint stands for."""
    if arguments.checkpoint is None:
        return dict(options)
    if "model" in options:
        raise UsageError("--model and --checkpoint both name weights; give one of them")
    if not arguments.checkpoint.exists():
        raise UsageError(
            f"--checkpoint {arguments.checkpoint}: there is no such file; name gen_model.pth, vino.ckpt or its folder"
        )
    program: Any = {"vino": published_vino, "omnivideo": published_omnivideo}.get(
        str(options.get("system")), published_loomvideo
    )
    folder = cache_folder() / fingerprint(arguments.checkpoint, program.model_settings(arguments))
    if not folder.exists():
        progress.stage(f"making a model folder of {arguments.checkpoint}, once")
        program.assemble(arguments, folder)
    return {**options, "model": str(folder)}


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "loomvideo", "published")


def fingerprint(checkpoint: Path, settings: tuple) -> str:
    """A name that another file, or another setting of the model, does not have."""
    content = sorted(file for file in checkpoint.rglob("*") if file.is_file()) if checkpoint.is_dir() else [checkpoint]
    files = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in content]
    return sha256(repr((files, settings)).encode()).hexdigest()[:16]

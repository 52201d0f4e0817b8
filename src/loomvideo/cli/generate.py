"""``loomvideo generate``: one clip or picture from words, a source and reference pictures."""

import argparse
import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from loomvideo.cli import batch, published
from loomvideo.cli.options import (
    MODEL_OPTIONS,
    REQUEST_OPTIONS,
    UsageError,
    add_model_options,
    add_request_options,
    given,
)
from loomvideo.cli.progress import Progress, show_progress
from loomvideo.cli.session import Made, Session, make, request_of
from loomvideo.media.clip import check_output, read_metadata
from loomvideo.media.limits import check_file
from loomvideo.media.pictures import PICTURE_SUFFIXES

USAGE = """loomvideo generate --prompt TEXT [--source FILE] [--reference FILE ...] [--output FILE] [options]
       loomvideo generate --like FILE [options]
       loomvideo generate --batch FILE --output-dir DIR [options]"""

EXAMPLES = """\
examples:
  loomvideo generate --prompt "a red circle moves right on a blue background" --output out.mp4
  loomvideo generate --prompt "a yellow star on a starry night" --output star.png
  loomvideo generate --source in.mp4 --prompt "turn the circle into a green star" --output out.mp4
  loomvideo generate --source in.mp4 --reference ref.png --prompt "replace the circle with the object in Image 1" --output out.mp4
  loomvideo generate --reference a.png --reference b.png --prompt "the object in @Image 1 moves left in front of @Image 2" --output out.mp4
  loomvideo generate --like out.mp4 --seed 5 --output again.mp4
  loomvideo generate --batch requests.jsonl --output-dir results/

a batch holds one request a line; files are named relative to its folder:
  {"id": "a1", "prompt": "make it snow", "source": "in.mp4", "references": ["ref.png"], "num_frames": 17, "seed": 3}

The published LoomVideo program's options (--source_video_path, --ref_image_paths, --num_inference_steps, --ckpt_path,
--config_path ...) mean here what they mean there.
"""


def add_parser(commands: "argparse._SubParsersAction") -> None:
    parser = commands.add_parser("generate", usage=USAGE, epilog=EXAMPLES, help="make or edit a clip or picture")
    add_request_options(parser)
    add_model_options(parser)
    published.add_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        "--output_path",
        type=Path,
        metavar="FILE",
        help="mp4, mov, mkv, webm, gif; png, jpg, webp for a picture (default: outputs/loomvideo_TASK_TIME.mp4 or .png)",
    )
    output.add_argument("--like", type=Path, metavar="FILE", help="make this file again; options given here win")
    output.add_argument("--batch", type=Path, metavar="FILE", help="requests to carry out, one JSON object a line")
    output.add_argument("--output-dir", type=Path, metavar="DIR", help="where a batch writes ID.mp4 or ID.png")
    output.add_argument("--quiet", action="store_true", help="print nothing but errors")
    output.add_argument("--json", action="store_true", help="print one JSON object about what was made")


def run(arguments: argparse.Namespace) -> int:
    if (arguments.batch is None) != (arguments.output_dir is None):
        raise UsageError("--batch and --output-dir go together: give both, or --output for one file")
    with show_progress(quiet=arguments.quiet) as progress:
        if arguments.batch is not None:
            return batch.run(arguments, progress)
        made = generate(arguments, progress)
    report(made, arguments)
    return 0


def generate(arguments: argparse.Namespace, progress: Progress) -> Made:
    """Options and files first, the model after: what is wrong is told at once."""
    options = merged_options(arguments)
    output: Path | None = arguments.output
    if output is not None:
        check_output(output)
        if output.suffix.lower() in PICTURE_SUFFIXES:
            options.setdefault("num_frames", 1)
    request = request_of(options)
    for file in (request.source, *request.references):
        check_input(Path(str(file)), output)
    session = Session(options, progress)
    decided = session.plan(request)
    if output is None:
        output = default_output()
    return make(session, request, decided, output)

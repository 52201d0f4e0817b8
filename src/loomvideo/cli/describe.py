"""``loomvideo describe``: what a clip or picture shows, or the answer to a question about it."""

import argparse
import json
import time
from pathlib import Path

from loomvideo.cli.options import MODEL_OPTIONS, UsageError, add_model_options, given, number, whole_number
from loomvideo.cli.progress import show_progress
from loomvideo.cli.session import Session
from loomvideo.media.limits import check_file

EXAMPLES = """\
examples:
  loomvideo describe in.mp4
  loomvideo describe in.mp4 --question "how many circles are there?"
  loomvideo describe picture.png --question "which colour is the star?" --json
"""


def add_parser(commands: "argparse._SubParsersAction") -> None:
    parser = commands.add_parser("describe", help="say what a clip or picture shows", epilog=EXAMPLES)
    parser.add_argument("file", type=Path, metavar="FILE", help="a clip or picture; a clip is seen from end to end")
    parser.add_argument("--question", metavar="TEXT", help="what to answer (default: describe it)")
    decoding = parser.add_argument_group("decoding")
    decoding.add_argument(
        "--temperature", type=number, default=0.2, metavar="T", help="0 takes the likeliest words (default: 0.2)"
    )
    decoding.add_argument("--top-p", type=number, default=0.6, metavar="P", help="(default: 0.6)")
    decoding.add_argument(
        "--max-new-tokens", type=whole_number, default=1024, metavar="N", help="at most so many (default: 1024)"
    )
    decoding.add_argument("--seed", type=whole_number, default=0, metavar="N", help="(default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the text as it comes")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    from loomvideo.models.reader import Decoding
    from loomvideo.systems.pipeline import DESCRIBE

    check_file(arguments.file)
    try:
        decoding = Decoding(arguments.temperature, arguments.top_p, arguments.max_new_tokens, arguments.seed)
    except ValueError as error:
        raise UsageError(str(error)) from error
    question = DESCRIBE if arguments.question is None else arguments.question
    with show_progress(quiet=arguments.quiet) as progress:
        pipeline = Session(given(arguments, MODEL_OPTIONS), progress).understanding
    began = time.monotonic()
    pieces = []
    for piece in pipeline.describe(arguments.file, question, decoding=decoding):
        pieces.append(piece)
        if not arguments.json:
            print(piece, end="", flush=True)
    if arguments.json:
        told = {"file": str(arguments.file), "question": question, "answer": "".join(pieces).strip()}
        print(json.dumps(told | {"seconds": round(time.monotonic() - began, 2)}, ensure_ascii=False))
    else:
        print()
    return 0

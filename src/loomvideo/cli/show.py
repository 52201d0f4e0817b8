"""``loomvideo show``: how a file was made."""

import argparse
import json
from pathlib import Path

from loomvideo.cli.options import MODEL_OPTIONS, REQUEST_OPTIONS
from loomvideo.media.clip import read_metadata

EXAMPLES = """\
examples:
  loomvideo show out.mp4
  loomvideo generate --like out.mp4 --seed 5 --output again.mp4    makes it again with a change
"""


def add_parser(commands: "argparse._SubParsersAction") -> None:
    parser = commands.add_parser("show", help="print how a file was made", epilog=EXAMPLES)
    parser.add_argument("file", type=Path, metavar="FILE", help="a clip or picture that loomvideo made")
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    recipe = read_metadata(arguments.file)
    if arguments.json:
        print(json.dumps(recipe, ensure_ascii=False))
        return 0
    places = {name: place for place, name in enumerate((*REQUEST_OPTIONS, *MODEL_OPTIONS))}
    told = sorted(
        (name for name in recipe if recipe[name] not in (None, "", [])), key=lambda name: places.get(name, len(places))
    )
    width = max(map(len, told), default=0)
    for name in told:
        print(f"{name:{width}}  {_as_text(recipe[name])}")
    return 0


def _as_text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

"""``loomvideo models``: the models at hand."""

import argparse
import re
from pathlib import Path

from torch import nn

from loomvideo.checkpoint import (
    BUILTIN,
    PIPELINES,
    component_folder,
    components,
    num_parameters,
    resolve_model,
    stored_shapes,
    system_of,
)

EXAMPLES = """\
examples:
  loomvideo models
  loomvideo models models/loomvideo          and what a folder holds
"""


def add_parser(commands: "argparse._SubParsersAction") -> None:
    parser = commands.add_parser("models", help="list the models at hand", epilog=EXAMPLES)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="imported or downloaded models")


def run(arguments: argparse.Namespace) -> int:
    for system in PIPELINES:
        if (BUILTIN / system / "model_index.json").is_file():
            print(describe("builtin", resolve_model("builtin", system=system), system))
        else:
            print(f"builtin: {system}, not part of this installation")
    for folder in arguments.folders:
        print(describe(str(folder), resolve_model(folder), system_of(folder)))
    return 0


def describe(name: str, folder: Path, system: str) -> str:
    """One line: parameters of every part, size on disk, licence."""
    found = components(folder)
    places = {part: component_folder(folder, part) for part in found}
    counts = {
        part: num_parameters(stored_shapes(places[part]))
        for part, component in found.items()
        if issubclass(component, nn.Module)
    }
    size = sum(file.stat().st_size for place in set(places.values()) for file in place.rglob("*") if file.is_file())
    parts = ", ".join(f"{part} {count / 1e6:.2f}M" for part, count in counts.items())
    return (
        f"{name}: {system}, {sum(counts.values()) / 1e6:.2f}M parameters ({parts}), {size / 1e6:.1f} MB, "
        f"licence {licence(folder)}"
    )


def licence(folder: Path) -> str:
    """As the model card states it; the built-in card lies beside the systems."""
    for card in (folder / "README.md", folder / "MODEL_CARD.md", folder.parent / "MODEL_CARD.md"):
        if card.is_file() and (
            stated := re.search(r"^licen[sc]e: *(.+)$", card.read_text(encoding="utf-8"), re.M | re.I)
        ):
            return stated[1].strip()
    return "not stated"

"""``loomvideo import``: published weights and the models they stand on become one folder in diffusers' layout."""

import argparse
import importlib
from collections.abc import Mapping
from pathlib import Path

from loomvideo.checkpoint import CheckpointError
from loomvideo.cli.import_steps import PublishedWeights, dry_run, import_weights
from loomvideo.cli.options import UsageError

EXAMPLES = """\
examples:
  loomvideo import --checkpoint gen_model.pth --output models/loomvideo
  loomvideo import --system vino --checkpoint vino.ckpt --output models/vino
  loomvideo import --checkpoint gen_model.pth --mllm ~/Qwen3-VL-8B-Instruct --base ~/Wan2.2-TI2V-5B-Diffusers \\
      --output models/loomvideo
  loomvideo import ... --dry-run      says what would be downloaded and the memory needed, and writes nothing
  loomvideo generate --model models/loomvideo --prompt "a cat on a sunny wall" --output cat.mp4
"""

# What every system says of its weights stands in loomvideo.cli.import_SYSTEM, under this name.
WEIGHTS: Mapping[str, str] = {"loomvideo": "LoomVideoWeights", "vino": "VinoWeights", "omnivideo": "OmniVideoWeights"}


def published_weights(system: str, **options: bool) -> PublishedWeights:
    """A system's own part of an import."""
    return getattr(importlib.import_module(f"loomvideo.cli.import_{system}"), WEIGHTS[system])(**options)


def add_parser(commands: "argparse._SubParsersAction") -> None:
    parser = commands.add_parser("import", help="turn published weights into one folder", epilog=EXAMPLES)
    parser.add_argument("--system", choices=tuple(WEIGHTS), default="loomvideo", help="(default: loomvideo)")
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        metavar="PATH",
        help="gen_model.pth of LoomVideo, vino.ckpt of VINO, or a published folder",
    )
    parser.add_argument("--mllm", metavar="DIR_OR_ID", help="Qwen3-VL, a folder or a Hub id (default: the system's)")
    parser.add_argument(
        "--base",
        metavar="DIR_OR_ID",
        help="what the denoiser was trained from, for diffusers: Wan2.2-TI2V of LoomVideo, HunyuanVideo of VINO; "
        "a folder or Hub id (default: the system's)",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="the new folder")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16", help="of the checkpoint's own parts"
    )
    parser.add_argument(
        "--without-source-embedding",
        action="store_true",
        help="the LoomVideo checkpoint is of training stage 1, which has none",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be downloaded and needed, write nothing")


def run(arguments: argparse.Namespace) -> int:
    if arguments.without_source_embedding and arguments.system != "loomvideo":
        raise UsageError(f"--without-source-embedding: {arguments.system} has no such checkpoints; leave it out")
    options = {"with_source": False} if arguments.without_source_embedding else {}
    system = published_weights(arguments.system, **options)
    if not arguments.checkpoint.exists():
        raise CheckpointError(f"{arguments.checkpoint} does not exist: name the published {system.file} or its folder")
    system = system.of(arguments.checkpoint)
    origins = {"mllm": arguments.mllm or system.mllm, "base": arguments.base or system.base}
    settings = {**origins, "output": arguments.output, "dtype": arguments.dtype}
    if arguments.dry_run:
        for line in dry_run(system, arguments.checkpoint, **settings):
            print(line)
    else:
        import_weights(system, arguments.checkpoint, **settings)
        print(f"{arguments.output}: written; use it with loomvideo generate --model {arguments.output}")
    if system.note:
        print(f"note: {system.note}")
    if system.licence:
        print(f"licence of these weights: {system.licence}")
    return 0

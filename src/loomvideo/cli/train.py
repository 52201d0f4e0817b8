"""``loomvideo train builtin``: from nothing to the built-in model, in slices that can be stopped and taken up again."""

import argparse
import logging
import sys
from pathlib import Path

PARTS = ("vae", "mllm", "decoder", "denoiser", "export")
SYSTEMS = ("loomvideo", "vino")  # those with a recipe
EXAMPLES = """\
The built-in model, from nothing to the folder that is shipped:
  loomvideo train builtin --part vae --run-dir runs/builtin
  loomvideo train builtin --part mllm --run-dir runs/builtin
  loomvideo train builtin --part decoder --run-dir runs/builtin
  loomvideo train builtin --part denoiser --run-dir runs/builtin
  loomvideo train builtin --part export --run-dir runs/builtin
Another system on the same VAE and language model:
  loomvideo train builtin --system vino --part denoiser --run-dir runs/builtin --workers 1
  loomvideo train builtin --system vino --part export --run-dir runs/builtin
The decoder may train beside the denoiser. A part that is stopped goes on when called again; --slice-minutes stops it by itself.
"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train", help="train a model", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["builtin"], help="the built-in model")
    parser.add_argument("--part", choices=PARTS, required=True, help="what to train now, in this order")
    parser.add_argument(
        "--system", choices=SYSTEMS, default="loomvideo", help="whose denoiser; VAE and language model are all systems'"
    )
    parser.add_argument("--run-dir", type=Path, required=True, help="where checkpoints, logs and results are kept")
    parser.add_argument(
        "--start", type=Path, help="a folder like the built-in one, whose weights of this part a new run begins with"
    )
    parser.add_argument("--minutes", type=float, help="how long this part trains in all, over all slices")
    parser.add_argument(
        "--slice-minutes", type=float, default=float("inf"), help="stop this call after so many minutes"
    )
    parser.add_argument("--device", default=None, help="cuda where there is one, else cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw samples")
    parser.add_argument(
        "--threads", type=int, default=None, help="threads of one process; one is best while others train too"
    )


def run(arguments: argparse.Namespace) -> int:
    import torch

    from loomvideo.training.builtin import Minutes, train_builtin

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    given = {} if arguments.minutes is None or arguments.part == "export" else {arguments.part: arguments.minutes}
    train_builtin(
        arguments.run_dir,
        part=arguments.part,
        system=arguments.system,
        start=arguments.start,
        minutes=Minutes(**given),
        slice_minutes=arguments.slice_minutes,
        device=torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")),
        workers=arguments.workers,
    )
    return 0

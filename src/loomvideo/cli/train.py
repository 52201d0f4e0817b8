"""``loomvideo train``: a denoiser by a configuration, or the built-in models from nothing."""

import argparse
import logging
import os
import sys
from pathlib import Path

from loomvideo.cli.options import UsageError, whole_number

PARTS = ("vae", "mllm", "denoiser", "export")
SYSTEMS = ("loomvideo", "vino", "omnivideo")  # those with a recipe
EXAMPLES = """\
Fine-tuning, and the published stages:
  loomvideo train finetune data.shards=prepared/ run_dir=runs/mine     a LoRA on one GPU of 24 GB
  loomvideo train stage2 --plan --ranks 8                              what that would take; nothing is loaded
  torchrun --nproc-per-node 8 -m loomvideo train stage2 data.source=data.yaml
  loomvideo train published.yaml model.start=models/base                   the published training YAML, as it is
  loomvideo train reinforce                                            DiffusionNFT with the world's judge as reward
  loomvideo train distill                                              a model of four steps without guidance
A run that is stopped, or killed, goes on when called again.

The built-in model, from nothing to the folder that is shipped:
  loomvideo train builtin --part vae --run-dir runs/builtin
  loomvideo train builtin --part mllm --run-dir runs/builtin
  loomvideo train builtin --part denoiser --run-dir runs/builtin
  loomvideo train builtin --part export --run-dir runs/builtin
Another system on the same VAE and language model:
  loomvideo train builtin --system vino --part denoiser --run-dir runs/builtin --workers 1
  loomvideo train builtin --system vino --part export --run-dir runs/builtin
A part that is stopped goes on when called again; --slice-minutes stops it by itself.
"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train", help="train a model", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", metavar="CONFIG", help='a YAML, the name of a shipped one, or "builtin"')
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="what the configuration is to say instead")
    parser.add_argument("--plan", action="store_true", help="print what the run would take, and load nothing")
    parser.add_argument("--ranks", type=whole_number, default=1, metavar="N", help="processes that --plan counts with")
    parser.add_argument("--device", default=None, help="cuda where there is one, else cpu")
    parser.add_argument(
        "--threads", type=int, default=None, help="threads of one process; one is best while others train too"
    )
    builtin = parser.add_argument_group("only with builtin")
    builtin.add_argument("--part", choices=PARTS, help="what to train now, in this order")
    builtin.add_argument(
        "--system", choices=SYSTEMS, default="loomvideo", help="whose denoiser; VAE and language model are all systems'"
    )
    builtin.add_argument("--run-dir", type=Path, help="where checkpoints, logs and results are kept")
    builtin.add_argument(
        "--start", type=Path, help="a folder like the built-in one, whose weights of this part a new run begins with"
    )
    builtin.add_argument("--minutes", type=float, help="how long this part trains in all, over all slices")
    builtin.add_argument(
        "--slice-minutes", type=float, default=float("inf"), help="stop this call after so many minutes"
    )
    builtin.add_argument("--workers", type=int, default=0, help="processes that draw samples")


def run(arguments: argparse.Namespace) -> int:
    import torch

    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING  # one of many tells
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("torch").setLevel(logging.WARNING)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return run_builtin(arguments) if arguments.what == "builtin" else run_config(arguments)


def run_config(arguments: argparse.Namespace) -> int:
    from loomvideo.cli.data import silence
    from loomvideo.cli.device import choose_device
    from loomvideo.training.config import read_config
    from loomvideo.training.launch import run_training
    from loomvideo.training.plan import plan_run

    config = read_config(arguments.what, arguments.overrides)
    if arguments.plan:
        print(plan_run(config, arguments.ranks))
        return 0
    silence()
    made = run_training(config, choose_device(arguments.device))
    if made is not None:
        print(made)
    return 0


def run_builtin(arguments: argparse.Namespace) -> int:
    import torch

    from loomvideo.training.builtin import Minutes, train_builtin

    for name, value in (("--part", arguments.part), ("--run-dir", arguments.run_dir)):
        if value is None:
            raise UsageError(f"{name} is missing: loomvideo train builtin needs it (see loomvideo train --help)")
    if arguments.overrides:
        raise UsageError(f"{arguments.overrides[0]}: the built-in models' training reads no configuration")
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

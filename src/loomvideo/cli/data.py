"""``loomvideo data check`` and ``loomvideo data prepare``: is a data set sound, and its latents and features in advance."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loomvideo.cli.options import SYSTEMS, UsageError, given, number, whole_number
from loomvideo.cli.progress import Progress, show_progress

BAD_FOUND = 1
EPILOG = """\
examples:
  loomvideo data check data.yaml                       every frame of every sample is read
  loomvideo data check clips/ --workers 8 --json       a folder with metadata.csv, metadata.jsonl or tar shards
  loomvideo data prepare data.yaml --output prepared/  stopped at any moment, the same command goes on

check exits with status 1 when something is wrong with a sample.
"""


def add_parser(commands: "argparse._SubParsersAction") -> None:
    parser = commands.add_parser("data", help="check a data set, or prepare it for training", epilog=EPILOG)
    actions = parser.add_subparsers(title="what to do", metavar="ACTION", required=True, dest="action")

    check = actions.add_parser("check", help="read every sample and tell what is wrong", epilog=EPILOG)
    check.add_argument("data", type=Path, metavar="CONFIG_OR_FOLDER", help="a YAML, or a folder of data")
    check.add_argument("--workers", type=whole_number, metavar="N", help="processes (default: one for every processor)")
    check.add_argument("--json", action="store_true", help="print what was found as JSON")
    check.add_argument("--quiet", action="store_true", help="show no progress")

    prepare = actions.add_parser("prepare", help="compute latents and features once, into shards", epilog=EPILOG)
    prepare.add_argument("data", type=Path, metavar="CONFIG", help="a YAML, or a folder of data")
    prepare.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the shards go")
    prepare.add_argument("--model", metavar="NAME", help="whose VAE and language model (default: builtin)")
    prepare.add_argument("--system", choices=SYSTEMS, help="which of the built-in systems (default: loomvideo)")
    prepare.add_argument("--seed", type=whole_number, default=0, metavar="N", help="of clip starts (default: 0)")
    prepare.add_argument(
        "--max-bad-share", type=number, default=0.05, metavar="SHARE", help="stop above this share (default: 0.05)"
    )
    prepare.add_argument("--device", metavar="DEVICE", help="cuda where there is one, else cpu")
    prepare.add_argument("--quiet", action="store_true", help="print nothing but errors")


def run(arguments: argparse.Namespace) -> int:
    with show_progress(quiet=arguments.quiet) as progress:
        if arguments.action == "check":
            return run_check(arguments, progress)
        return run_prepare(arguments, progress)


def run_check(arguments: argparse.Namespace, progress: Progress) -> int:
    from loomvideo.data.check import check, usual_workers

    if arguments.workers is not None and arguments.workers < 1:
        raise UsageError(
            f"--workers {arguments.workers}: at least one process is needed; leave it out for the usual number"
        )
    progress.stage("reading samples")
    total, findings = check(arguments.data, workers=arguments.workers or usual_workers(), on_progress=progress.step)
    bad = len({(one.set, one.index) for one in findings})
    if arguments.json:
        print(json.dumps({"samples": total, "bad": bad, "findings": [asdict(one) for one in findings]}, indent=1))
    else:
        width = max((len(one.set) for one in findings), default=0)
        for one in findings:
            print(f"{one.set:<{width}}  {one.index:>7}  {one.problem}")
        print(f"{arguments.data}: {total} samples read, {bad} of them bad")
    return BAD_FOUND if bad else 0


def run_prepare(arguments: argparse.Namespace, progress: Progress) -> int:
    from loomvideo.cli.device import choose_device
    from loomvideo.data.bad import BadSamples
    from loomvideo.data.config import load_sets
    from loomvideo.training.prepared import PreparedSamples, check_finite, prepare_sets

    sets = load_sets(arguments.data)  # before anything is loaded
    bad = BadSamples(arguments.max_bad_share)
    check_finite(sets)
    device = choose_device(arguments.device)
    progress.stage("loading the model")
    silence()
    recipe, settings = recipe_of(given(arguments, ("model", "system")), device)
    progress.stage("preparing")
    settings |= {"data": [repr(getattr(one.data, "reading", one.data)) for one in sets]}
    steps = prepare_sets(sets, recipe, arguments.output, settings=settings, seed=arguments.seed, device=device, bad=bad)
    for done, total in steps:
        progress.step(done, total)
    if not arguments.quiet:
        kept = sum(PreparedSamples(arguments.output).sizes)
        print(f"{arguments.output}: {kept} samples prepared, {bad.bad} of those read now were bad and are left out")
    return 0


def recipe_of(options: dict[str, Any], device: Any) -> tuple[Any, dict[str, Any]]:
    """The recipe of a model folder's system as training loads it, and what names it."""
    from loomvideo.checkpoint import resolve_model, system_of
    from loomvideo.training.builtin import RECIPES
    from loomvideo.training.config import ModelConfig, TrainConfig
    from loomvideo.training.launch import load_start

    name = str(options.get("model", "builtin"))
    system = system_of(resolve_model(name, system=options.get("system")))
    if system not in RECIPES:
        raise UsageError(f"{name} is a model of {system}, which is not trained here; use one of {', '.join(RECIPES)}")
    config = TrainConfig(run_dir="", system=system, model=ModelConfig(start=name))
    return load_start(config, device).recipe, {"system": system, "model": name}


def silence() -> None:
    """The libraries' own progress bars would be drawn over this program's."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()

"""``loomvideo evaluate``: exact scores of a model on the little world's held-out prompts."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from loomvideo.cli.options import (
    MODEL_OPTIONS,
    UsageError,
    add_keep_source,
    add_model_options,
    add_speed,
    add_think,
    given,
    number,
    whole_number,
)
from loomvideo.cli.progress import Progress, Silence, show_progress
from loomvideo.cli.session import Session
from loomvideo.evaluation.cases import REAL_STYLE, TASKS, WORD_TASKS, Case, Result, Size
from loomvideo.evaluation.judge import Verdict
from loomvideo.evaluation.sheets import contact_sheet
from loomvideo.evaluation.suite import evaluate, table, write_text
from loomvideo.media.clip import Clip, write_picture
from loomvideo.models.reader import Decoding
from loomvideo.systems.plan import plan
from loomvideo.systems.request import ModelLimits, Request, Task

SUITES = ("world",)
GENERATED = {
    "t2v": "t2v",
    "t2i": "t2i",
    "edit": "edit",
    "edit_image": "edit",
    "guided_edit": "ref_edit",
    "mi2v": "mi2v",
    "i2v": "i2v",
    "request": "t2v",
    "request_image": "t2i",
}
SAMPLING = ("num_inference_steps", "guidance_scale", "guidance_scale_visual", "think", "speed", "keep_source")
LIKELIEST = Decoding(temperature=0, max_new_tokens=128)  # the same words each time
EPILOG = """\
examples:
  loomvideo evaluate --suite world
  loomvideo evaluate --tasks t2v,edit --num-prompts 50 --output results/quick.json --save-samples results/quick
  loomvideo evaluate --tasks style_real --media clips/
  loomvideo evaluate --tasks question,caption,question_image,caption_image        what the language model understands
  loomvideo evaluate --tasks request --think --output results/think.json          and what thinking does for short requests

results are kept prompt by prompt beside --output (.jsonl): the same command goes on where it was stopped.
"""


def add_parser(commands: "argparse._SubParsersAction") -> None:
    parser = commands.add_parser("evaluate", epilog=EPILOG, help="measure a model")
    parser.add_argument("--suite", choices=SUITES, default="world", help="what to measure on (default: world)")
    parser.add_argument("--tasks", metavar="A,B", help=f"some of {','.join(TASKS)} (default: all that can run)")
    parser.add_argument(
        "--num-prompts", type=whole_number, default=200, metavar="N", help="prompts a task (default: 200)"
    )
    parser.add_argument(
        "--seed", type=whole_number, default=0, metavar="N", help="another seed asks other prompts (default: 0)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("results/world.json"),
        metavar="FILE",
        help="the scores (default: results/world.json)",
    )
    parser.add_argument("--media", type=Path, metavar="DIR", help=f"a folder of real clips, for {REAL_STYLE}")
    parser.add_argument(
        "--save-samples", type=Path, metavar="DIR", help="write a picture of every prompt's input, output and truth"
    )
    parser.add_argument("--height", type=whole_number, default=128, metavar="PIXELS")
    parser.add_argument("--width", type=whole_number, default=128, metavar="PIXELS")
    parser.add_argument("--num-frames", type=whole_number, default=17, metavar="N")
    sampling = parser.add_argument_group("sampling (default: the model's own values)")
    sampling.add_argument("--steps", dest="num_inference_steps", type=whole_number, metavar="N")
    sampling.add_argument("--guidance-scale", type=number, metavar="SCALE")
    sampling.add_argument("--guidance-scale-visual", type=number, metavar="SCALE")
    add_speed(sampling)
    add_keep_source(sampling)
    add_think(sampling)
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    session = Session(given(arguments, MODEL_OPTIONS), Silence())
    tasks = chosen_tasks(arguments, session.limits)
    with show_progress(quiet=arguments.quiet) as progress:
        report = measure(arguments, session, tasks, progress)
    write_text(arguments.output, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    if arguments.json:
        print(json.dumps(report, ensure_ascii=False))
    elif not arguments.quiet:
        print(table(report))
    return 0


def chosen_tasks(arguments: argparse.Namespace, limits: ModelLimits) -> tuple[str, ...]:
    """The tasks named, else all that the model does; styles on real clips only where there is a folder of them."""
    if arguments.tasks is None:
        done = [task for task in TASKS if task in WORD_TASKS or GENERATED.get(task, "edit") in limits.tasks]
        return tuple(task for task in done if task != REAL_STYLE or arguments.media is not None)
    tasks = tuple(dict.fromkeys(word.strip() for word in arguments.tasks.split(",") if word.strip()))
    if unknown := [task for task in tasks if task not in TASKS] or not tasks:
        raise UsageError(
            f"--tasks {arguments.tasks}: {unknown if tasks else 'nothing'} is not in the suite; use some of {','.join(TASKS)}"
        )
    return tasks


def measure(
    arguments: argparse.Namespace, session: Session, tasks: tuple[str, ...], progress: Progress
) -> dict[str, Any]:
    sampling = given(arguments, SAMPLING)
    total = arguments.num_prompts * len(tasks)
    finished = 0

    words_alone = all(task in WORD_TASKS for task in tasks)

    def generate(case: Case) -> Result:
        if case.task not in WORD_TASKS:
            return session.generate(plan(request_of(case, session.limits, sampling), session.limits))
        pipeline = session.understanding if words_alone else session.pipeline
        shown = source_of(case, session.limits.fps)
        assert shown is not None
        return "".join(pipeline.describe(shown, case.prompt, decoding=LIKELIEST)).strip()

    def on_result(case: Case, result: Result, verdict: Verdict) -> None:
        nonlocal finished
        finished += 1
        progress.step(finished, total)
        if arguments.save_samples is not None and not isinstance(result, str):
            name = f"{case.task}_{case.index:04d}_{'right' if verdict.all_right else 'wrong'}.png"
            write_picture(
                arguments.save_samples / name, contact_sheet(case, result, verdict), metadata={"prompt": case.prompt}
            )

    progress.stage("evaluating")
    if arguments.save_samples is not None:
        arguments.save_samples.mkdir(parents=True, exist_ok=True)
    return evaluate(
        generate,
        tasks=tasks,
        num_prompts=arguments.num_prompts,
        seed=arguments.seed,
        size=Size(height=arguments.height, width=arguments.width, num_frames=arguments.num_frames),
        media=arguments.media,
        records=arguments.output.with_suffix(".jsonl"),
        settings={**session.options, **sampling},
        on_result=on_result,
    )


def request_of(case: Case, limits: ModelLimits, sampling: dict[str, Any]) -> Request:
    task = Task(GENERATED.get(case.task, "edit"))
    if case.source is None:
        sampling = {name: value for name, value in sampling.items() if name != "keep_source"}
    return Request(
        prompt=case.prompt,
        source=source_of(case, limits.for_task(task, still=False).fps),
        references=case.references,
        task=task,
        height=case.height,
        width=case.width,
        num_frames=case.num_frames,
        seed=case.seed,
        **sampling,
    )


def source_of(case: Case, fps: float) -> np.ndarray | Clip | None:
    """A case's source as a picture or a clip."""
    source = case.source
    return None if source is None else source[0] if len(source) == 1 else Clip(source, fps)

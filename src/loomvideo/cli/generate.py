"""``loomvideo generate``: one clip or picture from words, a source and reference pictures."""

import argparse
import json
from datetime import datetime
from pathlib import Path

from loomvideo.cli import batch, published, published_loomvideo, published_omnivideo, published_vino
from loomvideo.cli.options import (
    MODEL_OPTIONS,
    REQUEST_OPTIONS,
    UsageError,
    add_model_options,
    add_request_options,
    given,
    is_first_process,
)
from loomvideo.cli.progress import Progress, show_progress
from loomvideo.cli.session import Made, Session, make, request_of
from loomvideo.media.clip import check_output, read_metadata
from loomvideo.media.limits import check_file
from loomvideo.media.pictures import PICTURE_SUFFIXES
from loomvideo.systems.plan import Plan, plan

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

The published programs' options (--source_video_path, --ref_image_paths, --num_inference_steps, --ckpt_path, --config_path;
--json_path, --output_num_frames, --guidance_scale_image, --negative_prompt_video, --mm_encoder_path;
--src_file_path, --size, --frame_num, --sample_guide_scale, --prompt_file ...) mean here what they mean there.
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
        "--save_file",
        type=Path,
        metavar="FILE",
        help="mp4, mov, mkv, webm, gif; png, jpg, webp for a picture (default: outputs/loomvideo_TASK_TIME.mp4 or .png)",
    )
    output.add_argument("--like", type=Path, metavar="FILE", help="make this file again; options given here win")
    output.add_argument(
        "--batch", "--prompt_file", type=Path, metavar="FILE", help="requests to carry out, one JSON object a line"
    )
    output.add_argument(
        "--output-dir", "--output_dir", type=Path, metavar="DIR", help="where a batch writes ID.mp4 or ID.png"
    )
    output.add_argument("--quiet", action="store_true", help="print nothing but errors")
    output.add_argument("--json", action="store_true", help="print one JSON object about what was made")


def run(arguments: argparse.Namespace) -> int:
    if arguments.json_path is None:
        if (arguments.batch is None) != (arguments.output_dir is None):
            raise UsageError("--batch and --output-dir go together: give both, or --output for one file")
        if arguments.negative_prompt_video is not None:
            raise UsageError("--negative_prompt_video is for the records of --json_path; use --negative-prompt")
    arguments.quiet = arguments.quiet or not is_first_process()
    arguments.json = arguments.json and is_first_process()
    options = merged_options(arguments)
    with show_progress(quiet=arguments.quiet) as progress:
        if arguments.batch is not None or arguments.json_path is not None:
            return generate_many(arguments, options, progress)
        made = generate(arguments, options, progress)
    if arguments.json:
        print(json.dumps(made.to_json(), ensure_ascii=False))
    elif not arguments.quiet:
        for note in made.plan.notes:
            if note.startswith("think: "):
                print(note)
        print(made)
    return 0


def generate_many(arguments: argparse.Namespace, options: dict, progress: Progress) -> int:
    """The requests of --batch, or of the published program's --json_path."""
    asked = (batch if arguments.json_path is None else published_vino).requests(arguments, options)
    check_output(asked.folder / "0.mp4")
    session = Session(published.with_model(arguments, asked.options, progress), progress)
    lines = asked.read(session.limits)
    return batch.run(lines, session, asked.options, asked.folder, quiet=arguments.quiet, as_json=arguments.json)


def generate(arguments: argparse.Namespace, options: dict, progress: Progress) -> Made:
    """Options and files first, the model after: what is wrong is told at once."""
    output: Path | None = arguments.output
    if output is not None:
        check_output(output)
        if output.suffix.lower() in PICTURE_SUFFIXES:
            options = {"num_frames": 1, **options}
    request = request_of(options)
    for file in filter(None, (request.source, *request.references)):
        check_input(Path(str(file)), output)
    session = Session(published.with_model(arguments, options, progress), progress)
    decided = plan(request, session.limits)
    output = settled_output(output, decided, options.get("task") or decided.task, arguments.config is not None)
    if not (arguments.quiet or arguments.json):
        for note in decided.notes:
            print(f"note: {note}", flush=True)
    return make(session, request, decided, output)


def merged_options(arguments: argparse.Namespace) -> dict:
    """What was typed, over the recipe of --like, over the published program's configuration."""
    recipe = {} if arguments.like is None else recipe_options(arguments.like)
    options = {**recipe, **given(arguments, (*REQUEST_OPTIONS, *MODEL_OPTIONS))}
    left_open = published_loomvideo.defaults(arguments, options) | published_omnivideo.defaults(arguments, options)
    return {**left_open, **options}


def recipe_options(file: Path) -> dict:
    """The options in a file's recipe, without the task, which follows from the others."""
    recipe = read_metadata(file)
    names = set(REQUEST_OPTIONS + MODEL_OPTIONS) - {"task"}
    options = {name: value for name, value in recipe.items() if name in names and value is not None}
    for name in ("references", "lora"):
        listed = options.get(name, [])
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise UsageError(f"--like {file}: its recipe holds {name}={listed!r} and no list of files; give them anew")
    return options


def check_input(file: Path, output: Path | None) -> None:
    check_file(file)
    if output is not None and output.exists() and file.samefile(output):
        raise UsageError(f"--output {output}: this is an input too and would be lost; name another file")


def settled_output(output: Path | None, decided: Plan, task: str, as_published: bool) -> Path:
    """Where a planned request is written; raises for a name that cannot hold it."""
    still = decided.output_frames == 1
    if output is None:
        name = f"loomvideo_{task}_{datetime.now():%Y%m%d_%H%M%S}.{'png' if still else 'mp4'}"
        output = Path("outputs", name)
    elif as_published and still and output.suffix.lower() == ".mp4":
        output = output.with_suffix(".jpg")
    if output.suffix.lower() in PICTURE_SUFFIXES and not still:
        raise UsageError(
            f"--output {output}: a picture holds one frame and {decided.output_frames} are made; "
            "use --num-frames 1, or name an mp4"
        )
    check_output(output)
    return output
